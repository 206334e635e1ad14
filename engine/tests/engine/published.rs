//! Events of results, and those that were published before somebody waits for them.

use flowmonkey_core::execution::Status;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::chores::{collector, events};
use flowmonkey_engine::config::EARLY_EVENTS_MAX;
use flowmonkey_engine::store::{EventFilter, PublishedEvent};
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::wire::{Outcome, ResultMessage, TaskEvent};
use serde_json::json;

use crate::{Bench, WORK, echo, flow, result};

fn said(id: Option<&str>, name: &str) -> TaskEvent {
    TaskEvent { id: id.map(Into::into), event: name.into(), data: json!(name) }
}

#[tokio::test]
async fn events_of_results_count_once_by_their_ids() {
    let bench = Bench::new().await;
    bench.publish(flow("work", json!({ "do": { "type": WORK } }))).await;
    for _ in 0..2 {
        bench.start("work", json!({})).await;
    }
    let tasks = bench.claim().await;
    let results = tasks.iter().map(|task| ResultMessage {
        events: vec![said(Some("mine"), "named"), said(None, "plain"), said(Some("mine"), "named")],
        ..echo(task)
    });
    bench.finish(results.collect()).await;
    collector::tick(&bench.engine).await.unwrap();
    let found = bench.store.list_events(&EventFilter { max: 9, ..EventFilter::default() }).await.unwrap();
    let mut names: Vec<_> = found.iter().map(|(_, event)| event.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["named", "plain", "plain"]);
    let named = found.iter().find(|(_, event)| event.name == "named").unwrap();
    assert_eq!(named.1.id, "mine");
}

#[tokio::test]
async fn an_event_of_a_result_that_is_the_engines_own_or_has_no_name_fails_the_attempt() {
    for wrong in [said(None, "flowmonkey.execution.failed"), said(None, ""), said(Some(""), "seen")] {
        let bench = Bench::new().await;
        bench.publish(flow("work", json!({ "do": { "type": WORK } }))).await;
        let id = bench.start("work", json!({})).await;
        let task = bench.claim().await.remove(0);
        bench.finish(vec![ResultMessage { events: vec![wrong], ..result(&task, Outcome::Success) }]).await;
        collector::tick(&bench.engine).await.unwrap();
        let execution = bench.expect(id, Status::Failed).await;
        assert_eq!(execution.error().unwrap().code, "INVALID_RESULT");
        let none = bench.store.list_events(&EventFilter { max: 9, ..EventFilter::default() }).await.unwrap();
        assert!(none.is_empty(), "{none:?}");
    }
}

/// Goal: a wait that begins looks at no more than so many earlier events, and what it did not look at reaches it all the same
/// as it is delivered.
#[tokio::test]
async fn a_wait_that_begins_is_offered_a_bounded_number_of_earlier_events() {
    const BEYOND: usize = EARLY_EVENTS_MAX + EARLY_EVENTS_MAX / 10;
    let bench = Bench::new().await;
    let hear =
        json!({ "type": "wait-event", "config": { "event": "rain", "match": "event.data.n == context.n" } });
    let mut steps = json!({ "hear": hear });
    steps["do"] = json!({ "type": WORK, "transitions": { "onSuccess": "hear" } });
    let mut listens = flow("listen", steps);
    listens["initialStepId"] = json!("do");
    bench.publish(listens).await;
    let near = bench.start("listen", json!({ "n": EARLY_EVENTS_MAX / 2 })).await;
    let far = bench.start("listen", json!({ "n": BEYOND - 1 })).await;
    let began = Timestamp::from_millis(bench.clock.now_ms());
    let rain: Vec<PublishedEvent> = (0..BEYOND)
        .map(|number| PublishedEvent {
            tenant: None,
            id: format!("{number} drops"),
            name: "rain".into(),
            data: json!({ "n": number }),
            source: None,
            at: began.plus(number as u64),
            attributes: None,
        })
        .collect();
    bench.store.publish_events(&rain).await.unwrap();
    let tasks = bench.claim().await;
    bench.finish(tasks.iter().map(echo).collect()).await;
    collector::tick(&bench.engine).await.unwrap();
    bench.expect(near, Status::Completed).await;
    bench.expect(far, Status::Waiting).await;
    while events::tick(&bench.engine).await.unwrap().events > 0 {}
    bench.expect(far, Status::Completed).await;
}
