//! Runs one handler on one task.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flowmonkey_handlers::StockPolicy;
use flowmonkey_handlers::jq::JqPolicy;
use flowmonkey_plumbing::api::{
    Checkpoint, CheckpointApi, ContextApi, Heartbeat, HeartbeatAnswer, JobApi, Plumbing, PlumbingError,
    Progress, ProgressApi, TaskAccess,
};
use flowmonkey_plumbing::wire::{
    ContextOperation, HandlerReference, LogLine, PROTOCOL_VERSION, Priority, TaskMessage, TaskMetadata,
};
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde_json::{Value, json};

/// Checkpoints and progress in memory.
#[derive(Default)]
pub(crate) struct Memory {
    checkpoints: Mutex<HashMap<String, Checkpoint>>,
    pub(crate) saved: Mutex<Vec<Value>>,
    pub(crate) progress: Mutex<Vec<String>>,
}

#[async_trait]
impl CheckpointApi for Memory {
    async fn save_checkpoint(&self, access: &TaskAccess, data: Value) -> Result<Checkpoint, PlumbingError> {
        let checkpoint = Checkpoint { id: "c".into(), saved_at: String::new(), data: data.clone() };
        self.saved.lock().unwrap().push(data);
        self.checkpoints.lock().unwrap().insert(access.delivery.task_id.clone(), checkpoint.clone());
        Ok(checkpoint)
    }

    async fn load_checkpoint(&self, access: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        Ok(self.checkpoints.lock().unwrap().get(&access.delivery.task_id).cloned())
    }

    async fn clear_checkpoint(&self, access: &TaskAccess) -> Result<(), PlumbingError> {
        self.checkpoints.lock().unwrap().remove(&access.delivery.task_id);
        Ok(())
    }
}

#[async_trait]
impl JobApi for Memory {
    async fn heartbeat(
        &self,
        _access: &TaskAccess,
        _heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError> {
        Ok(HeartbeatAnswer::default())
    }
}

#[async_trait]
impl ContextApi for Memory {
    async fn read_context(&self, _: &TaskAccess, _: Option<&str>) -> Result<Option<Value>, PlumbingError> {
        Ok(Some(json!({ "rate": 3 })))
    }

    async fn stage_context(
        &self,
        _: &TaskAccess,
        _: u32,
        _: &[ContextOperation],
    ) -> Result<(), PlumbingError> {
        Ok(())
    }
}

impl ProgressApi for Memory {
    fn started(&self, _: &TaskAccess, _: &str) {}

    fn progress(&self, _: &TaskAccess, progress: Progress) {
        self.progress.lock().unwrap().push(progress.message.unwrap_or_default());
    }

    fn log(&self, _: &TaskAccess, _: &LogLine) {}
}

/// The stock handlers, and what lies behind their tasks.
pub(crate) struct Bench {
    handlers: Vec<Arc<dyn Handler>>,
    pub(crate) memory: Arc<Memory>,
}

impl Bench {
    pub(crate) fn new(policy: StockPolicy) -> Self {
        Self { handlers: flowmonkey_handlers::stock(policy), memory: Arc::default() }
    }

    pub(crate) fn handlers(&self) -> &[Arc<dyn Handler>] {
        &self.handlers
    }

    pub(crate) fn with_jq() -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_flowmonkey-jq"));
        Self::new(StockPolicy {
            jq: Some(JqPolicy { program, arguments: Vec::new() }),
            ..StockPolicy::default()
        })
    }

    pub(crate) fn task(&self, handler_type: &str, config: Value, input: Value) -> Task {
        let message = TaskMessage {
            v: PROTOCOL_VERSION,
            task_id: "task-1".into(),
            attempt: 1,
            execution_id: "execution-1".into(),
            flow_id: "flow".into(),
            flow_version: "1.0.0".into(),
            step_id: "step".into(),
            handler: HandlerReference { handler_type: handler_type.into(), version: None },
            pool: handler_type.into(),
            input: Some(input),
            context: json!({ "rate": 2 }),
            context_url: None,
            context_bytes: None,
            config,
            idempotency_key: "key-1".into(),
            deadline: String::new(),
            remaining_ms: 60_000,
            heartbeat_interval_ms: 15_000,
            lease_ms: 60_000,
            priority: Priority::Normal,
            isolate: false,
            checkpoint: None,
            token: None,
            traceparent: None,
            metadata: TaskMetadata::default(),
        };
        Task::for_test(message, Arc::clone(&self.memory) as Arc<dyn Plumbing>)
    }

    pub(crate) async fn run_task(&self, task: &Task) -> Result<Completion, Failure> {
        let wanted = &task.message.handler.handler_type;
        let handler =
            self.handlers.iter().find(|handler| handler.manifest().handler_type == *wanted).unwrap();
        handler.run(task).await
    }

    /// The output of a run that succeeds at once.
    pub(crate) async fn run(
        &self,
        handler_type: &str,
        config: Value,
        input: Value,
    ) -> Result<Value, Failure> {
        match self.run_task(&self.task(handler_type, config, input)).await? {
            Completion::Success(output) => Ok(output.unwrap_or_default()),
            other @ (Completion::Override { .. } | Completion::Wait(_) | Completion::Pause(_)) => {
                panic!("not a success: {other:?}")
            }
        }
    }

    pub(crate) async fn code(&self, handler_type: &str, config: Value, input: Value) -> String {
        self.run(handler_type, config, input).await.unwrap_err().error.code
    }
}
