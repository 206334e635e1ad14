//! The few fields of a Cargo.toml that an audit needs. Published packages carry a manifest that cargo has rewritten, one
//! field a line, so that no TOML parser is needed; of others, `cargo metadata` gives the licence.

/// What a Cargo.toml says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CargoManifest {
    /// SPDX expression.
    pub(crate) licence: Option<String>,
    /// Whether there is a build script; none: it does not say.
    pub(crate) build_script: Option<bool>,
    /// Whether it is a procedural macro.
    pub(crate) proc_macro: bool,
}

impl CargoManifest {
    /// Reads what is there; never fails.
    pub(crate) fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim();
            match (section, key.trim()) {
                ("[package]", "license") => manifest.licence = text_of(value),
                ("[package]", "build") => manifest.build_script = Some(value != "false"),
                ("[lib]", "proc-macro" | "proc_macro") => manifest.proc_macro = value.starts_with("true"),
                _ => {}
            }
        }
        manifest
    }
}

fn text_of(value: &str) -> Option<String> {
    let rest = value.strip_prefix('"')?;
    Some(rest[..rest.find('"')?].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_read_from_their_sections() {
        let text = "[package]\nname = \"x\"\nlicense = \"MIT OR Apache-2.0\" # both\nbuild = \"build.rs\"\n\n\
                    [lib]\nproc-macro = true\n\n[dependencies.license]\nlicense = \"no\"\n";
        let expected = CargoManifest {
            licence: Some("MIT OR Apache-2.0".into()),
            build_script: Some(true),
            proc_macro: true,
        };
        assert_eq!(CargoManifest::parse(text), expected);
        let none = CargoManifest::parse("[package]\nlicense.workspace = true\nbuild = false\n");
        assert_eq!(none, CargoManifest { build_script: Some(false), ..CargoManifest::default() });
        assert_eq!(CargoManifest::parse("license = \""), CargoManifest::default());
    }
}
