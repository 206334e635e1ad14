//! The Progress API and task logs in process.

use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::{Progress, ProgressApi, TaskAccess};
use flowmonkey_plumbing::wire::LogLine;

use super::plumbing::EnginePlumbing;
use crate::watch::Update;

impl ProgressApi for EnginePlumbing {
    fn started(&self, access: &TaskAccess, worker: &str) {
        if let Some(task) = self.followed(access) {
            self.0.watchers.tell(Update::Started {
                execution: task.execution,
                task: task.number,
                attempt: access.delivery.attempt,
                worker: worker.into(),
            });
        }
    }

    fn progress(&self, access: &TaskAccess, progress: Progress) {
        if let Some(task) = self.followed(access) {
            self.0.watchers.tell(Update::Progress { execution: task.execution, task: task.number, progress });
        }
    }

    fn log(&self, access: &TaskAccess, line: &LogLine) {
        if let Some(task) = self.followed(access) {
            self.0.watchers.tell(Update::Log {
                execution: task.execution,
                task: task.number,
                line: line.clone(),
            });
        }
    }
}

impl EnginePlumbing {
    fn followed(&self, access: &TaskAccess) -> Option<TaskId> {
        if self.0.watchers.is_followed() { access.delivery.task_id.parse().ok() } else { None }
    }
}
