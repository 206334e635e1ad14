//! A Redis cluster.

use std::time::Duration;

use ::redis::RedisResult;

use crate::certificates::Tls;
use crate::ports::Port;
use crate::redis::{Redis, RedisOptions};
use crate::wait::{wait_for, wait_until};

const PRIMARIES: u16 = 3;
/// Of every Redis cluster.
const SLOTS: u16 = 16_384;
/// A node that is silent for so long is held to be down.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// A replica that was asked to take over, and gets no votes, gives up after five seconds.
const FAIL_OVER_WITHIN: Duration = Duration::from_secs(6);
/// How often one is asked.
const FAIL_OVERS_MAX: u32 = 10;
/// Keys of a slot that are moved at a time.
const MOVED_AT_ONCE: &str = "10";
/// For each of them to arrive, in milliseconds.
const MOVED_WITHIN_MS: &str = "10000";

/// How a cluster is set up. The default: no replicas, no TLS.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Each primary has a replica, which takes over when it is gone.
    pub replicas: bool,
    /// Towards clients and between the nodes.
    pub tls: Option<Tls>,
}

/// Three primaries with a third of the slots each. Without replicas, the slots of one that is killed are out of reach until it
/// is restarted; the other slots are still served.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
    /// The ports over which the nodes talk, kept for restarts.
    _bus: Vec<Port>,
}

/// What a node says of itself.
struct Role {
    /// Of this node.
    id: String,
    /// The node that it copies; none: it is a primary.
    primary: Option<String>,
    /// First and last of each range that it serves.
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts the primaries, without replicas and TLS.
    pub async fn start() -> Self {
        Self::start_with(ClusterOptions::default()).await
    }

