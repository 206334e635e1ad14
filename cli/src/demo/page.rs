//! The HTML page of an audit: one file without any other, for light and dark.

use std::fmt::Write as _;

use super::package_audit::Audit;
use super::report::Findings;

const TEMPLATE: &str = include_str!("page.html");
/// Bars in one chart.
const BARS_MAX: usize = 12;
/// Characters of a bar's label.
const LABEL_CHARS_MAX: usize = 34;

/// A column of the table: its name, whether it holds numbers, and the cell of a package.
type Column = (&'static str, bool, fn(&Audit) -> String);

const COLUMNS: [Column; 10] = [
    ("Package", false, |audit| {
        format!("{} <small>{}</small>", escaped(&audit.name), escaped(&audit.version))
    }),
    ("Licence", false, |audit| escaped(&audit.licence)),
    ("Licence texts", false, |audit| escaped(&audit.licence_files.join(", "))),
    ("Runs at build", false, |audit| match (audit.build_script, audit.proc_macro) {
        (true, true) => "script, macro".into(),
        (true, false) => "script".into(),
        (false, true) => "macro".into(),
        (false, false) => String::new(),
    }),
    ("Rust lines", true, |audit| audit.rust_lines.to_string()),
    ("C lines", true, |audit| audit.c_lines.to_string()),
    ("Unsafe blocks", true, |audit| audit.unsafe_blocks.to_string()),
    ("Files", true, |audit| audit.files.to_string()),
    ("Bytes", true, |audit| audit.bytes.to_string()),
    ("ms", true, |audit| audit.duration_ms.to_string()),
];

/// The page.
pub(crate) fn html(findings: &Findings) -> String {
    let mut largest: Vec<_> =
        findings.audited().map(|audit| (audit.name.clone(), audit.rust_lines)).collect();
    let mut unsafest: Vec<_> =
        findings.audited().map(|audit| (audit.name.clone(), audit.unsafe_blocks)).collect();
    for values in [&mut largest, &mut unsafest] {
        values.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    }
    let licences: Vec<_> =
        findings.licences().into_iter().map(|(licence, count)| (licence, count as u64)).collect();
    fill(&[
        ("lead", lead(findings)),
        ("totals", totals(findings)),
        ("problems", problems(findings)),
        ("largest", bars("Packages with the most lines of Rust", &largest)),
        ("unsafest", bars("Packages with the most unsafe blocks", &unsafest)),
        ("licences", bars("Licences by number of packages", &licences)),
        ("heads", heads()),
        ("rows", rows(findings)),
        (
            "foot",
            format!(
                "Packages by {}. Counted in the sources themselves, tests and examples included; the audits took {} ms \
                 of handlers' time. Made by <code>flowmonkey demo</code>.",
                escaped(&findings.from),
                grouped(findings.totals.duration_ms),
            ),
        ),
    ])
}

/// The template with its places filled in, in one pass: what is filled in is never read as a place.
fn fill(parts: &[(&str, String)]) -> String {
    let mut page =
        String::with_capacity(TEMPLATE.len() + parts.iter().map(|(_, text)| text.len()).sum::<usize>());
    let mut rest = TEMPLATE;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        if let Some((_, text)) = parts.iter().find(|(part, _)| *part == name) {
            page.push_str(text);
        }
        rest = after;
    }
    page.push_str(rest);
    page
}

fn lead(findings: &Findings) -> String {
    let good = findings.verdict == "accepted";
    format!(
        "{} packages, audited on {}. <span class=\"verdict {}\">{}</span>",
        findings.packages.len(),
        escaped(&findings.started_at),
        if good { "good" } else { "bad" },
        escaped(&findings.verdict),
    )
}

fn totals(findings: &Findings) -> String {
    let totals = &findings.totals;
    let scripts = findings.audited().filter(|audit| audit.build_script).count() as u64;
    let cards = [
        ("packages", findings.audited().count() as u64),
        ("files", totals.files),
        ("bytes", totals.bytes),
        ("lines of Rust", totals.rust_lines),
        ("lines of C", totals.c_lines),
        ("unsafe blocks", totals.unsafe_blocks),
        ("build scripts", scripts),
    ];
    cards.iter().fold(String::new(), |mut html, (name, value)| {
        let number = if *name == "bytes" { bytes(*value) } else { grouped(*value) };
        // Writing to a String cannot fail.
        writeln!(
            html,
            "<div><dt>{name}</dt><dd data-total=\"{name}\" data-value=\"{value}\">{number}</dd></div>"
        )
        .ok();
        html
    })
}

fn problems(findings: &Findings) -> String {
    let mut html = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines = lines.join("</li><li>");
            writeln!(html, "<section class=\"problem\"><h2>{title}</h2><ul><li>{lines}</li></ul></section>")
                .ok();
        }
    };
    let flagged = findings.audited().filter(|audit| !audit.licence_allowed).map(|audit| {
        let licence = if audit.licence.is_empty() { "none given" } else { &audit.licence };
        format!("{} {}: <code>{}</code>", escaped(&audit.name), escaped(&audit.version), escaped(licence))
    });
    section("Licences outside the allow-list", flagged.collect());
    let failed = findings.failed().map(|package| escaped(&format!("{} {}", package.name, package.version)));
    section("Could not be audited", failed.collect());
    section("Not on this machine", findings.not_here.iter().map(|package| escaped(package)).collect());
    html
}

