//! Progress and log lines.

use flowmonkey_core::execution::StartRequest;
use flowmonkey_core::ids::TaskId;
use flowmonkey_plumbing::api::{Counter, Progress};
use flowmonkey_plumbing::wire::LogLevel;
use serde_json::json;

use super::fixture::{
    at, creates, each, failure, fan, id, opened, spawning, start, started, store_all, success, task, update,
    update_within, updates, work,
};
use crate::store::Store;
use crate::store::model::Retention;
use crate::store::progress::{LogFilter, LogPlace, LogRow, ProgressRow};

fn row(task: TaskId, attempt: u32, millis: i64, percent: f64) -> ProgressRow {
    let frames = Counter { value: percent * 3.0, total: Some(300.0), unit: Some("frames".into()) };
    let progress = Progress {
        percent,
        message: Some("half\0way".into()),
        estimated_completion: Some("2026-01-01T00:00:00Z".into()),
        counters: [("frames".to_owned(), frames)].into(),
    };
    ProgressRow { task, attempt, step: "first".into(), at: at(millis), progress }
}

pub(super) async fn the_latest_progress_of_a_task_counts(store: &dyn Store) {
    let one = start(store, &work(), 1, at(0)).await;
    let (out, other) = (task(&one), TaskId { number: 2, ..task(&one) });
    assert_eq!(store.latest_progress(out).await.unwrap(), None);
    let gone = TaskId { execution: id(9), number: 1 };
    let rows = [row(out, 1, 5, 10.0), row(other, 1, 9, 1.0), row(out, 1, 7, 12.5), row(gone, 1, 1, 1.0)];
    store.put_progress(&rows).await.unwrap();
    store.put_progress(&[]).await.unwrap();
    assert_eq!(store.latest_progress(out).await.unwrap(), Some(rows[2].clone()));
    assert_eq!(store.latest_progress(gone).await.unwrap(), None, "there is no such execution");
    store.put_progress(&[row(out, 2, 7, 3.0)]).await.unwrap();
    assert_eq!(store.latest_progress(out).await.unwrap(), Some(row(out, 2, 7, 3.0)), "it is replaced");
    let page = store.progress_page(id(1), None, 2).await.unwrap();
    assert_eq!(page, [row(out, 1, 5, 10.0), row(out, 2, 7, 3.0)]);
    let rest = store.progress_page(id(1), Some((out.number, at(7))), 9).await.unwrap();
    assert_eq!(rest, [row(other, 1, 9, 1.0)]);
    assert_eq!(store.progress_page(id(9), None, 9).await.unwrap(), []);
}

pub(super) async fn live_children_count_by_their_progress(store: &dyn Store) {
    let flow = fan();
    let items = json!({ "items": [{ "parts": [1, 2, 3, 4] }, { "parts": [] }] });
    let parent = started(&flow, StartRequest::new(id(1), items), at(0));
    let spec = opened(&parent.records);
    store_all(store, creates(at(0), vec![parent])).await;
    assert_eq!(store.live_children_done(id(1), spec.join).await.unwrap(), 0.0);
    let spawned = spawning(&flow, &spec, 0, 1, at(1));
    let (inner, inner_spec) = (spawned.creates[0].execution.clone(), opened(&spawned.creates[0].records));
    store_all(store, spawned).await;
    let spawned = spawning(&flow, &inner_spec, 0, 3, at(2));
    let parts: Vec<_> = spawned.creates.iter().map(|create| create.execution.clone()).collect();
    store_all(store, spawned).await;
    let done = async |parent, join| store.live_children_done(parent, join).await.unwrap();
    assert_eq!(done(inner.id(), inner_spec.join).await, 0.0);
    store.put_progress(&[row(task(&parts[0]), 1, 3, 90.0), row(task(&parts[1]), 1, 3, 25.0)]).await.unwrap();
    store.put_progress(&[row(task(&parts[0]), 1, 4, 50.0)]).await.unwrap();
    assert_eq!(done(inner.id(), inner_spec.join).await, 0.75, "the latest of each");
    store.put_progress(&[row(task(&parts[1]), 2, 5, 80.0)]).await.unwrap();
    assert_eq!(done(inner.id(), inner_spec.join).await, 0.5, "of another attempt than the one that is out");
    assert_eq!(done(id(1), spec.join).await, 0.125, "half of one of four inner children");
    let ended =
        update_within(&flow, &parts[0], Some(&inner_spec.snapshot), success(&parts[0], json!(1)), at(6));
    store_all(store, updates(at(6), vec![ended])).await;
    assert_eq!(done(inner.id(), inner_spec.join).await, 0.0, "those that have ended are counted elsewhere");
    assert_eq!(done(id(1), spec.join).await, 0.25);
}

fn line(task: TaskId, attempt: u32, line: u32, message: &str) -> LogRow {
    LogRow {
        task,
        attempt,
        line,
        step: "first".into(),
        level: if line.is_multiple_of(2) { LogLevel::Warn } else { LogLevel::Info },
        message: message.into(),
        at: at(i64::from(line)),
    }
}

