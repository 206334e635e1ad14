//! The plumbing APIs in process, for workers that live beside the engine.

use std::sync::Arc;

use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::PlumbingError;
use flowmonkey_plumbing::queue::Delivery;

use crate::engine::Engine;
use crate::store::StoreError;

/// The plumbing APIs in process.
#[derive(Clone)]
pub struct EnginePlumbing(pub(super) Arc<Engine>);

impl EnginePlumbing {
    /// Of this engine.
    #[must_use]
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self(engine)
    }
}

pub(super) fn unavailable(error: StoreError) -> PlumbingError {
    PlumbingError::Unavailable(Box::new(error))
}

pub(super) fn stale(delivery: &Delivery) -> PlumbingError {
    PlumbingError::Stale { task: delivery.task_id.clone(), attempt: delivery.attempt }
}

pub(super) fn task(delivery: &Delivery) -> Result<TaskId, PlumbingError> {
    delivery.task_id.parse().map_err(|_| stale(delivery))
}
