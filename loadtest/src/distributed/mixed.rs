//! A mix of flows in one closed loop. The answer to each request is looked at: it holds the one result that is right.

use anyhow::{Result, ensure};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Time;
use crate::flows::{self, FAILS_ONCE, handler_type};
use crate::load::{Ask, Work, closed, percentiles};
use crate::system::System;
use crate::system::usage::rounded;

/// Items of the map.
const ITEMS: u64 = 20;
/// The delay.
const DELAY_MS: u64 = 100;
/// Bytes of the large context.
const LARGE: usize = 16 * 1024;

/// A mix of flows.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Mixed {
    /// At a time
    #[arg(long, default_value_t = 256)]
    pub(super) clients: usize,
    /// Which flow comes when: the same seed gives the same order of starts
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) time: Time,
}

/// A flow of the mix.
struct Kind {
    name: &'static str,
    /// Of a hundred starts.
    weight: u64,
    /// Steps that an execution and its children go through, those of the engine included.
    steps: u32,
    /// Those of them that a worker carries out; an attempt that fails is none.
    tasks: u32,
    /// The output for the input `n`.
    output: fn(u64) -> Value,
}

const KINDS: [Kind; 9] = [
    Kind { name: "chain3", weight: 25, steps: 3, tasks: 3, output: |n| json!(n) },
    Kind { name: "oneStep", weight: 25, steps: 1, tasks: 1, output: |n| json!(n) },
    Kind { name: "switch", weight: 12, steps: 2, tasks: 1, output: |n| json!({ "side": side(n), "n": n }) },
    Kind { name: "parallel", weight: 8, steps: 3, tasks: 2, output: |n| json!({ "left": n, "right": n }) },
    Kind { name: "map20", weight: 3, steps: 21, tasks: 20, output: |n| items(n) },
    Kind { name: "subFlow", weight: 8, steps: 2, tasks: 1, output: |n| json!(n) },
    Kind { name: "retryOnce", weight: 8, steps: 1, tasks: 1, output: |n| json!(n) },
    Kind { name: "delay100ms", weight: 6, steps: 2, tasks: 1, output: |n| json!(n) },
    Kind { name: "context16k", weight: 5, steps: 3, tasks: 3, output: |n| json!(n) },
];

fn side(n: u64) -> &'static str {
    if n.is_multiple_of(2) { "left" } else { "right" }
}

fn items(n: u64) -> Value {
    (n..n + ITEMS).collect()
}

/// The flow of a kind.
fn flow(name: &str) -> Value {
    let work = |key: &str, to: &str| json!({ "type": handler_type(0), "input": { "type": "key", "key": key }, "outputKey": to });
    let one_step = |name: &str, step: Value, output: Value| json!({ "id": name, "version": "1.0.0", "initialStepId": "a", "steps": { "a": step }, "output": output });
    let key = |key: &str| json!({ "type": "key", "key": key });
    match name {
        "chain3" | "context16k" => {
            let mut chain = flows::chain(name, 0, 3, 1);
            chain["output"] = key("s2");
            chain
        }
        "switch" => {
            let took = |side: &str| {
                json!({
                    "type": handler_type(0), "outputKey": "took",
                    "input": { "type": "template", "template": { "side": side, "n": "${n}" } },
                })
            };
            let cases = json!({ "left": "left", "right": "right" });
            json!({
                "id": name, "version": "1.0.0", "initialStepId": "route", "output": key("took"),
                "steps": {
                    "route": { "type": "switch", "input": { "type": "full" }, "config": { "path": "side", "cases": cases } },
                    "left": took("left"),
                    "right": took("right"),
                },
            })
        }
        "parallel" => {
            let branch = work("n", "n");
            let step = json!({
                "type": "parallel", "outputKey": "both",
                "config": { "branches": { "left": branch, "right": branch } },
            });
            one_step(name, step, key("both"))
        }
        "map20" => {
            let body = work("item", "item");
            let step = json!({ "type": "map", "outputKey": "results", "config": { "items": key("items"), "body": body } });
            one_step(name, step, key("results"))
        }
        "subFlow" => {
            let step = json!({
                "type": "sub-flow", "outputKey": "sub", "input": { "type": "full" },
                "config": { "flowId": "oneStep" },
            });
            one_step(name, step, json!({ "type": "path", "path": "sub.context.done" }))
        }
        "retryOnce" => {
            let mut step = work("n", "done");
            step["config"] = json!({ FAILS_ONCE: true });
            step["retry"] = json!({ "maxAttempts": 1 });
            one_step(name, step, key("done"))
        }
        "delay100ms" => {
            let mut last = one_step(name, work("n", "done"), key("done"));
            last["steps"]["pause"] =
                json!({ "type": "delay", "config": { "ms": DELAY_MS }, "transitions": { "onSuccess": "a" } });
            last["initialStepId"] = "pause".into();
            last
        }
        _ => one_step(name, work("n", "done"), key("done")),
    }
}