    /// Starts the nodes, makes them known to each other, and waits until each of them finds the cluster whole, and the
    /// replicas are in step.
    pub async fn start_with(options: ClusterOptions) -> Self {
        let count = if options.replicas { PRIMARIES * 2 } else { PRIMARIES };
        let mut nodes = Vec::new();
        let mut bus = Vec::new();
        for _ in 0..count {
            let bus_port = Port::free();
            let config = vec![
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {}", bus_port.number),
                format!("cluster-node-timeout {}", NODE_TIMEOUT.as_millis()),
                "cluster-require-full-coverage no".to_owned(),
                // A replica stands for election however long it has been cut off.
                "cluster-replica-validity-factor 0".to_owned(),
                // A full copy starts at once instead of waiting five seconds for further replicas.
                "repl-diskless-sync-delay 0".to_owned(),
            ];
            let options = RedisOptions { config, tls: options.tls.clone(), ..RedisOptions::default() };
            nodes.push(Redis::start(options).await);
            bus.push(bus_port);
        }
        for (index, node) in (0..PRIMARIES).zip(&nodes) {
            let (first, end) = (SLOTS / PRIMARIES * index, SLOTS / PRIMARIES * (index + 1));
            let last = if index + 1 == PRIMARIES { SLOTS - 1 } else { end - 1 };
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
        }
        for (epoch, node) in (1..).zip(&nodes) {
            // Each needs its own, or they quarrel first about who is who.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &u16::to_string(&epoch)]).await;
        }
        for (node, port) in nodes.iter().zip(&bus).skip(1) {
            let (client_port, bus_port) = (node.port().to_string(), port.number.to_string());
            nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &client_port, &bus_port]).await;
        }
        let cluster = Self { nodes, _bus: bus };
        cluster.wait_until_whole().await;
        let (primaries, replicas) = cluster.nodes.split_at(usize::from(PRIMARIES));
        for (primary, replica) in primaries.iter().zip(replicas) {
            cluster.replicate(primary, replica).await;
        }
        cluster
    }

    /// `redis://127.0.0.1:port` of each node, `rediss` with TLS.
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
                text(node, &["CLUSTER", "INFO"]).await.is_ok_and(|info| is_whole(&info))
            })
            .await;
        }
    }

    /// The slot of a key.
    pub async fn slot_of(&self, key: &str) -> u16 {
        let slot = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).await;
        ::redis::from_redis_value(slot).expect("a slot is a number")
    }

    /// The node that serves the slot. Waits while none does.
    pub async fn owner(&self, slot: u16) -> Redis {
        wait_for("a node serves the slot", SETTLED_WITHIN, || self.look_for_owner(slot, None)).await
    }

    /// Waits until another node than `old` serves the slot.
    pub async fn owner_after(&self, slot: u16, old: &Redis) -> Redis {
        let old = Some(old.port());
        wait_for("another node serves the slot", SETTLED_WITHIN, || self.look_for_owner(slot, old)).await
    }

    /// Lets the replica of the slot's primary take over while all are up, as an operator does; nothing that was written is
    /// lost. Waits for the new primary.
    pub async fn fail_over(&self, slot: u16) -> Redis {
        let old = self.owner(slot).await;
        for _ in 0..FAIL_OVERS_MAX {
            // Refused while the replica is not in step.
            if let Some(replica) = self.replica_of(&old).await {
                replica.probe(&["CLUSTER", "FAILOVER"]).await.ok();
            }
            let chosen = tokio::time::timeout(FAIL_OVER_WITHIN, self.owner_after(slot, &old)).await;
            if let Ok(chosen) = chosen {
                return chosen;
            }
        }
        panic!("no replica of the node that serves the slot {slot} took over");
    }

    async fn replica_of(&self, primary: &Redis) -> Option<&Redis> {
        let id = role(primary).await.expect("the primary answers").id;
        for node in &self.nodes {
            if role(node).await.is_ok_and(|role| role.primary.as_ref() == Some(&id)) {
                return Some(node);
            }
        }
        None
    }

    /// Moves a slot to the primary `to` while clients use it, key by key. They are sent on by MOVED when it is done, and by
    /// ASK when the keys have gone and the slot has not; `between` is called then.
    pub async fn move_slot(&self, slot: u16, to: &Redis, between: impl AsyncFnOnce()) {
        let from = self.owner(slot).await;
        let (source, target) = (role(&from).await, role(to).await);
        let (source, target) =
            (source.expect("the source answers").id, target.expect("the target answers").id);
        let (number, port) = (slot.to_string(), to.port().to_string());
        to.command(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &source]).await;
        from.command(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &target]).await;
        loop {
            let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &number, MOVED_AT_ONCE]).await;
            let keys: Vec<String> = ::redis::from_redis_value(keys).expect("keys are texts");
            if keys.is_empty() {
                break;
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", MOVED_WITHIN_MS, "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            from.command(&words).await;
        }
        between().await;
        // The target first: until it knows, nobody would serve the slot.
        for node in [to, &from] {
            node.command(&["CLUSTER", "SETSLOT", &number, "NODE", &target]).await;
        }
    }

    async fn look_for_owner(&self, slot: u16, other_than: Option<u16>) -> Option<Redis> {
        for node in &self.nodes {
            let serves =
                |role: &Role| role.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
            if Some(node.port()) != other_than && role(node).await.is_ok_and(|role| serves(&role)) {
                return Some(node.clone());
            }
        }
        None
    }

    async fn replicate(&self, primary: &Redis, replica: &Redis) {
        let id = role(primary).await.expect("the primary answers").id;
        wait_until("the replica has heard of its primary", SETTLED_WITHIN, async || {
            replica.probe(&["CLUSTER", "REPLICATE", &id]).await.is_ok()
        })
        .await;
        wait_until("the replica is in step", SETTLED_WITHIN, async || {
            let info = text(replica, &["INFO", "replication"]).await;
            info.is_ok_and(|info| info.contains("master_link_status:up"))
        })
        .await;
    }
}

async fn text(node: &Redis, words: &[&str]) -> RedisResult<String> {
    Ok(::redis::from_redis_value(node.probe(words).await?)?)
}

/// Reads the line of `CLUSTER NODES` that is about the node itself: `<id> <address> <flags> <primary> <4 more> <slots…>`.
async fn role(node: &Redis) -> RedisResult<Role> {
    let nodes = text(node, &["CLUSTER", "NODES"]).await?;
    let line = nodes.lines().find(|line| line.contains("myself")).expect("a node knows itself");
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_replica = words[2].contains("slave");
    let range = |word: &&str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        // Slots on their way stand in brackets.
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    Ok(Role {
        id: words[0].to_owned(),
        primary: is_replica.then(|| words[3].to_owned()),
        slots: words.iter().skip(8).filter(|_| !is_replica).filter_map(range).collect(),
    })
}

fn is_whole(info: &str) -> bool {
    let has = |name: &str, value: u16| info.lines().any(|line| line == format!("{name}:{value}"));
    info.contains("cluster_state:ok") && has("cluster_slots_ok", SLOTS) && has("cluster_size", PRIMARIES)
}
