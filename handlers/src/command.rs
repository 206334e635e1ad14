//! `command`: runs one program, as a plain process or by the child protocol.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::{ChildLimits, Manifest};
use flowmonkey_worker::child::process::{Captured, DRAIN, Full, Group, Keep, inherit, tail};
use flowmonkey_worker::{ChildHandler, Completion, Failure, Handler, Task};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command as Process;

use crate::config::{ConfigError, Fields};
use crate::schema::{Table, object_to, optional, required, required_text, scalar, text, whole, words};

/// Milliseconds that a program may run.
const TIMEOUT_MS: u64 = 60_000;
/// The most that `timeoutMs` may ask for: a day. The step's own timeout ends a program as well.
const TIMEOUT_MS_MAX: u64 = 24 * 3_600_000;
/// Bytes of standard output.
const OUTPUT_BYTES: u64 = 8 << 20;
/// The most that `maxOutputBytes` may ask for.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// Bytes of standard error that are kept: the last ones.
const STDERR_BYTES: usize = 64 << 10;
/// Bytes of standard error that go into a failure.
const STDERR_EXCERPT_BYTES: usize = 4 << 10;
/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

const HANDLER_TYPE: &str = "command";
const COMMAND_FAILED: &str = "COMMAND_FAILED";
const FIELDS: Table = &[&[
    required("command", command_schema, "The program and its arguments."),
    optional("cwd", text, "The directory. Default: the worker's."),
    optional("env", || object_to(scalar()), "Variables: name to string, number or boolean."),
    optional("protocol", || words(&PROTOCOLS), "none (default), or ndjson: the child protocol."),
    optional(
        "stdin",
        || words(&STDIN),
        "What the program reads: none (default), or json: `{ input, context }`.",
    ),
    optional("parse", || words(&PARSE), "What standard output becomes: text (default), json or lines."),
    optional("successCodes", success_codes_schema, "Exit codes that count as success. Default [0]."),
    optional("timeoutMs", || whole(&TIMEOUTS_MS), "Milliseconds. Default 60000, at most a day."),
    optional("timeout", || whole(&TIMEOUTS_MS), "Another name of `timeoutMs`."),
    optional(
        "maxOutputBytes",
        || whole(&OUTPUT_SIZES),
        "Bytes of standard output. Default 8388608, at most 67108864.",
    ),
]];
/// Fields that have a meaning only without a protocol.
const PLAIN_FIELDS: [&str; 3] = ["stdin", "parse", "successCodes"];
const TIMEOUTS_MS: RangeInclusive<u64> = 1..=TIMEOUT_MS_MAX;
const OUTPUT_SIZES: RangeInclusive<u64> = 1..=OUTPUT_BYTES_MAX;
const PROTOCOLS: [(&str, Protocol); 2] = [("none", Protocol::None), ("ndjson", Protocol::Ndjson)];
const STDIN: [(&str, Input); 2] = [("none", Input::None), ("json", Input::Json)];
const PARSE: [(&str, Parse); 3] = [("text", Parse::Text), ("json", Parse::Json), ("lines", Parse::Lines)];

fn command_schema() -> Value {
    json!({ "type": "array", "items": text(), "prefixItems": [required_text()], "minItems": 1 })
}

fn success_codes_schema() -> Value {
    json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 255 } })
}

/// Which programs flows may run on this worker. The default: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandPolicy {
    /// Which programs.
    pub programs: Programs,
}

/// A set of programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Programs {
    /// None: every task fails with `COMMAND_FORBIDDEN`.
    #[default]
    None,
    /// These, spelled as in the flow (`jq`, `/usr/bin/convert`).
    Listed(Vec<String>),
    /// Any: whoever can publish a flow can run anything with the rights of this worker.
    Any,
}

/// The handler `command`.
#[derive(Debug)]
pub struct Command {
    manifest: Manifest,
    policy: CommandPolicy,
}

impl Command {
    /// A handler that runs the programs of `policy`.
    #[must_use]
    pub fn new(policy: CommandPolicy) -> Self {
        Self { manifest: crate::manifest(HANDLER_TYPE, "Runs a program", FIELDS), policy }
    }

