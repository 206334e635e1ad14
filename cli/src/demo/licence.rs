//! Licence expressions (SPDX), and what a licence text looks like.

use std::iter::Peekable;

/// Depth of parentheses that is followed.
const DEPTH_MAX: usize = 32;

/// Whether `expression` can be met with the licences of `allowed` alone. An expression that cannot be read cannot be met.
/// `X WITH exception` counts as `X`, since exceptions only allow more; `/` is an old spelling of OR.
pub(crate) fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let met = either(&mut words, allowed, DEPTH_MAX);
    words.peek().is_none() && met == Some(true)
}

fn either<'a>(
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
    allowed: &[String],
    depth: usize,
) -> Option<bool> {
    let mut met = both(words, allowed, depth)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words, allowed, depth)?;
    }
    Some(met)
}

fn both<'a>(
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
    allowed: &[String],
    depth: usize,
) -> Option<bool> {
    let mut met = one(words, allowed, depth)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed, depth)?;
    }
    Some(met)
}

fn one<'a>(
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
    allowed: &[String],
    depth: usize,
) -> Option<bool> {
    match words.next()? {
        // As a trait object, or each depth would be a type of its own.
        "(" => {
            let words: &mut dyn Iterator<Item = &'a str> = words;
            let mut inner = Vec::new();
            let mut open = 1_usize;
            for word in words {
                match word {
                    "(" => open += 1,
                    ")" => open -= 1,
                    _ => {}
                }
                if open == 0 {
                    break;
                }
                inner.push(word);
            }
            if open > 0 {
                return None;
            }
            let mut inner = inner.into_iter().peekable();
            let met = either(&mut inner, allowed, depth.checked_sub(1)?)?;
            inner.peek().is_none().then_some(met)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence => {
            if words.next_if_eq(&"WITH").is_some() {
                words.next()?;
            }
            Some(allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(licence)))
        }
    }
}

/// Phrases that tell licence texts apart; the first that is found decides.
const PHRASES: [(&str, &str); 13] = [
    ("gnu lesser general public license", "LGPL"),
    ("gnu general public license", "GPL"),
    ("mozilla public license", "MPL"),
    ("community data license agreement", "CDLA"),
    ("boost software license", "BSL-1.0"),
    ("unicode license v3", "Unicode-3.0"),
    ("unicode, inc. license agreement", "Unicode"),
    ("this is free and unencumbered software", "Unlicense"),
    ("apache license", "Apache-2.0"),
    ("redistribution and use in source and binary forms", "BSD"),
    ("permission is hereby granted, free of charge", "MIT"),
    ("permission to use, copy, modify, and", "ISC"),
    ("this software is provided 'as-is'", "Zlib"),
];

/// What the text of a licence looks like.
pub(crate) fn looks_like(text: &str) -> &'static str {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ").to_lowercase();
    PHRASES.iter().find(|(phrase, _)| text.contains(phrase)).map_or("unknown", |(_, licence)| *licence)
}

/// Whether a file of this name holds a licence.
pub(crate) fn is_licence_file(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "UNLICENSE", "COPYRIGHT", "NOTICE"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(expression: &str) -> bool {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"].map(String::from);
        is_met(expression, &allowed)
    }

    #[test]
    fn expressions_are_met_by_the_allowed_licences_alone() {
        assert!(met("MIT"));
        assert!(met("mit"));
        assert!(met("GPL-3.0 OR MIT"));
        assert!(met("MIT/Apache-2.0"));
        assert!(met("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(met("Apache-2.0 WITH LLVM-exception"));
        assert!(met("((MIT))"));
        assert!(!met("GPL-3.0"));
        assert!(!met("MIT AND GPL-3.0"));
        assert!(!met("MIT AND (GPL-3.0 OR ISC)"));
        // AND binds closer than OR.
        assert!(met("MIT OR GPL-3.0 AND ISC"));
    }

    #[test]
    fn expressions_that_cannot_be_read_are_not_met() {
        for expression in
            ["", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT MIT", "MIT WITH", "()", "MIT AND AND MIT"]
        {
            assert!(!met(expression), "{expression}");
        }
        assert!(!met(&format!("{}MIT{}", "(".repeat(100_000), ")".repeat(100_000))));
    }

    #[test]
    fn texts_are_told_apart() {
        assert_eq!(looks_like("Permission is hereby\n  granted, free of charge, to any"), "MIT");
        assert_eq!(looks_like("Apache License\nVersion 2.0"), "Apache-2.0");
        assert_eq!(looks_like("do what you want"), "unknown");
        assert!(
            is_licence_file("LICENSE-MIT") && is_licence_file("Copying.txt") && !is_licence_file("README.md")
        );
    }
}
