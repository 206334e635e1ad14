//! One connection to the HTTP API, as lean as can be: the load shares the processors with what it measures.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// Asks for the record at the end of the execution.
const WAIT: HeaderValue = HeaderValue::from_static("wait=60");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A connection; one request at a time.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Client {
    /// Connects. `tracker` runs the connection, which ends with the client.
    ///
    /// # Errors
    /// When nothing listens there.
    pub(crate) async fn connect(address: SocketAddr, tracker: &TaskTracker) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tracker.spawn(async move {
            // Whoever sends learns of what goes wrong.
            drop(connection.await);
        });
        Ok(Self { sender, host: HeaderValue::from_str(&address.to_string())? })
    }

    /// Sends a request; status and body of the answer.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    /// A request with a body of JSON, or none.
    ///
    /// # Errors
    /// When the path is none.
    pub(crate) fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, self.host.clone()).header(CONTENT_TYPE, JSON);
        Ok(request.body(Full::new(body))?)
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Value> {
        let request = self.request(Method::GET, path, Bytes::new())?;
        let (status, body) = self.send(request).await?;
        ensure!(status == StatusCode::OK, "{path}: {status}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).context("an answer that is not JSON")
    }

    /// Publishes a flow.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn publish(&mut self, flow: &Value) -> Result<()> {
        let request = self.request(Method::POST, "/v1/flows", flow.to_string().into())?;
        let (status, body) = self.send(request).await?;
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    /// Starts an execution, and does not wait for its end.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn start(&mut self, body: Bytes) -> Result<()> {
        let request = self.request(Method::POST, "/v1/executions", body)?;
        let (status, body) = self.send(request).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }

    /// Starts an execution, and waits a minute for its end; the answer, whatever it is.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn run_or_start(&mut self, body: Bytes) -> Result<Bytes> {
        let mut request = self.request(Method::POST, "/v1/executions", body)?;
        request.headers_mut().insert("prefer", WAIT);
        let (status, body) = self.send(request).await?;
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Starts an execution, and waits for its end; the record.
    ///
    /// # Errors
    /// When it is refused, or does not complete.
    pub(crate) async fn run(&mut self, body: Bytes) -> Result<Bytes> {
        let body = self.run_or_start(body).await?;
        // Parsing each record would cost as much as sending it.
        let completed = memchr::memmem::find(&body, br#""status":"completed""#).is_some();
        ensure!(completed, "{}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
