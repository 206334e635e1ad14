//! Runs ffmpeg and ffprobe. What they make they hand over by a pipe: once the worker is gone, or has given the task up,
//! they cannot go on with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use flowmonkey_worker::child::process::{Captured, Full, Group, Keep, inherit, tail};
use flowmonkey_worker::{Failure, Task};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::plan::INPUT_UNREADABLE;
use super::progress::{Reader, Report};
use super::workspace::{Content, Passing};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of what ffprobe finds.
const PROBED_BYTES_MAX: usize = 1 << 20;
/// Bytes of complaints that go into a failure.
const COMPLAINTS_BYTES: usize = 4 << 10;
/// The formats that are read: those that hold one film. Lists of other files, and everything that leads to networks or
/// devices, are not among them.
const FORMATS: &str = "mov,matroska,webm,mpegts,mpeg,mpegvideo,avi,asf,flv,ogg,nut,mxf,wav,h264,hevc,ivf,m4v,yuv4mpegpipe,dv,gif";

const ENCODING_FAILED: &str = "ENCODING_FAILED";

/// Where the input is for ffmpeg: it is opened by us.
pub(super) const STDIN: &str = "file:/dev/stdin";

/// ffmpeg and ffprobe, for one task.
#[derive(Clone, Copy)]
pub(super) struct Tools<'a> {
    pub(super) task: &'a Task,
    pub(super) ffmpeg: &'a Path,
    pub(super) ffprobe: &'a Path,
    /// How long ffmpeg may be silent.
    pub(super) stall: Duration,
}

/// What a run of ffmpeg made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) report: Report,
    /// What went through the pipe.
    pub(super) content: Content,
    /// What it complained of, though it ended well.
    pub(super) complaints: String,
}

/// Why a run came to no end of its own.
enum Broken {
    Silent,
    Pipe(std::io::Error),
}

/// Options for an input that is not ours.
pub(super) fn restricted() -> [&'static str; 4] {
    ["-protocol_whitelist", "file", "-format_whitelist", FORMATS]
}

pub(super) fn aborted() -> Failure {
    Failure::new("ABORTED", "the task was stopped")
}

