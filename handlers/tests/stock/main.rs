//! The stock handlers against real counterparts.
#![expect(clippy::unwrap_used, reason = "test code")]

mod command;
mod config;
mod email;
mod file;
mod http;
mod jq;
mod ndjson;
mod support;
mod table;
mod tls;
mod video;
mod worker;
