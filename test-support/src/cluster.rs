//! A Redis cluster.

use std::time::Duration;

use crate::ports::Port;
use crate::redis::{Redis, RedisOptions};
use crate::wait::wait_until;

const NODES: u16 = 3;
/// Of every Redis cluster.
const SLOTS: u16 = 16_384;
/// A node that is silent for so long is held to be down.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// Three primaries with a third of the slots each, and no replicas: when one is killed, its slots are out of reach until it is
/// restarted; the other slots are still served.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
    /// The ports over which the nodes talk, kept for restarts.
    _bus: Vec<Port>,
}

impl Cluster {
    /// Starts the nodes, makes them known to each other, and waits until each of them finds the cluster whole.
    pub async fn start() -> Self {
        let mut nodes = Vec::new();
        let mut bus = Vec::new();
        for _ in 0..NODES {
            let bus_port = Port::free();
            let config = vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {}", bus_port.number),
                format!("cluster-node-timeout {}", NODE_TIMEOUT.as_millis()),
                "cluster-require-full-coverage no".to_owned(),
            ];
            nodes.push(Redis::start(RedisOptions { config, ..RedisOptions::default() }).await);
            bus.push(bus_port);
        }
        for (index, node) in (0..).zip(&nodes) {
            let (first, end) = (SLOTS / NODES * index, SLOTS / NODES * (index + 1));
            let last = if index + 1 == NODES { SLOTS - 1 } else { end - 1 };
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            // Each needs its own, or they quarrel first about who is who.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
        }
        for (node, port) in nodes.iter().zip(&bus).skip(1) {
            let (client_port, bus_port) = (node.port().to_string(), port.number.to_string());
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &client_port, &bus_port]).await;
        }
        let cluster = Self { nodes, _bus: bus };
        cluster.wait_until_whole().await;
        cluster
    }

    /// `redis://127.0.0.1:port` of each node.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Waits until every node finds that all the slots are served: after a node was restarted.
    pub async fn wait_until_whole(&self) {
        for node in &self.nodes {
            wait_until("every node finds the cluster whole", SETTLED_WITHIN, async || {
                let info = node.try_command(&["CLUSTER", "INFO"]).await;
                info.and_then(|info| Ok(::redis::from_redis_value::<String>(info)?))
                    .is_ok_and(|info| is_whole(&info))
            })
            .await;
        }
    }
}

fn is_whole(info: &str) -> bool {
    let has = |name: &str, value: u16| info.lines().any(|line| line == format!("{name}:{value}"));
    info.contains("cluster_state:ok") && has("cluster_slots_ok", SLOTS) && has("cluster_size", NODES)
}
