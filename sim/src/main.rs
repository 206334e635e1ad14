//! Runs seeds of the simulation and says what came of them.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use flowmonkey_sim::sometimes::RARE_PATHS;
use flowmonkey_sim::{Options, Plant, Simulation};

/// Deterministic simulation of the engine under faults.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws with faults, per seed.
    #[arg(long, default_value_t = Options::default().steps)]
    steps: u32,
    /// Plants a fault, by the name in `Plant`.
    #[arg(long, value_parser = |name: &str| Plant::parse(name).ok_or("no such plant"))]
    plant: Option<Plant>,
    /// Prints what happens.
    #[arg(long)]
    trace: bool,
    /// Exactly this seed, with a trace.
    #[arg(env = "SIM_SEED", long = "only")]
    only: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (first, count) = arguments.only.map_or((arguments.seed, arguments.seeds), |seed| (seed, 1));
    let options = Options {
        steps: arguments.steps,
        plant: arguments.plant,
        trace: arguments.trace || arguments.only.is_some(),
        ..Options::default()
    };
    let began = Instant::now();
    let mut totals: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut started, mut executions, mut ended, mut failed) = (0, 0, 0, 0_u32);
    for seed in first..first.saturating_add(count) {
        let report = Simulation::run(seed, options);
        started += report.started;
        executions += report.executions;
        ended += report.ended;
        for (path, count) in report.counts {
            *totals.entry(path).or_default() += count;
        }
        if let Some(violation) = report.violation {
            failed += 1;
            println!("SIM_SEED={seed} [{}] {}", violation.checker, violation.what);
        }
    }
    for path in RARE_PATHS {
        println!("{:>8}  {path}", totals.get(path).copied().unwrap_or(0));
    }
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let rate = count as f64 / seconds;
    println!(
        "{count} seeds, {rate:.1} seeds/s: {started} starts answered, {executions} executions, {ended} ended"
    );
    println!("{failed} seeds broke a promise");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