/// The input of a kind.
fn input(name: &str, n: u64, padding: &str) -> Value {
    match name {
        "switch" => json!({ "n": n, "side": side(n) }),
        "map20" => json!({ "items": items(n) }),
        "context16k" => json!({ "n": n, "padding": padding }),
        _ => json!({ "n": n }),
    }
}

/// The start with a number, whoever asks for it: SplitMix64 of both.
fn ask(seed: u64, number: u64, padding: &str) -> Ask {
    let mut mixed = seed.wrapping_add(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let mut left = (mixed ^ (mixed >> 31)) % KINDS.iter().map(|kind| kind.weight).sum::<u64>();
    let mut chosen = 0;
    while left >= KINDS[chosen].weight {
        left -= KINDS[chosen].weight;
        chosen += 1;
    }
    let Kind { name, output, .. } = &KINDS[chosen];
    let body = json!({ "flowId": name, "input": input(name, number, padding) });
    // As the record is written; nothing in a context looks like it.
    let holds = format!(r#""output":{},"error":null,"#, output(number));
    Ask { body: Bytes::from(body.to_string()), kind: chosen, holds: Some(holds) }
}

/// Runs the mix.
pub(super) async fn mixed(system: &System, Mixed { clients, seed, time }: Mixed) -> Result<Value> {
    let mut client = system.client(0).await?;
    for kind in &KINDS {
        client.publish(&flow(kind.name)).await?;
    }
    let padding = flows::padding(LARGE);
    let ask = move |number| ask(seed, number, &padding);
    let work = Work { ask: Box::new(ask), to_the_end: true, kinds: KINDS.len() };
    let measured = closed(system, clients, time.window(), work).await?;
    let seconds = measured.took.as_secs_f64();
    let steps = measured.weighed(|kind| KINDS[kind].steps.into());
    let tasks = measured.weighed(|kind| KINDS[kind].tasks.into());
    let mut flows = Map::new();
    for (kind, micros) in KINDS.iter().zip(&measured.micros) {
        let figures = json!({ "weight": kind.weight, "steps": kind.steps, "millis": percentiles(micros) });
        flows.insert(kind.name.into(), figures);
    }
    let figures = json!({
        "clients": clients,
        "seed": seed,
        "seconds": time.seconds,
        "executionsPerSecond": rounded(measured.rate()),
        "stepsPerSecond": rounded(steps / seconds),
        "tasksPerSecond": rounded(tasks / seconds),
        "failures": measured.wrong,
        "flows": flows,
        "used": measured.usage.1.since(&measured.usage.0, steps),
        "memoryKib": system.memory(),
    });
    if let Some(wrong) = measured.wrong_one {
        ensure!(measured.wrong == 0, "{} results are wrong: {wrong}\n{figures}", measured.wrong);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_percents_and_a_seed_repeats_the_order() {
        assert_eq!(KINDS.iter().map(|kind| kind.weight).sum::<u64>(), 100);
        let kinds = |seed| (0..1000).map(|number| ask(seed, number, "").kind).collect::<Vec<_>>();
        assert_eq!(kinds(1), kinds(1));
        assert_ne!(kinds(1), kinds(2));
        for (place, kind) in KINDS.iter().enumerate() {
            let times = kinds(1).iter().filter(|kind| **kind == place).count() as u64;
            assert!(times * 2 > kind.weight * 10 && times < kind.weight * 20, "{}: {times}", kind.name);
        }
    }
}
