//! Restate: a server with a log of its own, and a service with the handlers. It is asked over HTTP, by the same client as ours.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use flowmonkey_test_support::{Port, Program, wait_until};
use hyper::Method;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use super::Steps;
use super::closed::{Call, closed, one_by_one};
use super::figures::Figures;
use super::install::Installed;
use super::processes::Processes;
use super::question::{Asked, Question, Size, ask_all};
use crate::client::Client;

/// Of the server.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Starts everything anew, and measures it.
///
/// # Errors
/// When something does not start, or does not complete.
pub(crate) async fn measure(
    installed: &Installed,
    steps: Steps,
    size: &Size,
    clients: usize,
) -> Result<Figures> {
    let [ingress, admin, fabric, handlers] = [(); 4].map(|()| Port::free());
    let mut command = Command::new(installed.restate_server()?);
    // Its data is in the folder in which it runs.
    command
        .arg("--no-logo")
        .args(["--base-dir", "data"])
        .arg("--config-file")
        .arg(installed.file("restate.toml"))
        .env("RESTATE_INGRESS__BIND_PORT", ingress.number().to_string())
        .env("RESTATE_ADMIN__BIND_PORT", admin.number().to_string())
        .env("RESTATE_BIND_PORT", fabric.number().to_string());
    let server = Program::start("restate", command);
    let mut command = installed.script("service.mjs");
    command.env("PORT", handlers.number().to_string()).env("RESTATE_LOGGING", "ERROR");
    let service = Program::start("service", command);
    let (service, ()) = service.until(|log| log.contains("the service listens").then_some(())).await;
    let tracker = TaskTracker::new();
    let [ingress, admin] =
        [&ingress, &admin].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())));
    let answers = async |address: SocketAddr, path: &str| match Client::connect(address, &tracker).await {
        Ok(mut client) => ask(&mut client, Method::GET, path, Bytes::new()).await.is_ok(),
        Err(_) => false,
    };
    wait_until("Restate's administration answers", READY_WITHIN, || answers(admin, "/health")).await;
    let deployment = json!({ "uri": format!("http://127.0.0.1:{}", handlers.number()) }).to_string();
    let mut client = Client::connect(admin, &tracker).await?;
    ask(&mut client, Method::POST, "/deployments", deployment.into()).await?;
    wait_until("Restate takes requests", READY_WITHIN, || answers(ingress, "/restate/health")).await;
    let processes = Processes { servers: vec![server.pid()], workers: vec![service.pid()], load: Vec::new() };
    let client = Client::connect(ingress, &tracker).await?;
    let mut asked = Restate { address: ingress, steps, tracker, client, processes };
    ask_all(&mut asked, size, clients).await
}

async fn ask(client: &mut Client, method: Method, path: &str, body: Bytes) -> Result<()> {
    let request = client.request(method, path, body)?;
    let (status, answer) = client.send(request).await?;
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

struct Restate {
    address: SocketAddr,
    steps: Steps,
    tracker: TaskTracker,
    client: Client,
    processes: Processes,
}

impl Restate {
    /// A call of one of the handlers of `service.mjs`, which give back what they are given.
    fn call(&self, inline: &str, dispatched: &str, number: u32) -> Call {
        let handler = match self.steps {
            Steps::Inline => inline,
            Steps::Dispatched => dispatched,
        };
        Call { path: format!("/flow/{handler}"), body: number.to_string(), answer: number.to_string() }
    }
}

impl Asked for Restate {
    fn processes(&self) -> &Processes {
        &self.processes
    }

    async fn ask(&mut self, question: Question) -> Result<Value> {
        match question {
            Question::Latency(asked) => {
                let call = self.call("run", "call", asked.length);
                one_by_one(&mut self.client, &call, asked).await
            }
            Question::FanOut(asked) => {
                let call = self.call("runAll", "callAll", asked.length);
                one_by_one(&mut self.client, &call, asked).await
            }
            Question::Throughput(asked) => {
                let call = self.call("run", "call", asked.steps.into());
                closed(self.address, &self.tracker, &call, asked, &self.processes).await
            }
            Question::Bulk { .. } => bail!("a request for each execution is how Restate is asked"),
        }
    }
}
