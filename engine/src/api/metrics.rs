//! What this engine did and what the queues hold, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{HeaderName, header};
use flowmonkey_plumbing::queue::Depth;

use super::Api;
use super::access::{Access, Viewer};
use super::problem::Problem;
use super::request::Parameters;
use crate::engine::Counters;
use crate::evidence::RefusedFor;
use crate::talk::Talk;

/// The text format, version 0.0.4.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const MS_PER_SECOND: f64 = 1000.0;

#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "getMetrics",
    summary = "Metrics in the text format of Prometheus",
    security(("apiKey" = ["viewer"])),
    responses(
        (status = 200, description = "the metrics of this process", body = String, content_type = "text/plain"),
        (status = 404, description = "`ROUTE_NOT_FOUND`: the caller does not see all tenants"),
    ),
)]
pub(super) async fn metrics(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    access.sees_all()?;
    parameters.finish()?;
    let engine = &api.engine;
    // A queue that is away must not take the counters with it.
    let depths = match engine.queue().depths().await {
        Ok(mut depths) => {
            depths.sort_by(|(left, _), (right, _)| left.cmp(right));
            Some(depths)
        }
        Err(error) => {
            tracing::debug!(%error, "metrics without the depths of the queues");
            None
        }
    };
    let text = exposition(&engine.counters, &engine.talk, &engine.evidence.counts(), depths.as_deref());
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

/// All families; no depths: the queue does not answer.
fn exposition(
    counters: &Counters,
    talk: &Talk,
    refused: &BTreeMap<RefusedFor, u64>,
    depths: Option<&[(String, Depth)]>,
) -> String {
    let mut text = Exposition::default();
    let counted: [(&str, &str, &AtomicU64); 9] = [
        ("flowmonkey_decisions_total", "Decisions that were stored.", &counters.decisions),
        (
            "flowmonkey_commit_conflicts_total",
            "Decisions taken anew, as another had changed the execution.",
            &counters.conflicts,
        ),
        ("flowmonkey_leases_expired_total", "Leases that ended without a result.", &counters.leases_expired),
        (
            "flowmonkey_tasks_republished_total",
            "Tasks that were missing from the queue and delivered anew.",
            &counters.republished,
        ),
        (
            "flowmonkey_results_adopted_total",
            "Results taken over from engines that had died, or found in no list.",
            &counters.results_adopted,
        ),
        (
            "flowmonkey_context_bytes_read_total",
            "Bytes of contexts that workers read, before compression.",
            &counters.context_bytes_read,
        ),
        (
            "flowmonkey_context_bytes_sent_total",
            "Bytes of contexts that workers read, as they were sent.",
            &counters.context_bytes_sent,
        ),
        (
            "flowmonkey_objects_corrupt_total",
            "Objects of the object store that were not what was stored; the goal is none.",
            &counters.objects_corrupt,
        ),
        (
            "flowmonkey_plumbing_refused_total",
            "Calls of workers that were refused, as their attempt is over.",
            &counters.plumbing_refused,
        ),
    ];
    for (name, help, counter) in counted {
        text.family(name, "counter", help);
        text.sample(name, &[], counter.load(Ordering::Relaxed));
    }
    let name = "flowmonkey_invariant_repairs_total";
    text.family(
        name,
        "counter",
        "What followed from a commit and was done late: an engine died, or stood still.",
    );
    for (kind, counter) in [
        ("fan_out", &counters.late_joins),
        ("child", &counters.late_children),
        ("event", &counters.late_events),
    ] {
        text.sample(name, &[("kind", kind)], counter.load(Ordering::Relaxed));
    }
    text.talk(talk);
    let name = "flowmonkey_results_rejected_total";
    text.family(name, "counter", "Results that did not count.");
    for reason in RefusedFor::ALL {
        text.sample(name, &[("reason", reason.as_str())], refused.get(&reason).copied().unwrap_or(0));
    }
    text.family("flowmonkey_queue_up", "gauge", "Whether the queue answered.");
    text.sample("flowmonkey_queue_up", &[], u64::from(depths.is_some()));
    text.queues(depths.unwrap_or_default());
    text.0
}

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // A string takes everything.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let before = if place == 0 { '{' } else { ',' };
            write!(self.0, "{before}{label}=\"{text}\"").ok();
        }
        let end = if labels.is_empty() { "" } else { "}" };
        writeln!(self.0, "{end} {value}").ok();
    }

    /// What running tasks said.
    fn talk(&mut self, talk: &Talk) {
        let counters = &talk.counters;
        for (name, help, counter) in [
            ("flowmonkey_task_progress_total", "Reports of progress that came.", &counters.progress_heard),
            (
                "flowmonkey_task_progress_stored_total",
                "Rows of progress that were stored.",
                &counters.progress_stored,
            ),
            ("flowmonkey_task_log_lines_total", "Log lines that came live.", &counters.lines_heard),
            (
                "flowmonkey_task_log_lines_stored_total",
                "Log lines that were stored, of results, too.",
                &counters.lines_stored,
            ),
        ] {
            self.family(name, "counter", help);
            self.sample(name, &[], counter.load(Ordering::Relaxed));
        }
        let name = "flowmonkey_task_talk_dropped_total";
        self.family(name, "counter", "What running tasks said that there was no room for.");
        for (kind, dropped) in [
            ("progress", counters.progress_dropped.load(Ordering::Relaxed)),
            ("log", counters.lines_dropped.load(Ordering::Relaxed)),
            ("notice", talk.notices_dropped()),
        ] {
            self.sample(name, &[("kind", kind)], dropped);
        }
    }

    fn queues(&mut self, depths: &[(String, Depth)]) {
        self.family("flowmonkey_queue_depth", "gauge", "Tasks that wait for a worker.");
        for (pool, depth) in depths {
            for (priority, count) in [("high", depth.high), ("normal", depth.normal), ("low", depth.low)] {
                self.sample("flowmonkey_queue_depth", &[("pool", pool), ("priority", priority)], count);
            }
        }
        self.family("flowmonkey_queue_in_flight", "gauge", "Tasks in the hands of workers.");
        for (pool, depth) in depths {
            self.sample("flowmonkey_queue_in_flight", &[("pool", pool)], depth.in_flight);
        }
        self.family("flowmonkey_queue_results", "gauge", "Results that no engine has stored yet.");
        for (pool, depth) in depths {
            self.sample("flowmonkey_queue_results", &[("pool", pool)], depth.results);
        }
        self.family("flowmonkey_queue_oldest_age_seconds", "gauge", "How long the oldest task has waited.");
        for (pool, depth) in depths {
            #[expect(clippy::cast_precision_loss, reason = "an age: exact up to millennia")]
            let age = depth.oldest_age_ms as f64 / MS_PER_SECOND;
            self.sample("flowmonkey_queue_oldest_age_seconds", &[("pool", pool)], age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_told_with_its_type_and_labels_are_escaped() {
        let counters = Counters::default();
        Counters::add(&counters.late_joins, 3);
        let refused = BTreeMap::from([(RefusedFor::Stale, 2)]);
        let depth = Depth { normal: 4, in_flight: 1, oldest_age_ms: 1500, ..Depth::default() };
        let text =
            exposition(&counters, &Talk::default(), &refused, Some(&[("odd\"\\\n".to_owned(), depth)]));
        for line in [
            "# TYPE flowmonkey_invariant_repairs_total counter",
            r#"flowmonkey_invariant_repairs_total{kind="fan_out"} 3"#,
            "flowmonkey_results_rejected_total{reason=\"stale\"} 2",
            "flowmonkey_results_rejected_total{reason=\"forged\"} 0",
            "flowmonkey_queue_up 1",
            r#"flowmonkey_queue_depth{pool="odd\"\\\n",priority="normal"} 4"#,
            r#"flowmonkey_queue_in_flight{pool="odd\"\\\n"} 1"#,
            r#"flowmonkey_queue_oldest_age_seconds{pool="odd\"\\\n"} 1.5"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_queue_that_is_away_leaves_the_counters() {
        let text = exposition(&Counters::default(), &Talk::default(), &BTreeMap::new(), None);
        assert!(text.contains("\nflowmonkey_queue_up 0\n"), "{text}");
        assert!(text.contains("\nflowmonkey_leases_expired_total 0\n"), "{text}");
        assert!(!text.contains("pool="), "{text}");
    }
}
