//! Named places at which a process can be made to die, for tests that prove that it may.
//!
//! `FLOWMONKEY_CRASH_AT=NAME:N` aborts the process when it passes the place for the N-th time. Builds without debug
//! assertions have none of this: there a place is nothing.

/// All places, by the moment at which the process dies.
pub const POINTS: &[&str] = &[
    // An engine.
    "engine/start-stored",
    "engine/before-commit",
    "engine/after-commit",
    "engine/before-publish",
    "engine/after-publish",
    "engine/results-taken",
    "engine/before-acknowledge",
    "engine/after-acknowledge",
    "engine/lease-reaped",
    "engine/children-stored",
    "engine/join-complete",
    // A worker.
    "worker/claimed",
    "worker/handler-ended",
    "worker/before-report",
    "worker/after-report",
];

/// The place called `name`, one of [`POINTS`].
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn point(_name: &'static str) {}

/// The place called `name`, one of [`POINTS`].
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);

    debug_assert!(POINTS.contains(&name), "{name} is not in the list of crash points");
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("FLOWMONKEY_CRASH_AT").ok()?;
        let (name, pass) = text.rsplit_once(':')?;
        Some((name.to_owned(), pass.parse().ok()?))
    });
    if let Some((wanted, pass)) = wanted
        && wanted == name
        && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == *pass
    {
        eprintln!("crash point {name}, pass {pass}: aborting");
        std::process::abort();
    }
}
