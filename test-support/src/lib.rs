//! Private servers for the tests: each on free ports of 127.0.0.1, with a folder of its own, gone with the test.
//!
//! ```no_run
//! # async fn example() {
//! use flowmonkey_test_support::{Postgres, Redis, RedisOptions};
//!
//! let redis = Redis::start(RedisOptions::default()).await;
//! redis.kill();
//! redis.restart().await;
//!
//! // One server for all the tests of a process, one database for each.
//! let database = Postgres::shared().await.database().await;
//! println!("{} {}", redis.url(), database.url());
//! # }
//! ```
//!
//! | what | for |
//! |---|---|
//! | [`Redis`], [`Postgres`] | one server, which may be killed, paused and restarted on its port; with [`Tls`] if wanted |
//! | [`Sentinel`], [`Cluster`] | several Redis, with failover or with the slots spread |
//! | [`PgBouncer`] | a Postgres whose connections are shared, one transaction at a time |
//! | [`S3`] | an object store |
//! | [`Program`] | a process of ours that cannot outlive us |
//! | [`Port`] | a port for a server that is none of these |
//! | [`FaultProxy`] | the network between a client and a server, and what goes wrong in it |
//! | [`wait_until`], [`wait_for`] | waiting for a state instead of for a time |
//!
//! Servers end with the value that holds them; with the process, however that ends, at the latest.
//!
//! A server that is missing on the machine fails the test and says how to install it: nothing is skipped. Everything panics
//! on failure, as only tests use it. Linux only (`/proc` tells the processes of a Postgres).

mod certificates;
mod cluster;
mod pgbouncer;
mod ports;
mod postgres;
mod process;
mod program;
mod proxy;
mod redis;
mod s3;
mod sentinel;
mod service;
mod user;
mod wait;

pub use self::certificates::{Certificates, ClientCertificates, Tls};
pub use self::cluster::{Cluster, ClusterOptions};
pub use self::pgbouncer::PgBouncer;
pub use self::ports::Port;
pub use self::postgres::{Durability, Postgres, PostgresOptions, Template, TestDatabase};
pub use self::program::Program;
pub use self::proxy::{Direction, FaultProxy, Flow};
pub use self::redis::{Persistence, Redis, RedisOptions, patient};
pub use self::s3::S3;
pub use self::sentinel::Sentinel;
pub use self::wait::{wait_for, wait_until};
