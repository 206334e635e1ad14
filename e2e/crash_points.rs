//! Processes that die at every named place.

use flowmonkey_plumbing::crash::POINTS;

use crate::books::Books;
use crate::system::{Options, Process, System, wait_for};
use crate::workload::{FLOWS, start_mix};

/// A process dies when it passes its place for the second time: the first pass is often the first of its kind.
const PASS: u32 = 2;
/// Rounds of work that are started at most until the doomed process has died.
const ROUNDS_MAX: usize = 40;

/// At each place a process dies; others take over, and nothing is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_may_die_at_every_place() {
    let mut system = System::start(Options { engines: 1, workers: 1, ..Options::default() }).await;
    system.publish(FLOWS).await;
    let mut books = Books::default();
    let mut round = 0;
    for point in POINTS {
        let crash_at = format!("{point}:{PASS}");
        let doomed = [("FLOWMONKEY_CRASH_AT", crash_at.as_str())];
        let is_engine = point.starts_with("engine/");
        // The doomed one is the only one of its kind, so that the work passes through it.
        if is_engine {
            let others = std::mem::take(&mut system.engines);
            system.add_engine(&doomed).await;
            end_all(others).await;
            // Workers know engines by their addresses.
            end_all(std::mem::take(&mut system.workers)).await;
            system.add_worker(&[]).await;
        } else {
            let others = std::mem::take(&mut system.workers);
            system.add_worker(&doomed).await;
            end_all(others).await;
        }
        let mut rounds = 0;
        let has_died = |system: &System| {
            let mine = if is_engine { &system.engines } else { &system.workers };
            mine.iter().any(Process::has_died)
        };
        while !has_died(&system) {
            assert!(rounds < ROUNDS_MAX, "no process has passed {point}");
            rounds += 1;
            round += 1;
            if *point == "engine/lease-reaped" {
                // Leases end only where workers die: one in each round, since the leases of two may end in one pass.
                system.add_worker(&[("FLOWMONKEY_CRASH_AT", "worker/claimed:1")]).await;
            }
            // A start that the doomed engine takes with it is repeated under its key, by the one that comes after it.
            tokio::select! {
                () = start_mix(&system, &mut books, round) => {}
                () = wait_for("it has died", async || has_died(&system).then_some(())) => {}
            }
            if !has_died(&system) {
                tokio::task::yield_now().await;
                settle(&system, has_died).await;
            }
        }
        if is_engine {
            system.engines.clear();
            system.add_engine(&[]).await;
        }
        system.workers.clear();
        system.add_worker(&[]).await;
        start_mix(&system, &mut books, round).await;
        if !is_engine {
            // A task that several workers in a row take with them would be parked.
            settle(&system, |_| false).await;
        }
        println!("{point}: died in round {rounds}");
    }
    println!("{:?}", books.check(&system).await);
}

/// Lets the system work until nothing is under way, or the doomed process has died.
async fn settle(system: &System, has_died: impl Fn(&System) -> bool) {
    let live = "/v1/executions?status=pending,waiting_for_worker,waiting&limit=1";
    wait_for("the work of a round is done", async || {
        if has_died(system) {
            return Some(());
        }
        let page = tokio::select! {
            page = system.get(live) => page,
            () = wait_for("it has died", async || has_died(system).then_some(())) => return Some(()),
        };
        page["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
}

async fn end_all(processes: Vec<Process>) {
    for mut process in processes {
        if !process.has_died() {
            process.stop().await;
        }
    }
}
