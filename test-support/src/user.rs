//! Postgres refuses to run as root, and nothing here needs to: when the tests run as root, the servers run as `nobody`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const UNPRIVILEGED: &str = "nobody";

/// The account that the servers run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// Set only when the account differs from ours.
    change_to_gid: Option<u32>,
}

impl User {
    pub(crate) fn of_servers() -> Self {
        let ours = rustix::process::geteuid().as_raw();
        if ours != 0 {
            return Self { uid: ours, change_to_gid: None };
        }
        let accounts = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        accounts
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(UNPRIVILEGED)).then_some(())?;
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                Some(Self { uid, change_to_gid: Some(gid) })
            })
            .unwrap_or_else(|| {
                panic!("the tests run as root, and there is no account `{UNPRIVILEGED}` for the servers")
            })
    }

    /// Gives a file or folder (not what is in it) to the account.
    pub(crate) fn own(self, path: &Path) {
        if let Some(gid) = self.change_to_gid {
            std::os::unix::fs::chown(path, Some(self.uid), Some(gid)).unwrap_or_else(|error| {
                panic!("cannot give {} to `{UNPRIVILEGED}`: {error}", path.display())
            });
        }
    }

    /// A command that will run as the account, with a plain environment.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
        if let Some(gid) = self.change_to_gid {
            command.uid(self.uid).gid(gid);
        }
        command
    }
}
