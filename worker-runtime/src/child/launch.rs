//! How the processes of one handler are started.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use flowmonkey_plumbing::manifest::Manifest;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::process::Command;

use super::ChildHandlerError;
use super::process::{Group, inherit};
use crate::handler::Failure;

/// The child could not be started, broke off, or did not keep to the protocol.
pub(super) const HANDLER_ERROR: &str = "HANDLER_ERROR";

/// How the processes of one handler are started.
#[derive(Debug)]
pub(super) struct Launch {
    /// As in the manifest.
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    inherited: Vec<String>,
    memory_bytes: Option<u64>,
    cpu_seconds: Option<u64>,
}

impl Launch {
    pub(super) fn new(manifest: &Manifest, directory: &Path) -> Result<Self, ChildHandlerError> {
        let handler_type = &manifest.handler_type;
        let invalid = |field: &str, problem: String| ChildHandlerError::Invalid {
            handler_type: handler_type.clone(),
            field: field.to_owned(),
            problem,
        };
        let Some((name, arguments)) = manifest.command.split_first().filter(|(name, _)| !name.is_empty())
        else {
            return Err(invalid("command", "must name a program".into()));
        };
        if manifest.command.iter().any(|word| word.contains('\0')) {
            return Err(invalid("command", "must not contain NUL characters".into()));
        }
        let names = manifest.env.keys().chain(&manifest.inherit_env);
        if let Some(name) =
            names.into_iter().find(|name| name.is_empty() || name.contains(['=', '\0'].as_slice()))
        {
            return Err(invalid("env", format!("has `{name}`, which is not a name for a variable")));
        }
        if let Some((name, _)) = manifest.env.iter().find(|(_, value)| value.contains('\0')) {
            return Err(invalid(&format!("env.{name}"), "must not contain NUL characters".into()));
        }
        let limits = &manifest.limits;
        if limits.line_bytes == 0 || limits.output_bytes == 0 {
            return Err(invalid("limits", "must leave room for a result: zero bytes do not".into()));
        }
        if limits.memory_bytes == Some(0) || limits.cpu_seconds == Some(0) {
            return Err(invalid("limits", "must not be zero".into()));
        }
        let resource = manifest.resources.as_ref().and_then(|resources| resources.memory.as_deref());
        let memory_bytes = match (limits.memory_bytes, resource) {
            (Some(bytes), _) => Some(bytes),
            (None, None) => None,
            (None, Some(quantity)) => Some(parse_bytes(quantity).ok_or_else(|| {
                invalid("resources.memory", format!("is `{quantity}`, not an amount such as `512Mi`"))
            })?),
        };
        let unreadable = |source| ChildHandlerError::Directory { handler_type: handler_type.clone(), source };
        let mut directory = std::path::absolute(directory).map_err(unreadable)?;
        if let Some(inner) = &manifest.working_directory {
            directory.push(inner);
        }
        // A path is meant from the directory of the child; a plain name is looked for in `PATH`.
        let program = if name.contains('/') { directory.join(name) } else { PathBuf::from(name) };
        Ok(Self {
            name: name.clone(),
            program,
            arguments: arguments.to_vec(),
            directory,
            environment: manifest.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            inherited: manifest.inherit_env.clone(),
            memory_bytes,
            cpu_seconds: limits.cpu_seconds,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn start(&self) -> Result<Group, Box<Failure>> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.directory);
        inherit(&mut command, self.inherited.iter().map(String::as_str));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.limit(&mut command);
        Group::spawn(&mut command).map_err(|error| {
            if !self.directory.is_dir() {
                let directory = self.directory.display();
                let message = format!("cannot start `{}`: there is no directory `{directory}`", self.name);
                return Box::new(Failure::terminal(HANDLER_ERROR, message));
            }
            let message = format!("cannot start `{}`: {error}", self.name);
            let kind = error.kind();
            if matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) {
                Box::new(Failure::terminal(HANDLER_ERROR, message))
            } else {
                Box::new(Failure::new(HANDLER_ERROR, message))
            }
        })
    }

    #[expect(
        unsafe_code,
        reason = "limits can be set only between fork and exec; the closure makes system calls only"
    )]
    fn limit(&self, command: &mut Command) {
        let (memory, cpu) = (self.memory_bytes, self.cpu_seconds);
        if memory.is_none() && cpu.is_none() {
            return;
        }
        let limits = move || {
            if let Some(bytes) = memory {
                setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
            }
            if let Some(seconds) = cpu {
                // The first limit tells the child by SIGXCPU, the second one kills it.
                let maximum = Some(seconds.saturating_add(1));
                setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum })?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed: the closure calls setrlimit, and neither
        // allocates nor locks.
        unsafe {
            command.pre_exec(limits);
        }
    }
}

/// Bytes of an amount in Kubernetes' spelling: `512Mi`, `1.5G`, `1048576`.
pub(crate) fn parse_bytes(quantity: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    /// Digits after the point that count.
    const FRACTION_DIGITS_MAX: usize = 9;
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| quantity.strip_suffix(suffix).map(|number| (number, *unit)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    let mut bytes = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit);
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        bytes += u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit) / scale;
    }
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        assert_eq!(parse_bytes("512Mi"), Some(512 << 20));
        assert_eq!(parse_bytes("1.5G"), Some(1_500_000_000));
        assert_eq!(parse_bytes("1048576"), Some(1 << 20));
        for odd in ["", "Mi", "-1Mi", "1 Mi", "12MB", "1e3", "0", "99999Ei", ".5Gi", "1.5.5G"] {
            assert_eq!(parse_bytes(odd), None, "{odd}");
        }
    }
}
