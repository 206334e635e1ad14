//! What the crates may depend on: the core on nothing that talks, sleeps or draws; nobody on anything that is not pure Rust
//! cryptography or that has a licence we cannot ship.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What would make the core impure: I/O, clocks, chance, logs.
const IMPURE: [&str; 9] = ["axum", "hyper", "mio", "rand", "redis", "reqwest", "sqlx", "tokio", "tracing"];
/// Cryptography that is not built from Rust alone.
const FOREIGN: [&str; 3] = ["openssl", "native-tls", "aws-lc"];
/// Looks for the system's certificate files, and is Rust alone in spite of its name; the platform verifier of rustls uses it.
const PURE_IN_SPITE_OF_THE_NAME: &str = "openssl-probe";
/// Licences that what we ship may have.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

struct Packages {
    names: BTreeMap<String, String>,
    licences: BTreeMap<String, Option<String>>,
    /// By package id: ids of its dependencies, tests' own left out.
    uses: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

impl Packages {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let mut packages = Self {
            names: BTreeMap::new(),
            licences: BTreeMap::new(),
            uses: BTreeMap::new(),
            members: list(&metadata["workspace_members"]).iter().map(text).collect(),
        };
        for package in list(&metadata["packages"]) {
            let id = text(&package["id"]);
            packages.names.insert(id.clone(), text(&package["name"]));
            packages.licences.insert(id, package["license"].as_str().map(str::to_owned));
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let uses = list(&node["deps"])
                .iter()
                .filter(|used| {
                    list(&used["dep_kinds"]).iter().any(|kind| kind["kind"].as_str() != Some("dev"))
                })
                .map(|used| text(&used["pkg"]))
                .collect();
            packages.uses.insert(text(&node["id"]), uses);
        }
        packages
    }

    fn id(&self, name: &str) -> &String {
        self.members.iter().find(|id| self.names[*id] == name).unwrap_or_else(|| panic!("no crate {name}"))
    }

    /// Everything that is built into `roots`, themselves included.
    fn closure<'a>(&'a self, roots: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a String> {
        let mut open: Vec<&String> = roots.into_iter().collect();
        let mut reached = BTreeSet::new();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend(&self.uses[id]);
            }
        }
        reached
    }

    fn names_behind(&self, name: &str) -> BTreeSet<&str> {
        self.closure([self.id(name)]).into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

/// Whether an SPDX expression can be satisfied with allowed licences alone. `/` is the old spelling of `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (allowed, rest) = any_of(&words);
    allowed && rest.is_empty()
}

fn any_of<'w>(words: &'w [&'w str]) -> (bool, &'w [&'w str]) {
    let (mut allowed, mut rest) = all_of(words);
    while let ["OR", tail @ ..] = rest {
        let (other, behind) = all_of(tail);
        allowed |= other;
        rest = behind;
    }
    (allowed, rest)
}

fn all_of<'w>(words: &'w [&'w str]) -> (bool, &'w [&'w str]) {
    let (mut allowed, mut rest) = one(words);
    while let ["AND", tail @ ..] = rest {
        let (other, behind) = one(tail);
        allowed &= other;
        rest = behind;
    }
    (allowed, rest)
}

fn one<'w>(words: &'w [&'w str]) -> (bool, &'w [&'w str]) {
    match words {
        ["(", tail @ ..] => match any_of(tail) {
            (allowed, [")", rest @ ..]) => (allowed, rest),
            (_, rest) => (false, rest),
        },
        [licence, "WITH", exception, rest @ ..] => {
            (ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()), rest)
        }
        [licence, rest @ ..] => (ALLOWED.contains(licence), rest),
        [] => (false, &[]),
    }
}

#[test]
fn licence_expressions_are_read() {
    for (expression, wanted) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("MIT OR GPL-3.0-only", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("GPL-2.0-only OR MIT AND GPL-3.0-only", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", true),
        ("GPL-3.0-only WITH LLVM-exception", false),
        ("MIT/Apache-2.0", true),
        ("(MIT", false),
        ("MIT MIT", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), wanted, "{expression}");
    }
}

#[test]
fn the_core_is_pure() {
    let packages = Packages::read();
    let names = packages.names_behind("flowmonkey-core");
    for impure in IMPURE {
        assert!(!names.contains(impure), "flowmonkey-core depends on {impure}");
    }
    assert!(names.contains("serde_json"), "the closure is read");
}

#[test]
fn the_crates_are_layered() {
    let packages = Packages::read();
    for (name, unwanted) in [
        ("flowmonkey-engine", vec!["flowmonkey-handlers", "flowmonkey-worker"]),
        ("flowmonkey-plumbing", vec!["flowmonkey-engine", "flowmonkey-core"]),
        ("flowmonkey-core", vec!["flowmonkey-engine", "flowmonkey-plumbing"]),
    ] {
        let names = packages.names_behind(name);
        for unwanted in unwanted {
            assert!(!names.contains(unwanted), "{name} depends on {unwanted}");
        }
    }
}

#[test]
fn nothing_foreign_and_nothing_that_cannot_be_shipped() {
    let packages = Packages::read();
    let mut wrong = Vec::new();
    for id in packages.closure(&packages.members) {
        let name = &packages.names[id];
        if name != PURE_IN_SPITE_OF_THE_NAME && FOREIGN.iter().any(|foreign| name.starts_with(foreign)) {
            wrong.push(format!("{name} is not pure Rust"));
        }
        let licence = packages.licences[id].as_deref().unwrap_or_default();
        if !is_allowed(licence) {
            wrong.push(format!("{name} has the licence `{licence}`"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
