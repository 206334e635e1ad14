//! A child that cannot outlive us.
//!
//! Beside each server runs a small shell that reads from a pipe whose other end only we hold. When we end, in whatever way,
//! the pipe closes, and the shell ends the server and removes its folder. The kernel's own way (`PR_SET_PDEATHSIG`) is bound
//! to the thread that started the child, which in tests ends too early; it would not remove the folder either.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::look_for;

/// The shell takes: the folder, the signal; then on its input the process id, and a second line when it is not needed any
/// more. It keeps out of the way of Ctrl-C, which ends us, and then it has work to do.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
read -r pid || exit 0
if read -r _; then exit 0; fi
kill -CONT "$pid" && kill -"$2" "$pid"
tries=0
while kill -0 "$pid" && [ "$tries" -lt 100 ]; do
    case "$(cat "/proc/$pid/stat")" in *') Z '*) break ;; esac
    sleep 0.1
    tries=$((tries + 1))
done
kill -KILL "$pid"
rm -rf -- "$1"
"#;

/// SIGKILL and an immediate shutdown take milliseconds; only a stopped or swapped-out machine takes longer.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How a server that we leave is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// At once.
    Kill,
    /// Postgres' immediate shutdown: no checkpoint, but its shared memory is given back to the system.
    Quit,
}

impl Farewell {
    const fn signal(self) -> (Signal, &'static str) {
        match self {
            Self::Kill => (Signal::KILL, "KILL"),
            Self::Quit => (Signal::QUIT, "QUIT"),
        }
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watchdog: Child,
    pipe: Option<ChildStdin>,
    farewell: Farewell,
}

impl Process {
    /// Starts `command`, its output going to the end of the file `log`.
    pub(crate) fn spawn(mut command: Command, folder: &Path, log: &Path, farewell: Farewell) -> Self {
        let log_file = File::options().create(true).append(true).open(log).expect("the log can be opened");
        let log_copy = log_file.try_clone().expect("the log can be opened twice");
        let mut watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(folder)
            .arg(farewell.signal().1)
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("/bin/sh starts");
        let mut pipe = watchdog.stdin.take().expect("the input is a pipe");
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log_file)
            .stderr(log_copy)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", command.get_program().display()));
        writeln!(pipe, "{}", child.id()).expect("the watchdog reads");
        Self { child, watchdog, pipe: Some(pipe), farewell }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops it and its children: connections stay open, nothing answers.
    pub(crate) fn pause(&self) {
        // The parent first, so that it makes no more children.
        send(self.pid(), Signal::STOP);
        children_of(self.pid()).into_iter().for_each(|child| send(child, Signal::STOP));
    }

    pub(crate) fn resume(&self) {
        children_of(self.pid()).into_iter().for_each(|child| send(child, Signal::CONT));
        send(self.pid(), Signal::CONT);
    }

    /// SIGKILL to it and its children; returns when all are gone.
    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    /// Asks it to end by `signal`; kills it when it has not ended within `limit`.
    pub(crate) fn stop(mut self, signal: Signal, limit: Duration) {
        self.resume();
        send(self.pid(), signal);
        if look_for(limit, || self.has_ended().then_some(())).is_none() {
            self.kill_now();
        }
    }

    fn kill_now(&mut self) {
        if self.has_ended() {
            return;
        }
        send(self.pid(), Signal::STOP);
        let children = children_of(self.pid());
        for child in &children {
            send(*child, Signal::KILL);
        }
        send(self.pid(), Signal::KILL);
        let waited = self.child.wait();
        debug_assert!(waited.is_ok(), "a killed child can be waited for");
        // A server that comes back to the same folder must not meet them: Postgres would refuse to start.
        let all_gone = look_for(END_WITHIN, || children.iter().all(|child| is_gone(*child)).then_some(()));
        debug_assert!(all_gone.is_some(), "killed children are gone");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            match self.farewell {
                Farewell::Kill => self.kill_now(),
                Farewell::Quit => {
                    self.resume();
                    send(self.pid(), self.farewell.signal().0);
                    if look_for(END_WITHIN, || self.has_ended().then_some(())).is_none() {
                        self.kill_now();
                    }
                }
            }
        }
        // A watchdog that is gone already was killed by somebody; there is nothing left for it to do.
        if let Some(mut pipe) = self.pipe.take() {
            drop(writeln!(pipe, "done"));
        }
        drop(self.watchdog.wait());
    }
}

/// A process that is gone meanwhile is what every sender wants or finds out by other means.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// State letter and parent of a process, from Linux' `/proc`.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold blanks and brackets itself.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_gone(pid: u32) -> bool {
    state_and_parent(pid).is_none_or(|(state, _)| state == 'Z')
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| state_and_parent(*pid).is_some_and(|(_, its)| its == parent))
        .collect()
}
