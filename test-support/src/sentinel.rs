//! A Redis with replicas, watched by sentinels.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{FromRedisValue, RedisResult};

use crate::certificates::Tls;
use crate::process::Farewell;
use crate::redis::{Redis, RedisOptions, answers, client_of, command_of, scheme, server_program, tls_text};
use crate::service::{Recipe, Service};
use crate::user::User;
use crate::wait::{blocking, wait_for, wait_until};

/// The name that clients ask the sentinels for.
const PRIMARY_NAME: &str = "main";
const SENTINELS: usize = 3;
/// Of the sentinels, to declare a primary down.
const QUORUM: usize = 2;
const DOWN_AFTER: Duration = Duration::from_millis(500);
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often sentinels look and talk: they find each other, and act, in tenths of a second instead of in seconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often sentinels tell what they know. After four times this they turn a replica back that calls itself a primary and is
/// none in their eyes. The one that promotes it may need a second to connect again and see that, and has to be first.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
const PROBE: &str = "flowmonkey-test-probe";
const PROBE_WITHIN: Duration = Duration::from_millis(100);
/// Elections may need a second try, which comes after `FAILOVER_TIMEOUT`.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// One primary, its replicas, and three sentinels with a quorum of two. A primary that is gone for half a second is replaced.
#[derive(Debug)]
pub struct Sentinel {
    servers: Vec<Redis>,
    sentinels: Vec<Arc<Service>>,
    tls: Option<Tls>,
}

impl Sentinel {
    /// Starts them, and waits until the replicas are in step and the sentinels know of all. Panics when there are no replicas:
    /// then nothing could take over.
    pub async fn start(replicas: usize) -> Self {
        Self::start_with(replicas, None).await
    }

    /// As `start`; with TLS, all of them talk so, to clients and to each other.
    pub async fn start_with(replicas: usize, tls: Option<Tls>) -> Self {
        assert!(replicas > 0, "without a replica there is nothing to fail over to");
        // A full copy starts at once instead of waiting five seconds for further replicas.
        let config = vec!["repl-diskless-sync-delay 0".to_owned()];
        let options = RedisOptions { config, tls: tls.clone(), ..RedisOptions::default() };
        let primary = Redis::start(options.clone()).await;
        let primary_port = primary.port();
        let mut servers = vec![primary];
        for _ in 0..replicas {
            let mut options = options.clone();
            options.config.push(format!("replicaof 127.0.0.1 {primary_port}"));
            servers.push(Redis::start(options).await);
        }
        wait_until("all replicas are in step", SETTLED_WITHIN, async || {
            follow(&servers[0]).await.is_ok_and(|following| following == replicas)
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            let tls = tls.clone();
            let service = blocking(move || start_sentinel(primary_port, tls.as_ref())).await;
            sentinels.push(Arc::new(service));
        }
        let all = Self { servers, sentinels, tls };
        let every = LOOK_EVERY.as_millis().to_string();
        let publish_every = PUBLISH_EVERY.as_millis().to_string();
        for address in all.addresses() {
            let mut debug = vec!["SENTINEL", "DEBUG"];
            // Not the pings: what is known of replicas is out of date after five of them, and none would be good enough.
            for period in ["INFO-PERIOD", "ASK-PERIOD"] {
                debug.extend([period, &every]);
            }
            debug.extend(["PUBLISH-PERIOD", &publish_every]);
            all.ask::<()>(&address, &debug).await.expect("a sentinel takes its settings");
        }
        for address in all.addresses() {
            wait_until("the sentinels know of all", SETTLED_WITHIN, async || all.is_known_by(&address).await)
                .await;
        }
        all
    }

    /// `redis://127.0.0.1:port` of each sentinel, `rediss` with TLS.
    pub fn addresses(&self) -> Vec<String> {
        let scheme = scheme(self.tls.as_ref());
        self.sentinels.iter().map(|sentinel| format!("{scheme}://127.0.0.1:{}", sentinel.port())).collect()
    }

    /// The name to ask the sentinels for.
    pub fn primary_name(&self) -> &'static str {
        PRIMARY_NAME
    }

    /// All the data servers; which one is the primary changes.
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// The one that a majority of the sentinels calls the primary now, and that calls itself so.
    pub async fn primary(&self) -> Redis {
        self.primary_other_than(None).await
    }

    /// Lets the primary be replaced while it is up, as an operator does, and waits for the new one.
    pub async fn failover(&self) -> Redis {
        let old = self.primary().await;
        let addresses = self.addresses();
        wait_for("another primary was chosen", SETTLED_WITHIN, async || {
            let chosen = self.look_for_primary(Some(old.port())).await;
            // Refused, or given up later, while an earlier failover is not forgotten or no replica is in good state. Asked
            // again only as long as nothing has come of it, or there would be two failovers.
            if chosen.is_none() {
                // Not always the same one: it may be the last to learn of an earlier failover.
                for address in &addresses {
                    if self.primary_port(address).await == Some(old.port()) {
                        self.ask::<()>(address, &["SENTINEL", "FAILOVER", PRIMARY_NAME]).await.ok();
                        break;
                    }
                }
            }
            chosen
        })
        .await
    }

