//! BullMQ: jobs in Redis. Each step is a job; a worker process takes them.

use anyhow::Result;
use flowmonkey_test_support::{Program, Redis, RedisOptions};

use super::AppendOnly;
use super::driver::Driver;
use super::figures::{Figure, Figures};
use super::install::Installed;
use super::processes::Processes;
use super::question::{Asked, Question, STEPS, Size, ask_all, field};

/// Starts everything anew, and measures it.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn measure(
    installed: &Installed,
    append_only: AppendOnly,
    size: &Size,
    clients: usize,
) -> Result<Figures> {
    let config = match append_only {
        AppendOnly::Off => Vec::new(),
        AppendOnly::EverySecond => ["appendonly yes", "appendfsync everysec"].map(str::to_owned).to_vec(),
    };
    let redis = Redis::start(RedisOptions { config, ..RedisOptions::default() }).await;
    let script = |name: &str| {
        let mut command = installed.script(name);
        command.env("REDIS_PORT", redis.port().to_string());
        command
    };
    let worker = Program::start("worker", script("worker.mjs"));
    let (worker, ()) = worker.until(|log| log.contains("the worker works").then_some(())).await;
    let processes =
        |driver| Processes { servers: vec![redis.pid()], workers: vec![worker.pid()], load: vec![driver] };
    let mut driver = Driver::start(script("driver.mjs"), processes).await?;
    let mut figures = ask_all(&mut driver, size, clients).await?;
    let bulk = driver.ask(Question::Bulk { steps: STEPS, executions: size.bulk }).await?;
    figures.put(Figure::Bulk, field(&bulk, "executionsPerSecond")? * f64::from(STEPS));
    Ok(figures)
}
