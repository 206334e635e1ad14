//! The processes of a peer: what memory they have, and what processor time they use.

use crate::system::usage::{children_of, cpu_seconds, memory_kib};

/// The processes of a peer by what they are, with their children.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    /// Servers of the peer, and those that it stands on.
    pub(crate) servers: Vec<u32>,
    /// Those with the handlers.
    pub(crate) workers: Vec<u32>,
    /// Those that put on the load, where they are others.
    pub(crate) load: Vec<u32>,
}

impl Processes {
    /// MiB of the servers.
    pub(crate) fn server_mib(&self) -> f64 {
        mib(&self.servers)
    }

    /// MiB of the workers.
    pub(crate) fn worker_mib(&self) -> f64 {
        mib(&self.workers)
    }

    /// Processor time of all until now, this process included.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let all = self.servers.iter().chain(&self.workers).chain(&self.load);
        all.flat_map(|pid| family(*pid)).chain([std::process::id()]).filter_map(cpu_seconds).sum()
    }
}

fn family(pid: u32) -> impl Iterator<Item = u32> {
    children_of(pid).into_iter().chain([pid])
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mib(pids: &[u32]) -> f64 {
    let kib: u64 = pids.iter().flat_map(|pid| family(*pid)).filter_map(memory_kib).sum();
    kib as f64 / 1024.0
}
