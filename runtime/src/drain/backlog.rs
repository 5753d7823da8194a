//! The backlogs of the CPUs: packets that a `send` has left, which the CPU has not yet passed to
//! the network protocols (`input_pkt_queue`, filled by loopback and by receive packet steering).
//!
//! A grace period does not wait for them (docs/kernel.md, K-CPU-2): the CPU processes them in runs,
//! and passes through the scheduler between two runs. `/proc/net/softnet_stat` reports them (Linux
//! 5.10; K-CPU-3), with one line of hexadecimal numbers for each CPU that is online. The first
//! number is how many packets the CPU has processed, the twelfth how many are queued, the
//! thirteenth its index.
//!
//! Packets that a network card delivers on the same CPU count as processed, too. Beside one, a
//! backlog may seem processed a little early.

use std::fs;
use std::io;

/// The state of the backlog of one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cpu {
    index: u32,
    /// Wraps.
    processed: u32,
    queued: u32,
}

/// What the backlogs of all CPUs held at one moment, and which CPUs have not processed that yet.
#[derive(Debug)]
pub(super) struct Backlogs {
    /// All CPUs that are online, as they were at that moment.
    cpus: Vec<Cpu>,
    /// Indices of `cpus`.
    waiting: Vec<usize>,
}

/// Whether everything that the backlogs held has been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Processed {
    All,
    NotAll,
}

impl Backlogs {
    /// Reads the backlogs.
    ///
    /// # Errors
    ///
    /// Those of reading the file. `Unsupported` if the file does not have the numbers.
    pub(super) fn now() -> io::Result<Self> {
        read().map(Self::new)
    }

    fn new(cpus: Vec<Cpu>) -> Self {
        let waiting = (0..cpus.len()).filter(|&index| cpus[index].queued > 0).collect();
        Self { cpus, waiting }
    }

    /// Reads the backlogs again.
    ///
    /// # Errors
    ///
    /// Those of [`now`](Self::now).
    pub(super) fn look(&mut self) -> io::Result<Processed> {
        if self.waiting.is_empty() {
            return Ok(Processed::All);
        }
        Ok(self.compare(read()?))
    }

    fn compare(&mut self, now: Vec<Cpu>) -> Processed {
        if now.iter().map(|cpu| cpu.index).eq(self.cpus.iter().map(|cpu| cpu.index)) {
            let cpus = &self.cpus;
            self.waiting.retain(|&index| !has_processed(cpus[index], now[index]));
        } else {
            // The backlog of a CPU that goes offline moves to another CPU.
            *self = Self::new(now);
        }
        if self.waiting.is_empty() { Processed::All } else { Processed::NotAll }
    }
}

/// Whether a CPU has processed what was queued. A backlog is first in, first out.
fn has_processed(then: Cpu, now: Cpu) -> bool {
    now.queued == 0 || now.processed.wrapping_sub(then.processed) >= then.queued
}

fn read() -> io::Result<Vec<Cpu>> {
    let text = fs::read_to_string("/proc/net/softnet_stat")?;
    parse(&text).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// `None` if a number is missing, or there is no line.
fn parse(text: &str) -> Option<Vec<Cpu>> {
    let cpus: Option<Vec<_>> = text.lines().map(parse_line).collect();
    cpus.filter(|cpus| !cpus.is_empty())
}

fn parse_line(line: &str) -> Option<Cpu> {
    let mut numbers = line.split_ascii_whitespace().map(|word| u32::from_str_radix(word, 16));
    let processed = numbers.next()?.ok()?;
    let queued = numbers.nth(10)?.ok()?;
    let index = numbers.next()?.ok()?;
    Some(Cpu { index, processed, queued })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Linux 6.18.
    const TEXT: &str = "\
        0005e8d4 00000000 00000003 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n\
        000f1b40 00000000 00000011 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000012c 00000001 0000012c 00000000\n";

    fn cpu(index: u32, processed: u32, queued: u32) -> Cpu {
        Cpu { index, processed, queued }
    }

    #[test]
    fn each_line_is_a_cpu() {
        assert_eq!(parse(TEXT), Some(vec![cpu(0, 0x5e8d4, 0), cpu(1, 0xf1b40, 300)]));
    }

    #[test]
    fn what_does_not_tell_of_the_backlog_is_nothing() {
        // Of Linux 4.19.
        let old = "0005e8d4 00000000 00000003 00000000 00000000 00000000 00000000 00000000 00000000 \
                   00000000 00000000\n";
        let cut = &TEXT[..TEXT.len() - 40];
        for text in [old, cut, "", "\n", "not a number\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_empty_backlog_is_not_waited_for() {
        let mut backlogs = Backlogs::new(vec![cpu(0, 7, 0), cpu(1, 9, 0)]);
        assert_eq!(backlogs.look().unwrap(), Processed::All);
    }

    /// Fails when a backlog that is refilled again and again is waited for until it is empty, or
    /// when one that was empty is waited for again.
    #[test]
    fn each_cpu_is_waited_for_until_it_has_processed_what_was_queued() {
        let mut backlogs = Backlogs::new(vec![cpu(0, 10, 3), cpu(1, u32::MAX, 5), cpu(3, 0, 1)]);
        let first = vec![cpu(0, 12, 50), cpu(1, 3, 9), cpu(3, 0, 0)];
        assert_eq!(backlogs.compare(first), Processed::NotAll);
        let second = vec![cpu(0, 12, 60), cpu(1, 4, 9), cpu(3, 0, 9)];
        assert_eq!(backlogs.compare(second), Processed::NotAll);
        let third = vec![cpu(0, 13, 70), cpu(1, 4, 9), cpu(3, 0, 9)];
        assert_eq!(backlogs.compare(third), Processed::All);
    }

    /// Fails when the backlog of a CPU that goes offline, which moves to another CPU, is forgotten.
    #[test]
    fn when_a_cpu_goes_the_wait_begins_anew() {
        let mut backlogs = Backlogs::new(vec![cpu(0, 10, 1), cpu(1, 20, 9)]);
        assert_eq!(backlogs.compare(vec![cpu(0, 15, 9)]), Processed::NotAll);
        assert_eq!(backlogs.compare(vec![cpu(0, 23, 1)]), Processed::NotAll);
        assert_eq!(backlogs.compare(vec![cpu(0, 24, 1)]), Processed::All);
    }
}
