//! A long job of a stateful handler: a film that is encoded while its workers are killed, stand still, and lose their queue.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use flowmonkey_plumbing::wire::{TaskMessage, decode_task};
use redis::FromRedisValue as _;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::system::{Options, System, wait_for};

const HANDLER: &str = "video-processing";
/// Seconds of the film, of which each is a segment.
const SECONDS: usize = 9;
/// Frames per second.
const RATE: usize = 25;
/// Workers that are killed: as many as park the task as an incident.
const KILLS: usize = 3;
/// The longest time between the beginning of a segment and a kill. A segment takes about two seconds, as ffmpeg is held to the
/// film's own speed and reads a second more than it writes.
const MOMENT_MS_MAX: u64 = 3_500;

const FLOW: &str = r"
id: film
version: 1.0.0
initialStepId: encode
steps:
  encode:
    type: video-processing
    config: { input: raw.mp4, output: film.mp4, segmentSeconds: 1, preset: ultrafast, threads: 1 }
    outputKey: film
";

/// A run of ffmpeg that made a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The worker.
    pid: u32,
    segment: usize,
}

/// A system whose workers share a folder with a film.
struct Studio {
    system: System,
    execution: String,
}

impl Studio {
    /// The film is being encoded when this returns.
    async fn start(workers: usize) -> Self {
        let mut system =
            System::start(Options { engines: 1, workers: 0, concurrency: 1, ..Options::default() }).await;
        let folder = system.folder.path();
        let (films, programs) = (folder.join("films"), folder.join("programs"));
        fs::create_dir(&films).unwrap();
        fs::create_dir(&programs).unwrap();
        // Held to the film's own speed, ffmpeg takes its time without much work; and each run is noted with its worker.
        let stand_in = format!(
            "#!/bin/sh\nPATH=${{PATH#*:}}\necho \"$PPID $*\" >> '{}'\n\
             case \"$*\" in *pipe:1*) exec ffmpeg -re \"$@\";; *) exec ffmpeg \"$@\";; esac\n",
            folder.join("runs.log").display()
        );
        let program = programs.join("ffmpeg");
        fs::write(&program, stand_in).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let picture = format!("testsrc2=size=160x90:rate={RATE}:duration={SECONDS}");
        let sound = format!("sine=duration={SECONDS}");
        let made = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound])
            .args(["-c:v", "libx264", "-preset", "ultrafast", "-g", "20", "-c:a", "aac"])
            .arg(films.join("raw.mp4"))
            .status()
            .unwrap_or_else(|error| panic!("this test needs `ffmpeg` on the PATH: {error}"));
        assert!(made.success());
        system.options.worker_args = vec!["--files".into(), films.to_str().unwrap().into()];
        system.publish(FLOW).await;
        let mut studio = Self { system, execution: String::new() };
        for _ in 0..workers {
            studio.add_worker().await;
        }
        studio.execution = studio.system.begin("film", json!({}), "film").await;
        studio.run_after(0).await;
        studio
    }

    async fn add_worker(&mut self) {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.system.folder.path().join("programs").display());
        self.system.add_worker_for(HANDLER, &[("PATH", &path)]).await;
    }

    fn film(&self) -> PathBuf {
        self.system.folder.path().join("films/film.mp4")
    }

    /// All runs that made segments, in order.
    fn runs(&self) -> Vec<Run> {
        let log = fs::read_to_string(self.system.folder.path().join("runs.log")).unwrap_or_default();
        let run = |line: &str| {
            let after = |what: &str| -> Option<f64> {
                let rest = line.split_once(what)?.1;
                rest.split([' ', ',']).next()?.parse().ok()
            };
            // Where it begins to read, and where the segment is after that.
            let second = after("-ss ")? + after("start_time=")?;
            let segment = (0..SECONDS).find(|segment| (second - *segment as f64).abs() < 0.1)?;
            Some(Run { pid: line.split(' ').next()?.parse().ok()?, segment })
        };
        log.lines().filter(|line| line.contains("pipe:1")).map(|line| run(line).unwrap()).collect()
    }

    /// Waits until more runs than `count` have begun; the latest.
    async fn run_after(&self, count: usize) -> Run {
        wait_for(&format!("more than {count} segments were begun"), async || {
            let runs = self.runs();
            runs.last().copied().filter(|_| runs.len() > count)
        })
        .await
    }

    /// Waits until another worker has gone on. Too many dead workers park the task: somebody tries it again.
    async fn goes_on(&self) {
        let begun = self.runs().len();
        let path = format!("/v1/executions/{}", self.execution);
        wait_for("the film goes on", async || {
            if self.system.get(&path).await["status"] == "incident" {
                let retry = format!("{path}:retry");
                let (status, answer) = self.system.call(Method::POST, &retry, Some(&json!({}))).await;
                // An answer that was lost is asked for again.
                assert!(status == 200 || status == 409, "{status} {answer}");
            }
            (self.runs().len() > begun).then_some(())
        })
        .await;
    }

    /// The place of the worker that has the task.
    fn worker_of(&self, run: Run) -> usize {
        let workers = &self.system.workers;
        workers.iter().position(|worker| worker.pid() == run.pid).unwrap_or_else(|| panic!("{run:?}"))
    }

    async fn events(&self, kind: &str) -> Vec<Value> {
        let history = self.system.get(&format!("/v1/executions/{}/history?limit=500", self.execution)).await;
        let events = history["items"].as_array().unwrap().iter().map(|recorded| recorded["event"].clone());
        events.filter(|event| event["type"] == kind).collect()
    }

    /// Waits for the end, which must be a whole film; what the handler said of it.
    async fn ended(&self) -> Value {
        let record = self.system.ended(&self.execution).await;
        assert_eq!(record["status"], "completed", "{record}");
        assert_eq!(record["context"]["film"]["path"], "film.mp4", "{record}");
        let film = record["context"]["film"].clone();
        assert_eq!((&film["frames"], &film["segments"]), (&json!(SECONDS * RATE), &json!(SECONDS)), "{film}");
        let counted = Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", "v:0", "-count_frames", "-of", "csv=p=0"])
            .args(["-show_entries", "stream=nb_read_frames"])
            .arg(self.film())
            .output()
            .unwrap();
        assert!(counted.status.success() && counted.stderr.is_empty(), "{counted:?}");
        assert_eq!(String::from_utf8(counted.stdout).unwrap().trim(), (SECONDS * RATE).to_string());
        let mut left: Vec<_> = fs::read_dir(self.film().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["film.mp4", "raw.mp4"], "nothing is left over");
        film
    }

    /// The latest message of the task, as its worker got it.
    async fn message(&self) -> TaskMessage {
        let payload =
            self.system.redis.command(&["HVALS", &format!("flowmonkey:payload:{{{HANDLER}}}")]).await;
        let bodies: Vec<Vec<u8>> = Vec::from_redis_value(payload).unwrap();
        let messages = bodies.iter().map(|body| decode_task(body).unwrap());
        messages.max_by_key(|message| message.attempt).unwrap()
    }
}

