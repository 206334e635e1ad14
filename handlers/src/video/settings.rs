//! What a step asks for.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use flowmonkey_worker::Failure;
use serde::Serialize;
use serde_json::Map;
use sha2::{Digest, Sha256};

use super::plan::Rate;
use crate::config::{ConfigError, Fields};
use crate::confined::Confined;
use crate::digest::hex;
use crate::schema::{Table, flag, optional, required_text, whole, words};

/// Seconds of a segment.
const SEGMENT_SECONDS: u64 = 10;
/// Seconds without a word from ffmpeg after which it is taken for stuck.
const STALL_SECONDS: u64 = 120;
/// Characters of the key's digest in the name of the work folder.
const KEY_CHARS: usize = 24;

pub(super) const FIELDS: Table = &[&[
    optional("input", required_text, "The file to encode; required, here or in the input."),
    optional(
        "output",
        required_text,
        "The file to write: .mp4, .m4v, .mov, .mkv or .webm; here or in the input.",
    ),
    optional("segmentSeconds", || whole(&SEGMENTS), "Seconds between checkpoints. Default 10."),
    optional("videoCodec", || words(&CODECS), "libx264 (default), libx265, libvpx-vp9 or libsvtav1."),
    optional("preset", || words(&PRESETS), "Of libx264 and libx265: ultrafast to placebo."),
    optional(
        "crf",
        || whole(&CRFS),
        "Constant quality, 0 to 63 (libx264, libx265: 51). Default: the codec's.",
    ),
    optional("bitrate", || whole(&BITRATES), "Instead of `crf`: bits per second."),
    optional("width", || whole(&SIDES), "Pixels. With only one of both the other keeps the proportions."),
    optional("height", || whole(&SIDES), "Pixels."),
    optional("frameRate", || whole(&RATES), "Frames per second. Default: the input's."),
    optional("audio", || words(&AUDIOS), "aac (default; opus in .webm), opus, copy or none."),
    optional("threads", || whole(&THREADS), "Threads of ffmpeg. Default: its own choice."),
    optional(
        "stallSeconds",
        || whole(&STALLS),
        "Seconds without a word from ffmpeg after which it is stopped. Default 120.",
    ),
    optional(
        "workDirectory",
        required_text,
        "The folder for segments, on the output's file system. Default: the output's folder.",
    ),
    optional("ignoreInput", flag, "`true`: the input does nothing. Default false."),
]];

const SEGMENTS: RangeInclusive<u64> = 1..=3_600;
const CRFS: RangeInclusive<u64> = 0..=63;
/// The highest `crf` of libx264 and libx265.
const CRF_MAX_26X: u64 = 51;
const BITRATES: RangeInclusive<u64> = 10_000..=1_000_000_000;
const SIDES: RangeInclusive<u64> = 16..=16_384;
const RATES: RangeInclusive<u64> = 1..=240;
const THREADS: RangeInclusive<u64> = 1..=256;
const STALLS: RangeInclusive<u64> = 1..=3_600;

const CODECS: [(&str, Codec); 4] = [
    ("libx264", Codec::X264),
    ("libx265", Codec::X265),
    ("libvpx-vp9", Codec::Vp9),
    ("libsvtav1", Codec::Av1),
];
const PRESETS: [(&str, &str); 10] = [
    ("ultrafast", "ultrafast"),
    ("superfast", "superfast"),
    ("veryfast", "veryfast"),
    ("faster", "faster"),
    ("fast", "fast"),
    ("medium", "medium"),
    ("slow", "slow"),
    ("slower", "slower"),
    ("veryslow", "veryslow"),
    ("placebo", "placebo"),
];
const AUDIOS: [(&str, Audio); 4] =
    [("aac", Audio::Aac), ("opus", Audio::Opus), ("copy", Audio::Copy), ("none", Audio::None)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Codec {
    X264,
    X265,
    Vp9,
    Av1,
}

impl Codec {
    const fn name(self) -> &'static str {
        match self {
            Self::X264 => "libx264",
            Self::X265 => "libx265",
            Self::Vp9 => "libvpx-vp9",
            Self::Av1 => "libsvtav1",
        }
    }

    const fn is_26x(self) -> bool {
        match self {
            Self::X264 | Self::X265 => true,
            Self::Vp9 | Self::Av1 => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Audio {
    Aac,
    Opus,
    Copy,
    None,
}

/// What kind of file the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Container {
    Mp4,
    Mov,
    Matroska,
    Webm,
}

impl Container {
    fn of(ending: &str) -> Option<Self> {
        match ending.to_ascii_lowercase().as_str() {
            "mp4" | "m4v" => Some(Self::Mp4),
            "mov" => Some(Self::Mov),
            "mkv" => Some(Self::Matroska),
            "webm" => Some(Self::Webm),
            _ => None,
        }
    }

    const fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Mov => "mov",
            Self::Matroska => "matroska",
            Self::Webm => "webm",
        }
    }
}

