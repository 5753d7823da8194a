//! [`Account`]: what was received on one channel, and the datagrams that senders number.

use super::SENDERS;

/// Bytes of a sender and a number.
const HEADER_LEN: usize = 12;

/// Writes the datagram `number` of `sender`, of `len` bytes; an empty one has no number.
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
    /// The number that may come next, of each sender.
    next: [u64; SENDERS + 1],
    /// Numbers that were passed over.
    pub(super) holes: u64,
    /// Handed to a receiver.
    pub(super) delivered: u64,
    /// Given back with the socket.
    pub(super) handed_over: u64,
    /// Read from the kernel after the end of the socket.
    pub(super) left: u64,
    /// Of those: sent before the drain of the socket began.
    pub(super) missed: u64,
    /// What each sender had sent when the drain of the socket began.
    sent_before: [u64; SENDERS + 1],
}

impl Account {
    /// Notes what had been sent when the drain of the socket began.
    pub(super) fn begin_drain(&mut self, sent: [u64; SENDERS + 1]) {
        self.sent_before = sent;
    }

    /// Enters a datagram that the socket has left in the kernel.
    pub(super) fn check_left(&mut self, payload: &[u8]) -> Result<(), String> {
        self.left += 1;
        self.check(payload)?;
        if let Some((sender, number)) = sender_and_number(payload) {
            self.missed += u64::from(number < self.sent_before[sender]);
        }
        Ok(())
    }

    /// Checks a datagram and enters its number. The error says what is wrong with it.
    pub(super) fn check(&mut self, payload: &[u8]) -> Result<(), String> {
        let Some((sender, number)) = sender_and_number(payload) else {
            return match payload.len() {
                0 => Ok(()),
                len => Err(format!("a datagram of {len} bytes, which nobody sends")),
            };
        };
        let filler = &payload[HEADER_LEN..];
        if filler.iter().any(|&byte| byte != number as u8) {
            return Err(format!("datagram {number} of sender {sender} is damaged"));
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

/// Who sent a datagram, and its number. `None`: it is too short for them.
fn sender_and_number(payload: &[u8]) -> Option<(usize, u64)> {
    let (sender, rest) = payload.split_first_chunk()?;
    let (number, _filler) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*sender) as usize, u64::from_le_bytes(*number)))
}
