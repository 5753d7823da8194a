//! [`Account`]: what was received on one channel, and the datagrams that senders number.

use super::SENDERS;

/// The length of the sender and the number.
const HEADER_LEN: usize = 12;

/// Writes the datagram `number` of `sender`, with `len` bytes. An empty datagram has no number.
pub(super) fn write(payload: &mut Vec<u8>, sender: usize, number: u64, len: usize) {
    payload.clear();
    if len > 0 {
        payload.extend((sender as u32).to_le_bytes());
        payload.extend(number.to_le_bytes());
        payload.resize(len.max(HEADER_LEN), number as u8);
    }
}

/// What was received on a channel.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// The next expected number of each sender.
    next: [u64; SENDERS + 1],
    /// Numbers that were skipped.
    pub(super) holes: u64,
    /// Datagrams that a receiver got.
    pub(super) delivered: u64,
    /// Datagrams that were returned with the socket.
    pub(super) handed_over: u64,
    /// Datagrams that were read from the kernel after the end of the socket.
    pub(super) left: u64,
    /// The number of `left` that were sent before the drain of the socket began.
    pub(super) missed: u64,
    /// How many datagrams each sender had sent when the drain of the socket began.
    sent_before: [u64; SENDERS + 1],
}

impl Account {
    /// Records how many datagrams had been sent when the drain of the socket began.
    pub(super) fn begin_drain(&mut self, sent: [u64; SENDERS + 1]) {
        self.sent_before = sent;
    }

    /// Checks and records a datagram that the socket has left in the kernel.
    pub(super) fn check_left(&mut self, payload: &[u8]) -> Result<(), String> {
        self.left += 1;
        self.check(payload)?;
        if let Some((sender, number)) = sender_and_number(payload) {
            self.missed += u64::from(number < self.sent_before[sender]);
        }
        Ok(())
    }

    /// Checks a datagram and records its number. The error says what is wrong with it.
    pub(super) fn check(&mut self, payload: &[u8]) -> Result<(), String> {
        let Some((sender, number)) = sender_and_number(payload) else {
            return match payload.len() {
                0 => Ok(()),
                len => Err(format!("a datagram of {len} bytes, a length that no sender uses")),
            };
        };
        let filler = &payload[HEADER_LEN..];
        if filler.iter().any(|&byte| byte != number as u8) {
            return Err(format!("datagram {number} of sender {sender} has changed"));
        }
        let next =
            self.next.get_mut(sender).ok_or_else(|| format!("there is no sender {sender}"))?;
        if number < *next {
            return Err(format!(
                "datagram {number} of sender {sender} came twice or out of order (next: {next})"
            ));
        }
        self.holes += number - *next;
        *next = number + 1;
        Ok(())
    }
}

/// The sender and the number of a datagram. `None` if it is too short.
fn sender_and_number(payload: &[u8]) -> Option<(usize, u64)> {
    let (sender, rest) = payload.split_first_chunk()?;
    let (number, _filler) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*sender) as usize, u64::from_le_bytes(*number)))
}
