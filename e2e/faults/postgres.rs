//! A record that goes away and comes back.

use flowmonkey_test_support::{Direction, FaultProxy, Flow};
use reqwest::{Client, StatusCode, header};
use serde_json::json;

use super::load::{Load, progress};
use super::network::port_of;
use crate::system::{Options, Routes, System, wait_for};

/// Tasks that are begun between faults.
const BETWEEN: usize = 15;
/// Commits whose answers are lost.
const LOST_ANSWERS: usize = 8;
/// Times that all connections are ended.
const TERMINATIONS: usize = 3;

/// Requests are told to come again, and chores do.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_may_be_restarted() {
    let system = System::start(Options { own_postgres: true, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    load.during(&system, async {
        for _ in 0..TERMINATIONS {
            progress(&system, BETWEEN).await;
            system.postgres().terminate_backends("postgres").await;
        }
        progress(&system, BETWEEN).await;
        system.postgres().kill();
        let body = json!({ "flowId": "chain", "input": {} });
        for engine in &system.engines {
            let url = format!("{}/v1/executions", engine.url.as_ref().unwrap());
            let answer = Client::new().post(url).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            let retry_after = answer.headers()[header::RETRY_AFTER].to_str().unwrap();
            assert!(retry_after.parse::<u32>().unwrap() > 0);
            let problem: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(problem["code"], "STORE_UNAVAILABLE");
        }
        system.postgres().restart().await;
        progress(&system, BETWEEN).await;
    })
    .await;
    let report = load.check(&system).await;
    assert_eq!(report.audit.redelivered, report.rounds, "nothing ran twice: queues and workers were whole");
}

/// Whether a commit happened that nobody heard of is found out; it counts once.
#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_commits_may_be_lost() {
    let mut system = System::start(Options { engines: 0, workers: 0, ..Options::default() }).await;
    let direct = system.database_url();
    let port = port_of(&direct);
    let proxy = FaultProxy::start(port);
    system.options.routes = Routes { database: Some(proxy.url_of(&direct, port)), ..Routes::default() };
    system.add_engine(&[]).await;
    system.add_engine(&[]).await;
    system.add_worker(&[]).await;
    let mut load = Load::new(&system).await;
    load.during(&system, async {
        for _ in 0..LOST_ANSWERS {
            progress(&system, BETWEEN).await;
            let sent = proxy.bytes(Direction::ToServer);
            // What is asked from now on arrives, its answer does not.
            proxy.set(Direction::ToClient, Flow::Swallowed);
            wait_for("something was asked", async || (proxy.bytes(Direction::ToServer) > sent).then_some(()))
                .await;
            // Connections that lost bytes are reset.
            proxy.heal();
        }
        progress(&system, BETWEEN).await;
    })
    .await;
    load.check(&system).await;
}
