//! Connections: how many there may be, and how long they may take to say what they want.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::gate::Peer;

/// How long open requests may take to end after the shutdown began.
pub const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Connections that are open at the same time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 16_384;
/// How long the head of a request may take. The time between two requests of a connection counts, so that it is longer than
/// clients keep connections that they do not use.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(100);
/// Headers of a request.
pub(super) const HEADERS_MAX: usize = 100;
/// Bytes of a request's head.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after a connection could not be accepted, as there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` on `listener` until `shutdown`; open requests get [`DRAIN_MAX`] to end.
///
/// # Errors
/// None at present: what goes wrong with one connection is its own.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let over = CancellationToken::new();
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (router, shutdown, over) = (router.clone(), shutdown.clone(), over.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = serve_one(stream, peer, router, &shutdown) => {}
                            () = over.cancelled() => {}
                        }
                        drop(slot);
                    });
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted now");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN_MAX, connections.wait()).await.is_err() {
        tracing::warn!("requests were still open when the time to end them was over");
        over.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn serve_one(stream: TcpStream, peer: SocketAddr, router: Router, shutdown: &CancellationToken) {
    // Answers are short: waiting for more to send would only make them late.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(%error, "a connection has gone");
    }
    let peer = Peer(peer.ip().to_canonical());
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        // A router is always ready.
        router.clone().call(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
}

/// Whether the other side went away before it was accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset]
        .contains(&error.kind())
}