/// Moments, drawn from a seed: a linear congruential generator will do.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % MOMENT_MS_MAX)
    }
}

/// What a checkpoint has is not done again, whoever dies when.
#[tokio::test(flavor = "multi_thread")]
async fn a_film_survives_the_deaths_of_its_workers() {
    let seed = std::env::var("KILL_SEED").ok().map_or(20_261_121, |seed| seed.parse().unwrap());
    println!("KILL_SEED={seed}");
    let mut moments = Moments(seed);
    let mut studio = Studio::start(2).await;
    for _ in 0..KILLS {
        tokio::time::sleep(moments.next()).await;
        let run = *studio.runs().last().unwrap();
        let worker = studio.worker_of(run);
        println!("killed in segment {} (run {})", run.segment, studio.runs().len());
        studio.system.workers.remove(worker).kill();
        studio.add_worker().await;
        studio.goes_on().await;
    }
    let film = studio.ended().await;
    let runs = studio.runs();
    let segments: Vec<usize> = runs.iter().map(|run| run.segment).collect();
    println!("segments {segments:?}");
    for two in runs.windows(2) {
        // The one in hand is done again, and by somebody else; else it is the next one.
        let again = two[0].segment == two[1].segment && two[0].pid != two[1].pid;
        assert!(again || two[1].segment == two[0].segment + 1, "{runs:?}");
    }
    assert_eq!((segments[0], segments.last()), (0, Some(&(SECONDS - 1))));
    assert!(segments.len() <= SECONDS + KILLS, "{segments:?}");
    assert_eq!(studio.events("leaseLost").await.len(), KILLS);
    let ended = studio.events("attemptEnded").await;
    assert_eq!((ended.len(), ended[0]["attempt"].as_u64()), (1, Some(KILLS as u64 + 1)), "{ended:?}");
    let first = runs.iter().find(|run| run.pid == runs[runs.len() - 1].pid).unwrap().segment;
    assert_eq!(film["resumedFrom"].as_u64().unwrap_or(0), first as u64, "{film}");
}