fn heads() -> String {
    COLUMNS.iter().fold(String::new(), |mut html, (name, number, _)| {
        let class = if *number { " class=\"n\"" } else { "" };
        write!(html, "<th{class} scope=\"col\"><button type=\"button\">{name}</button></th>").ok();
        html
    })
}

fn rows(findings: &Findings) -> String {
    let mut html = String::new();
    for audit in findings.audited() {
        let class = if audit.licence_allowed { "" } else { " class=\"flagged\"" };
        write!(html, "<tr{class} data-package=\"{}\">", escaped(&audit.name)).ok();
        for (name, number, cell) in COLUMNS {
            let cell = cell(audit);
            match (number, name) {
                (true, _) => {
                    let shown = cell.parse().map_or_else(|_| cell.clone(), grouped);
                    write!(html, "<td class=\"n\" data-value=\"{cell}\">{shown}</td>").ok();
                }
                (false, "Licence") => {
                    write!(html, "<td class=\"licence\">{cell}</td>").ok();
                }
                (false, _) => {
                    write!(html, "<td>{cell}</td>").ok();
                }
            }
        }
        html.push_str("</tr>\n");
    }
    html
}

/// A chart of horizontal bars, as SVG; the first values, largest first.
fn bars(title: &str, values: &[(String, u64)]) -> String {
    const WIDTH: u64 = 520;
    const ROW: usize = 24;
    const LABEL: u64 = 215;
    const TRACK: u64 = 230;
    let values = &values[..values.len().min(BARS_MAX)];
    let most = values.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let height = values.len() * ROW;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n");
    for (row, (label, value)) in values.iter().enumerate() {
        let top = row * ROW;
        let length = (u128::from(TRACK) * u128::from(*value) / u128::from(most)).max(1);
        let (label, value, end) = (escaped(&shortened(label)), grouped(*value), LABEL + TRACK + 8);
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"track\" x=\"{LABEL}\" y=\"{bar}\" width=\"{TRACK}\" height=\"14\" rx=\"3\"/>\
             <rect class=\"bar\" x=\"{LABEL}\" y=\"{bar}\" width=\"{length}\" height=\"14\" rx=\"3\"/>\
             <text class=\"value\" x=\"{end}\" y=\"{base}\">{value}</text>",
            LABEL - 8,
            base = top + 16,
            bar = top + 5,
        )
        .ok();
    }
    svg.push_str("</svg>\n");
    svg
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= LABEL_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(LABEL_CHARS_MAX - 1).chain(['…']).collect()
}

/// A number with thin spaces between groups of three digits.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a whole part.
pub(crate) fn bytes(value: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    units.iter().find(|(shift, _)| value >> shift > 0).map_or_else(
        || format!("{value} B"),
        |(shift, unit)| {
            let tenths = (u128::from(value) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            _ => html.push(character),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::super::packages::Package;
    use super::super::report::Totals;
    use super::*;

    fn findings() -> Findings {
        let package = |name: &str| Package {
            name: name.into(),
            version: "1.0.0".into(),
            licence: None,
            manifest_path: "Cargo.toml".into(),
            member_of: None,
        };
        let audit = |name: &str, licence: &str, rust_lines: u64| Audit {
            name: name.into(),
            version: "1.0.0".into(),
            licence: licence.into(),
            licence_allowed: licence == "MIT",
            rust_lines,
            ..Audit::default()
        };
        Findings {
            directory: "report".into(),
            started_at: "2026-02-03T04:05:06Z".into(),
            packages: vec![package("small"), package("lost"), package("<large>")],
            not_here: vec!["absent 2.0.0".into()],
            from: "cargo metadata".into(),
            audits: vec![Some(audit("small", "MIT", 10)), None, Some(audit("<large>", "{{rows}}", 12_345))],
            totals: Totals { rust_lines: 12_355, ..Totals::default() },
            verdict: "needs a look".into(),
        }
    }

    #[test]
    fn the_page_shows_all_packages_and_trusts_none_of_them() {
        let html = html(&findings());
        assert_eq!(
            html.matches("<tr data-package=").count() + html.matches("<tr class=\"flagged\"").count(),
            2
        );
        assert!(html.contains("<tr class=\"flagged\" data-package=\"&lt;large&gt;\">"));
        assert!(html.contains("data-total=\"lines of Rust\" data-value=\"12355\">12\u{202f}355<"));
        assert!(html.contains("<li>lost 1.0.0</li>") && html.contains("<li>absent 2.0.0</li>"));
        assert!(html.contains("<code>{{rows}}</code>"), "what is filled in is not filled in again");
        assert!(!html.contains("<large>"));
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
        // The longest bar is the first.
        let chart = html.split("aria-label=\"Packages with the most lines of Rust\"").nth(1).unwrap();
        let lengths: Vec<u64> = chart
            .split("</svg>")
            .next()
            .unwrap()
            .split("class=\"bar\"")
            .skip(1)
            .map(|bar| bar.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(lengths, [230, 1]);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "17179869183.9 GiB");
    }
}