    /// SIGKILL to the primary. Returns it at once, so that it can be restarted; `primary_after` waits for the next.
    pub async fn kill_primary(&self) -> Redis {
        let old = self.primary().await;
        old.kill();
        old
    }

    /// Waits until another than `old` is the primary.
    pub async fn primary_after(&self, old: &Redis) -> Redis {
        self.primary_other_than(Some(old.port())).await
    }

    async fn primary_other_than(&self, old: Option<u16>) -> Redis {
        wait_for("a majority of the sentinels agrees on the primary", SETTLED_WITHIN, || {
            self.look_for_primary(old)
        })
        .await
    }

    async fn look_for_primary(&self, old: Option<u16>) -> Option<Redis> {
        let mut votes = Vec::new();
        for address in self.addresses() {
            votes.extend(self.primary_port(&address).await);
        }
        let chosen = self.servers.iter().find(|server| {
            let votes = votes.iter().filter(|port| **port == server.port()).count();
            votes > SENTINELS / 2 && Some(server.port()) != old
        })?;
        let info = replication(chosen).await.ok()?;
        info.contains("role:master").then(|| chosen.clone())
    }

    /// The primary of now, as one sentinel sees it.
    async fn primary_port(&self, sentinel: &str) -> Option<u16> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME];
        self.ask::<(String, u16)>(sentinel, &words).await.ok().map(|(_, port)| port)
    }

    async fn ask<T: FromRedisValue>(&self, address: &str, words: &[&str]) -> RedisResult<T> {
        let client = client_of(address.to_owned(), self.tls.as_ref());
        let mut connection = client.get_multiplexed_async_connection().await?;
        command_of(words).query_async(&mut connection).await
    }

    async fn is_known_by(&self, sentinel: &str) -> bool {
        type Entries = Vec<std::collections::HashMap<String, String>>;
        let replicas = self.ask::<Entries>(sentinel, &["SENTINEL", "REPLICAS", PRIMARY_NAME]).await;
        let others = self.ask::<Entries>(sentinel, &["SENTINEL", "SENTINELS", PRIMARY_NAME]).await;
        let quorum = self.ask::<String>(sentinel, &["SENTINEL", "CKQUORUM", PRIMARY_NAME]).await;
        // A replica without a run id was heard of, but not reached yet.
        let reached = |entries: Entries| {
            entries.iter().filter(|entry| entry.get("runid").is_some_and(|id| !id.is_empty())).count()
        };
        replicas.is_ok_and(|entries| reached(entries) == self.servers.len() - 1)
            && others.is_ok_and(|entries| reached(entries) == SENTINELS - 1)
            && quorum.is_ok()
    }
}

fn start_sentinel(primary_port: u16, tls: Option<&Tls>) -> Service {
    let binary = server_program();
    let user = User::of_servers();
    Service::start("sentinel", None, user, |folder, port| {
        let config = folder.join("sentinel.conf");
        let listens = tls.map_or(format!("port {port}\n"), |tls| tls_text(folder, port, user, tls));
        let text = format!(
            "bind 127.0.0.1\n{listens}unixsocket {0}/s\ndir {0}\ndaemonize no\nprotected-mode no\n\
             sentinel monitor {PRIMARY_NAME} 127.0.0.1 {primary_port} {QUORUM}\n\
             sentinel down-after-milliseconds {PRIMARY_NAME} {1}\n\
             sentinel failover-timeout {PRIMARY_NAME} {2}\n",
            folder.display(),
            DOWN_AFTER.as_millis(),
            FAILOVER_TIMEOUT.as_millis()
        );
        std::fs::write(&config, text).expect("the folder is ours");
        // A sentinel writes what it learns into its own settings.
        user.own(&config);
        let (socket, binary) = (folder.join("s"), binary.clone());
        Recipe {
            name: "redis-sentinel",
            command: Box::new(move || {
                let mut command = user.command(&binary);
                command.arg(&config).arg("--sentinel");
                command
            }),
            is_ready: Box::new(move |_| answers(&socket)),
            farewell: Farewell::Kill,
        }
    })
}

/// How many replicas have got a write to the primary. A link that is up says less: the first second nothing goes over it.
async fn follow(primary: &Redis) -> RedisResult<usize> {
    let mut connection = primary.client().get_multiplexed_async_connection().await?;
    let mut words = ::redis::pipe();
    words.cmd("SET").arg(PROBE).arg("").ignore().cmd("DEL").arg(PROBE).ignore();
    // Any number above that of the replicas: then it waits for all there are, for this time at most.
    words.cmd("WAIT").arg(usize::from(u16::MAX)).arg(PROBE_WITHIN.as_millis().to_string());
    let (following,) = words.query_async(&mut connection).await?;
    Ok(following)
}

async fn replication(server: &Redis) -> RedisResult<String> {
    Ok(::redis::from_redis_value(server.probe(&["INFO", "replication"]).await?)?)
}
