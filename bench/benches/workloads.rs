//! Criterion benches of the workloads whose metric is a time: `cargo bench -p ebbtide-bench`.
//!
//! A sample is one measurement of the comparison, a fresh process of the bench binary, at a quarter
//! of its length. What criterion shows is CPU time per datagram, echo or operation. By default only
//! `ebbtide` is measured: criterion compares a change with what was before it (`--save-baseline`),
//! the comparison compares contestants. To measure others:
//! `EBBTIDE_BENCH_CONTESTANTS=ebbtide,raw-ring,epoll`.

use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ebbtide-bench");
const SCALE: &str = "0.25";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let chosen = std::env::var("EBBTIDE_BENCH_CONTESTANTS").unwrap_or_else(|_| "ebbtide".into());
    for workload in run(&["list", "--json"]).as_array().expect("list prints an array") {
        let name = text(workload, "workload");
        if text(workload, "unit") != "ns" {
            continue;
        }
        let offered = workload["contestants"].as_array().expect("list prints contestants");
        let mut group = criterion.benchmark_group(name);
        group
            .sampling_mode(SamplingMode::Flat)
            .sample_size(10)
            // Every measurement warms itself up.
            .warm_up_time(Duration::from_nanos(1))
            .measurement_time(Duration::from_nanos(1));
        for contestant in chosen.split(',') {
            if offered.iter().any(|offer| offer == contestant) {
                group.bench_function(contestant, |bencher| {
                    bencher.iter_custom(|iterations| {
                        let ns = measure(name, contestant, text(workload, "metric"));
                        Duration::from_secs_f64(ns * iterations as f64 / 1e9)
                    });
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

/// One measurement: the metric of the workload.
fn measure(workload: &str, contestant: &str, metric: &str) -> f64 {
    let metrics = run(&["measure", workload, contestant, SCALE]);
    let found = metrics.as_array().expect("measure prints an array");
    let found = found.iter().find(|found| found["metric"] == metric);
    found.and_then(|found| found["value"].as_f64()).expect("a workload has its metric")
}

/// What the binary prints. A void measurement ends the benches.
fn run(arguments: &[&str]) -> Value {
    let output = Command::new(BINARY).args(arguments).output().expect("the binary was built");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {}: {errors}", arguments.join(" "), output.status);
    serde_json::from_slice(&output.stdout).expect("the binary prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("list prints a text")
}
