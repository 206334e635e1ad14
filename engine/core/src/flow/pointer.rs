//! Parts of JSON pointers.

/// Writes `key` as a part of a JSON pointer (RFC 6901, section 3).
#[must_use]
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_parts_is_written_otherwise() {
        assert_eq!(escape("a/b~1"), "a~1b~01");
    }
}
