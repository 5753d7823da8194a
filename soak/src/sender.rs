//! Senders: threads outside of the runtimes, and one task inside of each.

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ebbtide::task::yield_now;
use ebbtide::time::timeout;

use super::SENDERS;
use super::account;
use super::board::{Board, Channel, Destination};
use super::life::Open;
use super::random::Random;
use super::totals::Totals;

/// The largest payload of most datagrams, and the payload of some UDP datagrams.
const USUAL_LEN: u64 = 1_400;
const LARGE_LEN: u64 = 9_000;

fn payload_len(random: &mut Random, destination: &Destination) -> usize {
    let len = match random.within(1..=100) {
        1..=3 => 0,
        4 if matches!(destination, Destination::Udp(_)) => random.within(12..=LARGE_LEN),
        5..=20 => random.within(12..=USUAL_LEN),
        _ => random.within(12..=100),
    };
    len as usize
}

/// A thread that sends bursts to channels until it is stopped.
pub(super) fn run(
    sender: usize,
    mut random: Random,
    board: &Board,
    totals: &Totals,
    stop: &AtomicBool,
) {
    let sockets = UdpSocket::bind("127.0.0.1:0").and_then(|udp| {
        let unix = UnixDatagram::unbound()?;
        unix.set_nonblocking(true)?;
        Ok((udp, unix))
    });
    let (udp, unix) = match sockets {
        Ok(sockets) => sockets,
        Err(error) => return totals.fail(format!("a sender has no socket: {error}")),
    };
    let mut payload = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let Some(sending) = board.pick(|len| random.index(len)) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let channel = &sending.channel;
        // Sometimes more than any receive buffer holds.
        let burst = if random.percent(4) { 1_000 } else { random.within(1..=64) };
        for _ in 0..burst {
            let len = payload_len(&mut random, &channel.destination);
            account::write(&mut payload, sender, channel.next_number(sender), len);
            let sent = match &channel.destination {
                Destination::Udp(address) => udp.send_to(&payload, address),
                Destination::Unix(address) => unix.send_to_addr(&payload, address),
            };
            // A Unix queue is full, or the channel was sealed or closed in between.
            if sent.is_err() {
                break;
            }
            channel.note_sent(sender, len);
            totals.sent.fetch_add(1, Ordering::Relaxed);
        }
        drop(sending);
        if random.percent(70) {
            thread::sleep(random.millis(0..=2));
        }
    }
}

/// A task that sends to the channels of its runtime, and drops sends that wait.
pub(super) async fn run_inside(mut random: Random, open: Rc<Open>, totals: &Totals) {
    let sockets = ebbtide::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|udp| Ok((udp, ebbtide::net::UnixDatagram::unbound()?)));
    let (udp, unix) = match sockets {
        Ok(sockets) => sockets,
        Err(error) => {
            return totals.fail(format!("the sender in the runtime has no socket: {error}"));
        }
    };
    let mut payload = Vec::new();
    loop {
        let channel = open.pick(&mut random);
        for _ in 0..random.within(1..=32) {
            let Some(channel) = channel.as_deref() else { break };
            let len = payload_len(&mut random, &channel.destination);
            account::write(&mut payload, SENDERS, channel.next_number(SENDERS), len);
            if send(channel, &payload, &udp, &unix, random.millis(0..=2)).await {
                channel.note_sent(SENDERS, len);
                totals.sent.fetch_add(1, Ordering::Relaxed);
            } else {
                break;
            }
        }
        match random.percent(50) {
            true => yield_now().await,
            false => ebbtide::time::sleep(random.millis(0..=3)).await,
        }
    }
}

async fn send(
    channel: &Channel,
    payload: &[u8],
    udp: &ebbtide::net::UdpSocket,
    unix: &ebbtide::net::UnixDatagram,
    patience: Duration,
) -> bool {
    let sent = match &channel.destination {
        Destination::Udp(address) => timeout(patience, udp.send_to(payload, address)).await,
        Destination::Unix(address) => timeout(patience, unix.send_to_addr(payload, address)).await,
    };
    matches!(sent, Ok(Ok(_)))
}