fn all_of(number: u64) -> LogFilter {
    LogFilter { execution: id(number), task: None, attempt: None, after: LogPlace::default(), max: 100 }
}

pub(super) async fn a_log_line_is_kept_once_and_in_order(store: &dyn Store) {
    let one = start(store, &work(), 1, at(0)).await;
    start(store, &work(), 2, at(0)).await;
    let (out, other) = (task(&one), TaskId { number: 2, ..task(&one) });
    let foreign = TaskId { execution: id(2), number: 1 };
    let gone = TaskId { execution: id(9), number: 1 };
    let live = [line(out, 1, 3, "c"), line(out, 1, 1, "a"), line(foreign, 1, 1, "x"), line(gone, 1, 1, "y")];
    store.put_log_lines(&live).await.unwrap();
    let whole = [line(out, 1, 1, "again"), line(out, 1, 2, "it's \"b\"; --"), line(out, 1, 3, "again")];
    store.put_log_lines(&whole).await.unwrap();
    store.put_log_lines(&[]).await.unwrap();
    store.put_log_lines(&[line(other, 1, 1, "e"), line(out, 2, 1, "d")]).await.unwrap();
    let said = async |filter: LogFilter| {
        let lines = store.log_lines(&filter).await.unwrap();
        lines.into_iter().map(|line| line.message).collect::<Vec<_>>()
    };
    assert_eq!(said(all_of(1)).await, ["a", "it's \"b\"; --", "c", "d", "e"]);
    assert_eq!(store.log_lines(&all_of(1)).await.unwrap()[1], line(out, 1, 2, "it's \"b\"; --"));
    assert_eq!(said(LogFilter { attempt: Some(2), ..all_of(1) }).await, ["d"]);
    assert_eq!(said(LogFilter { task: Some(2), ..all_of(1) }).await, ["e"]);
    let after = LogPlace { task: out.number, attempt: 1, line: 2 };
    assert_eq!(said(LogFilter { after, max: 2, ..all_of(1) }).await, ["c", "d"]);
    assert_eq!(said(LogFilter { after, attempt: Some(1), ..all_of(1) }).await, ["c", "e"]);
    assert_eq!(said(all_of(9)).await, [""; 0]);
}

pub(super) async fn what_tasks_said_goes_with_time_and_with_the_execution(store: &dyn Store) {
    let flow = each();
    let parent = started(&flow, StartRequest::new(id(1), json!({ "items": [1] })), at(0));
    let spec = opened(&parent.records);
    store_all(store, creates(at(0), vec![parent])).await;
    let spawned = spawning(&flow, &spec, 0, 1, at(1));
    let child = spawned.creates[0].execution.clone();
    store_all(store, spawned).await;
    let young = start(store, &work(), 2, at(0)).await;
    for out in [task(&child), task(&young)] {
        store.put_progress(&[row(out, 1, 1, 1.0), row(out, 1, 2, 2.0)]).await.unwrap();
        store.put_log_lines(&[line(out, 1, 1, "a"), line(out, 1, 2, "b")]).await.unwrap();
    }
    let never = Retention {
        executions_before: at(-1),
        events_before: at(-1),
        checkpoints_before: at(-1),
        keys_before: at(-1),
        progress_before: at(-1),
        logs_before: at(-1),
    };
    assert_eq!(store.prune(&Retention { progress_before: at(2), ..never }, 1).await.unwrap(), 1);
    assert_eq!(store.prune(&Retention { progress_before: at(2), ..never }, 9).await.unwrap(), 1);
    assert_eq!(store.prune(&Retention { logs_before: at(2), ..never }, 9).await.unwrap(), 2);
    assert_eq!(store.progress_page(id(2), None, 9).await.unwrap(), [row(task(&young), 1, 2, 2.0)]);
    assert_eq!(store.log_lines(&all_of(2)).await.unwrap(), [line(task(&young), 1, 2, "b")]);

    let ended = update_within(&flow, &child, Some(&spec.snapshot), failure(&child), at(3));
    store_all(store, updates(at(3), vec![ended])).await;
    let parent = store.load(&[id(1)]).await.unwrap().remove(0);
    let terminated = update(
        &flow,
        &parent,
        flowmonkey_core::execution::command::Command::Terminate { reason: None },
        at(4),
    );
    store_all(store, updates(at(4), vec![terminated])).await;
    while store.prune(&Retention { executions_before: at(100), ..never }, 2).await.unwrap() > 0 {}
    assert_eq!(store.progress_page(child.id(), None, 9).await.unwrap(), []);
    assert_eq!(store.log_lines(&LogFilter { execution: child.id(), ..all_of(1) }).await.unwrap(), []);
    assert_eq!(store.log_lines(&all_of(2)).await.unwrap().len(), 1, "those of others stay");
}
