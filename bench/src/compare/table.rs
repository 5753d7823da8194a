//! The table of one workload, for a terminal.

use std::fmt::Write;

use super::outcome::{Outcome, Row};

/// The ratio to another build. Its differences are small, so it is shown with its interval.
const RATIO_TO_AGAINST: &str = "ratio_to_against";

/// Metrics with a column of their own, if the workload has them, and its heading. A ratio to one
/// hand-written loop has the name of that loop.
const COLUMNS: [(&str, &str); 15] = [
    (RATIO_TO_AGAINST, "x against (95% interval)"),
    ("ratio_to_tokio", "x tokio"),
    ("ratio_to_hand_written", "x hand-written"),
    ("throughput", "per second"),
    ("p50", "p50 us"),
    ("p99", "p99 us"),
    ("p99.9", "p99.9 us"),
    ("resident", "MiB"),
    ("wall_per_datagram", "wall ns"),
    ("queued_at_exit", "queued"),
    ("delivered", "delivered"),
    ("refused", "refused"),
    ("idle_share", "idle"),
    ("disturbed_share", "disturbed"),
    ("sleeps_per_1000", "sleeps/1000"),
];

pub(super) fn of(outcome: &Outcome<'_>) -> String {
    let workload = outcome.workload;
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(metric, _)| outcome.rows.iter().any(|row| row.metric == *metric))
        .collect();
    let mut lines = vec![vec![
        "contestant".to_owned(),
        format!("{} {}", workload.metric, workload.unit),
        "min .. max".to_owned(),
    ]];
    lines[0].extend(columns.iter().map(|(metric, heading)| {
        match (*metric, workload.hand_written) {
            ("ratio_to_hand_written", [name]) => format!("x {name}"),
            _ => (*heading).to_owned(),
        }
    }));
    for contestant in outcome.contestants() {
        let mut line = vec![contestant.to_owned()];
        match outcome.find(contestant, workload.metric) {
            Some(row) => {
                line.push(number(row.summary.median));
                line.push(format!("{} .. {}", number(row.summary.min), number(row.summary.max)));
            }
            None => line.extend([String::new(), String::new()]),
        }
        line.extend(
            columns
                .iter()
                .map(|(metric, _)| outcome.find(contestant, metric).map_or_else(String::new, cell)),
        );
        lines.push(line);
    }
    let mut text = format!("{}: {}\n", workload.name, workload.about);
    for line in &lines {
        for (index, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[index].len()).max().unwrap_or(0);
            // Writing to a string cannot fail.
            let _ = match index {
                0 => write!(text, "  {cell:width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn cell(row: &Row) -> String {
    match row.unit.as_str() {
        "1" if row.metric == RATIO_TO_AGAINST => match row.summary.interval {
            Some((low, high)) => format!("{:.3} ({low:.3} .. {high:.3})", row.summary.median),
            None => format!("{:.3}", row.summary.median),
        },
        "1" if row.metric.ends_with("share") => format!("{:.0}%", row.summary.median * 100.0),
        "1" => format!("{:.2}", row.summary.median),
        _ => number(row.summary.median),
    }
}

/// At least three figures, and no more decimals than they need.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Summary;
    use super::*;
    use crate::workloads;

    /// The heading of the ratio to the hand-written loops.
    fn heading(workload: &str) -> String {
        let workload = workloads::find(workload).unwrap();
        let row = Row {
            workload: workload.name.to_owned(),
            contestant: "ebbtide".to_owned(),
            metric: "ratio_to_hand_written".to_owned(),
            unit: "1".to_owned(),
            summary: Summary { median: 1.0, min: 1.0, max: 1.0, interval: None },
        };
        let text = of(&Outcome { workload: &workload, rows: vec![row] });
        text.lines().nth(1).unwrap().split("  ").last().unwrap().to_owned()
    }

    #[test]
    fn a_ratio_is_headed_by_the_loop_if_there_is_one() {
        assert_eq!(heading("sink-100"), "x raw-ring");
        assert_eq!(heading("drain"), "x epoll-mmsg");
        assert_eq!(heading("echo-1"), "x hand-written");
    }
}