impl Tools<'_> {
    /// Runs ffmpeg: `input` is its standard input, what it puts out goes to `sink`, and `on` hears how far it is.
    ///
    /// # Errors
    /// When it cannot be started, is silent for too long, ends with an error, or the task is to stop.
    pub(super) async fn ffmpeg(
        &self,
        arguments: &[String],
        directory: Option<PathBuf>,
        input: File,
        sink: Option<File>,
        on: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<Made, Failure> {
        let mut command = Command::new(self.ffmpeg);
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-nostats", "-progress", "pipe:2"]);
        command.args(arguments).stdin(Stdio::from(input)).stderr(Stdio::piped());
        command.stdout(if sink.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        let mut group = start(&mut command, self.ffmpeg)?;
        let (out, err) = (group.child.stdout.take(), group.child.stderr.take());
        let mut reader = Reader::default();
        let ended = {
            let work = async {
                let pumped = async { pump(out, sink).await.map_err(Broken::Pipe) };
                let heard = async {
                    let Some(err) = err else { return Ok(()) };
                    listen(err, self.stall, &mut reader, on).await
                };
                let (content, ()) = tokio::try_join!(pumped, heard)?;
                Ok((content, group.wait().await.map_err(Broken::Pipe)?))
            };
            tokio::select! {
                ended = Box::pin(work) => ended,
                () = self.task.cancelled.cancelled() => return Err(aborted()),
            }
        };
        group.kill();
        let (report, complaints) = reader.finish();
        let (content, status): (Content, ExitStatus) = ended.map_err(|broken| {
            let message = match broken {
                Broken::Silent => format!("ffmpeg was silent for {} s", self.stall.as_secs()),
                Broken::Pipe(error) => format!("what ffmpeg made cannot be kept: {error}"),
            };
            failed(ENCODING_FAILED, message, None, &complaints)
        })?;
        if !status.success() {
            return Err(failed(ENCODING_FAILED, ended_with("ffmpeg", status), status.code(), &complaints));
        }
        Ok(Made { report, content, complaints })
    }

    /// Runs ffprobe on a file; what it finds, and what it complained of.
    ///
    /// # Errors
    /// `INPUT_UNREADABLE` when the file is no film; and when ffprobe cannot be started or the task is to stop.
    pub(super) async fn ffprobe(&self, arguments: &[&str], input: File) -> Result<(Value, String), Failure> {
        let mut command = Command::new(self.ffprobe);
        command.args(["-v", "error"]).args(restricted()).args(arguments).args(["-of", "json", STDIN]);
        command.stdin(Stdio::from(input)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut group = start(&mut command, self.ffprobe)?;
        let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
        let mut out = Captured::new(Keep::First(PROBED_BYTES_MAX));
        let mut err = Captured::new(Keep::Last(COMPLAINTS_BYTES));
        let read = {
            let work = async { tokio::try_join!(out.read(stdout), err.read(stderr)).map(drop) };
            tokio::select! {
                read = Box::pin(work) => read,
                () = self.task.cancelled.cancelled() => return Err(aborted()),
            }
        };
        let complaints = err.text().trim().to_owned();
        let unreadable = |message: String, code| {
            let mut failure = failed(INPUT_UNREADABLE, message, code, &complaints);
            failure.error.retryable = Some(false);
            failure
        };
        if read == Err(Full) {
            return Err(unreadable("ffprobe found too much".into(), None));
        }
        let status = group.wait().await;
        let status = status.map_err(|error| Failure::new(ENCODING_FAILED, error.to_string()))?;
        // A signal says nothing of the file.
        if status.code().is_none() {
            return Err(failed(ENCODING_FAILED, ended_with("ffprobe", status), None, &complaints));
        }
        let found = serde_json::from_str(&out.text()).ok().filter(|_| status.success());
        let found = found.ok_or_else(|| unreadable(ended_with("ffprobe", status), status.code()))?;
        Ok((found, complaints))
    }
}

fn start(command: &mut Command, program: &Path) -> Result<Group, Failure> {
    inherit(command, []);
    Group::spawn(command).map_err(|error| {
        let message = format!("`{}` cannot be started: {error}", program.display());
        let kind = error.kind();
        let is_absent = matches!(kind, std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied);
        let code = if is_absent { "FFMPEG_NOT_FOUND" } else { ENCODING_FAILED };
        // Another worker may have it.
        Failure::new(code, message)
    })
}

fn ended_with(program: &str, status: ExitStatus) -> String {
    let how = status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"));
    format!("{program} ended with {how}")
}

fn failed(code: &str, mut message: String, exit_code: Option<i32>, complaints: &str) -> Failure {
    let stderr = tail(complaints, COMPLAINTS_BYTES);
    if let Some(last) = stderr.lines().last() {
        message = format!("{message}: {last}");
    }
    Failure::new(code, message).details(json!({ "exitCode": exit_code, "stderr": stderr }))
}

/// Takes a pipe to its end into a file, which is then on the disk.
async fn pump(source: Option<impl AsyncRead + Unpin>, sink: Option<File>) -> std::io::Result<Content> {
    let mut passing = Passing::default();
    if let (Some(mut source), Some(sink)) = (source, sink) {
        let mut sink = tokio::fs::File::from_std(sink);
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        loop {
            let read = source.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            passing.take(&buffer[..read]);
            sink.write_all(&buffer[..read]).await?;
        }
        sink.sync_all().await?;
    }
    Ok(passing.content())
}

/// Hears what ffmpeg says to its end.
async fn listen(
    mut source: impl AsyncRead + Unpin,
    stall: Duration,
    reader: &mut Reader,
    on: &mut (dyn FnMut(&Report) + Send),
) -> Result<(), Broken> {
    let mut buffer = vec![0_u8; CHUNK_BYTES];
    loop {
        let read = tokio::time::timeout(stall, source.read(&mut buffer)).await;
        match read.map_err(|_elapsed| Broken::Silent)?.map_err(Broken::Pipe)? {
            0 => return Ok(()),
            read => {
                if let Some(report) = reader.take(&buffer[..read]) {
                    on(&report);
                }
            }
        }
    }
}
