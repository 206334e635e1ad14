//! Films, by the real ffmpeg.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use flowmonkey_handlers::{StockPolicy, VideoPolicy};
use flowmonkey_worker::{Completion, Failure};
use serde_json::{Value, json};

use crate::support::Bench;

const HANDLER: &str = "video-processing";
/// Frames of the film.
const FRAMES: usize = 125;

/// A folder with a film of `FRAMES` frames at 29.97 frames per second.
fn film() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    make_film(&folder.path().join("in.mp4"));
    folder
}

fn make_film(path: &Path) {
    let picture = "testsrc2=size=160x90:rate=30000/1001:duration=4.17";
    let sound = "sine=frequency=440:duration=4.17";
    ffmpeg(
        &format!(
            "-f lavfi -i {picture} -f lavfi -i {sound} -c:v libx264 -preset ultrafast -g 40 -c:a aac {}",
            path.display()
        )
        .split(' ')
        .collect::<Vec<_>>(),
    );
}

fn ffmpeg(arguments: &[&str]) -> String {
    let output = Command::new("ffmpeg").args(["-nostdin", "-v", "error", "-y"]).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs `ffmpeg` on the PATH: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A digest of each decoded frame.
fn pictures(path: &Path) -> Vec<String> {
    let digests = ffmpeg(&["-i", &path.to_string_lossy(), "-map", "0:v:0", "-f", "framemd5", "-"]);
    let digests = digests.lines().filter(|line| !line.starts_with('#'));
    digests.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

/// What ffprobe says of each stream: kind, start, length.
fn streams(path: &Path) -> Vec<(String, f64, f64)> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_streams"])
        .arg(path)
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let streams = found["streams"].as_array().unwrap().iter();
    let stream = |stream: &Value| {
        let kind = stream["codec_type"].as_str().unwrap().to_owned();
        (kind, number(&stream["start_time"]), number(&stream["duration"]))
    };
    streams.map(stream).collect()
}

/// A program that stands in for ffmpeg, and notes what it was asked for.
fn stand_in(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("stand-in");
    let log = folder.join("runs.log");
    fs::write(&path, format!("#!/bin/sh\necho \"$@\" >> '{}'\n{script}\n", log.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// How often segments were begun, and joined.
fn runs(folder: &Path) -> (usize, usize) {
    let log = fs::read_to_string(folder.join("runs.log")).unwrap_or_default();
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    (count("pipe:1"), count("concat"))
}

fn bench(root: &Path, ffmpeg: impl Into<PathBuf>) -> Bench {
    let video = VideoPolicy { roots: vec![root.to_owned()], ffmpeg: ffmpeg.into(), ..VideoPolicy::default() };
    Bench::new(StockPolicy { video, ..StockPolicy::default() })
}

/// One second a segment, and no picture is changed.
fn lossless() -> Value {
    json!({ "input": "in.mp4", "output": "done/out.mp4", "segmentSeconds": 1, "preset": "ultrafast", "crf": 0 })
}

async fn attempt(bench: &Bench, number: u32, config: Value) -> Result<Value, Failure> {
    let mut task = bench.task(HANDLER, config, Value::Null);
    task.message.attempt = number;
    match bench.run_task(&task).await? {
        Completion::Success(output) => Ok(output.unwrap()),
        other @ (Completion::Override { .. } | Completion::Wait(_) | Completion::Pause(_)) => {
            panic!("not a success: {other:?}")
        }
    }
}

/// Stops an attempt once it has saved so many checkpoints.
async fn stopped_after(bench: &Bench, checkpoints: usize, config: Value) {
    let task = bench.task(HANDLER, config, Value::Null);
    let stop = async {
        while bench.memory.saved.lock().unwrap().len() < checkpoints {
            bench.memory.saving.notified().await;
            tokio::task::yield_now().await;
        }
        task.cancelled.cancel();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = bench.run_task(&task) => ended,
        () = stop => unreachable!(),
    };
    assert_eq!(ended.unwrap_err().error.code, "ABORTED");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The folder of the task beside the output.
fn work_folder(root: &Path) -> PathBuf {
    let names = names(&root.join("done"));
    root.join("done").join(names.iter().find(|name| name.starts_with(".flowmonkey-video-")).unwrap())
}

#[tokio::test]
async fn the_joined_segments_have_each_frame_of_the_input_once() {
    let folder = film();
    let bench = bench(folder.path(), "ffmpeg");
    let output = attempt(&bench, 1, lossless()).await.unwrap();
    let out = folder.path().join("done/out.mp4");
    let expected = pictures(&folder.path().join("in.mp4"));
    assert_eq!(expected.len(), FRAMES);
    assert_eq!(pictures(&out), expected);
    assert_eq!(
        (&output["path"], &output["frames"], &output["segments"], &output["resumedFrom"]),
        (&json!("done/out.mp4"), &json!(FRAMES), &json!(5), &Value::Null)
    );
    assert_eq!(
        (output["durationMs"].as_u64(), output["bytes"].as_u64()),
        (Some(4170), Some(out.metadata().unwrap().len()))
    );
    for (kind, start, length) in streams(&out) {
        assert!(start.abs() < 0.001 && (length - 4.17).abs() < 0.03, "{kind}: {start} {length}");
    }
    assert_eq!(streams(&out).len(), 2);
    assert_eq!(names(&folder.path().join("done")), ["out.mp4"], "nothing is left over");

    assert_eq!(bench.memory.saved.lock().unwrap().len(), 6, "after each segment, and before the end");
    let reports = bench.memory.reports.lock().unwrap();
    assert!(reports.windows(2).all(|two| two[0].percent <= two[1].percent), "{reports:?}");
    let frames = &reports.last().unwrap().counters["frames"];
    assert_eq!((frames.value, frames.total), (FRAMES as f64, Some(FRAMES as f64)));
    let said = |text: &str| reports.iter().any(|report| report.message.as_ref().unwrap().starts_with(text));
    for place in ["segment 1 of 5", "segment 5 of 5", "joining", "verifying"] {
        assert!(said(place), "{place}: {reports:?}");
    }
}

#[tokio::test]
async fn a_later_attempt_makes_only_what_is_missing() {
    let (whole, folder) = (film(), tempfile::tempdir().unwrap());
    fs::copy(whole.path().join("in.mp4"), folder.path().join("in.mp4")).unwrap();
    let uninterrupted = attempt(&bench(whole.path(), "ffmpeg"), 1, lossless()).await.unwrap();

    let first = bench(folder.path(), stand_in(folder.path(), "exec ffmpeg \"$@\""));
    stopped_after(&first, 2, lossless()).await;
    // An attempt that was cut off while it made something.
    let work = work_folder(folder.path());
    fs::write(work.join("segment-00002-a1.nut.part"), "half").unwrap();
    fs::remove_file(folder.path().join("runs.log")).unwrap();

    let output = attempt(&first, 2, lossless()).await.unwrap();
    assert_eq!(runs(folder.path()), (3, 1), "segments 3 to 5, and the whole");
    assert_eq!(output["resumedFrom"], 2);
    assert_eq!(output["sha256"], uninterrupted["sha256"], "as if nothing had happened");
    assert_eq!(names(&folder.path().join("done")), ["out.mp4"]);
}

#[tokio::test]
async fn segments_that_are_not_what_they_were_are_made_again() {
    let folder = film();
    let bench = bench(folder.path(), stand_in(folder.path(), "exec ffmpeg \"$@\""));
    stopped_after(&bench, 3, lossless()).await;
    let work = work_folder(folder.path());
    let damaged = work.join("segment-00000-a1.nut");
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::remove_file(work.join("segment-00001-a1.nut")).unwrap();
    fs::remove_file(folder.path().join("runs.log")).unwrap();
    attempt(&bench, 2, lossless()).await.unwrap();
    assert_eq!(runs(folder.path()), (4, 1));
    assert_eq!(pictures(&folder.path().join("done/out.mp4")), pictures(&folder.path().join("in.mp4")));
}

#[tokio::test]
async fn another_film_or_encoding_is_begun_anew() {
    let folder = film();
    let bench = bench(folder.path(), stand_in(folder.path(), "exec ffmpeg \"$@\""));
    stopped_after(&bench, 2, lossless()).await;
    make_film(&folder.path().join("in.mp4"));
    fs::remove_file(folder.path().join("runs.log")).unwrap();
    let output = attempt(&bench, 2, lossless()).await.unwrap();
    assert_eq!((runs(folder.path()), &output["resumedFrom"]), ((5, 1), &Value::Null));
    let mut smaller = lossless();
    smaller["width"] = 80.into();
    let output = attempt(&bench, 3, smaller).await.unwrap();
    assert_eq!((runs(folder.path()), &output["resumedFrom"]), ((10, 2), &Value::Null));
}

#[tokio::test]
async fn what_was_done_but_not_told_is_told_again() {
    let folder = film();
    let first = bench(folder.path(), stand_in(folder.path(), "exec ffmpeg \"$@\""));
    let output = attempt(&first, 1, lossless()).await.unwrap();
    let runs_before = runs(folder.path());
    fs::remove_file(folder.path().join("in.mp4")).unwrap();
    let again = attempt(&first, 2, lossless()).await.unwrap();
    assert_eq!(runs(folder.path()), runs_before);
    assert_eq!((&again["sha256"], &again["resumedFrom"]), (&output["sha256"], &json!(5)));
}

#[tokio::test]
async fn an_attempt_that_was_given_up_stops_at_its_checkpoint() {
    let folder = film();
    let bench = bench(folder.path(), stand_in(folder.path(), "exec ffmpeg \"$@\""));
    stopped_after(&bench, 1, lossless()).await;
    fs::create_dir_all(folder.path().join("done")).unwrap();
    fs::write(folder.path().join("done/out.mp4"), "of the attempt that counts").unwrap();
    let before = names(&work_folder(folder.path()));
    fs::remove_file(folder.path().join("runs.log")).unwrap();
    bench.memory.taken_over.store(true, Ordering::SeqCst);
    let failure = attempt(&bench, 1, lossless()).await.unwrap_err();
    assert_eq!(failure.error.code, "CHECKPOINT_FAILED");
    assert!(failure.error.message.contains("stale"), "{}", failure.error.message);
    assert_eq!(runs(folder.path()), (1, 0));
    assert_eq!(fs::read(folder.path().join("done/out.mp4")).unwrap(), b"of the attempt that counts");
    let after = names(&work_folder(folder.path()));
    assert!(before.iter().filter(|name| !name.ends_with(".part")).all(|name| after.contains(name)));
}

#[tokio::test]
async fn sizes_rates_codecs_and_sound_are_as_asked_for() {
    let folder = film();
    let bench = bench(folder.path(), "ffmpeg");
    let config = json!({ "segmentSeconds": 2, "videoCodec": "libvpx-vp9", "crf": 40, "height": 48, "frameRate": 10, "threads": 1 });
    let input = json!({ "input": "in.mp4", "output": "out.webm" });
    let output = bench.run(HANDLER, config, input).await.unwrap();
    // 125 frames at 29.97 are 4.17 s.
    assert_eq!((&output["frames"], &output["segments"]), (&json!(42), &json!(3)));
    let probe = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-of",
            "csv=p=0",
            "-show_entries",
            "stream=codec_name,width,height,avg_frame_rate",
        ])
        .arg(folder.path().join("out.webm"))
        .output()
        .unwrap();
    let probe = String::from_utf8(probe.stdout).unwrap();
    assert_eq!(probe.lines().collect::<Vec<_>>(), ["vp9,86,48,10/1", "opus,0/0"]);
    let silent = json!({ "input": "in.mp4", "output": "out.mkv", "audio": "none", "preset": "ultrafast" });
    bench.run(HANDLER, silent, Value::Null).await.unwrap();
    let kinds = ffmpeg(&[
        "-i",
        &folder.path().join("out.mkv").to_string_lossy(),
        "-map",
        "0",
        "-c",
        "copy",
        "-f",
        "framecrc",
        "-",
    ]);
    assert!(kinds.contains("#media_type 0: video") && !kinds.contains("audio"), "{kinds}");
}

#[tokio::test]
async fn what_is_no_film_is_refused_for_good() {
    let folder = film();
    let bench = bench(folder.path(), "ffmpeg");
    fs::write(folder.path().join("text.mp4"), "no film").unwrap();
    // A list of other files, which would be read with the rights of the worker.
    let list = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}/in.mp4\n#EXT-X-ENDLIST\n",
        folder.path().display()
    );
    fs::write(folder.path().join("list.mp4"), list).unwrap();
    fs::write(folder.path().join("concat.mp4"), "ffconcat version 1.0\nfile in.mp4\n").unwrap();
    ffmpeg(&["-f", "lavfi", "-i", "sine=duration=1", &folder.path().join("sound.m4a").to_string_lossy()]);
    for input in ["text.mp4", "list.mp4", "concat.mp4", "sound.m4a"] {
        let config = json!({ "input": input, "output": "out.mp4" });
        let failure = bench.run(HANDLER, config, Value::Null).await.unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            ("INPUT_UNREADABLE", Some(false)),
            "{input}: {}",
            failure.error.message
        );
    }
    assert_eq!(
        bench.code(HANDLER, json!({ "input": "none.mp4", "output": "o.mp4" }), Value::Null).await,
        "FILE_NOT_FOUND"
    );
    assert_eq!(
        bench.code(HANDLER, json!({ "input": "../in.mp4", "output": "o.mp4" }), Value::Null).await,
        "FILE_FORBIDDEN"
    );
    assert!(names(folder.path()).iter().all(|name| !name.starts_with('.')), "{:?}", names(folder.path()));
}

