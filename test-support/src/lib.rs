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
//! A server that is missing on the machine fails the test and says how to install it: nothing is skipped. Everything panics
//! on failure, as only tests use it. Linux only (`/proc` tells the processes of a Postgres).

mod ports;
mod postgres;
mod process;
mod redis;
mod service;
mod user;
mod wait;

pub use self::postgres::{Durability, Postgres, PostgresOptions, Template, TestDatabase};
pub use self::redis::{Persistence, Redis, RedisOptions};
pub use self::wait::wait_until;