/// How to encode. Two attempts with the same of these make the same segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Encoding {
    segment_seconds: u64,
    codec: Codec,
    preset: Option<&'static str>,
    crf: Option<u64>,
    bitrate: Option<u64>,
    width: Option<u64>,
    height: Option<u64>,
    frame_rate: Option<u64>,
    audio: Audio,
    container: Container,
}

/// What a step asks for.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) input: Confined,
    pub(super) output: Confined,
    /// The output as the flow spells it.
    pub(super) path: String,
    /// The folder of this task.
    pub(super) work: Confined,
    pub(super) stall_seconds: u64,
    threads: Option<u64>,
    encoding: Encoding,
}

impl Settings {
    /// Reads `config`, and what it leaves out of both paths from the input; `key` names the task's own folder.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub(super) fn parse(
        fields: &Fields<'_>,
        input: &serde_json::Value,
        roots: &[PathBuf],
        key: &str,
    ) -> Result<Self, Failure> {
        let none = Map::new();
        let ignore_input = fields.flag("ignoreInput", false)?;
        let given = Fields::nested("input.", input.as_object().filter(|_| !ignore_input).unwrap_or(&none));
        let path = |field: &str| match fields.text(field)? {
            Some("") => Err(fields.error(field, "must not be empty")),
            Some(path) => Ok(path.to_owned()),
            None => match given.text(field)? {
                None | Some("") => Err(fields.error(field, "is required")),
                Some(path) => Ok(path.to_owned()),
            },
        };
        let (source, target) = (path("input")?, path("output")?);
        let work = match fields.text("workDirectory")? {
            Some("") => return Err(fields.error("workDirectory", "must not be empty").into()),
            work => work,
        };
        let container = target.rsplit_once('.').and_then(|(_, ending)| Container::of(ending));
        let encoding = Encoding::parse(fields, container)?;
        let threads = fields.number("threads", &THREADS)?;
        let stall_seconds = fields.number("stallSeconds", &STALLS)?.unwrap_or(STALL_SECONDS);
        let (input, output) = (Confined::new(roots, &source)?, Confined::new(roots, &target)?);
        if input.is_same_place(&output) {
            return Err(fields.error("output", "must be another file than the input").into());
        }
        let name = format!(".flowmonkey-video-{}", &hex(&Sha256::digest(key))[..KEY_CHARS]);
        let work = match work {
            Some(folder) => Confined::new(roots, folder)?.child(&name),
            None => output.sibling(&name),
        };
        Ok(Self { input, output, path: target, work, stall_seconds, threads, encoding })
    }

    /// Names everything that segments depend on, besides the input's content.
    pub(super) fn digest(&self) -> String {
        let all = serde_json::json!([self.input.whole(), self.output.whole(), self.encoding]);
        hex(&Sha256::digest(all.to_string()))
    }

    pub(super) const fn segment_seconds(&self) -> u64 {
        self.encoding.segment_seconds
    }

    pub(super) fn frame_rate(&self) -> Option<Rate> {
        self.encoding.frame_rate.and_then(|rate| u32::try_from(rate).ok()).map(Rate::whole)
    }

    /// Whether the output has sound, if the input has.
    pub(super) fn wants_audio(&self) -> bool {
        self.encoding.audio != Audio::None
    }

    /// The muxer of the output.
    pub(super) const fn muxer(&self) -> &'static str {
        self.encoding.container.muxer()
    }

    /// The filter that changes the size of pictures.
    pub(super) fn scale(&self) -> Option<String> {
        let Encoding { width, height, .. } = self.encoding;
        // -2: as the proportions want it, and even.
        let side = |side: Option<u64>| side.map_or_else(|| "-2".to_owned(), |side| side.to_string());
        (width.is_some() || height.is_some()).then(|| format!("scale={}:{}", side(width), side(height)))
    }

    /// ffmpeg's arguments for the video.
    pub(super) fn video(&self) -> Vec<String> {
        let Encoding { codec, preset, crf, bitrate, .. } = &self.encoding;
        let mut arguments = vec!["-c:v".to_owned(), codec.name().to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        if let Some(preset) = preset {
            add("-preset", (*preset).to_owned());
        }
        if let Some(crf) = crf {
            add("-crf", crf.to_string());
            // Else it would be an upper bound of the quality only.
            if *codec == Codec::Vp9 {
                add("-b:v", "0".into());
            }
        }
        if let Some(bitrate) = bitrate {
            add("-b:v", bitrate.to_string());
        }
        if let Some(threads) = self.threads {
            add("-threads", threads.to_string());
        }
        arguments
    }

    /// ffmpeg's arguments for the sound.
    pub(super) fn audio(&self) -> Vec<&'static str> {
        // What begins late begins with silence; what has gaps is filled.
        const FILLED: [&str; 2] = ["-af", "aresample=async=1:first_pts=0"];
        match self.encoding.audio {
            Audio::None => vec!["-an"],
            Audio::Copy => vec!["-c:a", "copy"],
            Audio::Aac => [&["-c:a", "aac"], &FILLED[..]].concat(),
            Audio::Opus => [&["-c:a", "libopus"], &FILLED[..]].concat(),
        }
    }
}

