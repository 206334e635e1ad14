//! How large checkpoints may be, and how long one is waited for.

use clap::Args;
use flowmonkey_plumbing::api::{CHECKPOINT_BYTES_MAX, LARGE_CHECKPOINT_BYTES_MAX};
use flowmonkey_worker::config::CHECKPOINT_WAIT_MS;

/// The least that `--checkpoint-bytes` may be: what the record itself takes.
const BYTES_MIN: u64 = CHECKPOINT_BYTES_MAX as u64;
/// The most: 1 TiB.
const BYTES_MAX: u64 = 1 << 40;
/// The longest wait: an hour.
const WAIT_MS_MAX: u64 = 60 * 60 * 1000;

/// Limits of checkpoints.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CheckpointArgs {
    /// Bytes that one checkpoint may have; over 1 MiB it is kept in the object store
    #[arg(
        long = "checkpoint-bytes",
        value_name = "BYTES",
        default_value_t = LARGE_CHECKPOINT_BYTES_MAX,
        env = "FLOWMONKEY_CHECKPOINT_BYTES",
        value_parser = clap::value_parser!(u64).range(BYTES_MIN..=BYTES_MAX)
    )]
    pub(crate) bytes: u64,
    /// Milliseconds that an attempt waits for its checkpoint while it cannot be had, before it is handed back
    #[arg(
        long = "checkpoint-wait-ms",
        value_name = "MS",
        default_value_t = CHECKPOINT_WAIT_MS,
        env = "FLOWMONKEY_CHECKPOINT_WAIT_MS",
        value_parser = clap::value_parser!(u64).range(0..=WAIT_MS_MAX)
    )]
    pub(crate) wait_ms: u64,
}

impl Default for CheckpointArgs {
    fn default() -> Self {
        Self { bytes: LARGE_CHECKPOINT_BYTES_MAX, wait_ms: CHECKPOINT_WAIT_MS }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        checkpoints: CheckpointArgs,
    }

    #[test]
    fn limits_have_their_defaults_and_their_bounds() {
        let read = |args: &[&str]| {
            let all = std::iter::once("flowmonkey").chain(args.iter().copied());
            Only::try_parse_from(all).map(|only| (only.checkpoints.bytes, only.checkpoints.wait_ms))
        };
        assert_eq!(read(&[]).unwrap(), (1 << 30, 30_000));
        assert_eq!(
            read(&["--checkpoint-bytes", "1048576", "--checkpoint-wait-ms", "0"]).unwrap(),
            (1 << 20, 0)
        );
        for wrong in [
            ["--checkpoint-bytes", "1048575"],
            ["--checkpoint-bytes", "1099511627777"],
            ["--checkpoint-wait-ms", "3600001"],
            ["--checkpoint-wait-ms", "-1"],
        ] {
            assert!(read(&wrong).is_err(), "{wrong:?}");
        }
    }
}
