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
}

impl Account {
    /// Checks a datagram and enters its number. The error says what is wrong with it.
    pub(super) fn check(&mut self, payload: &[u8]) -> Result<(), String> {
        let Some((header, filler)) = payload.split_at_checked(HEADER_LEN) else {
            return match payload.len() {
                0 => Ok(()),
                len => Err(format!("a datagram of {len} bytes, which nobody sends")),
            };
        };
        let (sender, number) = header.split_at(4);
        let sender = u32::from_le_bytes(sender.try_into().expect("4 bytes")) as usize;
        let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
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
