//! What a comparison has found: medians with their spread, and ratios. Pure, but for the file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::contestants::Contestant;
use crate::metric::Metric;
use crate::workloads::Workload;

/// What all ratios are to, beside the hand-written loops.
const REFERENCE: &str = "tokio";

/// Metrics whose ratios to the reference are told as well, beside that of the workload's own.
const OTHER_RATIOS: [&str; 5] = ["throughput", "p50", "p99", "p99.9", "resident"];

/// The measurements of one workload.
pub(super) struct Samples {
    rounds: usize,
    /// Round, contestant, and what was measured.
    all: Vec<(usize, String, Vec<Metric>)>,
}

impl Samples {
    pub(super) fn new(rounds: usize) -> Self {
        Self { rounds, all: Vec::new() }
    }

    pub(super) fn add(&mut self, round: usize, contestant: &str, metrics: Vec<Metric>) {
        self.all.push((round, contestant.to_owned(), metrics));
    }

    /// One metric of one contestant, round by round; `None` where the measurement was void.
    fn series(&self, contestant: &str, metric: &str) -> Vec<Option<f64>> {
        let mut series = vec![None; self.rounds];
        for (round, name, metrics) in &self.all {
            if name == contestant {
                let found = metrics.iter().find(|found| found.name == metric);
                series[*round] = found.map(|found| found.value);
            }
        }
        series
    }

    /// The metrics of a contestant, with their units, in the order in which they were told.
    fn metrics(&self, contestant: &str) -> Vec<(String, String)> {
        let first = self.all.iter().find(|(_, name, _)| name == contestant);
        first.map_or_else(Vec::new, |(_, _, metrics)| {
            metrics.iter().map(|metric| (metric.name.clone(), metric.unit.clone())).collect()
        })
    }
}

/// One line of the JSON file.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) workload: String,
    pub(super) contestant: String,
    pub(super) metric: String,
    pub(super) unit: String,
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// What was found about one workload.
pub(super) struct Outcome<'a> {
    pub(super) workload: &'a Workload,
    pub(super) rows: Vec<Row>,
}

impl Outcome<'_> {
    pub(super) fn find(&self, contestant: &str, metric: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.contestant == contestant && row.metric == metric)
    }

    /// The contestants, in order.
    pub(super) fn contestants(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.rows.iter().map(|row| row.contestant.as_str()).collect();
        names.dedup();
        names
    }
}

pub(super) fn of<'a>(
    workload: &'a Workload,
    samples: &Samples,
    field: &[&'static Contestant],
) -> Outcome<'a> {
    let mut rows = Vec::new();
    let hand_written = best_of(samples, workload.hand_written, workload.metric);
    for contestant in field.iter().map(|contestant| contestant.name) {
        let mut add = |metric: &str, unit: &str, series: Vec<Option<f64>>| {
            if let Some((median, min, max)) = summary(series) {
                rows.push(Row {
                    workload: workload.name.to_owned(),
                    contestant: contestant.to_owned(),
                    metric: metric.to_owned(),
                    unit: unit.to_owned(),
                    median,
                    min,
                    max,
                });
            }
        };
        for (metric, unit) in samples.metrics(contestant) {
            let series = samples.series(contestant, &metric);
            let reference = samples.series(REFERENCE, &metric);
            add(&metric, &unit, series.clone());
            if metric == workload.metric {
                add("ratio_to_tokio", "1", ratios(&series, &reference));
                add("ratio_to_hand_written", "1", ratios(&series, &hand_written));
            } else if OTHER_RATIOS.contains(&metric.as_str()) {
                add(&format!("{metric}_ratio_to_tokio"), "1", ratios(&series, &reference));
            }
        }
    }
    Outcome { workload, rows }
}

/// The lowest of several contestants, round by round.
fn best_of(samples: &Samples, contestants: &[&str], metric: &str) -> Vec<Option<f64>> {
    let mut best: Vec<Option<f64>> = vec![None; samples.rounds];
    for contestant in contestants {
        for (best, value) in best.iter_mut().zip(samples.series(contestant, metric)) {
            *best = match (*best, value) {
                (Some(best), Some(value)) => Some(best.min(value)),
                (best, value) => best.or(value),
            };
        }
    }
    best
}

fn ratios(series: &[Option<f64>], reference: &[Option<f64>]) -> Vec<Option<f64>> {
    let ratio = |(value, to): (&Option<f64>, &Option<f64>)| {
        let ratio = (*value)? / (*to)?;
        ratio.is_finite().then_some(ratio)
    };
    series.iter().zip(reference).map(ratio).collect()
}

/// Median, least and greatest; `None` if there is nothing.
fn summary(series: Vec<Option<f64>>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = series.into_iter().flatten().collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    };
    Some((median, min, max))
}

pub(super) fn write_json(path: &Path, outcomes: &[Outcome<'_>]) -> io::Result<()> {
    let rows: Vec<&Row> = outcomes.iter().flat_map(|outcome| &outcome.rows).collect();
    let mut file = File::create(path)?;
    // One row per line: readable, and small in a diff.
    for (index, row) in rows.iter().enumerate() {
        file.write_all(if index == 0 { b"[\n" } else { b",\n" })?;
        serde_json::to_writer(&mut file, row)?;
    }
    file.write_all(if rows.is_empty() { b"[]\n" } else { b"\n]\n" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contestants::find;
    use crate::workloads;

    fn samples(values: &[(usize, &str, f64)]) -> Samples {
        let mut samples = Samples::new(3);
        for &(round, name, value) in values {
            samples.add(round, name, vec![Metric::new("cpu_per_datagram", "ns", value)]);
        }
        samples
    }

    #[test]
    fn a_median_of_an_even_number_lies_in_the_middle() {
        assert_eq!(
            summary(vec![Some(4.0), Some(1.0), None, Some(2.0), Some(3.0)]),
            Some((2.5, 1.0, 4.0))
        );
        assert_eq!(summary(vec![None]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was three times slower in round 1: the ratio does not show it.
        let samples = samples(&[
            (0, "ebbtide", 110.0),
            (0, "raw-ring", 100.0),
            (1, "ebbtide", 330.0),
            (1, "raw-ring", 300.0),
            (2, "ebbtide", 100.0),
        ]);
        let workload = workloads::find("sink-backlog-64").unwrap();
        let field = [find("raw-ring").unwrap(), find("ebbtide").unwrap()];
        let outcome = of(&workload, &samples, &field);
        let ratio = outcome.find("ebbtide", "ratio_to_hand_written").unwrap();
        assert!((ratio.min - 1.1).abs() < 1e-9 && (ratio.max - 1.1).abs() < 1e-9, "{ratio:?}");
        assert!(outcome.find("ebbtide", "ratio_to_tokio").is_none());
    }

    #[test]
    fn the_best_loop_is_chosen_in_each_round() {
        let samples = samples(&[
            (0, "raw-ring", 1.0),
            (0, "epoll-mmsg", 2.0),
            (1, "raw-ring", 4.0),
            (1, "epoll-mmsg", 3.0),
        ]);
        let best = best_of(&samples, &["raw-ring", "epoll-mmsg"], "cpu_per_datagram");
        assert_eq!(best, [Some(1.0), Some(3.0), None]);
    }
}
