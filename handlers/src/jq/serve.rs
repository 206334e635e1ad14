//! The evaluator process: reads requests from standard input, answers on standard output, ends with its input.

use std::io::{self, BufRead, BufWriter, Write};
use std::process::ExitCode;

use jaq_json::Val;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::Value;

use super::eval::{Program, Scope};
use super::protocol::{Compiled, OUTPUT_NODES_MAX, Request};

/// Address space of an evaluator process, bytes. Covers the program text, the stack, and what the jq program builds.
const MEMORY_MAX: u64 = 1 << 30;
/// Stack of the thread that runs programs, bytes: deep recursion is common in jq.
const STACK: usize = 256 << 20;

/// Serves as an evaluator process until the standard input ends: what the program named in [`super::JqPolicy`] does.
///
/// Limits its own memory and processor time. A program that goes past them ends the process, and only the process.
pub fn serve() -> ExitCode {
    if limit_process().is_err() {
        return ExitCode::FAILURE;
    }
    let thread = std::thread::Builder::new().name("jq".into()).stack_size(STACK).spawn(answer_all);
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => ExitCode::FAILURE,
    }
}

fn limit_process() -> rustix::io::Result<()> {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) })?;
    // A core dump would hold the data of the flow.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

/// The process ends itself even when the worker that should have stopped it is gone.
fn limit_cpu(seconds: u64) -> rustix::io::Result<()> {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = u64::try_from(usage.tv_sec).unwrap_or(0);
    let maximum = getrlimit(Resource::Cpu).maximum;
    setrlimit(
        Resource::Cpu,
        Rlimit { current: Some(used.saturating_add(seconds).saturating_add(1)), maximum },
    )
}

fn answer_all() -> io::Result<()> {
    let mut output = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        limit_cpu(request.cpu_seconds)?;
        answer(request, &mut output)?;
    }
    Ok(())
}

fn answer(request: Request, output: &mut impl Write) -> io::Result<()> {
    let program = match Program::compile(&request.program) {
        Ok(program) => program,
        Err(problem) => return write_line(output, &Compiled { problem: Some(problem) }),
    };
    write_line(output, &Compiled { problem: None })?;
    let (context, config) = (value(request.context)?, value(request.config)?);
    for (offset, input) in request.items.into_iter().enumerate() {
        let index = request.first_index.map(|first| first + offset);
        let scope = Scope {
            input: value(input)?,
            context: context.clone(),
            config: config.clone(),
            index: value(index.map_or(Value::Null, Value::from))?,
        };
        write_line(output, &program.run(scope, request.outputs, OUTPUT_NODES_MAX))?;
    }
    Ok(())
}

fn value(value: Value) -> io::Result<Val> {
    serde_json::from_value(value).map_err(io::Error::from)
}

/// One line, sent at once: when a later item ends the process, the worker has what came before.
fn write_line(output: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, line)?;
    output.write_all(b"\n")?;
    output.flush()
}
