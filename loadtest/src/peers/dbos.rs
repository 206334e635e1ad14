//! DBOS: a library. The driver has the flows and their steps; Postgres has the record.

use anyhow::Result;

use super::driver::Driver;
use super::figures::Figures;
use super::install::Installed;
use super::processes::Processes;
use super::question::{Size, ask_all};
use crate::system::{DATABASE, postgres};

/// Starts everything anew, and measures it.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn measure(installed: &Installed, size: &Size, clients: usize) -> Result<Figures> {
    let postgres = postgres(&[]).await;
    let mut command = installed.script("driver.mjs");
    command.env("DATABASE", postgres.url(DATABASE));
    let processes =
        |driver| Processes { servers: vec![postgres.pid()], workers: vec![driver], load: Vec::new() };
    let mut driver = Driver::start(command, processes).await?;
    ask_all(&mut driver, size, clients).await
}
