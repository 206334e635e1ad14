//! What a soak found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chaos::Fault;
use super::load::Load;
use crate::books::notes;
use crate::system::System;

/// Counters of engines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metrics {
    stale: u64,
    forged: u64,
    invalid: u64,
    unusable: u64,
    late: u64,
    republished: u64,
    leases_expired: u64,
    results_adopted: u64,
}

impl Metrics {
    /// Reads `GET /metrics`.
    pub(super) fn read(text: &str) -> Self {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
        };
        let rejected = |reason| value(&format!("flowmonkey_results_rejected_total{{reason=\"{reason}\"}}"));
        let late = |kind| value(&format!("flowmonkey_invariant_repairs_total{{kind=\"{kind}\"}}"));
        Self {
            stale: rejected("stale") + rejected("finished"),
            forged: rejected("forged"),
            invalid: rejected("invalid"),
            unusable: rejected("unusable") + rejected("other") + rejected("unknown_execution"),
            late: late("fan_out") + late("child") + late("event"),
            republished: value("flowmonkey_tasks_republished_total"),
            leases_expired: value("flowmonkey_leases_expired_total"),
            results_adopted: value("flowmonkey_results_adopted_total"),
        }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            stale: self.stale + other.stale,
            forged: self.forged + other.forged,
            invalid: self.invalid + other.invalid,
            unusable: self.unusable + other.unusable,
            late: self.late + other.late,
            republished: self.republished + other.republished,
            leases_expired: self.leases_expired + other.leases_expired,
            results_adopted: self.results_adopted + other.results_adopted,
        }
    }
}

/// The report.
pub(super) struct Report {
    json: Value,
    lost: Vec<Value>,
    wrong: Vec<String>,
    doubled: Vec<String>,
    metrics: Metrics,
    told: Vec<String>,
}

/// How long it took after one fault.
struct Recovery {
    fault: Fault,
    moved_ms: Option<u64>,
    victims: usize,
    ended_ms: Option<u64>,
}

impl Report {
    pub(super) async fn make(
        seed: u64,
        seconds: u64,
        system: &System,
        load: &Load,
        faults: &[(Fault, Instant)],
        drained: Duration,
        lost: Vec<Value>,
    ) -> Self {
        let started = load.started();
        let mut by_status: BTreeMap<String, usize> = BTreeMap::new();
        let (mut wrong, mut doubled) = (Vec::new(), Vec::new());
        for (id, expected) in started.iter().filter(|(_, one)| one.ended_at.is_some()) {
            let record = system.get(&format!("/v1/executions/{id}")).await;
            let status = record["status"].as_str().unwrap();
            *by_status.entry(status.to_owned()).or_default() += 1;
            if status != expected.status {
                wrong.push(format!("expected {}: {record}", expected.status));
            }
            check_history(system, id, &mut wrong, &mut doubled).await;
        }
        let notes = notes(system);
        let mut deliveries = BTreeSet::new();
        let mut tasks: BTreeMap<&str, &str> = BTreeMap::new();
        for note in notes.iter().filter(|note| note.what == "begin") {
            if !deliveries.insert((&note.task, note.attempt)) {
                doubled.push(format!("attempt {} of task {} was begun twice", note.attempt, note.task));
            }
            if *tasks.entry(&note.task).or_insert(&note.key) != note.key {
                wrong.push(format!("task {} was given two keys", note.task));
            }
        }
        let distinct: BTreeSet<&&str> = tasks.values().collect();
        if distinct.len() != tasks.len() {
            wrong.push("two tasks were given one key".to_owned());
        }
        let recoveries: Vec<Recovery> =
            faults.iter().map(|(fault, at)| recovery(load, *fault, *at)).collect();
        let metrics = load.metrics();
        let json = json!({
            "seed": seed, "seconds": seconds, "faults": faults.len(), "drainMs": ms(drained),
            "started": started.len(), "ended": by_status, "lost": lost.len(), "wrong": wrong.len(),
            "doubled": doubled.len(), "parkedAndRetried": load.parked(),
            "tasks": tasks.len(), "redelivered": deliveries.len() - tasks.len(),
            "refused": { "stale": metrics.stale, "forged": metrics.forged, "invalid": metrics.invalid,
                "unusable": metrics.unusable },
            "lateEffects": metrics.late, "lateEffectsTold": late_effects(system), "republished": metrics.republished,
            "leasesExpired": metrics.leases_expired, "resultsAdopted": metrics.results_adopted,
            "recoveryByFault": by_fault(&recoveries),
        });
        let mut told = Vec::new();
        for entry in std::fs::read_dir(system.folder.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("engine-") {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                told.extend(text.lines().filter(|l| l.contains("SWEEP")).map(|l| format!("{name} {l}")));
            }
        }
        Self { json, lost, wrong, doubled, metrics, told }
    }