impl Encoding {
    fn parse(fields: &Fields<'_>, container: Option<Container>) -> Result<Self, ConfigError> {
        let codec = fields.choice("videoCodec", &CODECS)?.unwrap_or(Codec::X264);
        let audio = fields.choice("audio", &AUDIOS)?;
        let this = Self {
            segment_seconds: fields.number("segmentSeconds", &SEGMENTS)?.unwrap_or(SEGMENT_SECONDS),
            codec,
            preset: fields.choice("preset", &PRESETS)?,
            crf: fields.number("crf", &CRFS)?,
            bitrate: fields.number("bitrate", &BITRATES)?,
            width: fields.number("width", &SIDES)?,
            height: fields.number("height", &SIDES)?,
            frame_rate: fields.number("frameRate", &RATES)?,
            audio: audio.unwrap_or(match container {
                Some(Container::Webm) => Audio::Opus,
                Some(Container::Mp4 | Container::Mov | Container::Matroska) | None => Audio::Aac,
            }),
            container: container
                .ok_or_else(|| fields.error("output", "must end in .mp4, .m4v, .mov, .mkv or .webm"))?,
        };
        if this.preset.is_some() && !codec.is_26x() {
            return Err(fields.error("preset", "goes with libx264 and libx265 only"));
        }
        if this.crf.is_some() && this.bitrate.is_some() {
            return Err(fields.error("bitrate", "does not go with `crf`: give one of them"));
        }
        if codec.is_26x() && this.crf.is_some_and(|crf| crf > CRF_MAX_26X) {
            return Err(fields.error("crf", format!("is at most {CRF_MAX_26X} with {}", codec.name())));
        }
        // Chroma is stored for two by two pixels.
        for (field, side) in [("width", this.width), ("height", this.height)] {
            if side.is_some_and(|side| side % 2 == 1) {
                return Err(fields.error(field, "must be even"));
            }
        }
        if this.container == Container::Webm {
            if codec.is_26x() {
                return Err(fields.error("videoCodec", "must be libvpx-vp9 or libsvtav1 for .webm"));
            }
            if this.audio == Audio::Aac {
                return Err(fields.error("audio", "cannot be aac in .webm: give opus"));
            }
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(config: &Value, input: &Value) -> Result<Settings, String> {
        let fields = Fields::new(config).unwrap();
        let settings = Settings::parse(&fields, input, &["/srv/a".into()], "key");
        settings.map_err(|failure| failure.error.message)
    }

    #[test]
    fn paths_come_from_the_input_where_config_has_none() {
        let settings = parse(&json!({ "output": "b/o.mp4" }), &json!({ "input": "a/i.mkv", "output": "x" }));
        let settings = settings.unwrap();
        assert_eq!(settings.input.whole(), PathBuf::from("/srv/a/a/i.mkv"));
        let work = settings.work.whole();
        assert_eq!(work.parent().unwrap(), PathBuf::from("/srv/a/b"));
        assert!(work.file_name().unwrap().to_str().unwrap().starts_with(".flowmonkey-video-"));
        let none = parse(&json!({ "ignoreInput": true, "output": "o.mp4" }), &json!({ "input": "i" }));
        assert_eq!(none.unwrap_err(), "config.input: is required");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (change, complaint) in [
            (json!({ "output": "i.mp4" }), "config.output: must be another"),
            (json!({ "output": "./i.mp4" }), "config.output: must be another"),
            (json!({ "output": "o.gif" }), "config.output: must end in"),
            (json!({ "crf": 20, "bitrate": 100_000 }), "config.bitrate: does not go with"),
            (json!({ "crf": 52 }), "config.crf: is at most 51"),
            (json!({ "width": 321 }), "config.width: must be even"),
            (json!({ "videoCodec": "libsvtav1", "preset": "fast" }), "config.preset: goes with"),
            (json!({ "output": "o.webm" }), "config.videoCodec: must be libvpx-vp9"),
            (
                json!({ "output": "o.webm", "videoCodec": "libvpx-vp9", "audio": "aac" }),
                "config.audio: cannot",
            ),
            (json!({ "output": "../o.mp4" }), "`../o.mp4` is out of bounds"),
            (json!({ "workDirectory": "/etc" }), "`/etc` is out of bounds"),
        ] {
            let mut config = json!({ "input": "i.mp4", "output": "o.mp4" });
            config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let said = parse(&config, &Value::Null).unwrap_err();
            assert!(said.starts_with(complaint), "{config}: {said}");
        }
    }

    #[test]
    fn the_digest_is_of_what_segments_depend_on() {
        let digest = |change: Value| {
            let mut config = json!({ "input": "i.mp4", "output": "o.mp4", "crf": 20 });
            config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            parse(&config, &Value::Null).unwrap().digest()
        };
        assert_eq!(digest(json!({})), digest(json!({ "threads": 2, "stallSeconds": 5 })));
        for other in [json!({ "crf": 21 }), json!({ "input": "j.mp4" }), json!({ "segmentSeconds": 2 })] {
            assert_ne!(digest(json!({})), digest(other));
        }
    }
}
