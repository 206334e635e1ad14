//! Where a film is cut. The output has a constant frame rate; a segment is a range of its frames, so that the segments
//! together have each frame exactly once, whatever the input's own timing is.

use std::ops::Range;

use flowmonkey_worker::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Segments of one film: what a checkpoint has room for.
pub(super) const SEGMENTS_MAX: u64 = 4_000;
/// Microseconds in a second.
const SECOND_US: u128 = 1_000_000;
/// Numerator and denominator of rates that are taken for true.
const RATE_PART_MAX: u32 = 1_000_000_000;
/// The highest frame rate.
const RATE_MAX: u32 = 1_000;
/// The part of the frames by which length times rate may differ from the packets, when the rate is constant: one in so many.
const TOLERANCE_PART: u64 = 100;

pub(super) const INPUT_UNREADABLE: &str = "INPUT_UNREADABLE";

/// Frames per second, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rate {
    frames: u32,
    seconds: u32,
}

impl Rate {
    /// As ffprobe spells it: `30000/1001`.
    fn parse(text: &str) -> Option<Self> {
        let (frames, seconds) = text.split_once('/')?;
        let (frames, seconds): (u32, u32) = (frames.parse().ok()?, seconds.parse().ok()?);
        let parts = 1..=RATE_PART_MAX;
        let is_true = parts.contains(&frames) && parts.contains(&seconds) && frames / seconds <= RATE_MAX;
        is_true.then_some(Self { frames, seconds })
    }

    /// Whole frames per second.
    pub(super) const fn whole(frames: u32) -> Self {
        Self { frames, seconds: 1 }
    }

    /// As filters want it.
    pub(super) fn text(self) -> String {
        format!("{}/{}", self.frames, self.seconds)
    }

    /// When a frame begins: microseconds, rounded to the nearest.
    fn begins_us(self, frame: u64) -> u64 {
        let (frames, seconds) = (u128::from(self.frames), u128::from(self.seconds));
        let us = (u128::from(frame) * seconds * SECOND_US + frames / 2) / frames;
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    /// Frames in so many microseconds, rounded to the nearest.
    fn frames_in(self, us: u64) -> u64 {
        let per = u128::from(self.seconds) * SECOND_US;
        u64::try_from((u128::from(us) * u128::from(self.frames) + per / 2) / per).unwrap_or(u64::MAX)
    }
}

/// How a film is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    /// Of the output.
    pub(super) rate: Rate,
    /// Of the output.
    pub(super) frames: u64,
    /// Frames of each segment but the last.
    segment_frames: u64,
    /// Microseconds from the start of the input to its first picture.
    offset_us: u64,
    /// Whether there is sound in the input.
    pub(super) has_audio: bool,
}

/// One segment, as ffmpeg is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where reading begins, in seconds of the input.
    pub(super) seek: String,
    /// Where the segment begins, in seconds after that.
    pub(super) start: String,
    /// Its frames.
    pub(super) frames: u64,
}

impl Plan {
    /// Reads what ffprobe found.
    ///
    /// # Errors
    /// When there is no video in it, its length cannot be told, or it is too long for segments of this length.
    pub(super) fn new(probed: &Value, wanted: Option<Rate>, segment_seconds: u64) -> Result<Self, Failure> {
        let unreadable = |what: &str| Failure::terminal(INPUT_UNREADABLE, format!("the input {what}"));
        let streams = || probed["streams"].as_array().into_iter().flatten();
        let video = streams()
            .find(|stream| stream["codec_type"] == "video")
            .ok_or_else(|| unreadable("has no video"))?;
        let rate = |field: &str| video[field].as_str().and_then(Rate::parse);
        let own = rate("avg_frame_rate").or_else(|| rate("r_frame_rate"));
        let own = own.ok_or_else(|| unreadable("has no frame rate"))?;
        let packets = video["nb_read_packets"].as_str().and_then(|count| count.parse::<u64>().ok());
        let packets = packets.filter(|count| *count > 0).ok_or_else(|| unreadable("has no frames"))?;
        let start = |of: &Value| of["start_time"].as_str().and_then(micros).unwrap_or(0);
        let length = video["duration"].as_str().and_then(micros);
        let length = length.or_else(|| video["tags"]["DURATION"].as_str().and_then(clock));
        let length_us = length.and_then(|length| u64::try_from(length).ok());
        // With a constant rate the packets are the frames; containers round the length.
        let by_length = length_us.map(|us| own.frames_in(us));
        let is_constant =
            by_length.is_none_or(|frames| frames.abs_diff(packets) <= packets / TOLERANCE_PART + 1);
        let own_frames = if is_constant { packets } else { by_length.unwrap_or(packets) };
        let rate = wanted.unwrap_or(own);
        let frames = if rate == own { own_frames } else { rate.frames_in(own.begins_us(own_frames)) }.max(1);
        let segment_frames = rate.frames_in(segment_seconds.saturating_mul(1_000_000)).max(1);
        let offset = start(video).saturating_sub(start(&probed["format"]));
        let plan = Self {
            rate,
            frames,
            segment_frames,
            offset_us: u64::try_from(offset).unwrap_or(0),
            has_audio: streams().any(|stream| stream["codec_type"] == "audio"),
        };
        if plan.segments() > SEGMENTS_MAX {
            let what = format!("would be cut into {} segments; {SEGMENTS_MAX} is the limit", plan.segments());
            return Err(unreadable(&format!("{what}: give a longer `segmentSeconds`")));
        }
        Ok(plan)
    }

    /// How many segments there are.
    pub(super) const fn segments(&self) -> u64 {
        self.frames.div_ceil(self.segment_frames)
    }