#[tokio::test]
async fn failures_of_ffmpeg_are_told_with_its_words() {
    let folder = film();
    let failing = bench(folder.path(), stand_in(folder.path(), "echo 'Disk is on fire' >&2; exit 3"));
    let failure = attempt(&failing, 1, lossless()).await.unwrap_err();
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("ENCODING_FAILED", None));
    assert_eq!(failure.error.message, "ffmpeg ended with exit code 3: Disk is on fire");
    assert_eq!(failure.error.details.unwrap(), json!({ "exitCode": 3, "stderr": "Disk is on fire" }));

    let short = bench(folder.path(), stand_in(folder.path(), "echo 'frame=7' >&2"));
    let failure = attempt(&short, 1, lossless()).await.unwrap_err();
    assert_eq!(failure.error.message, "ffmpeg made 7 of the 30 frames of segment 1 of 5");

    let silent = bench(folder.path(), stand_in(folder.path(), "exec sleep 600"));
    let mut config = lossless();
    config["stallSeconds"] = 1.into();
    let failure = attempt(&silent, 1, config).await.unwrap_err();
    assert_eq!(failure.error.message, "ffmpeg was silent for 1 s");

    let absent = bench(folder.path(), "/nonexistent/ffmpeg");
    let failure = attempt(&absent, 1, lossless()).await.unwrap_err();
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("FFMPEG_NOT_FOUND", None));
}

#[tokio::test]
async fn a_film_that_lost_frames_is_not_handed_over() {
    let folder = film();
    let cut = "ffmpeg \"$@\" || exit 1\ncase \"$*\" in *concat*) for whole; do :; done
        ffmpeg -v error -y -i \"$whole\" -c copy -frames:v 100 -f mp4 short && mv short \"$whole\";; esac";
    let bench = bench(folder.path(), stand_in(folder.path(), cut));
    let failure = attempt(&bench, 1, lossless()).await.unwrap_err();
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("VERIFICATION_FAILED", None));
    let details = failure.error.details.unwrap();
    assert_eq!((&details["expected"], &details["frames"]), (&json!(FRAMES), &json!(100)));
    assert!(!folder.path().join("done/out.mp4").exists());
    // The next attempt does not trust what is there.
    stand_in(folder.path(), "exec ffmpeg \"$@\"");
    fs::remove_file(folder.path().join("runs.log")).unwrap();
    let output = attempt(&bench, 2, lossless()).await.unwrap();
    assert_eq!((runs(folder.path()), &output["resumedFrom"]), ((5, 1), &Value::Null));
}
