//! `video-processing`: encodes a film with ffmpeg, segment by segment, with a checkpoint after each.

mod plan;
mod progress;
mod settings;
mod tool;
mod work;
mod workspace;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{Counter, Progress};
use flowmonkey_plumbing::manifest::{Manifest, Mode};
use flowmonkey_plumbing::wire::LogLevel;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde_json::{Value, json};

use crate::config::Fields;
use crate::confined::Confined;
use plan::Plan;
use progress::Report;
use settings::{FIELDS, Settings};
use tool::{STDIN, Tools, restricted};
use work::{Segment, Source, Work, segment_name};
use workspace::{Content, Workspace, content_of};

/// The part of the whole that encoding is; the rest is joining and verifying.
const ENCODED_PERCENT: f64 = 96.0;
/// The part of the whole that is behind once the segments are joined.
const JOINED_PERCENT: f64 = 99.0;
/// Characters of a complaint that go to the log.
const COMPLAINT_BYTES: usize = 500;

/// Where the handler `video-processing` may work, and with what. The default: nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoPolicy {
    /// Absolute directories. Relative paths of flows start at the first.
    pub roots: Vec<PathBuf>,
    /// The program ffmpeg: a path, or a name on the worker's `PATH`.
    pub ffmpeg: PathBuf,
    /// The program ffprobe.
    pub ffprobe: PathBuf,
}

impl Default for VideoPolicy {
    fn default() -> Self {
        Self { roots: Vec::new(), ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into() }
    }
}

/// The handler `video-processing`.
#[derive(Debug)]
pub struct VideoProcessing {
    manifest: Manifest,
    policy: VideoPolicy,
}

impl VideoProcessing {
    /// A handler that stays below the roots of `policy`.
    #[must_use]
    pub fn new(policy: VideoPolicy) -> Self {
        let manifest = Manifest {
            mode: Mode::Stateful,
            // ffmpeg uses all processors by itself.
            concurrency: Some(1),
            ..crate::manifest("video-processing", "Encodes films with ffmpeg, segment by segment", FIELDS)
        };
        Self { manifest, policy }
    }
}

#[async_trait]
impl Handler for VideoProcessing {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let key = task.idempotency_key();
        let settings = Settings::parse(&fields, task.input(), &self.policy.roots, key)?;
        fields.warn_unknown(task, FIELDS);
        let tools = Tools {
            task,
            ffmpeg: &self.policy.ffmpeg,
            ffprobe: &self.policy.ffprobe,
            stall: Duration::from_secs(settings.stall_seconds),
        };
        let job = Job { task, settings: &settings, tools };
        let ended = Box::pin(job.run()).await;
        if ended.as_ref().is_err_and(|failure| failure.error.retryable == Some(false)) {
            // Nobody will go on with it; unless another attempt has taken over, which the engine knows.
            if Work::forget(task).await.is_ok() {
                job.clean_up().await?;
            }
        }
        ended.map(Completion::output)
    }
}

/// One attempt.
struct Job<'a> {
    task: &'a Task,
    settings: &'a Settings,
    tools: Tools<'a>,
}

/// Does what waits for a disk, where that is no harm.
async fn on_disk<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(act).await;
    done.map_err(|error| Failure::new("FILE_ERROR", error.to_string()))
}