    fn check(&self, program: &str) -> Result<(), Failure> {
        let allowed = match &self.policy.programs {
            Programs::None => false,
            Programs::Listed(programs) => programs.iter().any(|listed| listed == program),
            Programs::Any => true,
        };
        if allowed {
            return Ok(());
        }
        let message =
            format!("this worker may not run `{program}`; an operator can add it to the worker's programs");
        Err(Failure::terminal("COMMAND_FORBIDDEN", message))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Protocol {
    /// Exit code and output are the result.
    #[default]
    None,
    /// The child protocol.
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    None,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Parse {
    #[default]
    Text,
    Json,
    Lines,
}

/// A program and how to run it.
#[derive(Debug)]
struct Program {
    protocol: Protocol,
    program: String,
    arguments: Vec<String>,
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    input: Input,
    parse: Parse,
    timeout: Duration,
    success_codes: Vec<i32>,
    output_bytes_max: Option<u64>,
}

impl Program {
    fn parse(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let protocol = fields.choice("protocol", &PROTOCOLS)?.unwrap_or_default();
        if protocol == Protocol::Ndjson
            && let Some(field) = PLAIN_FIELDS.into_iter().find(|field| fields.value(field).is_some())
        {
            return Err(fields.error(field, "does not go with `protocol: ndjson`: leave it out"));
        }
        let mut words = fields.texts("command")?.ok_or_else(|| fields.error("command", "is required"))?;
        if words.first().is_none_or(String::is_empty) {
            return Err(fields.error("command", "must name a program"));
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err(fields.error("command", "must not contain NUL characters"));
        }
        let program = words.remove(0);
        let mut environment = Vec::new();
        for (name, value) in fields.object("env")?.into_iter().flatten() {
            let field = format!("env.{name}");
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(fields.error(&field, "is not a name for a variable"));
            }
            let value = match value {
                Value::String(text) if !text.contains('\0') => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                    return Err(fields
                        .error(&field, "must be a string without NUL characters, a number or a boolean"));
                }
            };
            environment.push((name.clone(), value));
        }
        let code = |value: &Value| {
            let code = value
                .as_i64()
                .and_then(|code| i32::try_from(code).ok())
                .filter(|code| (0..=255).contains(code));
            code.ok_or_else(|| {
                fields.error("successCodes", format!("{value} is not an exit code from 0 to 255"))
            })
        };
        let timeout = match fields.number("timeoutMs", &TIMEOUTS_MS)? {
            Some(timeout) => timeout,
            None => fields.number("timeout", &TIMEOUTS_MS)?.unwrap_or(TIMEOUT_MS),
        };
        Ok(Self {
            protocol,
            program,
            arguments: words,
            directory: fields.text("cwd")?.map(PathBuf::from),
            environment,
            input: fields.choice("stdin", &STDIN)?.unwrap_or(Input::None),
            parse: fields.choice("parse", &PARSE)?.unwrap_or_default(),
            timeout: Duration::from_millis(timeout),
            success_codes: match fields.list("successCodes")? {
                None => vec![0],
                Some(codes) => codes.iter().map(code).collect::<Result<_, _>>()?,
            },
            output_bytes_max: fields.number("maxOutputBytes", &OUTPUT_SIZES)?,
        })
    }

    /// The variables of the program, besides those that it inherits.
    fn variables(&self, task: &Task) -> BTreeMap<String, String> {
        let message = &task.message;
        let own = [
            ("FLOWMONKEY_EXECUTION_ID", message.execution_id.clone()),
            ("FLOWMONKEY_STEP_ID", message.step_id.clone()),
            ("FLOWMONKEY_ATTEMPT", message.attempt.to_string()),
            ("FLOWMONKEY_IDEMPOTENCY_KEY", task.idempotency_key().to_owned()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        own.chain(self.environment.iter().cloned()).collect()
    }

    /// Runs a program that speaks the child protocol, as the handlers with a manifest are run: a process for this task.
    async fn converse(&self, task: &Task) -> Result<Completion, Failure> {
        let limits = ChildLimits::default();
        let mut command = vec![self.program.clone()];
        command.extend(self.arguments.iter().cloned());
        let manifest = Manifest {
            handler_type: HANDLER_TYPE.into(),
            command,
            env: self.variables(task),
            limits: ChildLimits {
                output_bytes: self.output_bytes_max.unwrap_or(limits.output_bytes),
                ..limits
            },
            ..Manifest::default()
        };
        let directory = self.directory.as_deref().unwrap_or_else(|| Path::new("."));
        let child = ChildHandler::new(manifest, directory)
            .map_err(|error| ConfigError::new("command", error.to_string()))?;
        child.with_timeout(self.timeout).run(task).await
    }

    fn start(&self, task: &Task) -> Result<Group, Failure> {
        let mut process = Process::new(&self.program);
        process.args(&self.arguments);
        inherit(&mut process, []);
        process.envs(self.variables(task));
        if let Some(directory) = &self.directory {
            process.current_dir(directory);
        }
        process.stdout(Stdio::piped()).stderr(Stdio::piped());
        process.stdin(if self.input == Input::Json { Stdio::piped() } else { Stdio::null() });
        Group::spawn(&mut process).map_err(|error| {
            let message = format!("`{}` cannot be started: {error}", self.program);
            let kind = error.kind();
            if matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) {
                Failure::terminal(COMMAND_FAILED, message)
            } else {
                Failure::new(COMMAND_FAILED, message)
            }
        })
    }

    async fn run(&self, task: &Task) -> Result<Ended, Failure> {
        let started = Instant::now();
        let input = match self.input {
            Input::None => None,
            Input::Json => {
                let context = task.load_context().await.map_err(|error| {
                    Failure::new(COMMAND_FAILED, format!("the context cannot be read: {error}"))
                })?;
                Some(json!({ "input": task.input(), "context": context }).to_string())
            }
        };
        let mut group = self.start(task)?;
        let (stdin, stdout, stderr) =
            (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
        let feed = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A program need not read its input: then the pipe breaks, and that is fine.
                drop(stdin.write_all(input.as_bytes()).await);
            }
            std::future::pending::<()>().await;
        };
        let output_bytes_max = self.output_bytes_max.unwrap_or(OUTPUT_BYTES);
        let mut out = Captured::new(Keep::First(usize::try_from(output_bytes_max).unwrap_or(usize::MAX)));
        let mut err = Captured::new(Keep::Last(STDERR_BYTES));
        let end = {
            let mut reading =
                Box::pin(async { tokio::try_join!(out.read(stdout), err.read(stderr)).map(drop) });
            let mut feeding = Box::pin(feed);
            let mut out_ended = false;
            let timeout = tokio::time::sleep(self.timeout);
            tokio::pin!(timeout);
            let end = loop {
                tokio::select! {
                    status = group.wait() => break End::Exited(status),
                    full = &mut reading, if !out_ended => match full {
                        Err(Full) => break End::Full,
                        Ok(()) => out_ended = true,
                    },
                    () = &mut feeding => {}
                    () = &mut timeout => break End::Late,
                    () = task.cancelled.cancelled() => break End::Cancelled,
                }
            };
            match end {
                End::Late | End::Cancelled => group.terminate(GRACE).await,
                // What it started goes with it; this also closes the pipes that those processes hold.
                End::Exited(_) | End::Full => group.kill(),
            }
            if let (End::Exited(_), false) = (&end, out_ended) {
                match tokio::time::timeout(DRAIN, reading).await {
                    Ok(Err(Full)) => End::Full,
                    Ok(Ok(())) | Err(_) => end,
                }
            } else {
                end
            }
        };
        let stderr = err.text();
        let failed = |message: String, exit_code: Option<i32>| {
            let tail = tail(&stderr, STDERR_EXCERPT_BYTES);
            Failure::new(COMMAND_FAILED, message).details(json!({ "exitCode": exit_code, "stderr": tail }))
        };
        match end {
            End::Exited(Ok(status)) => {
                Ok(Ended { status, stdout: out.text(), stderr, duration: started.elapsed() })
            }
            End::Exited(Err(error)) => {
                Err(failed(format!("the program cannot be waited for: {error}"), None))
            }
            End::Full => {
                let mut failure = failed(format!("the output is over {output_bytes_max} bytes"), None);
                failure.error.retryable = Some(false);
                Err(failure)
            }
            End::Late => {
                let mut failure =
                    failed(format!("the program ran longer than {} ms", self.timeout.as_millis()), None);
                failure.error.code = "TIMEOUT".into();
                Err(failure)
            }
            End::Cancelled => Err(Failure::new("ABORTED", "the task was stopped")),
        }
    }

    fn output(&self, ended: Ended) -> Result<Value, Failure> {
        let code = ended.status.code();
        let Some(code) = code.filter(|code| self.success_codes.contains(code)) else {
            let how = code.map_or_else(|| ended.status.to_string(), |code| format!("exit code {code}"));
            let stderr = tail(&ended.stderr, STDERR_EXCERPT_BYTES);
            let last = stderr.lines().last().map_or_else(String::new, |line| format!(": {line}"));
            return Err(Failure::new(COMMAND_FAILED, format!("`{}` ended with {how}{last}", self.program))
                .details(json!({ "exitCode": code, "stderr": stderr })));
        };
        let stdout = match self.parse {
            Parse::Text => Value::String(ended.stdout),
            Parse::Lines => ended.stdout.lines().map(Value::from).collect(),
            Parse::Json => serde_json::from_str(&ended.stdout).map_err(|error| {
                Failure::terminal(COMMAND_FAILED, format!("the output is not JSON: {error}"))
            })?,
        };
        Ok(json!({
            "exitCode": code,
            "stdout": stdout,
            "stderr": ended.stderr,
            "duration": u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
        }))
    }
}

struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    duration: Duration,
}

enum End {
    Exited(std::io::Result<ExitStatus>),
    Full,
    Late,
    Cancelled,
}

#[async_trait]
impl Handler for Command {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let program = Program::parse(&fields)?;
        self.check(&program.program)?;
        fields.warn_unknown(task, FIELDS);
        match program.protocol {
            Protocol::None => {
                let ended = program.run(task).await?;
                program.output(ended).map(Completion::output)
            }
            Protocol::Ndjson => program.converse(task).await,
        }
    }
}
