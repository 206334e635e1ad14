//! Several who do the same work, beside each other when it is worth it: each piece has a price of its own (a round trip, a
//! statement, a flush), and two small ones cost twice as much as one of their size.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

/// Items of a piece beside which another is begun at once.
const LARGE_FROM: usize = 64;
/// After this time another piece is begun beside a small one: whatever holds it up, a record far away or a slow disk, does not
/// hold up others.
const HOLD_MAX: Duration = Duration::from_millis(4);

/// Does a piece of work of so many items, and lets the next one begin (drops `turn`) at once beside a large piece, and after a
/// small one: what comes meanwhile goes together then.
pub(crate) async fn while_held<T, O>(turn: T, size: usize, work: impl Future<Output = O>) -> O {
    if size >= LARGE_FROM {
        drop(turn);
        return work.await;
    }
    let mut work = pin!(work);
    let done = tokio::select! {
        done = work.as_mut() => Some(done),
        () = sleep(HOLD_MAX) => None,
    };
    drop(turn);
    match done {
        Some(done) => done,
        None => work.await,
    }
}
