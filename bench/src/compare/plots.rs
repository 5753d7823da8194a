//! Plots: one SVG per group of workloads, a panel per workload, a bar per contestant.
//!
//! The bar is the median, the line through its end the spread; the dashed line is the best
//! hand-written loop. Colours follow the reader's scheme, on their own background, so that they are
//! readable wherever they are embedded.

use std::fs;
use std::io;
use std::path::Path;

use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Style, Text};

use super::entrant::AGAINST;
use super::outcome::{Outcome, Row};

const PANEL_WIDTH: f64 = 470.0;
const BAR: f64 = 19.0;
const MARGIN: f64 = 16.0;
/// Height of a panel's title.
const TITLE: f64 = 44.0;
/// Width of the names, and of the numbers behind the bars.
const NAMES: f64 = 120.0;
const NUMBERS: f64 = 84.0;

const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 13px }
.about { fill: #57606a; font-size: 11px }
.number { font-variant-numeric: tabular-nums }
.ground { fill: #ffffff; stroke: #d0d7de }
.ebbtide { fill: #0a7ea4 } .ebbtide-epoll, .against { fill: #6bb8d1 }
.hand { fill: #8c959f } .peer { fill: #d4864a }
.own { font-weight: 600 }
.spread { stroke: #24292f; stroke-width: 1.2 }
.hand-written { stroke: #57606a; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .about { fill: #9198a1 } .ground { fill: #0d1117; stroke: #3d444d }
  .ebbtide { fill: #2fa8cf } .ebbtide-epoll, .against { fill: #1f6a83 }
  .hand { fill: #6e7681 } .peer { fill: #c9762f }
  .spread { stroke: #e6edf3 } .hand-written { stroke: #9198a1 }
}";

/// Writes one file per group into `directory`, which is made if it is missing.
pub(super) fn write(directory: &Path, outcomes: &[Outcome<'_>]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut groups: Vec<&str> = outcomes.iter().map(|outcome| outcome.workload.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        let members: Vec<_> =
            outcomes.iter().filter(|outcome| outcome.workload.group == group).collect();
        svg::save(directory.join(format!("{group}.svg")), &plot(&members))?;
    }
    Ok(())
}

fn plot(outcomes: &[&Outcome<'_>]) -> Document {
    let columns = outcomes.len().clamp(1, 2);
    let width = MARGIN + columns as f64 * (PANEL_WIDTH + MARGIN);
    let mut panels = Group::new();
    let mut top = MARGIN;
    for row in outcomes.chunks(columns) {
        for (column, outcome) in row.iter().enumerate() {
            let left = MARGIN + column as f64 * (PANEL_WIDTH + MARGIN);
            let place = format!("translate({left} {top})");
            panels = panels.add(panel(outcome).set("transform", place));
        }
        let bars = row.iter().map(|outcome| bars(outcome).len()).max().unwrap_or(0);
        top += TITLE + bars as f64 * BAR + MARGIN;
    }
    let ground = Rectangle::new()
        .set("class", "ground")
        .set("x", 0.5)
        .set("y", 0.5)
        .set("width", width - 1.0)
        .set("height", top - 1.0)
        .set("rx", 8);
    Document::new()
        .set("viewBox", (0, 0, width, top))
        .set("width", width)
        .set("height", top)
        .set("role", "img")
        .add(Style::new(STYLE))
        .add(ground)
        .add(panels)
}

/// The contestants of a panel, with what their bars show.
fn bars<'a>(outcome: &'a Outcome<'_>) -> Vec<&'a Row> {
    let metric = outcome.workload.metric;
    let find = |name| outcome.find(name, metric);
    outcome.contestants().into_iter().filter_map(find).collect()
}

fn panel(outcome: &Outcome<'_>) -> Group {
    let workload = outcome.workload;
    let rows = bars(outcome);
    let most = rows.iter().map(|row| row.summary.median).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (PANEL_WIDTH - NAMES - NUMBERS) / most;
    let metric = workload.metric.replace('_', " ");
    let shown = format!("{metric}, {}", workload.unit);
    let shown = Text::new(shown).set("class", "about").set("x", PANEL_WIDTH).set("y", 14);
    let about = Text::new(workload.about).set("class", "about").set("x", 0).set("y", 31);
    let mut panel = Group::new()
        .add(Text::new(workload.name).set("class", "title").set("x", 0).set("y", 14))
        .add(shown.set("text-anchor", "end"))
        .add(about);
    for (index, row) in rows.iter().enumerate() {
        let end = (PANEL_WIDTH - NUMBERS).min(NAMES + row.summary.max * scale);
        panel = panel.add(bar(row, TITLE + index as f64 * BAR, scale, end));
    }
    let loops = workload.hand_written.iter();
    let medians =
        loops.filter_map(|name| Some(outcome.find(name, workload.metric)?.summary.median));
    if let Some(best) = medians.min_by(f64::total_cmp) {
        let x = NAMES + best * scale;
        let bottom = TITLE + rows.len() as f64 * BAR;
        panel = panel.add(line("hand-written", (x, x), (TITLE - 3.0, bottom)));
    }
    panel
}

fn bar(row: &Row, top: f64, scale: f64, spread_end: f64) -> Group {
    let middle = top + BAR / 2.0;
    let name = row.contestant.as_str();
    let (class, own) = match name {
        "ebbtide" | "ebbtide-epoll" | AGAINST => (name, "own"),
        _ if name.starts_with("raw-ring") || name.starts_with("epoll") => ("hand", ""),
        _ => ("peer", ""),
    };
    let label = Text::new(name)
        .set("class", own)
        .set("x", NAMES - 8.0)
        .set("y", middle + 4.0)
        .set("text-anchor", "end");
    let body = Rectangle::new()
        .set("class", class)
        .set("x", NAMES)
        .set("y", top + 2.0)
        .set("width", row.summary.median * scale)
        .set("height", BAR - 4.0)
        .set("rx", 2);
    let value = Text::new(super::table::number(row.summary.median))
        .set("class", format!("number {own}"))
        .set("x", spread_end.max(NAMES + row.summary.median * scale) + 8.0)
        .set("y", middle + 4.0);
    let spread = line("spread", (NAMES + row.summary.min * scale, spread_end), (middle, middle));
    Group::new().add(label).add(body).add(spread).add(value)
}

fn line(class: &str, (x1, x2): (f64, f64), (y1, y2): (f64, f64)) -> Line {
    Line::new().set("class", class).set("x1", x1).set("x2", x2).set("y1", y1).set("y2", y2)
}
