//! Answers that may be large: compressed as the caller allows, and above a size written piece by piece, so that the text
//! is never in memory as a whole beside the value.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use flowmonkey_core::context::json_size;
use futures_util::stream;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::super::Api;
use super::super::problem::{ErrorClass, Problem};
use crate::engine::Counters;

/// Answers that may be on their way at the same time; further ones wait for their turn. Each holds its value in memory.
pub(in super::super) const LARGE_ANSWERS_MAX: usize = 16;
/// Bytes of JSON above which an answer is streamed.
const STREAM_BYTES: usize = 5 * 1024 * 1024;
/// Bytes of JSON below which compression is not worth its while.
const COMPRESS_BYTES_MIN: usize = 1024;
/// Bytes of one piece of a stream.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that may wait for the connection.
const PIECES_MAX: usize = 4;
/// How long a reader may take for one piece before the answer is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Fast, and most of what there is to gain.
const ZSTD_LEVEL: i32 = 1;
/// The size of the answer before its compression.
const UNCOMPRESSED: HeaderName = HeaderName::from_static("x-uncompressed-bytes");

/// How an answer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// The best that the caller takes.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let takes = |wanted: &str| {
            let lists = headers.get_all(header::ACCEPT_ENCODING).iter();
            let mut words = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
            words.any(|word| {
                let mut parts = word.split(';').map(str::trim);
                let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
                let weight = parts.find_map(|part| part.strip_prefix("q=")).map(str::parse::<f32>);
                is_it && weight.is_none_or(|weight| weight.is_ok_and(|weight| weight > 0.0))
            })
        };
        if takes("zstd") {
            Self::Zstd
        } else if takes("gzip") {
            Self::Gzip
        } else {
            Self::Identity
        }
    }

    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// Writes `value` as JSON, compressed; gives back what it was written to.
    fn write<W: Write>(self, value: &Value, sink: W) -> io::Result<W> {
        match self {
            Self::Identity => {
                let mut sink = sink;
                serde_json::to_writer(&mut sink, value)?;
                Ok(sink)
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(sink, Compression::fast());
                serde_json::to_writer(&mut encoder, value)?;
                encoder.finish()
            }
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(sink, ZSTD_LEVEL)?;
                serde_json::to_writer(&mut encoder, value)?;
                encoder.finish()
            }
        }
    }
}

/// Waits until one more value may be read for an answer; none: they are not counted any more, as the server ends.
pub(super) async fn turn(api: &Api) -> Option<OwnedSemaphorePermit> {
    api.large_answers.clone().acquire_owned().await.ok()
}

/// The answer that holds `value`.
pub(super) async fn answer(
    api: &Api,
    value: Value,
    coding: Coding,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Response, Problem> {
    let bytes = json_size(&value);
    let coding = if bytes < COMPRESS_BYTES_MIN { Coding::Identity } else { coding };
    Counters::add(&api.engine.counters.context_bytes_read, bytes);
    let body = if bytes > STREAM_BYTES {
        streamed(api, value, coding, permit)
    } else {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Problem::hidden(ErrorClass::Internal, "INTERNAL", "the answer cannot be written", error)
        };
        let written = if bytes > PIECE_BYTES {
            let write = move || coding.write(&value, Vec::new());
            api.work.spawn_blocking(write).await.map_err(|error| failed(&error))?
        } else {
            coding.write(&value, Vec::with_capacity(bytes))
        };
        let written = written.map_err(|error| failed(&error))?;
        Counters::add(&api.engine.counters.context_bytes_sent, written.len());
        Body::from(written)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(UNCOMPRESSED, HeaderValue::from(bytes));
    if let Some(name) = coding.name() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    Ok(response)
}

/// A piece of a streamed answer. A stream that ends without its end was cut off, and must not look whole.
enum Piece {
    Bytes(Bytes),
    End,
}

fn streamed(api: &Api, value: Value, coding: Coding, permit: Option<OwnedSemaphorePermit>) -> Body {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let (engine, runtime) = (api.engine.clone(), Handle::current());
    let write = move || {
        let _permit = permit;
        let pieces = Pieces { sender, runtime, filled: Vec::with_capacity(PIECE_BYTES), sent: 0 };
        match coding.write(&value, pieces).and_then(Pieces::end) {
            Ok(sent) => Counters::add(&engine.counters.context_bytes_sent, sent),
            Err(error) => tracing::debug!(%error, "a large answer was given up"),
        }
    };
    // On its own: the answer's stream tells how it goes.
    drop(api.work.spawn_blocking(write));
    let pieces = stream::unfold(Some(receiver), async |receiver: Option<mpsc::Receiver<Piece>>| {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(receiver))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the answer was given up")), None)),
        }
    });
    Body::from_stream(pieces)
}

/// Writes into a bounded channel, on a thread that may block.
struct Pieces {
    sender: mpsc::Sender<Piece>,
    runtime: Handle,
    filled: Vec<u8>,
    sent: usize,
}

impl Pieces {
    fn send(&self, piece: Piece) -> io::Result<()> {
        let sent = self.runtime.block_on(tokio::time::timeout(STALL_MAX, self.sender.send(piece)));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone away")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")),
        }
    }

    fn end(mut self) -> io::Result<usize> {
        self.flush()?;
        self.send(Piece::End)?;
        Ok(self.sent)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled.len() >= PIECE_BYTES {
            self.flush()?;
        }
        let count = bytes.len().min(PIECE_BYTES - self.filled.len());
        self.filled.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.filled, Vec::with_capacity(PIECE_BYTES));
        self.sent += piece.len();
        self.send(Piece::Bytes(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_coding_that_is_taken_is_chosen() {
        for (accepted, wanted) in [
            ("", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("br, GZIP;q=0.5, deflate", Coding::Gzip),
            ("gzip, zstd", Coding::Zstd),
            ("gzip;q=1, zstd;q=0", Coding::Gzip),
            ("zstd;q=x, gzip;q=0.000", Coding::Identity),
            ("*", Coding::Identity),
        ] {
            let headers =
                HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))]);
            assert_eq!(Coding::of(&headers), wanted, "{accepted}");
        }
        assert_eq!(Coding::of(&HeaderMap::new()), Coding::Identity);
    }
}
