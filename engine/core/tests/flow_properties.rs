//! No text, however broken, makes the parser panic; every issue points inside the text; what was read can be read again.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use flowmonkey_core::flow::graph::mermaid;
use flowmonkey_core::flow::parse::{Format, Severity, parse_document, parse_flow_value};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// All documents of the corpus, valid and invalid.
static CORPUS: LazyLock<Vec<(String, Format)>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flows");
    let mut paths: Vec<_> = ["valid", "invalid"]
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .filter_map(|path| Some((fs::read_to_string(&path).unwrap(), Format::of_path(path.to_str()?)?)))
        .collect()
});

fn check(text: &str, format: Format) {
    let issues = match parse_document(text, format) {
        Ok(document) => {
            for flow in &document.flows {
                let (again, _) = parse_flow_value(&flow.source).unwrap();
                assert_eq!(again.hash, flow.hash);
                assert!(mermaid(flow).starts_with("flowchart TD\n"));
            }
            assert!(document.warnings.iter().all(|issue| issue.severity == Severity::Warning));
            document.warnings
        }
        Err(issues) => {
            assert!(issues.iter().any(|issue| issue.severity == Severity::Error));
            issues
        }
    };
    let text = text.trim_start_matches('\u{feff}');
    let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
    for issue in issues {
        assert!(issue.line >= 1 && issue.column >= 1, "{issue}");
        assert!(issue.line as usize <= widths.len().max(1), "{issue}");
        let width = widths.get(issue.line as usize - 1).copied().unwrap_or(0);
        assert!(issue.column as usize <= width + 1, "{issue}");
        assert!(issue.pointer.is_empty() || issue.pointer.starts_with('/'), "{issue}");
        assert!(!issue.message.is_empty());
    }
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    Remove(Index, usize),
    Repeat(Index, usize),
    Insert(Index, &'static str),
    Truncate(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "'",
        "\n",
        "\n  ",
        "- ",
        "---\n",
        "&a ",
        "*a",
        "!t ",
        "null",
        "-1",
        "1e99",
        "~",
        "|",
        ">",
        "# ",
        "\t",
        "é",
        "\u{0}",
        "\r",
        "${",
        "{{vault.x}}",
        "steps",
        "body: ",
        "<<: ",
        "? ",
        "%",
    ];
    prop_oneof![
        (any::<Index>(), 1..20_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        (any::<Index>(), prop::sample::select(pieces.to_vec()))
            .prop_map(|(at, piece)| Change::Insert(at, piece)),
        any::<Index>().prop_map(Change::Truncate),
    ]
}

fn apply(text: &mut Vec<char>, change: &Change) {
    let place = |at: &Index, text: &Vec<char>| at.index(text.len() + 1);
    match change {
        Change::Remove(at, length) => {
            let at = place(at, text);
            let end = (at + length).min(text.len());
            text.drain(at..end);
        }
        Change::Repeat(at, length) => {
            let at = place(at, text);
            let end = (at + length).min(text.len());
            let copy = text[at..end].to_vec();
            text.splice(at..at, copy);
        }
        Change::Insert(at, piece) => {
            let at = place(at, text);
            text.splice(at..at, piece.chars());
        }
        Change::Truncate(at) => text.truncate(place(at, text)),
    }
}

/// A JSON value that is made of the words of the language.
fn value() -> impl Strategy<Value = Value> {
    let words = [
        "id",
        "version",
        "initialStepId",
        "steps",
        "type",
        "config",
        "input",
        "transitions",
        "onSuccess",
        "a",
        "b",
        "map",
        "loop",
        "parallel",
        "switch",
        "conditional",
        "branches",
        "body",
        "items",
        "cases",
        "default",
        "1.0.0",
        "path",
        "template",
        "${a.b}",
        "when",
        "true",
        "until",
        "retry",
        "maxAttempts",
        "output",
        "static",
        "expr",
        "delay",
        "echo",
    ];
    let word = prop::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..8).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        check(&text, Format::Json);
        check(&text, Format::Yaml);
        check(&text, Format::guess(&text));
    }

    #[test]
    fn changed_documents_never_panic(which in any::<Index>(), changes in prop::collection::vec(change(), 1..6)) {
        let (text, format) = which.get(&CORPUS);
        let mut chars: Vec<char> = text.chars().collect();
        for change in &changes {
            apply(&mut chars, change);
        }
        let text: String = chars.into_iter().collect();
        check(&text, *format);
        check(&text, Format::Yaml);
    }

    #[test]
    fn any_value_is_read_or_refused(value in value()) {
        let from_value = parse_flow_value(&value);
        if let Err(issues) = &from_value {
            prop_assert!(issues.iter().any(|issue| issue.severity == Severity::Error));
            prop_assert!(issues.iter().all(|issue| issue.line == 0));
        }
        check(&value.to_string(), Format::Json);
    }
}

#[test]
fn an_unbounded_number_of_issues_is_cut() {
    let fields: String = (0..5000).map(|number| format!("field{number}: 1\n")).collect();
    let issues = parse_document(&fields, Format::Yaml).unwrap_err();
    assert!(issues.len() <= 502, "{}", issues.len());
    assert!(issues.iter().any(|issue| issue.severity == Severity::Error && issue.code != "too-many-issues"));
    assert!(issues.iter().any(|issue| issue.code == "too-many-issues"));
}
