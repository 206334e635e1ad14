//! Which events a webhook wants.

use crate::store::Webhook;

/// Bytes of a pattern.
pub const PATTERN_BYTES_MAX: usize = 512;

/// Whether `name` fits `pattern`, in which `*` stands for any text, dots and nothing included.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // The earliest place of each part leaves the most for those after it.
    for part in parts {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

pub(super) fn wants(webhook: &Webhook, name: &str) -> bool {
    webhook.active && webhook.patterns.iter().any(|pattern| matches(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("a.b", "a.b"),
            ("*", ""),
            ("*", "a.b"),
            ("a.*", "a."),
            ("a.*", "a.b.c"),
            ("*.c", "a.b.c"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "ac"),
            ("a*a", "aa"),
            ("*ab*ab", "abab"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a.b", "a.bc"), ("a.b", "xa.b"), ("a.*", "b.a."), ("a*a", "a"), ("a*b*c", "a-c-b"), ("", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
