//! Waiting for a state instead of for a time: a value is looked at again and again until it holds, within a limit.

use std::time::{Duration, Instant};

/// Between two looks. Short, as every start of a server waits for at least one.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks at `holds` until it is true. Panics naming `what` when `limit` has passed.
pub async fn wait_until<F, Fut>(what: &str, limit: Duration, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    wait_for(what, limit, || {
        let looked = holds();
        async move { looked.await.then_some(()) }
    })
    .await;
}

/// Looks until `look` finds something, and returns that. Panics naming `what` when `limit` has passed.
pub async fn wait_for<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks at `look` until it says something, or until `limit` has passed: then `None`. For plain threads.
pub(crate) fn look_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Runs what blocks on a thread made for it, and hands a panic on with its own message.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("the runtime ended before the server was ready: {error}"),
        },
    }
}
