//! Jobs: who may say what of them, and in which order it counts.

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::ids::TaskId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::JobStatus;
use serde_json::json;

use super::fixture::{at, id, start, store_all, task, update, updates, work};
use crate::store::Store;
use crate::store::jobs::{BeatOutcome, JobBeat, JobChange, JobFilter, JobRow};
use crate::store::model::Retention;

fn change(task: TaskId, attempt: u32, status: JobStatus) -> JobChange {
    JobChange {
        task,
        attempt,
        status,
        step_id: "s".into(),
        handler_type: "work".into(),
        timeout_ms: Some(1000),
        max_retries: Some(3),
        retry_count: 0,
        error: None,
        at: at(1),
    }
}

fn beat(task: TaskId, attempt: u32, worker: &str, millis: i64) -> JobBeat {
    JobBeat {
        task,
        attempt,
        worker: worker.into(),
        running: true,
        progress: Some((12.5, Some("frame 1 of 8".into()))),
        checkpoint: Some("cp_1".into()),
        at: at(millis),
    }
}

async fn only(store: &dyn Store, task: TaskId) -> JobRow {
    let filter = JobFilter { execution: Some(task.execution), max: 10, ..JobFilter::default() };
    let mut rows = store.jobs(&filter).await.unwrap();
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

pub(super) async fn heartbeats_of_jobs_are_fenced(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let out = task(&one);
    assert_eq!(
        store.note_beat(&beat(out, 1, "w1", 5)).await.unwrap(),
        BeatOutcome::Refused,
        "it is not known"
    );
    store.note_jobs(&[change(out, 1, JobStatus::Pending)]).await.unwrap();
    let stale = [(out, 2), (TaskId { number: 2, ..out }, 1), (TaskId { execution: id(9), ..out }, 1)];
    for (stale, attempt) in stale {
        assert_eq!(store.note_beat(&beat(stale, attempt, "w1", 5)).await.unwrap(), BeatOutcome::Refused);
    }
    let claimed = JobBeat { running: false, progress: None, checkpoint: None, ..beat(out, 1, "w1", 5) };
    assert_eq!(store.note_beat(&claimed).await.unwrap(), BeatOutcome::Noted { cancelling: false });
    let row = only(store, out).await;
    assert_eq!((row.status, row.claimed_at, row.started_at), (JobStatus::Claimed, Some(at(5)), None));
    assert_eq!(
        store.note_beat(&beat(out, 1, "w1", 7)).await.unwrap(),
        BeatOutcome::Noted { cancelling: false }
    );
    assert_eq!(
        store.note_beat(&beat(out, 1, "w2", 8)).await.unwrap(),
        BeatOutcome::Refused,
        "it is another worker's"
    );
    // A heartbeat that was overtaken does not take anything back.
    store.note_beat(&JobBeat { at: at(9), ..claimed }).await.unwrap();
    store.note_jobs(&[change(out, 1, JobStatus::Pending)]).await.unwrap();
    let row = only(store, out).await;
    assert_eq!(
        row,
        JobRow {
            task: out,
            attempt: 1,
            status: JobStatus::Running,
            step_id: "s".into(),
            handler_type: "work".into(),
            worker: Some("w1".into()),
            created_at: at(1),
            claimed_at: Some(at(5)),
            started_at: Some(at(7)),
            completed_at: None,
            progress_percent: Some(12.5),
            progress_message: Some("frame 1 of 8".into()),
            last_heartbeat_at: Some(at(9)),
            checkpoint: Some("cp_1".into()),
            timeout_ms: Some(1000),
            max_retries: Some(3),
            retry_count: 0,
            error: None,
        }
    );
    let beating = |since: i64| {
        let asked = [(out, 1), (out, 2)];
        async move { store.beating_jobs(&asked, at(since)).await.unwrap() }
    };
    assert_eq!(beating(9).await, [(out, 1)]);
    assert_eq!(beating(10).await, []);
    let cancel = Command::Cancel { source: CancelSource::User, reason: None };
    store_all(store, updates(at(20), vec![update(&flow, &one, cancel, at(20))])).await;
    assert_eq!(
        store.note_beat(&beat(out, 1, "w1", 21)).await.unwrap(),
        BeatOutcome::Noted { cancelling: true }
    );
}

pub(super) async fn what_is_said_of_jobs_counts_in_order(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let out = task(&one);
    store.note_jobs(&[]).await.unwrap();
    store.note_jobs(&[change(out, 1, JobStatus::Pending)]).await.unwrap();
    store.note_beat(&beat(out, 1, "w1", 5)).await.unwrap();
    let paused = JobChange { timeout_ms: None, max_retries: None, ..change(out, 1, JobStatus::Paused) };
    store.note_jobs(&[paused]).await.unwrap();
    let row = only(store, out).await;
    assert_eq!(
        (row.status, row.worker.as_deref(), row.timeout_ms),
        (JobStatus::Paused, Some("w1"), Some(1000))
    );
    store.note_jobs(&[change(out, 2, JobStatus::Pending)]).await.unwrap();
    let row = only(store, out).await;
    assert_eq!((row.status, row.worker, row.started_at), (JobStatus::Pending, None, None));
    assert_eq!(row.progress_percent, Some(12.5), "how far it is, is known from before");
    assert_eq!(row.created_at, at(1));
    let error = Some(json!({ "code": "BAD", "message": "\0" }));
    let failed = JobChange { error: error.clone(), retry_count: 3, ..change(out, 2, JobStatus::Failed) };
    store.note_jobs(&[failed]).await.unwrap();
    for late in [change(out, 1, JobStatus::Completed), change(out, 2, JobStatus::Paused)] {
        store.note_jobs(&[late]).await.unwrap();
    }
    let row = only(store, out).await;
    assert_eq!((row.status, row.completed_at, row.retry_count), (JobStatus::Failed, Some(at(1)), 3));
    assert_eq!(row.error, error);
    store.note_jobs(&[change(out, 3, JobStatus::Pending)]).await.unwrap();
    let row = only(store, out).await;
    assert_eq!((row.status, row.completed_at), (JobStatus::Pending, None), "it was tried again");
}

pub(super) async fn jobs_are_listed_and_go_with_their_executions(store: &dyn Store) {
    let flow = work();
    let mut tasks = Vec::new();
    for number in 1..=4 {
        let one = start(store, &flow, number, at(0)).await;
        let out = task(&one);
        store.note_jobs(&[change(out, 1, JobStatus::Pending)]).await.unwrap();
        if number == 2 {
            store.note_jobs(&[change(out, 1, JobStatus::Completed)]).await.unwrap();
            let done = update(&flow, &one, Command::Terminate { reason: None }, at(1));
            store_all(store, updates(at(1), vec![done])).await;
        }
        tasks.push(out);
    }
    let list = |filter: JobFilter| async move {
        let rows = store.jobs(&filter).await.unwrap();
        rows.into_iter().map(|row| row.task).collect::<Vec<_>>()
    };
    let all = JobFilter { max: 10, ..JobFilter::default() };
    assert_eq!(list(all.clone()).await, [tasks[3], tasks[2], tasks[1], tasks[0]]);
    let page = JobFilter { max: 2, ..all.clone() };
    assert_eq!(list(page.clone()).await, [tasks[3], tasks[2]]);
    assert_eq!(list(JobFilter { before: Some(tasks[2]), ..page }).await, [tasks[1], tasks[0]]);
    let completed = JobFilter { status: Some(JobStatus::Completed), ..all.clone() };
    assert_eq!(list(completed).await, [tasks[1]]);
    let other = JobFilter { handler_type: Some("other".into()), ..all.clone() };
    assert_eq!(list(other).await, []);
    let open = |after, max| async move {
        let rows = store.open_jobs(after, max).await.unwrap();
        rows.into_iter().map(|row| row.task).collect::<Vec<_>>()
    };
    assert_eq!(open(None, 2).await, [tasks[0], tasks[2]]);
    assert_eq!(open(Some(tasks[2]), 2).await, [tasks[3]]);
    store.forget_jobs(&[tasks[0].execution, id(99)]).await.unwrap();
    assert_eq!(list(all.clone()).await.len(), 4, "their executions are there");
    let old = Timestamp::from_millis(i64::MIN);
    let retention = Retention {
        executions_before: at(1_000_000),
        events_before: old,
        checkpoints_before: old,
        keys_before: old,
        progress_before: old,
        logs_before: old,
    };
    while store.prune(&retention, 10).await.unwrap() >= 10 {}
    assert_eq!(list(all).await, [tasks[3], tasks[2], tasks[0]]);
}
