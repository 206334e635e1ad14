//! A driver: a process that is asked by lines of JSON, and answers by lines of JSON.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::processes::Processes;
use super::question::{Asked, Question};

/// From a question to its answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);
/// Of what a program said that failed, from the beginning and from the end.
const LINES_SHOWN: usize = 8;

/// A running driver. Dropping it kills it; it ends with its input, so that it cannot outlive us.
pub(crate) struct Driver {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    complaints: File,
    processes: Processes,
    _child: Child,
}

impl Driver {
    /// Starts one and waits until it is ready. `processes` says what is behind it, given its process id.
    ///
    /// # Errors
    /// When it cannot be started, or ends.
    pub(crate) async fn start(
        command: std::process::Command,
        processes: impl FnOnce(u32) -> Processes,
    ) -> Result<Self> {
        let complaints = tempfile::tempfile()?;
        let mut command = Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(complaints.try_clone()?);
        let mut child = command.kill_on_drop(true).spawn().context("cannot start the driver")?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let output = BufReader::new(output).lines();
        let processes = processes(child.id().context("it runs")?);
        let mut driver = Self { input, output, complaints, processes, _child: child };
        let answer = driver.line().await?;
        if answer["ready"] != true {
            bail!("the driver says {answer} instead of being ready");
        }
        Ok(driver)
    }

    /// The next line.
    async fn line(&mut self) -> Result<Value> {
        let line = timeout(ANSWERS_WITHIN, self.output.next_line());
        match line.await.context("the driver does not answer")?? {
            Some(line) => serde_json::from_str(&line).with_context(|| format!("the driver says `{line}`")),
            None => bail!("the driver has ended: {}", self.complained()),
        }
    }

    fn complained(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.complaints.rewind().and_then(|()| self.complaints.read_to_end(&mut text));
        match read {
            Ok(_) => shortened(&String::from_utf8_lossy(&text)),
            Err(error) => format!("what it said cannot be read: {error}"),
        }
    }
}

impl Asked for Driver {
    fn processes(&self) -> &Processes {
        &self.processes
    }

    async fn ask(&mut self, question: Question) -> Result<Value> {
        self.input.write_all(format!("{}\n", question.line()).as_bytes()).await?;
        let mut opened = 0.0;
        let mut used = 0.0;
        loop {
            let mut answer = self.line().await?;
            match answer["window"].as_str() {
                Some("opens") => opened = self.processes.cpu_seconds(),
                Some(_) => used = self.processes.cpu_seconds() - opened,
                None => {
                    answer["cpuSeconds"] = json!(used);
                    return Ok(answer);
                }
            }
        }
    }
}

/// What is said of a failure: some programs begin with the reason, and others end with it.
pub(crate) fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.len() <= 2 * LINES_SHOWN {
        return lines.join("\n");
    }
    let (first, last) = (&lines[..LINES_SHOWN], &lines[lines.len() - LINES_SHOWN..]);
    format!("{}\n...\n{}", first.join("\n"), last.join("\n"))
}