    /// The frames of a segment.
    pub(super) fn range(&self, segment: u64) -> Range<u64> {
        let start = self.frames.min(segment.saturating_mul(self.segment_frames));
        start..self.frames.min(start + self.segment_frames)
    }

    /// Where a segment is in the input. Reading begins a second early: a picture that is shown for longer than a frame may be
    /// the segment's first.
    pub(super) fn cut(&self, segment: u64) -> Cut {
        let range = self.range(segment);
        let from = range.start.saturating_sub(self.rate.frames_in(1_000_000));
        let from_us = self.rate.begins_us(from);
        Cut {
            seek: seconds(self.offset_us.saturating_add(from_us)),
            start: seconds(self.rate.begins_us(range.start).saturating_sub(from_us)),
            frames: range.end - range.start,
        }
    }

    /// How long so many frames are, in seconds.
    pub(super) fn length(&self, frames: u64) -> String {
        seconds(self.rate.begins_us(frames))
    }

    /// Where the first picture is in the input, in seconds.
    pub(super) fn offset(&self) -> String {
        seconds(self.offset_us)
    }

    /// How long the film is: milliseconds.
    pub(super) fn duration_ms(&self) -> u64 {
        self.rate.begins_us(self.frames) / 1_000
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Decimal seconds as microseconds.
fn micros(text: &str) -> Option<i64> {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok()?;
    let fraction = format!("{:0<6}", fraction.get(..fraction.len().min(6))?);
    Some(sign * whole.checked_mul(1_000_000)?.checked_add(fraction.parse().ok()?)?)
}

/// Hours, minutes and decimal seconds as microseconds: what Matroska has.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let minutes = hours.parse::<i64>().ok()?.checked_mul(60)?.checked_add(minutes.parse().ok()?)?;
    minutes.checked_mul(60_000_000)?.checked_add(micros(seconds)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn probed(rate: &str, packets: u64, duration: Option<&str>) -> Value {
        let video = json!({ "codec_type": "video", "avg_frame_rate": rate, "r_frame_rate": "30/1", "start_time": "1.423222",
            "nb_read_packets": packets.to_string(), "duration": duration });
        json!({ "streams": [{ "codec_type": "audio" }, video],
            "format": { "start_time": "1.400000", "duration": "12.023" } })
    }

    #[test]
    fn segments_have_each_frame_once_at_any_rate() {
        for rate in ["30/1", "30000/1001", "24000/1001", "25/2", "1000/3", "0/0"] {
            for frames in [1, 2, 299, 300, 301, 12_345] {
                let plan = Plan::new(&probed(rate, frames, None), None, 7);
                let plan = plan.unwrap_or_else(|failure| panic!("{rate} {frames}: {failure:?}"));
                let mut next = 0;
                for segment in 0..plan.segments() {
                    let range = plan.range(segment);
                    assert!(range.start == next && range.end > range.start, "{rate} {frames} {segment}");
                    assert_eq!(plan.cut(segment).frames, range.end - range.start);
                    next = range.end;
                }
                assert_eq!(next, plan.frames);
            }
        }
    }

    #[test]
    fn packets_count_unless_the_rate_is_not_constant() {
        let frames = |duration| Plan::new(&probed("30/1", 360, duration), None, 10).unwrap().frames;
        assert_eq!(frames(Some("12.000000")), 360);
        assert_eq!(frames(Some("12.040000")), 360);
        assert_eq!(frames(Some("20.000000")), 600);
        let mut matroska = probed("30/1", 360, None);
        matroska["streams"][1]["tags"] = json!({ "DURATION": "00:00:20.000000000" });
        assert_eq!(Plan::new(&matroska, None, 10).unwrap().frames, 600);
        let faster = Plan::new(&probed("30/1", 360, Some("12.0")), Some(Rate::whole(50)), 10).unwrap();
        assert_eq!((faster.frames, faster.duration_ms()), (600, 12_000));
    }

    #[test]
    fn a_cut_begins_a_second_early_on_the_grid_of_frames() {
        let plan = Plan::new(&probed("30000/1001", 360, Some("12.012")), None, 2).unwrap();
        assert_eq!(plan.range(2), 120..180);
        let cut = Cut { seek: "3.026222".into(), start: "1.001000".into(), frames: 60 };
        assert_eq!(plan.cut(2), cut, "frame 90 at 3.003 s, and the first picture 0.023222 s after the start");
        assert_eq!(plan.cut(0).start, "0.000000");
        assert_eq!((plan.offset(), plan.length(30)), ("0.023222".into(), "1.001000".into()));
    }

    #[test]
    fn what_cannot_be_cut_is_refused_for_good() {
        let mut silent = probed("30/1", 360, None);
        silent["streams"] = json!([{ "codec_type": "audio" }]);
        for (probed, what) in [
            (json!({}), "has no video"),
            (silent, "has no video"),
            (probed("30/1", 0, None), "has no frames"),
            (probed("30/1", 30 * (SEGMENTS_MAX + 1), None), "segments"),
        ] {
            let failure = Plan::new(&probed, None, 1).unwrap_err();
            assert!(failure.error.message.contains(what), "{}", failure.error.message);
            assert_eq!(
                (failure.error.code.as_str(), failure.error.retryable),
                (INPUT_UNREADABLE, Some(false))
            );
        }
    }

    #[test]
    fn decimal_seconds_are_exact() {
        assert_eq!(micros("12.02"), Some(12_020_000));
        assert_eq!(micros("-0.0213339"), Some(-21_333));
        assert_eq!(micros("7"), Some(7_000_000));
        assert_eq!(micros("N/A"), None);
        assert_eq!(micros("99999999999999999999"), None);
        assert_eq!(clock("01:00:12.023000000"), Some(3_612_023_000));
        assert_eq!(clock("12.02"), None);
    }
}
