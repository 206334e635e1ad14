//! Temporal: its server for development in one process, over SQLite, and a worker in Python.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use flowmonkey_test_support::{Port, Program, wait_until};
use tokio::net::TcpStream;

use super::Steps;
use super::driver::Driver;
use super::figures::Figures;
use super::install::Installed;
use super::processes::Processes;
use super::question::{Size, ask_all};

/// Limits that would hold a load of no-ops back, and how many parts a queue has.
const SETTINGS: [(&str, u32); 14] = [
    ("frontend.rps", 100_000),
    ("frontend.namespaceRPS", 100_000),
    ("frontend.namespaceRPS.visibility", 100_000),
    ("history.rps", 100_000),
    ("matching.rps", 100_000),
    ("matching.numTaskqueueReadPartitions", 1),
    ("matching.numTaskqueueWritePartitions", 1),
    ("history.transferProcessorMaxPollRPS", 100_000),
    ("history.transferProcessorMaxPollHostRPS", 100_000),
    ("history.timerProcessorMaxPollRPS", 100_000),
    ("history.timerProcessorMaxPollHostRPS", 100_000),
    ("history.persistenceMaxQPS", 1_000_000),
    ("matching.persistenceMaxQPS", 1_000_000),
    ("frontend.persistenceMaxQPS", 1_000_000),
];
/// Of the server.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Starts everything anew, and measures it.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn measure(
    installed: &Installed,
    steps: Steps,
    size: &Size,
    clients: usize,
) -> Result<Figures> {
    let port = Port::free();
    let address = format!("127.0.0.1:{}", port.number());
    let mut command = Command::new(installed.temporal()?);
    command
        .args(["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "error"])
        .args(["--port", &port.number().to_string(), "--db-filename", "temporal.db"])
        .args(["--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=1"]);
    for (name, value) in SETTINGS {
        command.args(["--dynamic-config-value", &format!("{name}={value}")]);
    }
    let server = Program::start("temporal", command);
    wait_until("Temporal listens", READY_WITHIN, || async { TcpStream::connect(&address).await.is_ok() })
        .await;
    let script = |name: &str| {
        let mut command = installed.python(name);
        command.arg(&address);
        command
    };
    let worker = Program::start("worker", script("worker.py"));
    let (worker, ()) = worker.until(|log| log.contains("the worker works").then_some(())).await;
    let mut command = script("driver.py");
    if steps == Steps::Inline {
        command.arg("local");
    }
    let processes =
        |driver| Processes { servers: vec![server.pid()], workers: vec![worker.pid()], load: vec![driver] };
    let mut driver = Driver::start(command, processes).await?;
    ask_all(&mut driver, size, clients).await
}
