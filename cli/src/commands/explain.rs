//! An explanation of the engine in sentences, with the command that goes on from there.

use flowmonkey_engine::EMBEDDED_POOLS;
use serde_json::Value;

use crate::settings::shell_word;
use crate::show;

/// Where the explanation was asked for, and so where the next command goes.
pub(crate) struct Asked {
    /// Options that name the place, each with a space before it; empty for the default.
    pub(crate) place: String,
    /// Whether no process works on the record: this one opened it, only to look.
    pub(crate) idle: bool,
}

/// Why an execution waits and what moves it, for people.
pub(crate) fn explain(why: &Value, asked: &Asked) -> String {
    let id = show::line(&why["id"]);
    let mut lines = vec![format!("{id}  {}", show::line(&why["status"]))];
    if let Some(step) = why["currentStepId"].as_str() {
        lines.push(format!("at step: {step}"));
    }
    if !why["waitingReason"].is_null() {
        lines.push(format!("waits for: {}", show::line(&why["waitingReason"])));
    }
    let cause = &why["liveCause"];
    for (key, value) in cause.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        if value["code"].is_string() {
            lines.push(format!(
                "  {key}: {} [{}]",
                show::line(&value["message"]),
                show::line(&value["code"])
            ));
        } else {
            lines.push(format!("  {key}: {}", show::cell(value)));
        }
    }
    if let Some(wake) = why["nextWakeAt"].as_str() {
        lines.push(format!("time moves it at: {wake}"));
    }
    if let Some(queue) = why["queue"].as_object() {
        lines.push("queue:".into());
        lines.extend(queue.iter().map(|(key, value)| format!("  {key}: {}", show::cell(value))));
        lines.push(task(&why["queue"], asked));
    }
    lines.extend(next(&id, cause, asked));
    lines.join("\n")
}

/// Who has the task, as far as the queue tells.
fn task(queue: &Value, asked: &Asked) -> String {
    let place = &asked.place;
    if asked.idle {
        return format!("no process works on this record: start one with `flowmonkey dev{place}`");
    }
    if queue["reachable"] == false {
        return "the queue cannot be asked now: whether a worker has the task is not known".into();
    }
    let pool = queue["pool"].as_str().unwrap_or_default();
    let workers = queue["workers"].as_u64().unwrap_or(0);
    let ready: u64 =
        ["high", "normal", "low"].iter().filter_map(|priority| queue["ready"][priority].as_u64()).sum();
    let in_flight = queue["inFlight"].as_u64().unwrap_or(0);
    if queue["present"] == false {
        return "the task is on its way to the queue, or its result on the way to the engine".into();
    }
    if let Some(handler) = pool.strip_prefix(EMBEDDED_POOLS).filter(|_| workers == 0) {
        return format!("no engine runs {handler} in process now: an engine that does so takes the task");
    }
    if workers == 0 {
        // A pool is `[tenant@][region/]handler`.
        let within = pool.split_once('@').map_or(pool, |(_, rest)| rest);
        let (region, handler) = match within.split_once('/') {
            Some((region, handler)) => (format!(" --region {region}"), handler),
            None => (String::new(), within),
        };
        return format!(
            "no worker for {handler}: start one with `flowmonkey worker --handler {handler}{region}`"
        );
    }
    let workers = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    match (ready, in_flight) {
        (0, 0) => "the task is done: its result is on the way to the engine".into(),
        (0, _) => format!("a worker has the task ({workers} in this pool)"),
        (_, 0) => format!("the task waits for a worker ({workers} in this pool, none has begun it)"),
        (ready, in_flight) => format!(
            "{workers} in this pool: {in_flight} of its tasks are in workers' hands, {ready} wait their turn, this one is \
             among them"
        ),
    }
}

/// The command that moves the execution, where one does.
fn next(id: &str, cause: &Value, asked: &Asked) -> Vec<String> {
    let place = &asked.place;
    let command = |verb: &str, rest: &str| format!("  flowmonkey execution {verb} {id}{rest}{place}");
    let signal = || shell_word(&show::line(&cause["signal"]));
    match cause["kind"].as_str().unwrap_or_default() {
        "signal" => vec!["next:".into(), command("signal", &format!(" {} --data '{{}}'", signal()))],
        "approval" => {
            let data = " --data '{\"approved\": true}'";
            vec!["next:".into(), command("signal", &format!(" {}{data}", signal()))]
        }
        "event" => {
            let event = shell_word(&show::line(&cause["event"]));
            vec!["next:".into(), format!("  flowmonkey event publish {event} --data '{{}}'{place}")]
        }
        "resume" if cause["until"].is_null() => {
            vec!["next: the resume URL that the step was given must be called (POST /v1/resume/TOKEN)".into()]
        }
        "paused" => vec!["next:".into(), command("resume", "")],
        "incident" => vec![
            "next: mend the cause, then try the step again, or give the execution up:".into(),
            command("retry", ""),
            command("cancel", ""),
        ],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn last(why: &Value, idle: bool) -> String {
        let asked = Asked { place: " --server http://e".into(), idle };
        explain(why, &asked).lines().last().unwrap().to_owned()
    }

    fn task_at(queue: &Value) -> String {
        last(&json!({ "id": "ex_1", "status": "waiting_for_worker", "queue": queue }), false)
    }

    #[test]
    fn it_says_who_has_the_task() {
        let queue = |workers: u64, ready: u64, in_flight: u64| {
            json!({
                "pool": "acme@eu/encode", "reachable": true, "present": true, "workers": workers,
                "ready": { "high": 0, "normal": ready, "low": 0 }, "inFlight": in_flight,
            })
        };
        assert_eq!(
            task_at(&queue(0, 1, 0)),
            "no worker for encode: start one with `flowmonkey worker --handler encode --region eu`"
        );
        assert!(task_at(&queue(2, 0, 1)).starts_with("a worker has the task (2 workers"));
        assert!(task_at(&queue(1, 3, 0)).starts_with("the task waits for a worker (1 worker "));
        assert!(task_at(&queue(1, 3, 1)).starts_with("1 worker in this pool: 1 of its tasks"));
        assert!(task_at(&json!({ "pool": "x", "reachable": false })).contains("cannot be asked"));
    }

    #[test]
    fn it_ends_with_the_command_that_goes_on() {
        let with =
            |cause: Value| last(&json!({ "id": "ex_1", "status": "waiting", "liveCause": cause }), false);
        assert_eq!(
            with(json!({ "kind": "approval", "signal": "review" })),
            "  flowmonkey execution signal ex_1 review --data '{\"approved\": true}' --server http://e"
        );
        assert_eq!(
            with(json!({ "kind": "signal", "signal": "it's $here" })),
            "  flowmonkey execution signal ex_1 'it'\\''s $here' --data '{}' --server http://e"
        );
        let long = "x".repeat(500);
        let why = json!({
            "id": "ex_1", "status": "incident",
            "liveCause": { "kind": "incident", "error": { "code": "BAD", "message": long } },
        });
        let text = explain(&why, &Asked { place: String::new(), idle: false });
        assert!(text.contains(&format!("{long} [BAD]")), "{text}");
        assert!(text.contains("\n  flowmonkey execution retry ex_1\n"), "{text}");
    }

    #[test]
    fn a_record_that_nobody_works_on_needs_a_process() {
        let why = json!({ "id": "ex_1", "status": "waiting_for_worker", "queue": { "workers": 0 } });
        assert!(last(&why, true).ends_with("start one with `flowmonkey dev --server http://e`"));
    }
}
