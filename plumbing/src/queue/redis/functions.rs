//! The functions that run inside Redis: one library, which engines load.

use std::sync::LazyLock;

use redis::{Cmd, Value};

use super::failure::RedisFailure;
use super::keys::PoolKeys;
use super::link::Line;

/// Name of the library, with its version. Other code needs another version: engines and workers of both versions work
/// with the same Redis while they are replaced, so an engine loads its library beside the older one.
pub const LIBRARY: &str = "flowmonkey_3";

static SOURCE: LazyLock<String> = LazyLock::new(|| {
    let register = include_str!("scripts/register.lua").replace("LIBRARY", LIBRARY);
    let parts = [
        include_str!("scripts/common.lua"),
        include_str!("scripts/worker.lua"),
        include_str!("scripts/engine.lua"),
    ];
    format!("#!lua name={LIBRARY}\n{}\n{register}", parts.join("\n"))
});

/// The library's source, as it is loaded.
#[must_use]
pub fn library_source() -> &'static str {
    &SOURCE
}

/// A function of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Claim,
    Extend,
    Finish,
    Release,
    ReleaseOthers,
    Reassert,
    Announce,
    Push,
    Take,
    Acknowledge,
    AdoptResults,
    Listen,
    UntakeOthers,
    Expired,
    PutLeasesAside,
    Drop,
    Withdraw,
    Present,
    RestoreResults,
    Depth,
    AdoptTasks,
    Mend,
    Workers,
    AskToDrain,
    SetGeneration,
    KeepAlive,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Extend => "extend",
            Self::Finish => "finish",
            Self::Release => "release",
            Self::ReleaseOthers => "release_others",
            Self::Reassert => "reassert",
            Self::Announce => "announce",
            Self::Push => "push",
            Self::Take => "take",
            Self::Acknowledge => "acknowledge",
            Self::AdoptResults => "adopt_results",
            Self::Listen => "listen",
            Self::UntakeOthers => "untake_others",
            Self::Expired => "expired",
            Self::PutLeasesAside => "put_leases_aside",
            Self::Drop => "drop",
            Self::Withdraw => "withdraw",
            Self::Present => "present",
            Self::RestoreResults => "restore_results",
            Self::Depth => "depth",
            Self::AdoptTasks => "adopt_tasks",
            Self::Mend => "mend",
            Self::Workers => "workers",
            Self::AskToDrain => "ask_to_drain",
            Self::SetGeneration => "set_generation",
            Self::KeepAlive => "keep_alive",
        }
    }
}

/// What a call begins with: `FCALL`, the function, the number of keys.
const WORDS: usize = 3;
const WORDS_BYTES: usize = 64;

/// A call of a function: its keys first, then its arguments.
pub(super) struct Call {
    function: Function,
    command: Cmd,
}

impl Call {
    /// A call on a pool, with the keys that only this function has.
    pub(super) fn on_pool(function: Function, pool: &PoolKeys, own: &[String]) -> Self {
        Self::on_pool_with_room(function, pool, own, 0, 0)
    }

    /// As [`Self::on_pool`], with room for arguments of so many bytes, so that the command is not copied while it grows.
    pub(super) fn on_pool_with_room(
        function: Function,
        pool: &PoolKeys,
        own: &[String],
        arguments: usize,
        bytes: usize,
    ) -> Self {
        let all = pool.all();
        let keys = all.len() + own.len();
        let names: usize = all.iter().chain(own).map(String::len).sum();
        let room = Cmd::with_capacity(WORDS + keys + arguments, WORDS_BYTES + names + bytes);
        let mut call = Self::new(room, function, keys);
        for key in all.iter().chain(own) {
            call = call.arg(key);
        }
        call
    }

    /// A call on one key that belongs to no pool.
    pub(super) fn on_key(function: Function, key: &str) -> Self {
        Self::new(Cmd::new(), function, 1).arg(key)
    }

    fn new(mut command: Cmd, function: Function, keys: usize) -> Self {
        command.arg("FCALL").arg(format!("{LIBRARY}_{}", function.name())).arg(keys);
        Self { function, command }
    }

    pub(super) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    /// As it is sent.
    pub(super) fn command(&self) -> &Cmd {
        &self.command
    }

    /// Makes the call; loads the library where it is missing.
    pub(super) async fn on(self, line: &Line) -> Result<Value, RedisFailure> {
        let name = self.function.name();
        match line.query(name, &self.command).await {
            Err(error) if error.is_function_missing() => {
                load(line).await?;
                line.query(name, &self.command).await
            }
            answer => answer,
        }
    }
}

/// Loads the library, on every primary of a Cluster.
pub(super) async fn load(line: &Line) -> Result<(), RedisFailure> {
    let mut command = redis::cmd("FUNCTION");
    command.arg("LOAD").arg(library_source());
    match line.query_primaries("loading the functions", &command).await {
        Ok(_) => Ok(()),
        // The same version is the same code.
        Err(RedisFailure::Command { source, .. }) if source.to_string().contains("already exists") => Ok(()),
        // A full Redis takes no functions, which says nothing about rights.
        Err(error) if error.is_full() => Err(error),
        Err(RedisFailure::Command { source, .. }) if super::failure::is_answer(&source) => {
            Err(RedisFailure::FunctionsMissing { source })
        }
        Err(error) => Err(error),
    }
}
