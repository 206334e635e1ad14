//! Reads a child's output line by line without ever holding more than the limits allow.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at once, at least.
const CHUNK_BYTES: usize = 64 << 10;
/// A larger buffer is given back after the line that needed it.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// A limit of the manifest that the output passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// `limits.lineBytes`.
    Line(usize),
    /// `limits.outputBytes`.
    Output(u64),
}

/// Counts the bytes of all output of one task.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    spent: AtomicU64,
}

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Self { limit, spent: AtomicU64::new(0) }
    }

    fn spend(&self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self.spent.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit { Err(Exceeded::Output(self.limit)) } else { Ok(()) }
    }
}

/// What is done with a line that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlong {
    /// It is an error.
    Refuse,
    /// It becomes several lines.
    Split,
}

/// The lines of a pipe.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    source: R,
    line_bytes: usize,
    overlong: Overlong,
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// No line ends before this.
    searched: usize,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) const fn new(source: R, line_bytes: usize, overlong: Overlong) -> Self {
        Self { source, line_bytes, overlong, buffer: Vec::new(), start: 0, searched: 0, ended: false }
    }

    /// The next line without its end; none when the pipe has ended. Safe to drop: nothing is lost.
    pub(crate) async fn next(&mut self, budget: &Budget) -> Result<Option<Vec<u8>>, Exceeded> {
        // A child that floods its pipe always has a next line: without this, neither the attempt's time limit nor a
        // cancellation would get a turn until the buffer is used up.
        tokio::task::coop::consume_budget().await;
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let end = end.map(|end| self.searched + end);
            let length = end.unwrap_or(self.buffer.len()) - self.start;
            if length > self.line_bytes {
                return match self.overlong {
                    Overlong::Refuse => Err(Exceeded::Line(self.line_bytes)),
                    Overlong::Split => Ok(Some(self.take(self.start + self.line_bytes, 0))),
                };
            }
            if let Some(end) = end {
                return Ok(Some(self.take(end, 1)));
            }
            if self.ended {
                return Ok((length > 0).then(|| self.take(self.buffer.len(), 0)));
            }
            self.searched = self.buffer.len();
            self.fill(budget).await?;
        }
    }

    fn take(&mut self, end: usize, separator: usize) -> Vec<u8> {
        let mut line = self.buffer[self.start..end].to_vec();
        if separator > 0 && line.last() == Some(&b'\r') {
            line.pop();
        }
        self.start = end + separator;
        self.searched = self.start;
        line
    }

    async fn fill(&mut self, budget: &Budget) -> Result<(), Exceeded> {
        // Moved only here, once per read: moving after each line would cost the square of the chunk.
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        }
        self.buffer.reserve(CHUNK_BYTES);
        // A pipe that cannot be read has ended.
        match self.source.read_buf(&mut self.buffer).await {
            Ok(read @ 1..) => budget.spend(read),
            Ok(0) | Err(_) => {
                self.ended = true;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8], line_bytes: usize, overlong: Overlong) -> Vec<String> {
        let budget = Budget::new(1 << 20);
        let mut lines = Lines::new(text, line_bytes, overlong);
        let mut found = Vec::new();
        while let Some(line) = lines.next(&budget).await.unwrap() {
            found.push(String::from_utf8(line).unwrap());
        }
        found
    }

    #[tokio::test]
    async fn lines_end_by_either_kind_of_end_or_with_the_pipe() {
        assert_eq!(all(b"a\r\n\nb\nc", 100, Overlong::Refuse).await, ["a", "", "b", "c"]);
        assert_eq!(all(b"", 100, Overlong::Refuse).await, [""; 0]);
    }

    #[tokio::test]
    async fn long_lines_are_split_or_refused() {
        assert_eq!(all(b"abcde\nabcd\n", 4, Overlong::Split).await, ["abcd", "e", "abcd"]);
        let mut lines = Lines::new(&b"abcde\n"[..], 4, Overlong::Refuse);
        assert_eq!(lines.next(&Budget::new(100)).await, Err(Exceeded::Line(4)));
    }

    #[tokio::test]
    async fn an_endless_pipe_takes_no_more_memory_than_its_limit() {
        let line_bytes = 1 << 20;
        let mut lines = Lines::new(tokio::io::repeat(b'x'), line_bytes, Overlong::Refuse);
        assert_eq!(lines.next(&Budget::new(u64::MAX)).await, Err(Exceeded::Line(line_bytes)));
        // A vector at most doubles.
        assert!(lines.buffer.capacity() <= 4 * line_bytes, "{}", lines.buffer.capacity());
        let mut lines = Lines::new(tokio::io::repeat(b'\n'), line_bytes, Overlong::Refuse);
        let budget = Budget::new(10 << 20);
        let ended = loop {
            if let Err(exceeded) = lines.next(&budget).await {
                break exceeded;
            }
        };
        assert_eq!(ended, Exceeded::Output(10 << 20));
        assert!(lines.buffer.capacity() <= 4 * CHUNK_BYTES, "{}", lines.buffer.capacity());
    }
}
