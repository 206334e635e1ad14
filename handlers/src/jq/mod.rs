//! jq programs, run by jaq in evaluator processes of their own.
//!
//! Within one step of jaq a program can loop for ever (`def f: f; f`), fill the memory (`[range(1e12)]`) or overflow the
//! stack, and no thread can be stopped from outside. So programs run in small child processes with limits on memory and
//! processor time and an empty environment; one that overruns its time is killed. A process that answered well is kept for the next program.

mod eval;
mod protocol;
mod serve;

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

pub(crate) use protocol::{Outputs, Problem};
pub use serve::serve;

use protocol::{Answer, Compiled, Request};

/// Bytes of the answer for one item.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// Evaluator processes kept for later programs.
const IDLE_PROCESSES_MAX: usize = 4;

/// How evaluator processes are started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JqPolicy {
    /// The program: `flowmonkey-jq`, or any program that calls [`serve`] when it gets `arguments`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A program and what to run it on.
pub(crate) struct Evaluation<'a> {
    pub(crate) program: &'a str,
    pub(crate) context: &'a Value,
    pub(crate) config: &'a Value,
    pub(crate) outputs: Outputs,
    /// `$index` of the first item.
    pub(crate) first_index: Option<usize>,
    pub(crate) items: Vec<Value>,
    /// For each item.
    pub(crate) timeout: Duration,
}

/// Why no item was evaluated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JqError {
    #[error("this worker runs no jq programs: it was given no evaluator")]
    Unconfigured,
    #[error("{0}")]
    Program(Problem),
    #[error("the evaluator of jq programs cannot be used: {0}")]
    Evaluator(#[source] io::Error),
}

/// Runs jq programs; keeps idle evaluator processes.
#[derive(Debug)]
pub(crate) struct Jq {
    policy: Option<JqPolicy>,
    idle: Mutex<Vec<Evaluator>>,
}

impl Jq {
    pub(crate) const fn new(policy: Option<JqPolicy>) -> Self {
        Self { policy, idle: Mutex::new(Vec::new()) }
    }

    /// Runs a program on each item, in order. An item on which it fails, overruns its time, or ends its process does not
    /// keep the others from being evaluated. Dropping the future kills the process.
    pub(crate) async fn run(
        &self,
        evaluation: Evaluation<'_>,
    ) -> Result<Vec<Result<Value, Problem>>, JqError> {
        let Evaluation { program, context, config, outputs, first_index, items, timeout } = evaluation;
        let mut request = Request {
            program: program.into(),
            context: context.clone(),
            config: config.clone(),
            outputs,
            first_index,
            items,
            cpu_seconds: 0,
        };
        let mut answers = Vec::with_capacity(request.items.len());
        loop {
            let items = u64::try_from(request.items.len()).unwrap_or(u64::MAX);
            request.cpu_seconds = timeout.as_secs().saturating_add(1).saturating_mul(items.max(1));
            let mut evaluator = self.evaluator()?;
            let before = answers.len();
            let end = evaluator.answer(&request, timeout, &mut answers).await?;
            match end {
                End::All => {
                    self.keep(evaluator);
                    return Ok(answers);
                }
                End::Overrun(problem) => answers.push(Err(problem)),
            }
            let answered = answers.len() - before;
            request.items.drain(..answered);
            request.first_index = first_index.map(|first| first + answers.len());
            if request.items.is_empty() {
                return Ok(answers);
            }
        }
    }

    fn evaluator(&self) -> Result<Evaluator, JqError> {
        let policy = self.policy.as_ref().ok_or(JqError::Unconfigured)?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut evaluator) = idle
            && evaluator.is_alive()
        {
            return Ok(evaluator);
        }
        Evaluator::start(policy).map_err(JqError::Evaluator)
    }

    fn keep(&self, evaluator: Evaluator) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_PROCESSES_MAX {
            idle.push(evaluator);
        }
    }
}

/// How a conversation with an evaluator ended.
enum End {
    /// Every item has its answer.
    All,
    /// The item after the last answer did not end well, and took the process with it.
    Overrun(Problem),
}

/// An evaluator process. Dropping it kills the process.
#[derive(Debug)]
struct Evaluator {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Evaluator {
    fn start(policy: &JqPolicy) -> io::Result<Self> {
        let mut process = Command::new(&policy.program)
            .args(&policy.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(io::Error::other("its input and output are not piped"));
        };
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    async fn answer(
        &mut self,
        request: &Request,
        timeout: Duration,
        answers: &mut Vec<Result<Value, Problem>>,
    ) -> Result<End, JqError> {
        let mut line = serde_json::to_vec(request).map_err(|error| JqError::Evaluator(error.into()))?;
        line.push(b'\n');
        self.input.write_all(&line).await.map_err(JqError::Evaluator)?;
        let compiled = match self.line(timeout).await {
            Ok(line) => serde_json::from_slice::<Compiled>(&line),
            Err(LineError::Late) => {
                return Err(JqError::Program(Problem::new(format!(
                    "compiling took longer than {} ms",
                    timeout.as_millis()
                ))));
            }
            Err(LineError::Ended | LineError::TooLong) => {
                return Err(JqError::Evaluator(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
        };
        if let Some(problem) = compiled.map_err(|error| JqError::Evaluator(error.into()))?.problem {
            return Err(JqError::Program(problem));
        }
        for _ in &request.items {
            let line = match self.line(timeout).await {
                Ok(line) => line,
                Err(LineError::Late) => {
                    return Ok(End::Overrun(Problem::new(format!(
                        "took longer than {} ms",
                        timeout.as_millis()
                    ))));
                }
                Err(LineError::TooLong) => {
                    return Ok(End::Overrun(Problem::new(format!(
                        "the output is over {ANSWER_BYTES_MAX} bytes"
                    ))));
                }
                Err(LineError::Ended) => {
                    return Ok(End::Overrun(Problem::new(
                        "the program used up its memory, stack or processor time",
                    )));
                }
            };
            let answer = serde_json::from_slice(&line).map_err(|error| JqError::Evaluator(error.into()))?;
            answers.push(match answer {
                Answer::Output(value) => Ok(value),
                Answer::Failed(problem) => Err(problem),
            });
        }
        Ok(End::All)
    }

    async fn line(&mut self, timeout: Duration) -> Result<Vec<u8>, LineError> {
        let mut line = Vec::new();
        let mut limited = (&mut self.output).take(ANSWER_BYTES_MAX);
        match tokio::time::timeout(timeout, limited.read_until(b'\n', &mut line)).await {
            Err(_) => Err(LineError::Late),
            Ok(Ok(_)) if line.ends_with(b"\n") => Ok(line),
            Ok(Ok(read)) if u64::try_from(read).unwrap_or(u64::MAX) >= ANSWER_BYTES_MAX => {
                Err(LineError::TooLong)
            }
            Ok(Ok(_) | Err(_)) => Err(LineError::Ended),
        }
    }
}

/// Why no whole line came.
enum LineError {
    Late,
    TooLong,
    Ended,
}
