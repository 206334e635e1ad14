//! Results for people: records, lists, histories.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Characters of one value in a table.
const CELL_CHARACTERS_MAX: usize = 120;

/// A table with `header`; empty cells for what is missing.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim().to_owned()).collect();
    lines.join("\n")
}

/// A value in one line: texts as they are, the rest as JSON.
pub(crate) fn line(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    // Control characters of data must not steer a terminal.
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// As [`line`]; long ones are cut.
pub(crate) fn cell(value: &Value) -> String {
    let text = line(value);
    let mut short: String = text.chars().take(CELL_CHARACTERS_MAX + 1).collect();
    if short.chars().count() > CELL_CHARACTERS_MAX {
        short = short.chars().take(CELL_CHARACTERS_MAX - 1).chain(['…']).collect();
    }
    short
}

/// What is at `path` in an object: keys, separated by dots.
pub(crate) fn at<'a>(item: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(item, |value, key| &value[key])
}

/// Rows of objects, by the keys in `columns`; dots lead into objects.
pub(crate) fn rows(items: &Value, columns: &[(&str, &str)]) -> String {
    let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let items = items.as_array().map_or(&[][..], Vec::as_slice);
    table(&header, items.iter().map(|item| columns.iter().map(|(_, key)| cell(at(item, key))).collect()))
}

/// As [`rows`]; long values are not cut.
pub(crate) fn lines(items: &Value, columns: &[(&str, &str)]) -> String {
    let header: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let items = items.as_array().map_or(&[][..], Vec::as_slice);
    table(&header, items.iter().map(|item| columns.iter().map(|(_, key)| line(at(item, key))).collect()))
}

/// The fields of an object, one a line; what has an inside stands below its name.
pub(crate) fn fields(value: &Value) -> String {
    crate::output::yaml(value)
}

/// One execution as a whole.
pub(crate) fn record(record: &Value) -> String {
    let mut text = format!(
        "{}  {}@{}  {}\n",
        cell(&record["id"]),
        cell(&record["flowId"]),
        cell(&record["flowVersion"]),
        cell(&record["status"])
    );
    if let Some(reason) = record["waitingReason"].as_str() {
        text.push_str(&format!("waits for: {}\n", line(&reason.into())));
    }
    let error = &record["error"];
    if error.is_object() {
        let step = error["stepId"].as_str().map_or_else(String::new, |step| format!(" in step {step}"));
        text.push_str(&format!("error{step}: {} [{}]\n", line(&error["message"]), cell(&error["code"])));
    }
    let cancellation = &record["cancellation"];
    if cancellation.is_object() {
        let reason = cancellation["reason"].as_str().filter(|reason| !reason.is_empty());
        let reason = reason.map_or_else(String::new, |reason| format!(": {}", cell(&reason.into())));
        text.push_str(&format!("cancelled by {}{reason}\n", cell(&cancellation["source"])));
    }
    if record["history"].as_array().is_some_and(|history| !history.is_empty()) {
        text.push('\n');
        text.push_str(&history(&record["history"]));
        text.push('\n');
    }
    let (title, value) = if record["output"].is_null() {
        ("context", &record["context"])
    } else {
        ("output", &record["output"])
    };
    text.push_str(&format!("\n{title}:\n{}\n", serde_json::to_string_pretty(value).unwrap_or_default()));
    text
}

/// The entries of a history that people read.
pub(crate) fn history(entries: &Value) -> String {
    let entries = entries.as_array().map_or(&[][..], Vec::as_slice);
    table(
        &["step", "type", "outcome", "attempt", "started", "duration", "error"],
        entries.iter().map(|entry| {
            vec![
                cell(&entry["stepId"]),
                cell(&entry["handlerType"]),
                cell(&entry["outcome"]),
                cell(&entry["attempt"]),
                cell(&entry["startedAt"]),
                duration(entry["durationMs"].as_u64().unwrap_or(0)),
                cell(&entry["error"]["message"]),
            ]
        }),
    )
}

/// A duration as people say it: `12ms`, `3.4s`, `5m 20s`, `2h 5m`, `30d 1h`.
pub(crate) fn duration(millis: u64) -> String {
    const SECOND: u64 = 1000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let pair = |large: u64, one: &str, small: u64, other: &str| {
        let rest = millis % large / small;
        if rest == 0 {
            format!("{}{one}", millis / large)
        } else {
            format!("{}{one} {rest}{other}", millis / large)
        }
    };
    match millis {
        0..SECOND => format!("{millis}ms"),
        SECOND..MINUTE => format!("{}.{}s", millis / SECOND, millis % SECOND / 100),
        MINUTE..HOUR => pair(MINUTE, "m", SECOND, "s"),
        HOUR..DAY => pair(HOUR, "h", MINUTE, "m"),
        DAY.. => pair(DAY, "d", HOUR, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_people_do() {
        let spoken: Vec<String> = [0, 12, 3_400, 320_000, 7_500_000, 2_592_000_000].map(duration).into();
        assert_eq!(spoken, ["0ms", "12ms", "3.4s", "5m 20s", "2h 5m", "30d"]);
    }

    #[test]
    fn a_cancellation_without_a_reason_ends_there() {
        let shown = |cancellation: Value| record(&serde_json::json!({ "cancellation": cancellation }));
        let bare = shown(serde_json::json!({ "source": "user", "reason": null }));
        assert!(bare.contains("cancelled by user\n"), "{bare}");
        let told = shown(serde_json::json!({ "source": "user", "reason": "late" }));
        assert!(told.contains("cancelled by user: late\n"), "{told}");
    }

    #[test]
    fn cells_are_one_line_and_steer_no_terminal() {
        assert_eq!(cell(&"a\nb\u{1b}[31mc".into()), "a b [31mc");
        assert_eq!(cell(&"é".repeat(500).into()).chars().count(), CELL_CHARACTERS_MAX);
        assert_eq!(cell(&Value::Null), "");
    }
}
