//! Where ids and chance come from in the shells.

use ring::rand::{SecureRandom, SystemRandom};
use uuid::{Builder, Uuid};

use crate::clock::Clock;

/// Source of ids and chance.
pub trait Entropy: Send + Sync {
    /// Evenly spread random bits.
    fn bits(&self) -> u128;
}

/// The operating system's random numbers.
#[derive(Debug)]
pub struct SystemEntropy(SystemRandom);

impl Default for SystemEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemEntropy {
    /// Opens the source.
    #[must_use]
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Entropy for SystemEntropy {
    fn bits(&self) -> u128 {
        let mut bytes = [0_u8; 16];
        // A machine without random numbers can run nothing safely; there is no answer to give here.
        #[expect(clippy::expect_used, reason = "no caller can go on without random numbers")]
        self.0.fill(&mut bytes).expect("the operating system gives random numbers");
        u128::from_ne_bytes(bytes)
    }
}

/// A version-7 UUID: sorts by time.
#[must_use]
pub fn new_uuid(clock: &dyn Clock, entropy: &dyn Entropy) -> Uuid {
    let random = entropy.bits().to_be_bytes();
    let mut tail = [0_u8; 10];
    tail.copy_from_slice(&random[..10]);
    Builder::from_unix_timestamp_millis(u64::try_from(clock.now_ms()).unwrap_or(0), &tail).into_uuid()
}
