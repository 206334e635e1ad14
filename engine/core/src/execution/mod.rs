//! The execution state machine: `decide` turns a command into facts and wishes, `apply` turns facts into state.
//!
//! Architecture invariant: `decide` and `apply` are total, deterministic, and match exhaustively. Refusals happen in
//! `decide` only; what was recorded can always be applied.

mod apply;
pub mod children;
pub mod command;
mod create;
mod decide;
pub mod decision;
mod declared;
mod encode;
pub mod error;
pub mod event;
pub mod invariants;
mod labels;
pub mod rerun;
pub mod state;

pub use crate::flow::dataset::{DATASET_KEY, Dataset, DatasetReference, DatasetTooLarge};
pub use apply::{apply, replay};
pub use create::{Creation, Origin, StartRequest, create};
pub use decide::decide;
pub use decision::{Decision, Effect, Handlers, JoinSpec, Record, Resumed, TaskDraft, World};
pub use declared::read_declared;
pub use encode::{EncodeError, encode_task};
pub use error::{ExecutionError, Rejection, StartError, codes};
pub use event::{Event, RecordedEvent};
pub use state::{Activity, Execution, FlowReference, Phase, Status};

/// Tells an absent field from a null one.
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
        Value::deserialize(deserializer).map(Some)
    }
}