/// A worker that lost its task and does not know it makes nothing more, and nothing that it says counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_has_no_part_in_the_film_any_more() {
    let mut studio = Studio::start(1).await;
    studio.run_after(1).await;
    let message = studio.message().await;
    assert_eq!(message.attempt, 1);
    studio.system.workers[0].pause();
    let old = studio.system.workers[0].pid();
    let of_old = |studio: &Studio| studio.runs().iter().filter(|run| run.pid == old).count();
    let before = of_old(&studio);
    studio.add_worker().await;
    wait_for("another worker goes on", async || {
        studio.runs().last().filter(|run| run.pid != old).is_some().then_some(())
    })
    .await;
    // It finds what it was doing where it left it, and a newer attempt at work.
    studio.system.workers[0].resume();

    // What it might say, with the token that it has.
    let url = studio.system.engines[0].url.clone().unwrap();
    let task = &message.task_id;
    let calls = [
        (Method::PATCH, "context?sequence=1", json!({ "film.path": "of the dead" })),
        (Method::PUT, "checkpoint", json!({ "segments": [] })),
        (Method::DELETE, "checkpoint", Value::Null),
        (Method::POST, "progress", json!({ "percent": 99 })),
        (Method::POST, "logs", json!({ "lines": [{ "message": "still here" }] })),
        (
            Method::POST,
            "result",
            json!({ "v": message.v, "taskId": task, "attempt": 1, "executionId": message.execution_id,
                "stepId": message.step_id, "outcome": "success", "output": { "path": "film.mp4" } }),
        ),
    ];
    let refused = async || -> (u64, u64) {
        let text = Client::new().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        let count = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
        };
        (
            count("flowmonkey_plumbing_refused_total"),
            count("flowmonkey_results_rejected_total{reason=\"stale\"}"),
        )
    };
    let before_calls = refused().await;
    let token = message.token.as_ref().unwrap().as_str();
    let count = calls.len() as u64;
    for (method, endpoint, body) in calls {
        let request =
            Client::new().request(method.clone(), format!("{url}/v1/plumbing/tasks/{task}/{endpoint}"));
        let request = request.bearer_auth(token);
        let request = if body.is_null() { request } else { request.json(&body) };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(status, 409, "{method} {endpoint}: {problem}");
        assert!(!problem["code"].as_str().unwrap().is_empty(), "{problem}");
    }
    let (calls, results) = refused().await;
    // Its own worker may have been refused as well.
    assert!(calls >= before_calls.0 + count, "{calls} after {before_calls:?}");
    assert!(results > before_calls.1, "{results} after {before_calls:?}");

    studio.ended().await;
    assert_eq!(of_old(&studio), before, "it began nothing more");
    let ended = studio.events("attemptEnded").await;
    assert_eq!((ended.len(), ended[0]["attempt"].as_u64()), (1, Some(2)), "{ended:?}");
}

/// The worker's lease is put back before anybody else is given the task.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_emptied_does_not_begin_the_film_again() {
    let studio = Studio::start(2).await;
    studio.run_after(1).await;
    studio.system.redis.command(&["FLUSHALL"]).await;
    let film = studio.ended().await;
    assert_eq!(film["resumedFrom"], Value::Null);
    let runs = studio.runs();
    assert_eq!(runs.iter().map(|run| run.segment).collect::<Vec<_>>(), (0..SECONDS).collect::<Vec<_>>());
    assert!(runs.iter().all(|run| run.pid == runs[0].pid), "{runs:?}");
    assert_eq!(studio.events("leaseLost").await.len(), 0);
    let ended = studio.events("attemptEnded").await;
    assert_eq!((ended.len(), ended[0]["attempt"].as_u64()), (1, Some(1)), "{ended:?}");
}
