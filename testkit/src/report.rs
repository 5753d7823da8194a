//! Checks of a drain's report.

use ebbtide::{DrainOutcome, DrainReport};

/// Fails unless every datagram that was received is accounted for.
#[track_caller]
pub fn assert_balanced(report: &DrainReport) {
    let stats = report.stats;
    let accounted = stats.delivered + stats.discarded + stats.handed_over + report.undelivered;
    assert_eq!(stats.received, accounted, "{report}");
}

/// Fails unless the drain was complete and its counts balance.
#[track_caller]
pub fn assert_complete(report: &DrainReport) {
    assert_balanced(report);
    assert_eq!((report.outcome, report.undelivered), (DrainOutcome::Complete, 0), "{report}");
    assert_eq!((report.unsealed, report.completions_lost, report.unfinished), (0, 0, 0));
}

/// Fails unless the drain was complete and everything that was received was delivered.
#[track_caller]
pub fn assert_all_delivered(report: &DrainReport) {
    assert_complete(report);
    assert_eq!(report.stats.received, report.stats.delivered, "{report}");
}
