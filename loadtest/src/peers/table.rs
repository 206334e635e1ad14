//! Figures and ratios as a table, in Markdown.

use std::fmt::Write as _;

use super::Entrant;
use super::figures::{Figure, Figures};

const CAPTION: &str = "In brackets: FlowMonkey's figure divided by that of the peer. More steps are better, \
                       and less of everything else.";

/// A row for each figure, a column for each entrant, ours first; below it, what each run of `ours` did.
pub(crate) fn table(medians: &[(Entrant, Figures)], ours: &[&Figures]) -> String {
    let first = medians.first().map(|(_, figures)| figures.clone()).unwrap_or_default();
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(medians.iter().map(|(entrant, _)| entrant.name().to_owned()));
    for figure in Figure::ALL {
        let cell = |(entrant, figures): &(Entrant, Figures)| {
            let Some(value) = figures.get(figure) else { return "-".to_owned() };
            match first.over(figures).get(figure) {
                Some(ratio) if *entrant != Entrant::FlowMonkey => {
                    format!("{} ({ratio:.2})", readable(value))
                }
                Some(_) | None => readable(value),
            }
        };
        let mut row = vec![figure.title().to_owned()];
        row.extend(medians.iter().map(cell));
        rows.push(row);
    }
    let mut text = aligned(&rows);
    let runs: Vec<String> = ours.iter().filter_map(|run| run.get(Figure::Throughput)).map(readable).collect();
    writeln!(text, "\n{CAPTION}\nFlowMonkey run by run: {} steps/s.", runs.join(", "))
        .expect("a string takes all");
    text
}

/// Three digits that count, or all before the point.
fn readable(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if number == 0 {
            let lines: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&format!("| {} |\n", lines.join(" | ")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_or_all_before_the_point() {
        let read = [0.8512, 9.99, 12.34, 565.4, 5_510.2, 1_234_567.0].map(readable);
        assert_eq!(read, ["0.85", "9.99", "12.3", "565", "5,510", "1,234,567"]);
    }

    #[test]
    fn ours_comes_without_a_ratio_and_the_others_with_one() {
        let mut ours = Figures::default();
        ours.put(Figure::Throughput, 5000.0);
        let mut theirs = Figures::default();
        theirs.put(Figure::Throughput, 10_000.0);
        let medians = [(Entrant::FlowMonkey, ours.clone()), (Entrant::Dbos, theirs)];
        let text = table(&medians, &[&ours]);
        assert!(text.contains("| three steps, steps/s        | 5,000      | 10,000 (0.50) |"), "{text}");
        assert!(text.ends_with("FlowMonkey run by run: 5,000 steps/s.\n"), "{text}");
    }
}
