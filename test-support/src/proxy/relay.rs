//! One connection through the proxy.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Counters, Direction, Faults, Flow};

const CHUNK_BYTES: usize = 16 * 1024;
/// Times `CHUNK_BYTES`: what is taken while nothing is delivered.
const CHUNKS_MAX: usize = 64;

/// How a connection ends before both sides have closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

struct Chunk {
    read_at: Instant,
    bytes: Vec<u8>,
}

/// Carries bytes both ways until both sides have closed, or until it is told to end.
pub(super) async fn relay(
    client: TcpStream,
    target: SocketAddr,
    told: watch::Receiver<Faults>,
    counters: &Counters,
) {
    // What was cut before concerns those that were there before.
    let born = *told.borrow();
    let mut ends = told.clone();
    let connected = tokio::select! {
        end = told_to_end(&mut ends, born) => Err(end),
        connected = TcpStream::connect(target) => connected.map_err(|_| End::Reset),
    };
    let server = match connected {
        Ok(server) => server,
        Err(end) => {
            if end == End::Reset {
                reset(&client);
            }
            return;
        }
    };
    let small_at_once = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = Pump::new(to_server, Direction::ToServer, told.clone(), counters);
    let mut down = Pump::new(to_client, Direction::ToClient, told, counters);
    let end = tokio::select! {
        // First: after a cut nothing more is carried, even if it is there already.
        biased;
        end = told_to_end(&mut ends, born) => Some(end),
        carried = async { tokio::try_join!(up.carry(from_client), down.carry(from_server)) } => carried.err(),
    };
    if end == Some(End::Reset) || small_at_once.is_err() {
        for half in [up.to, down.to] {
            reset(half.as_ref());
            // Dropped as it is, it would first send an end, and the other side could take that for all.
            half.forget();
        }
    }
}

async fn told_to_end(faults: &mut watch::Receiver<Faults>, born: Faults) -> End {
    // An error means that the proxy is gone.
    let now = faults.wait_for(|now| now.ended || now.cuts != born.cuts || now.resets != born.resets).await;
    match now {
        Ok(now) if now.resets != born.resets => End::Reset,
        Ok(_) | Err(_) => End::Close,
    }
}

/// Makes the closing of a stream a reset.
fn reset(stream: &TcpStream) {
    // It fails on a connection that is gone, which is what we want.
    drop(stream.set_zero_linger());
}

/// One direction of a connection.
struct Pump<'a> {
    to: OwnedWriteHalf,
    direction: Direction,
    faults: watch::Receiver<Faults>,
    counters: &'a Counters,
    /// Bytes were swallowed: what comes after them would make no sense.
    has_lost: bool,
    /// For `CutAfter`: the switch it was counted under, and the bytes delivered under it.
    counted: (u64, u64),
}

impl<'a> Pump<'a> {
    fn new(
        to: OwnedWriteHalf,
        direction: Direction,
        faults: watch::Receiver<Faults>,
        counters: &'a Counters,
    ) -> Self {
        Self { to, direction, faults, counters, has_lost: false, counted: (0, 0) }
    }

    async fn carry(&mut self, from: OwnedReadHalf) -> Result<(), End> {
        let (queue, mut chunks) = mpsc::channel(CHUNKS_MAX);
        let deliver = async {
            while let Some(chunk) = self.next(&mut chunks).await? {
                self.deliver(chunk).await?;
            }
            self.close().await
        };
        tokio::try_join!(read(from, queue), deliver).map(|_| ())
    }

    /// The next chunk; `None` at the end.
    async fn next(&mut self, chunks: &mut mpsc::Receiver<Chunk>) -> Result<Option<Chunk>, End> {
        loop {
            let flow = self.flow();
            if self.has_lost && flow != Flow::Swallowed {
                return Err(End::Reset);
            }
            tokio::select! {
                biased;
                () = changed(&mut self.faults) => {}
                chunk = chunks.recv() => return Ok(chunk),
            }
        }
    }

    async fn deliver(&mut self, chunk: Chunk) -> Result<(), End> {
        loop {
            match self.flow() {
                Flow::Through => return self.write(&chunk.bytes).await,
                Flow::Delayed(by) => {
                    let due = chunk.read_at + by;
                    if Instant::now() >= due {
                        return self.write(&chunk.bytes).await;
                    }
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = changed(&mut self.faults) => {}
                    }
                }
                Flow::Held => changed(&mut self.faults).await,
                Flow::Swallowed => {
                    self.has_lost = true;
                    let count = u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX);
                    self.counters.swallowed.fetch_add(count, Ordering::Relaxed);
                    return Ok(());
                }
                Flow::CutAfter(limit) => {
                    let left = usize::try_from(limit.saturating_sub(self.counted.1)).unwrap_or(usize::MAX);
                    if chunk.bytes.len() < left {
                        return self.write(&chunk.bytes).await;
                    }
                    self.write(&chunk.bytes[..left]).await?;
                    return Err(End::Close);
                }
            }
        }
    }

    /// Hands the end of the connection on, when it may arrive.
    async fn close(&mut self) -> Result<(), End> {
        loop {
            match self.flow() {
                Flow::Held | Flow::Swallowed => changed(&mut self.faults).await,
                Flow::Through | Flow::Delayed(_) | Flow::CutAfter(_) => {
                    if self.has_lost {
                        return Err(End::Reset);
                    }
                    return self.to.shutdown().await.map_err(|_| End::Reset);
                }
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.counted.1 += count;
        // Before they go: who has got them finds them counted.
        self.counters.bytes(self.direction).fetch_add(count, Ordering::Relaxed);
        self.to.write_all(bytes).await.map_err(|_| End::Reset)
    }

    /// The flow of now; what is waited for afterwards is a later one.
    fn flow(&mut self) -> Flow {
        let switch = *self.faults.borrow_and_update().clone().switch(self.direction);
        if self.counted.0 != switch.times {
            self.counted = (switch.times, 0);
        }
        switch.flow
    }
}

/// Waits for another switch. When the proxy is gone, the whole connection is about to be ended.
async fn changed(faults: &mut watch::Receiver<Faults>) {
    if faults.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn read(mut from: OwnedReadHalf, queue: mpsc::Sender<Chunk>) -> Result<(), End> {
    loop {
        let mut bytes = vec![0; CHUNK_BYTES];
        let count = from.read(&mut bytes).await.map_err(|_| End::Reset)?;
        bytes.truncate(count);
        if count == 0 || queue.send(Chunk { read_at: Instant::now(), bytes }).await.is_err() {
            return Ok(());
        }
    }
}
