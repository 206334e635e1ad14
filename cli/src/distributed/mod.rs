//! Engines and workers as processes of their own, over Postgres and Redis.

pub(crate) mod connect;
pub(crate) mod engine_process;
pub(crate) mod worker_process;
