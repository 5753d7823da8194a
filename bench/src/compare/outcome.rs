//! What a comparison has found: medians with their spread, and ratios. Pure, except for the file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::entrant::AGAINST;
use crate::metric::Metric;
use crate::workloads::Workload;

/// The contestants that all others are compared with, apart from the hand-written loops.
const REFERENCES: [&str; 2] = ["tokio", AGAINST];

/// Metrics whose ratios to the references are reported, apart from that of the workload.
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

    /// The metrics of a contestant, with their units, in the order in which they were reported.
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
    #[serde(flatten)]
    pub(super) summary: Summary,
}

/// What a series of values comes to.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// The confidence interval of the median, 95 %, for any distribution of the values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interval: Option<(f64, f64)>,
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

pub(super) fn of<'a>(workload: &'a Workload, samples: &Samples, entrants: &[&str]) -> Outcome<'a> {
    let mut rows = Vec::new();
    let hand_written = best_of(samples, workload.hand_written, workload.metric);
    for &contestant in entrants {
        let mut add = |metric: &str, unit: &str, series: Vec<Option<f64>>| {
            if let Some(summary) = summary(series) {
                rows.push(Row {
                    workload: workload.name.to_owned(),
                    contestant: contestant.to_owned(),
                    metric: metric.to_owned(),
                    unit: unit.to_owned(),
                    summary,
                });
            }
        };
        for (metric, unit) in samples.metrics(contestant) {
            let series = samples.series(contestant, &metric);
            add(&metric, &unit, series.clone());
            let prefix = match metric.as_str() {
                own if own == workload.metric => String::new(),
                other if OTHER_RATIOS.contains(&other) => format!("{other}_"),
                _ => continue,
            };
            for reference in REFERENCES {
                let ratios = ratios(&series, &samples.series(reference, &metric));
                add(&format!("{prefix}ratio_to_{reference}"), "1", ratios);
            }
            if metric == workload.metric {
                add("ratio_to_hand_written", "1", ratios(&series, &hand_written));
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

/// `None` if there is nothing.
fn summary(series: Vec<Option<f64>>) -> Option<Summary> {
    let mut values: Vec<f64> = series.into_iter().flatten().collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    };
    let interval = outside(values.len()).map(|n| (values[n], values[values.len() - 1 - n]));
    Some(Summary { median, min, max, interval })
}

/// How many of the least values, and of the greatest, lie outside the confidence interval. `None`
/// for fewer than six values: that is too few for one of 95 %.
///
/// Each value lies below the true median with a probability of one half. So their number has a
/// binomial distribution, of which the interval leaves out at most 2.5 % on either side.
fn outside(count: usize) -> Option<usize> {
    // Logarithms, because the terms of a long series are too small for an f64.
    let mut ln_term = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = ln_term.exp();
    let mut outside = None;
    for below in 0..count {
        if tail > 0.025 {
            break;
        }
        outside = Some(below);
        ln_term += ((count - below) as f64 / (below + 1) as f64).ln();
        tail += ln_term.exp();
    }
    outside
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
            Some(Summary { median: 2.5, min: 1.0, max: 4.0, interval: None })
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
        let outcome = of(&workload, &samples, &["raw-ring", "ebbtide"]);
        let ratio = outcome.find("ebbtide", "ratio_to_hand_written").unwrap().summary;
        assert!((ratio.min - 1.1).abs() < 1e-9 && (ratio.max - 1.1).abs() < 1e-9, "{ratio:?}");
        assert!(outcome.find("ebbtide", "ratio_to_tokio").is_none());
        assert!(outcome.find("ebbtide", "ratio_to_against").is_none());
    }

    /// From the tables of the binomial distribution.
    #[test]
    fn an_interval_leaves_out_at_most_a_fortieth_on_either_side() {
        assert_eq!(outside(5), None);
        assert_eq!(outside(6), Some(0));
        assert_eq!(outside(8), Some(0));
        assert_eq!(outside(9), Some(1));
        assert_eq!(outside(15), Some(3));
        assert_eq!(outside(101), Some(40));
        // The normal distribution: half of the count, less 0.98 times its root.
        assert_eq!(outside(10_000), Some(4_901));
    }

    #[test]
    fn an_interval_is_that_of_the_ratios_to_the_other_build() {
        let mut samples = Samples::new(9);
        for round in 0..9 {
            let ns = |value| vec![Metric::new("cpu_per_datagram", "ns", value)];
            samples.add(round, "against", ns(100.0));
            samples.add(round, "ebbtide", ns(91.0 + round as f64));
        }
        let workload = workloads::find("sink-backlog-64").unwrap();
        let outcome = of(&workload, &samples, &["ebbtide", "against"]);
        let ratio = outcome.find("ebbtide", "ratio_to_against").unwrap().summary;
        assert_eq!((ratio.median, ratio.interval), (0.95, Some((0.92, 0.98))));
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
