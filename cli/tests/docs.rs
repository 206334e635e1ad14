//! What the documents claim is true: every error code has a page, every page a code, and links lead somewhere.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Texts in the sources that look like codes and are none.
const NOT_CODES: &[&str] =
    &["CARGO_PKG_VERSION", "CARGO_MANIFEST_DIR", "CARGO_BIN_EXE_FLOWMONKEY", "NO_COLOR"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// Quoted SCREAMING_SNAKE texts of the sources, tests left out.
fn codes() -> BTreeSet<String> {
    let mut sources = Vec::new();
    for folder in ["engine/core/src", "engine/src", "plumbing/src", "worker-runtime/src", "handlers/src"] {
        files(&root().join(folder), ".rs", &mut sources);
    }
    let mut codes = BTreeSet::new();
    for source in sources {
        let text = fs::read_to_string(&source).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (place, quoted) in text.split('"').enumerate() {
            let is_code = place % 2 == 1
                && quoted.contains('_')
                && quoted.len() > 4
                && quoted.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
                && !quoted.starts_with('_')
                && !quoted.ends_with('_')
                && !quoted.starts_with("FLOWMONKEY_");
            if is_code && !NOT_CODES.contains(&quoted) {
                codes.insert(quoted.to_owned());
            }
        }
    }
    codes
}

#[test]
fn every_error_code_has_a_page() {
    let codes = codes();
    assert!(codes.contains("WAIT_TIMEOUT"), "the search finds codes");
    let missing: Vec<&String> =
        codes.iter().filter(|code| !root().join(format!("docs/errors/{code}.md")).exists()).collect();
    assert!(missing.is_empty(), "codes without a page in docs/errors: {missing:?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    files(&root().join("docs"), ".md", &mut documents);
    files(&root().join("examples"), ".md", &mut documents);
    let mut broken = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") || target.contains(' ') {
                continue;
            }
            if !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{} -> {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
