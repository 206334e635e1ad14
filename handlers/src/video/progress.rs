//! What ffmpeg says while it works: blocks of `key=value` lines (`-progress`), among complaints.

use std::collections::VecDeque;

/// Bytes of a line that are kept.
const LINE_BYTES_MAX: usize = 2 << 10;
/// Complaints that are kept: the last ones.
const COMPLAINTS_MAX: usize = 20;

/// How far one run of ffmpeg is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// Frames put out.
    pub(super) frame: u64,
    /// Frames per second.
    pub(super) fps: Option<f64>,
    /// Microseconds put out.
    pub(super) out_time_us: u64,
    /// Seconds put out per second.
    pub(super) speed: Option<f64>,
}

/// Reads what ffmpeg says, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    report: Report,
    complaints: VecDeque<String>,
}

impl Reader {
    /// Takes the next bytes; the latest report, if one was completed by them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<Report> {
        let mut latest = None;
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                if self.end_line() {
                    latest = Some(self.report.clone());
                }
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
        }
        latest
    }

    /// The report as it stands, and the complaints: the last lines that are no progress.
    pub(super) fn finish(mut self) -> (Report, String) {
        self.end_line();
        (self.report, Vec::from(self.complaints).join("\n"))
    }

    /// Ends a line; whether it ended a block.
    fn end_line(&mut self) -> bool {
        let line = String::from_utf8_lossy(&self.line).trim().to_owned();
        self.line.clear();
        if line.is_empty() {
            return false;
        }
        if let Some((key, value)) = line.split_once('=')
            && let Some(is_end) = self.progress(key, value.trim())
        {
            return is_end;
        }
        if self.complaints.len() == COMPLAINTS_MAX {
            self.complaints.pop_front();
        }
        self.complaints.push_back(line);
        false
    }

    /// Notes a line of a block; whether it is the last. None: it is no such line.
    fn progress(&mut self, key: &str, value: &str) -> Option<bool> {
        match key {
            // Values that are not known yet are `N/A`.
            "frame" => self.report.frame = value.parse().unwrap_or(self.report.frame),
            "fps" => self.report.fps = positive(value),
            "out_time_us" => self.report.out_time_us = value.parse().unwrap_or(self.report.out_time_us),
            "speed" => self.report.speed = positive(value.trim_end_matches('x')),
            "progress" => return Some(true),
            "bitrate" | "total_size" | "out_time_ms" | "out_time" | "dup_frames" | "drop_frames" => {}
            // Quality of a stream: `stream_0_0_q`.
            _ if key.starts_with("stream_") => {}
            _ => return None,
        }
        Some(false)
    }
}

fn positive(value: &str) -> Option<f64> {
    value.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "frame=75\nfps=31.5\nstream_0_0_q=-1.0\nbitrate=1587.1kbits/s\ntotal_size=489374\n\
        out_time_us=2466683\nout_time_ms=2466683\nout_time=00:00:02.466683\ndup_frames=0\ndrop_frames=0\n\
        speed=13.5x\nprogress=continue\n";

    #[test]
    fn a_block_is_a_report_however_it_is_cut() {
        let expected = Report { frame: 75, fps: Some(31.5), out_time_us: 2_466_683, speed: Some(13.5) };
        for at in 0..BLOCK.len() {
            let mut reader = Reader::default();
            assert_eq!(reader.take(&BLOCK.as_bytes()[..at]), None);
            assert_eq!(reader.take(&BLOCK.as_bytes()[at..]), Some(expected.clone()));
            assert_eq!(reader.finish(), (expected.clone(), String::new()));
        }
    }

    #[test]
    fn what_is_no_progress_is_a_complaint() {
        let mut reader = Reader::default();
        let said =
            format!("[libx264 @ 0x1] broken=yes\n{BLOCK}frame=N/A\nspeed=N/A\nprogress=end\nlast words");
        let report = reader.take(said.as_bytes()).unwrap();
        assert_eq!((report.frame, report.speed), (75, None));
        assert_eq!(reader.finish().1, "[libx264 @ 0x1] broken=yes\nlast words");
    }

    #[test]
    fn complaints_are_bounded() {
        let mut reader = Reader::default();
        for number in 0..100 {
            reader.take(format!("{number} {}\n", "x".repeat(10_000)).as_bytes());
        }
        let (_, complaints) = reader.finish();
        assert!(complaints.starts_with("80 x") && complaints.len() <= COMPLAINTS_MAX * (LINE_BYTES_MAX + 1));
    }
}
