//! The bounded part of the simulation: every seed holds all promises, all rare paths are taken, the same seed gives the
//! same run, and every planted fault is found. `SIM_SEEDS=N` runs more seeds, `SIM_SEED=n` exactly one with its trace.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::thread;

use flowmonkey_sim::sometimes::RARE_PATHS;
use flowmonkey_sim::{Options, Plant, Report, Simulation};

/// Seeds of an ordinary run.
const SEEDS: u64 = 20;
/// Seeds in which a planted fault has to be found.
const PLANT_SEEDS: u64 = 60;
/// Simulations at a time.
const THREADS: u64 = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run_all(seeds: u64) -> Vec<Report> {
    let first = 1;
    let threads = (0..THREADS).map(|thread| {
        let seeds = (first..first + seeds).filter(move |seed| seed % THREADS == thread);
        thread::spawn(move || seeds.map(|seed| Simulation::run(seed, Options::default())).collect::<Vec<_>>())
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn every_seed_keeps_every_promise_and_rare_paths_are_taken() {
    if let Some(seed) = setting("SIM_SEED") {
        let report = Simulation::run(seed, Options { trace: true, ..Options::default() });
        assert_eq!(report.violation, None, "SIM_SEED={seed}");
        return;
    }
    let reports = run_all(setting("SIM_SEEDS").unwrap_or(SEEDS));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for report in &reports {
        assert_eq!(report.violation, None, "SIM_SEED={}", report.seed);
        assert_eq!(report.executions, report.ended, "SIM_SEED={}: everything ends", report.seed);
        for (path, count) in &report.counts {
            *counts.entry(path).or_default() += count;
        }
    }
    let never: Vec<_> = RARE_PATHS.iter().filter(|path| !counts.contains_key(*path)).collect();
    let none: Vec<&&str> = Vec::new();
    assert_eq!(never, none, "these paths were never taken");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = Options { steps: 1_200, ..Options::default() };
    assert_eq!(Simulation::run(7, options), Simulation::run(7, options));
}

#[test]
fn every_planted_fault_is_found() {
    let threads = (0..THREADS).map(|thread| {
        let plants = Plant::ALL.iter().copied().enumerate();
        let plants = plants.filter(move |(place, _)| *place as u64 % THREADS == thread);
        thread::spawn(move || plants.map(|(_, plant)| (plant, find(plant))).collect::<Vec<_>>())
    });
    let threads: Vec<_> = threads.collect();
    let found: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    for (plant, report) in &found {
        if let Some(Report { seed, violation: Some(violation), .. }) = report {
            println!("{plant:?}: found by `{}` with SIM_SEED={seed}", violation.checker);
        }
    }
    let missed: Vec<_> =
        found.iter().filter(|(_, report)| report.is_none()).map(|(plant, _)| *plant).collect();
    assert_eq!(missed, Vec::new(), "these planted faults were not found");
}

fn find(plant: Plant) -> Option<Report> {
    let options = Options { plant: Some(plant), ..Options::default() };
    let mut reports = (1..=PLANT_SEEDS).map(|seed| Simulation::run(seed, options));
    reports.find(|report| report.violation.is_some())
}
