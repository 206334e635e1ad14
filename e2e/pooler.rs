//! A pooler of transactions between the engines and Postgres.

use flowmonkey_test_support::{PgBouncer, Postgres};

use crate::books::Books;
use crate::system::{Options, System};
use crate::workload::{FLOWS, start_mix};

const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn engines_work_through_a_pooler_of_transactions() {
    let pooler = PgBouncer::start(Postgres::shared().await).await;
    let engine_args = ["--pooler", "transaction-unnamed"].map(str::to_owned).to_vec();
    let options = Options { pooler: Some(pooler.clone()), engine_args, ..Options::default() };
    let system = System::start(options).await;
    system.publish(FLOWS).await;
    let mut books = Books::default();
    for round in 0..ROUNDS {
        start_mix(&system, &mut books, round).await;
        // Connections end in the middle of the work, those of the pooler too.
        if round == ROUNDS / 2 {
            pooler.restart().await;
        }
    }
    let audit = books.check(&system).await;
    assert_eq!(audit.executions, ROUNDS * 5);
}
