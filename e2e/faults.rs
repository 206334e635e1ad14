//! The failure table, row by row.

use crate::books::Books;
use crate::system::{Options, System};
use crate::workload::{FLOWS, start_mix};

#[tokio::test(flavor = "multi_thread")]
async fn everything_ends_when_nothing_goes_wrong() {
    let system = System::start(Options::default()).await;
    system.publish(FLOWS).await;
    let workers = system.get("/v1/workers").await;
    assert_eq!(workers["items"].as_array().unwrap().len(), 2, "{workers}");
    let mut books = Books::default();
    for round in 0..4 {
        start_mix(&system, &mut books, round).await;
    }
    let audit = books.check(&system).await;
    assert_eq!((audit.executions, audit.redelivered), (20, 4), "only the failures that were asked for");
}
