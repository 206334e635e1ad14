//! No server and no folder is left behind.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flowmonkey_test_support::{Postgres, PostgresOptions, Redis, RedisOptions, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const MARK: &str = "server: ";

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // One that nobody has waited for yet has ended all the same.
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with('Z'))
}

/// The folder of a server: its output goes to a file in it.
fn folder(pid: u32) -> PathBuf {
    let log = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
    log.parent().unwrap().to_owned()
}

fn is_left(pid: u32, folder: &Path) -> bool {
    is_running(pid) || folder.exists()
}

#[tokio::test]
async fn a_server_ends_with_the_value_that_holds_it() {
    let redis = Redis::start(RedisOptions::default()).await;
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let servers = [redis.pid(), postgres.pid()].map(|pid| (pid, folder(pid)));
    for (pid, folder) in &servers {
        assert!(is_running(*pid) && folder.is_dir());
    }
    // A paused server is ended as any other.
    postgres.pause();
    redis.pause();
    drop((redis, postgres));
    for (pid, folder) in &servers {
        assert!(!is_left(*pid, folder), "{}", folder.display());
    }
}

#[tokio::test]
async fn a_server_ends_with_a_process_that_is_killed() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "own_servers_until_killed", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let servers: Vec<(u32, PathBuf)> = lines
        .filter_map(|line| line.unwrap().split_once(MARK).map(|(_, pid)| pid.parse().unwrap()))
        .map(|pid| (pid, folder(pid)))
        .take(2)
        .collect();
    assert_eq!(servers.len(), 2);
    owner.kill().unwrap();
    owner.wait().unwrap();
    for (pid, folder) in &servers {
        wait_until("nothing is left", LIMIT, async || !is_left(*pid, folder)).await;
    }
}

#[test]
#[ignore = "started, and killed, by the test above"]
fn own_servers_until_killed() {
    let redis = Redis::start_blocking(RedisOptions::default());
    println!("\n{MARK}{}", redis.pid());
    println!("\n{MARK}{}", Postgres::shared_blocking().pid());
    // The other end is held by the one that kills us.
    std::io::stdin().lines().for_each(drop);
}
