//! The Progress API and task logs in process.

use flowmonkey_plumbing::api::{Progress, ProgressApi, TaskAccess};
use flowmonkey_plumbing::wire::LogLine;

use super::plumbing::{EnginePlumbing, task};

impl ProgressApi for EnginePlumbing {
    fn started(&self, access: &TaskAccess, worker: &str) {
        if let Ok(task) = task(&access.delivery) {
            self.0.task_started(task, access.delivery.attempt, worker);
        }
    }

    fn progress(&self, access: &TaskAccess, progress: Progress) {
        if let Ok(task) = task(&access.delivery) {
            self.0.task_progress(task, access.delivery.attempt, progress);
        }
    }

    fn log(&self, access: &TaskAccess, line: &LogLine) {
        if let Ok(task) = task(&access.delivery) {
            self.0.task_log(task, access.delivery.attempt, line);
        }
    }
}