impl Job<'_> {
    async fn run(&self) -> Result<Value, Failure> {
        let settings = self.settings.digest();
        let found = Work::load(self.task, &settings).await?;
        if let Some(work) = &found
            && let Some(whole) = &work.whole
            && self.is_published(whole).await?
        {
            // An earlier attempt did all of it, and could not say so.
            self.clean_up().await?;
            return Ok(self.output(work, whole, Some(work.plan.segments())));
        }
        let (source, _) = self.open().await?;
        let mut work = match found.filter(|work| work.is_of(&source)) {
            Some(work) => work,
            None => Work::new(settings, source, self.plan().await?),
        };
        let place = self.settings.work.clone();
        let workspace = on_disk(move || Workspace::open(&place)).await??;
        let (kept, checked) = (workspace.clone(), work.clone());
        work = on_disk(move || {
            let mut work = checked;
            work.keep_whole_segments(&kept);
            work
        })
        .await?;
        let missing = work.missing();
        let resumed_from =
            (!work.segments.is_empty()).then(|| missing.first().copied().unwrap_or(work.plan.segments()));
        if let Some(segment) = resumed_from {
            let text = format!("going on at segment {} of {}", segment + 1, work.plan.segments());
            self.task.log(LogLevel::Info, text);
        }
        for index in missing {
            let segment = self.encode(&work, index, &workspace).await?;
            work.segments.push(segment);
            work.save(self.task).await?;
        }
        let (name, whole) = self.join(&work, &workspace).await?;
        work.whole = Some(whole.clone());
        // The engine confirms that this is the attempt that counts: the last thing before the output is replaced.
        work.save_for_sure(self.task).await?;
        let place = self.settings.output.clone();
        on_disk(move || workspace.publish(&name, &place)).await??;
        self.clean_up().await?;
        Ok(self.output(&work, &whole, resumed_from))
    }

    /// The input, and what tells it from others.
    async fn open(&self) -> Result<(Source, File), Failure> {
        let input = self.settings.input.clone();
        let (file, stat) = on_disk(move || input.open()).await??;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let modified = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Ok((Source { bytes, modified }, file))
    }

    async fn plan(&self) -> Result<Plan, Failure> {
        const WANTED: &str = "stream=codec_type,avg_frame_rate,r_frame_rate,start_time,duration,nb_read_packets\
            :stream_disposition=attached_pic:stream_tags=DURATION:format=start_time";
        let (_, file) = self.open().await?;
        let (mut found, complaints) =
            self.tools.ffprobe(&["-count_packets", "-show_entries", WANTED], file).await?;
        self.warn(&complaints);
        // Covers are no films.
        if let Some(streams) = found["streams"].as_array_mut() {
            streams.retain(|stream| stream["disposition"]["attached_pic"] != 1);
        }
        Plan::new(&found, self.settings.frame_rate(), self.settings.segment_seconds())
    }

    async fn encode(&self, work: &Work, index: u64, workspace: &Workspace) -> Result<Segment, Failure> {
        let (plan, attempt) = (&work.plan, self.task.message.attempt);
        let cut = plan.cut(index);
        let rate = plan.rate.text();
        // The grid of the output's frames begins with the segment; the last picture stays until the segment is full.
        let grid = format!(
            "fps=fps={rate}:start_time={},tpad=stop=-1:stop_mode=clone,trim=end_frame={},setpts=N/({rate})/TB",
            cut.start, cut.frames
        );
        let filter = [Some(grid), self.settings.scale()].into_iter().flatten().collect::<Vec<_>>().join(",");
        let mut arguments: Vec<String> = restricted().map(str::to_owned).to_vec();
        arguments.extend(["-ss", &cut.seek, "-i", STDIN, "-map", "0:V:0", "-vf", &filter].map(str::to_owned));
        arguments.extend(["-frames:v".to_owned(), cut.frames.to_string()]);
        arguments.extend(self.settings.video());
        // The same input gives the same segment, byte by byte.
        arguments.extend(["-fflags", "+bitexact", "-flags:v", "+bitexact"].map(str::to_owned));
        arguments.extend(["-map_metadata", "-1", "-f", "nut", "pipe:1"].map(str::to_owned));

        let name = segment_name(index, attempt);
        let temporary = format!("{name}.part");
        let (made_in, part) = (workspace.clone(), temporary.clone());
        let sink = on_disk(move || made_in.create(&part)).await??;
        let (_, input) = self.open().await?;
        let before = work.frames();
        let place = format!("segment {} of {}", index + 1, plan.segments());
        let mut on = |report: &Report| {
            let done = before + report.frame.min(cut.frames);
            let percent = ENCODED_PERCENT * part_of(done, plan.frames);
            self.progress(percent, done, plan.frames, place.clone(), report);
        };
        let made = self.tools.ffmpeg(&arguments, None, input, Some(sink), &mut on).await?;
        self.warn(&made.complaints);
        if made.report.frame != cut.frames {
            let text = format!("ffmpeg made {} of the {} frames of {place}", made.report.frame, cut.frames);
            let details = json!({ "expected": cut.frames, "frames": made.report.frame });
            return Err(Failure::new("ENCODING_FAILED", text).details(details));
        }
        let (settled_in, settled) = (workspace.clone(), name);
        on_disk(move || settled_in.settle(&temporary, &settled)).await??;
        Ok(Segment { index, attempt, frames: cut.frames, content: made.content })
    }

    /// Joins the segments, adds the sound, and verifies what came out; its file and content.
    async fn join(&self, work: &Work, workspace: &Workspace) -> Result<(String, Content), Failure> {
        let (plan, attempt) = (&work.plan, self.task.message.attempt);
        let mut segments: Vec<&Segment> = work.segments.iter().collect();
        segments.sort_by_key(|segment| segment.index);
        let mut list = String::new();
        for segment in segments {
            let length = plan.length(segment.frames);
            list.push_str(&format!("file {}\nduration {length}\n", segment.name()));
        }
        let list_name = format!("list-a{attempt}.txt");
        let (written_in, name) = (workspace.clone(), list_name.clone());
        on_disk(move || written_in.write(&name, &list)).await??;

        let whole = format!("whole-a{attempt}");
        let (length, offset) = (plan.length(plan.frames), plan.offset());
        let has_audio = plan.has_audio && self.settings.wants_audio();
        let mut arguments = vec!["-protocol_whitelist", "file", "-f", "concat", "-i", &list_name];
        if has_audio {
            arguments.extend(restricted());
            arguments.extend(["-ss", &offset, "-i", STDIN]);
        }
        arguments.extend(["-map", "0:v:0", "-c:v", "copy", "-map_metadata", "-1", "-map_chapters", "-1"]);
        if has_audio {
            arguments.extend(["-map", "1:a:0"]);
            arguments.extend(self.settings.audio());
            // The film is as long as its pictures.
            arguments.extend(["-t", &length]);
        }
        arguments.extend(["-fflags", "+bitexact", "-flags:a", "+bitexact", "-movflags", "+faststart"]);
        arguments.extend(["-f", self.settings.muxer(), "-y", &whole]);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        let (_, input) = self.open().await?;
        let mut on = |report: &Report| {
            let part = part_of(report.out_time_us / 1_000, plan.duration_ms()).min(1.0);
            let percent = (JOINED_PERCENT - ENCODED_PERCENT).mul_add(part, ENCODED_PERCENT);
            self.progress(percent, plan.frames, plan.frames, "joining".into(), report);
        };
        let made = self.tools.ffmpeg(&arguments, Some(workspace.path()), input, None, &mut on).await?;
        self.warn(&made.complaints);
        let content = self.verify(plan, &whole, workspace).await?;
        Ok((whole, content))
    }

    /// Decodes the whole film and counts its frames; its content, which is on the disk then.
    async fn verify(&self, plan: &Plan, name: &str, workspace: &Workspace) -> Result<Content, Failure> {
        const WANTED: &str = "stream=codec_type,nb_read_frames";
        let frames = plan.frames;
        self.progress(JOINED_PERCENT, frames, frames, "verifying".into(), &Report::default());
        let (read_in, read) = (workspace.clone(), name.to_owned());
        let file = on_disk(move || read_in.read(&read)).await??;
        let count = ["-select_streams", "V:0", "-count_frames", "-show_entries", WANTED];
        let found = self.tools.ffprobe(&count, file).await;
        let counted = found.as_ref().ok().and_then(|(found, complaints)| {
            let count = found["streams"][0]["nb_read_frames"].as_str()?.parse::<u64>().ok()?;
            complaints.is_empty().then_some(count)
        });
        if counted != Some(frames) {
            if self.task.cancelled.is_cancelled() {
                return Err(tool::aborted());
            }
            // What it was made of must not be used again.
            Work::forget(self.task).await?;
            let found =
                found.map_or_else(|failure| json!(failure.error), |(found, said)| json!([found, said]));
            let text = format!("the encoded film does not decode to its {frames} frames");
            return Err(Failure::new("VERIFICATION_FAILED", text)
                .details(json!({ "expected": frames, "frames": counted, "found": found })));
        }
        let (read_in, read, place) = (workspace.clone(), name.to_owned(), self.settings.work.child(name));
        let content = on_disk(move || {
            let file = read_in.read(&read)?;
            file.sync_all().and_then(|()| content_of(file)).map_err(|source| place.io(source))
        });
        Ok(content.await??)
    }

    /// Whether the film is in its place already.
    async fn is_published(&self, whole: &Content) -> Result<bool, Failure> {
        let (place, whole) = (self.settings.output.clone(), whole.clone());
        on_disk(move || holds(&place, &whole)).await
    }

    /// Deletes the task's folder. What cannot be deleted now is left to the operator, and does not fail the step.
    async fn clean_up(&self) -> Result<(), Failure> {
        let place = self.settings.work.clone();
        if let Err(error) = on_disk(move || place.delete(true)).await? {
            self.task.log(LogLevel::Warn, format!("the work folder was not deleted: {error}"));
        }
        Ok(())
    }

    fn progress(&self, percent: f64, done: u64, total: u64, place: String, report: &Report) {
        let mut message = place;
        if let Some(fps) = report.fps {
            message.push_str(&format!(", {fps:.1} frames/s"));
        }
        if let Some(speed) = report.speed {
            message.push_str(&format!(", {speed:.2}x"));
        }
        let frames = Counter { value: number(done), total: Some(number(total)), unit: Some("frames".into()) };
        self.task.report(Progress {
            percent,
            message: Some(message),
            counters: BTreeMap::from([("frames".to_owned(), frames)]),
            ..Progress::default()
        });
    }

    fn warn(&self, complaints: &str) {
        for line in complaints.lines() {
            self.task.log(LogLevel::Warn, crate::config::excerpt(line, COMPLAINT_BYTES));
        }
    }

    fn output(&self, work: &Work, whole: &Content, resumed_from: Option<u64>) -> Value {
        json!({
            "path": self.settings.path,
            "frames": work.plan.frames,
            "durationMs": work.plan.duration_ms(),
            "bytes": whole.bytes,
            "sha256": whole.sha256,
            "segments": work.plan.segments(),
            "resumedFrom": resumed_from,
        })
    }
}

fn holds(place: &Confined, whole: &Content) -> bool {
    let Ok((file, stat)) = place.open() else { return false };
    u64::try_from(stat.st_size) == Ok(whole.bytes) && content_of(file).is_ok_and(|found| found == *whole)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
const fn number(count: u64) -> f64 {
    count as f64
}

fn part_of(done: u64, total: u64) -> f64 {
    number(done) / number(total.max(1))
}