    /// Prints it, and writes it where it is wanted.
    pub(super) fn tell(&self) {
        let text = serde_json::to_string_pretty(&self.json).unwrap();
        println!("{text}");
        for line in &self.told {
            println!("{line}");
        }
        if let Ok(file) = std::env::var("FLOWMONKEY_SOAK_REPORT") {
            std::fs::write(file, text).unwrap();
        }
    }

    pub(super) fn assert_sound(&self) {
        assert!(self.lost.is_empty(), "lost: {:#?}", self.lost);
        assert!(self.wrong.is_empty(), "wrong: {:#?}", self.wrong);
        assert!(self.doubled.is_empty(), "doubled: {:#?}", self.doubled);
        let Metrics { forged, invalid, unusable, .. } = self.metrics;
        assert_eq!((forged, invalid, unusable), (0, 0, 0), "results that nobody can have sent");
    }
}

/// What sweepers said of late effects.
fn late_effects(system: &System) -> Vec<String> {
    let mut told = Vec::new();
    for entry in std::fs::read_dir(system.folder.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("engine-") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            told.extend(text.lines().filter(|line| line.contains("chores::sweeper")).map(str::to_owned));
        }
    }
    told.sort_unstable();
    told
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn recovery(load: &Load, fault: Fault, at: Instant) -> Recovery {
    let started = load.started();
    let victims: Vec<Option<Instant>> = started
        .values()
        .filter(|one| one.at <= at && one.ended_at.is_none_or(|ended_at| ended_at > at))
        .map(|one| one.ended_at)
        .collect();
    let last =
        victims.iter().copied().collect::<Option<Vec<Instant>>>().and_then(|ends| ends.into_iter().max());
    Recovery {
        fault,
        moved_ms: load.moved_after(at).map(|moved| ms(moved - at)),
        victims: victims.len(),
        ended_ms: last.map(|last| ms(last - at)),
    }
}

fn by_fault(recoveries: &[Recovery]) -> BTreeMap<String, Value> {
    let mut faults: BTreeMap<Fault, Vec<&Recovery>> = BTreeMap::new();
    for recovery in recoveries {
        faults.entry(recovery.fault).or_default().push(recovery);
    }
    let spread = |mut times: Vec<u64>| {
        times.sort_unstable();
        json!({ "medianMs": times.get(times.len() / 2), "maxMs": times.last() })
    };
    let told = |(fault, all): (Fault, Vec<&Recovery>)| {
        let summary = json!({
            "times": all.len(),
            "victims": all.iter().map(|one| one.victims).sum::<usize>(),
            "untilSomethingMoved": spread(all.iter().filter_map(|one| one.moved_ms).collect()),
            "untilVictimsEnded": spread(all.iter().filter_map(|one| one.ended_ms).collect()),
        });
        (format!("{fault:?}"), summary)
    };
    faults.into_iter().map(told).collect()
}

/// Sequences without gaps, one success for each visit.
async fn check_history(system: &System, id: &str, wrong: &mut Vec<String>, doubled: &mut Vec<String>) {
    let mut after = 0;
    let mut successes = BTreeSet::new();
    loop {
        let page = system.get(&format!("/v1/executions/{id}/history?after={after}&limit=500")).await;
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            return;
        }
        for recorded in items {
            after += 1;
            if recorded["sequence"] != after {
                wrong.push(format!("a gap in the history of {id} at {after}"));
                return;
            }
            let event = &recorded["event"];
            if event["type"] == "attemptEnded" && event["outcome"] == "success" {
                let visit = (event["stepId"].to_string(), event["visit"].to_string());
                if !successes.insert(visit.clone()) {
                    doubled.push(format!("{visit:?} of {id} succeeded twice"));
                }
            }
        }
    }
}
