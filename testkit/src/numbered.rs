//! Numbered datagrams, and the ledger that finds those that are missing, duplicated or out of
//! order.

use std::collections::HashMap;

/// A datagram of at least 12 bytes. It holds the id of its sender, and its number among those of
/// that sender.
pub fn numbered(sender: u32, number: u64, len: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(len.max(12));
    payload.extend(sender.to_le_bytes());
    payload.extend(number.to_le_bytes());
    payload.resize(len.max(12), number as u8);
    payload
}

/// Reads the sender and the number from a datagram of [`numbered`].
///
/// # Panics
///
/// If the rest of the payload has changed.
pub fn parse(payload: &[u8]) -> (u32, u64) {
    let sender = u32::from_le_bytes(payload[..4].try_into().expect("4 bytes"));
    let number = u64::from_le_bytes(payload[4..12].try_into().expect("8 bytes"));
    assert!(payload[12..].iter().all(|&byte| byte == number as u8), "the payload has changed");
    (sender, number)
}

/// What a receiver got from each sender. Each datagram must come once and in order.
#[derive(Debug, Default)]
pub struct Ledger {
    next: HashMap<u32, u64>,
    /// Numbers that were skipped.
    pub holes: u64,
    /// Datagrams that were recorded.
    pub received: u64,
}

impl Ledger {
    /// Records a datagram.
    ///
    /// # Panics
    ///
    /// If its number was recorded already, or a later one was.
    pub fn enter(&mut self, payload: &[u8]) {
        let (sender, number) = parse(payload);
        let next = self.next.entry(sender).or_insert(0);
        assert!(
            number >= *next,
            "datagram {number} of sender {sender} came twice or out of order (next: {next})"
        );
        self.holes += number - *next;
        *next = number + 1;
        self.received += 1;
    }

    /// The number of the datagrams of `sender` up to the last one that was received.
    pub fn seen(&self, sender: u32) -> u64 {
        self.next.get(&sender).copied().unwrap_or(0)
    }
}
