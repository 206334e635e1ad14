//! Ports that stay ours while a server is down.
//!
//! A port that the kernel picks may go to any outgoing connection as soon as nobody listens on it, so that a server that was
//! killed could not come back. These lie below the range of such connections, and a locked file per port keeps other test
//! processes away.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below Linux' range for outgoing connections (32768 and up), above the usual fixed ports.
const FIRST: u16 = 14_000;
const COUNT: u16 = 18_000;

/// How many ports one process has tried, so that two servers of one process start their search at different places.
static TRIED: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1, kept until this is dropped.
#[derive(Debug)]
pub struct Port {
    pub(crate) number: u16,
    /// Locked while we live; `None` for a port that the caller chose.
    _claim: Option<File>,
}

impl Port {
    /// The port the caller wants; nobody else is kept from it.
    pub(crate) const fn fixed(number: u16) -> Self {
        Self { number, _claim: None }
    }

    /// A port on which nobody listens and which no other test process has claimed.
    ///
    /// Panics when there is none.
    #[must_use]
    pub fn free() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let claims = std::env::temp_dir().join(format!("flowmonkey-test-ports-{uid}"));
        std::fs::create_dir_all(&claims)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", claims.display()));
        let start = u16::try_from(u64::from(std::process::id()) * 101 % u64::from(COUNT)).unwrap_or(0);
        for _ in 0..COUNT {
            let step = TRIED.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + (start + step % COUNT) % COUNT;
            let file = claims.join(number.to_string());
            let Ok(claim) = OpenOptions::new().create(true).truncate(false).write(true).open(&file) else {
                continue;
            };
            if claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _claim: Some(claim) };
            }
        }
        panic!("no free port from {FIRST} on")
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }
}
