//! Refuses texts that would nest too deep, before the parser sees them: parser and evaluator recurse.

use std::iter::Peekable;
use std::str::Chars;

/// Nesting of one expression: open brackets, and operators and selections in a row, count one each.
pub const NESTING_MAX: u16 = 96;
/// Brackets within brackets; each costs the parser several calls.
const BRACKETS_MAX: usize = 32;

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("nested deeper than {NESTING_MAX}, or more than {BRACKETS_MAX} brackets deep")]
    TooDeep,
    #[error("a text is not closed, or has an escape that CEL does not know")]
    Text,
    #[error("the character `{}` is not part of CEL", .0.escape_default())]
    Character(char),
}

/// Checks the nesting of `source`. Counts too much rather than too little.
pub(super) fn check(source: &str) -> Result<(), Refused> {
    // Operators in a row, for each open bracket; a comma starts a new row.
    let mut rows = vec![0_usize];
    let mut chars = source.chars().peekable();
    let mut word = String::new();
    while let Some(c) = chars.next() {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        let before = std::mem::take(&mut word);
        if before == "in" {
            count(&mut rows)?;
        }
        match c {
            '"' | '\'' => {
                skip_text(&mut chars, c, before.eq_ignore_ascii_case("r") || is_raw_bytes(&before))?
            }
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            '(' | '[' | '{' => {
                count(&mut rows)?;
                rows.push(0);
                if rows.len() > BRACKETS_MAX {
                    return Err(Refused::TooDeep);
                }
            }
            ')' | ']' | '}' => {
                if rows.len() > 1 {
                    rows.pop();
                }
            }
            ',' => {
                if let Some(row) = rows.last_mut() {
                    *row = 0;
                }
            }
            '.' | '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!' | '&' | '|' | '?' | ':' => {
                count(&mut rows)?;
                // `==`, `&&` … are one operator; `!!` and `--` are read as several, which only counts too much.
                if matches!(c, '=' | '&' | '|' | '<' | '>' | '!') {
                    chars.next_if(|next| matches!(next, '=' | '&' | '|'));
                }
            }
            ' ' | '\t' | '\n' | '\r' | '\u{c}' => {}
            other => return Err(Refused::Character(other)),
        }
    }
    Ok(())
}

fn count(rows: &mut [usize]) -> Result<(), Refused> {
    if let Some(row) = rows.last_mut() {
        *row += 1;
    }
    if rows.iter().sum::<usize>() > usize::from(NESTING_MAX) { Err(Refused::TooDeep) } else { Ok(()) }
}

fn is_raw_bytes(prefix: &str) -> bool {
    prefix.eq_ignore_ascii_case("br") || prefix.eq_ignore_ascii_case("rb")
}

/// Skips the rest of a text whose first quote was read.
fn skip_text(chars: &mut Peekable<Chars<'_>>, quote: char, raw: bool) -> Result<(), Refused> {
    let mut long = false;
    if chars.next_if_eq(&quote).is_some() {
        if chars.next_if_eq(&quote).is_none() {
            return Ok(()); // the empty text
        }
        long = true;
    }
    let mut quotes = 0;
    loop {
        let c = chars.next().ok_or(Refused::Text)?;
        if c == quote {
            quotes += 1;
            if !long || quotes == 3 {
                return Ok(());
            }
            continue;
        }
        quotes = 0;
        match c {
            '\n' | '\r' if !long => return Err(Refused::Text),
            '\\' if !raw => {
                let escaped = chars.next().ok_or(Refused::Text)?;
                if !matches!(
                    escaped,
                    'a' | 'b'
                        | 'f'
                        | 'n'
                        | 'r'
                        | 't'
                        | 'v'
                        | '"'
                        | '\''
                        | '\\'
                        | '?'
                        | '`'
                        | 'x'
                        | 'X'
                        | 'u'
                        | 'U'
                        | '0'..='3'
                ) {
                    return Err(Refused::Text);
                }
            }
            _ => {}
        }
    }
}
