//! How far the work is: what a checkpoint holds.

use flowmonkey_plumbing::api::PlumbingError;
use flowmonkey_plumbing::wire::LogLevel;
use flowmonkey_worker::{Failure, Task};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::Plan;
use super::workspace::{Content, Workspace};

/// The input as it was when the work began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Source {
    pub(super) bytes: u64,
    /// Seconds and nanoseconds of the last change.
    pub(super) modified: (i64, i64),
}

/// A segment that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) index: u64,
    /// The attempt that made it.
    pub(super) attempt: u32,
    pub(super) frames: u64,
    #[serde(flatten)]
    pub(super) content: Content,
}

impl Segment {
    /// Its file.
    pub(super) fn name(&self) -> String {
        segment_name(self.index, self.attempt)
    }
}

/// The file of a segment.
pub(super) fn segment_name(index: u64, attempt: u32) -> String {
    format!("segment-{index:05}-a{attempt}.nut")
}

/// How far the work is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Work {
    /// Digest of the settings.
    settings: String,
    source: Source,
    pub(super) plan: Plan,
    /// In the order in which they were done.
    pub(super) segments: Vec<Segment>,
    /// The whole film, once it is verified and about to be put in its place.
    pub(super) whole: Option<Content>,
}

impl Work {
    /// Nothing done yet.
    pub(super) const fn new(settings: String, source: Source, plan: Plan) -> Self {
        Self { settings, source, plan, segments: Vec::new(), whole: None }
    }

    /// The work as earlier attempts left it; none: there is nothing, or it was another film or another encoding.
    ///
    /// # Errors
    /// When the checkpoint cannot be loaded.
    pub(super) async fn load(task: &Task, settings: &str) -> Result<Option<Self>, Failure> {
        let Some(checkpoint) = task.load_checkpoint().await.map_err(|error| refused(&error))? else {
            return Ok(None);
        };
        match checkpoint.data.read::<Option<Self>>() {
            Ok(None) => Ok(None),
            Ok(Some(work)) if work.settings == settings => Ok(Some(work)),
            Ok(Some(_)) | Err(_) => {
                let text = format!("checkpoint {} is of other work; starting anew", checkpoint.id);
                task.log(LogLevel::Warn, text);
                Ok(None)
            }
        }
    }

    /// Whether it is of this very input.
    pub(super) fn is_of(&self, source: &Source) -> bool {
        self.source == *source
    }

    /// Drops the segments whose files are not what they were, or not there: another machine may have had them.
    pub(super) fn keep_whole_segments(&mut self, workspace: &Workspace) {
        let plan = self.plan.clone();
        self.segments.retain(|segment| {
            let range = plan.range(segment.index);
            segment.frames == range.end - range.start && workspace.holds(&segment.name(), &segment.content)
        });
    }

    /// The segments that are still to be made.
    pub(super) fn missing(&self) -> Vec<u64> {
        (0..self.plan.segments())
            .filter(|index| self.segments.iter().all(|segment| segment.index != *index))
            .collect()
    }

    /// Frames of the segments that are done.
    pub(super) fn frames(&self) -> u64 {
        self.segments.iter().map(|segment| segment.frames).sum()
    }

    /// Saves it. When no engine can be reached the work goes on: the next checkpoint holds all of it.
    ///
    /// # Errors
    /// When another attempt has taken over, or the checkpoint is refused: the work must stop.
    pub(super) async fn save(&self, task: &Task) -> Result<(), Failure> {
        match self.try_save(task).await {
            Ok(()) => Ok(()),
            Err(PlumbingError::Unavailable(error)) => {
                task.log(LogLevel::Warn, format!("the checkpoint was not saved: {error}"));
                Ok(())
            }
            Err(error) => Err(refused(&error)),
        }
    }

    /// Saves it, come what may: an attempt that nobody confirms must not go on.
    ///
    /// # Errors
    /// As `save`, and when no engine can be reached.
    pub(super) async fn save_for_sure(&self, task: &Task) -> Result<(), Failure> {
        self.try_save(task).await.map_err(|error| refused(&error))
    }

    async fn try_save(&self, task: &Task) -> Result<(), PlumbingError> {
        // Plain data: it can always be written.
        let data = serde_json::to_value(self).unwrap_or(Value::Null);
        task.save_checkpoint(data).await.map(drop)
    }

    /// Forgets all work: what was made is not what it should be.
    pub(super) async fn forget(task: &Task) -> Result<(), Failure> {
        task.save_checkpoint(Value::Null).await.map(drop).map_err(|error| refused(&error))
    }
}

fn refused(error: &PlumbingError) -> Failure {
    match error {
        PlumbingError::TooLarge { .. } => {
            Failure::terminal("CHECKPOINT_TOO_LARGE", format!("{error}; give a longer `segmentSeconds`"))
        }
        PlumbingError::Stale { .. } | PlumbingError::Refused { .. } | PlumbingError::Unavailable(_) => {
            Failure::new("CHECKPOINT_FAILED", error.to_string())
        }
    }
}
