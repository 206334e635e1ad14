//! A running child and the pipes to it.

use flowmonkey_plumbing::manifest::ChildLimits;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::output::{Lines, Overlong};
use super::process::Group;
use crate::journal::LOG_MESSAGE_BYTES_MAX;

/// A running child and its pipes.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) group: Group,
    pub(super) feed: Feed,
    pub(super) stdout: Lines<ChildStdout>,
    pub(super) stderr: Lines<ChildStderr>,
}

impl Conversation {
    /// None: the child was started without pipes.
    pub(super) fn new(mut group: Group, limits: &ChildLimits) -> Option<Self> {
        let feed = Feed { pipe: Some(group.child.stdin.take()?), bytes: Vec::new(), sent: 0, answers_at: 0 };
        let stdout = Lines::new(group.child.stdout.take()?, limits.line_bytes, Overlong::Refuse);
        let stderr = Lines::new(group.child.stderr.take()?, LOG_MESSAGE_BYTES_MAX, Overlong::Split);
        Some(Self { group, feed, stdout, stderr })
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.group.child.try_wait(), Ok(None))
    }
}

/// What is written to a child, as far as it reads.
#[derive(Debug)]
pub(super) struct Feed {
    /// None: closed.
    pub(super) pipe: Option<ChildStdin>,
    bytes: Vec<u8>,
    sent: usize,
    /// Where in the bytes the answers begin: behind the task.
    answers_at: usize,
}

impl Feed {
    /// Hands over a task: a child may do a lot before it reads it.
    pub(super) fn push_task(&mut self, bytes: &[u8]) {
        self.push(bytes);
        self.answers_at = self.bytes.len();
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Nobody would ever read it.
        if self.pipe.is_some() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Bytes of answers that the child has not taken yet.
    pub(super) fn unread(&self) -> usize {
        if self.pipe.is_some() { self.bytes.len() - self.sent.max(self.answers_at) } else { 0 }
    }

    pub(super) fn has_more(&self) -> bool {
        self.pipe.is_some() && self.sent < self.bytes.len()
    }

    /// Writes all of it. Safe to drop and to repeat.
    pub(super) async fn flush(&mut self) {
        while let Some(pipe) = self.pipe.as_mut()
            && self.sent < self.bytes.len()
        {
            match pipe.write(&self.bytes[self.sent..]).await {
                Ok(sent @ 1..) => self.sent += sent,
                // A child need not read: then the pipe breaks, and its output says how it ended.
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
        self.bytes = Vec::new();
        (self.sent, self.answers_at) = (0, 0);
    }
}
