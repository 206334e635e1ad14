//! Counts what a Rust source holds, without being fooled by comments and texts.

/// What one source holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Lines, as an editor counts them.
    pub(crate) lines: u64,
    /// Lines that hold more than space and comments.
    pub(crate) code_lines: u64,
    /// `unsafe { … }`.
    pub(crate) unsafe_blocks: u64,
    /// `unsafe fn`, `unsafe impl`, `unsafe trait`, `unsafe extern`.
    pub(crate) unsafe_items: u64,
}

/// Lines of a text, as an editor counts them.
pub(crate) fn lines(source: &[u8]) -> u64 {
    let breaks = source.iter().filter(|byte| **byte == b'\n').count();
    let rest = source.last().is_some_and(|last| *last != b'\n');
    u64::try_from(breaks).unwrap_or(u64::MAX).saturating_add(u64::from(rest))
}

/// Counts one source. Any bytes will do: what is not Rust gives numbers without meaning, never an error.
pub(crate) fn count(source: &[u8]) -> Counts {
    let mut scanner = Scanner { source, at: 0, line: 0, last_code_line: None, counts: Counts::default() };
    scanner.scan();
    Counts { lines: lines(source), ..scanner.counts }
}

struct Scanner<'a> {
    source: &'a [u8],
    at: usize,
    line: u64,
    last_code_line: Option<u64>,
    counts: Counts,
}

impl<'a> Scanner<'a> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    /// Passes over one byte.
    fn skip(&mut self) {
        if self.peek(0) == Some(b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn code(&mut self) {
        if self.last_code_line != Some(self.line) {
            self.last_code_line = Some(self.line);
            self.counts.code_lines += 1;
        }
    }

    fn scan(&mut self) {
        // Whether the word before was `unsafe`, with nothing but space and comments since.
        let mut after_unsafe = false;
        while let Some(byte) = self.peek(0) {
            match byte {
                _ if byte.is_ascii_whitespace() => self.skip(),
                b'/' if self.peek(1) == Some(b'/') => self.line_comment(),
                b'/' if self.peek(1) == Some(b'*') => self.block_comment(),
                b'"' => {
                    self.text();
                    // `unsafe extern "C"` was counted at `extern`.
                    after_unsafe = false;
                }
                b'\'' => self.character(),
                _ if is_word(byte) => {
                    let word = self.word();
                    if after_unsafe && matches!(word, b"fn" | b"impl" | b"trait" | b"extern") {
                        self.counts.unsafe_items += 1;
                    }
                    after_unsafe = word == b"unsafe";
                }
                _ => {
                    if after_unsafe && byte == b'{' {
                        self.counts.unsafe_blocks += 1;
                    }
                    after_unsafe = false;
                    self.code();
                    self.skip();
                }
            }
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|byte| byte != b'\n') {
            self.skip();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b'/', Some(b'*')) => depth += 1,
                (b'*', Some(b'/')) => depth = depth.saturating_sub(1),
                _ => {
                    self.skip();
                    continue;
                }
            }
            self.skip();
            self.skip();
            if depth == 0 {
                return;
            }
        }
    }

    fn text(&mut self) {
        self.code();
        self.skip();
        while let Some(byte) = self.peek(0) {
            self.code();
            self.skip();
            match byte {
                b'\\' => self.skip(),
                b'"' => return,
                _ => {}
            }
        }
    }

    /// A raw text, from its first `#` or `"`. False: it is none.
    fn raw_text(&mut self) -> bool {
        let hashes = self.source[self.at..].iter().take_while(|byte| **byte == b'#').count();
        if self.peek(hashes) != Some(b'"') {
            return false;
        }
        let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
        self.at += hashes + 1;
        while self.at < self.source.len() && !self.source[self.at..].starts_with(&end) {
            self.code();
            self.skip();
        }
        self.at = (self.at + end.len()).min(self.source.len());
        true
    }

    /// A character, or the quote of a lifetime.
    fn character(&mut self) {
        self.code();
        self.skip();
        match self.peek(0) {
            Some(b'\\') => {
                self.skip();
                self.skip();
                while self.peek(0).is_some_and(|byte| byte != b'\'' && byte != b'\n') {
                    self.skip();
                }
                self.skip();
            }
            Some(first) => {
                let width = match first {
                    0xf0.. => 4,
                    0xe0.. => 3,
                    0xc0.. => 2,
                    _ => 1,
                };
                if self.peek(width) == Some(b'\'') {
                    for _ in 0..=width {
                        self.skip();
                    }
                }
            }
            None => {}
        }
    }

    /// A word, or a text with a prefix; then the word is the prefix.
    fn word(&mut self) -> &'a [u8] {
        self.code();
        let source = self.source;
        let start = self.at;
        while self.peek(0).is_some_and(is_word) {
            self.at += 1;
        }
        let end = self.at;
        if matches!(&source[start..end], b"r" | b"br" | b"cr") && !self.raw_text() {
            // `r#unsafe` is a name.
            if self.peek(0) == Some(b'#') && self.peek(1).is_some_and(is_word) {
                self.at += 1;
                while self.peek(0).is_some_and(is_word) {
                    self.at += 1;
                }
            }
        }
        &source[start..end]
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_counted_in_code_only() {
        let source = r##"
// unsafe { }
/* unsafe { /* unsafe { */ } */
fn f<'a>(x: &'a str) -> char {
    let a = "unsafe { \" }";
    let b = r#"unsafe { " }"#;
    let c = b"unsafe {";
    let r#unsafe = '{';
    let quote = '\'';
    let e = 'é';
    unsafe { g() };
    unsafe /* why */
    {
        g()
    }
    unsafe_name { }
}
unsafe fn g() {}
unsafe impl Send for X {}
pub unsafe extern "C" fn h() {}
"##;
        let counts = count(source.as_bytes());
        assert_eq!((counts.unsafe_blocks, counts.unsafe_items), (2, 3));
        assert_eq!(counts.lines, 20);
        // All but the empty one at the start and the two comments.
        assert_eq!(counts.code_lines, 17);
    }

    #[test]
    fn broken_sources_end() {
        for source in ["\"", "'", "'\\", "r#\"", "/*", "r#", "b", "'\u{1f600}", "unsafe", "\\", "/"] {
            let counts = count(source.as_bytes());
            assert_eq!(counts.lines, 1, "{source}");
        }
        assert_eq!(count(b""), Counts::default());
        assert_eq!(count(&[0xff; 9]).lines, 1);
    }
}
