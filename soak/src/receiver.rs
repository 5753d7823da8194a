//! Receivers. Each has its own way to receive, until the socket is drained.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ebbtide::net::{Address, Datagram, DatagramSocket};
use ebbtide::task::yield_now;
use ebbtide::time::{sleep, timeout};

use super::account::Account;
use super::random::Random;
use super::totals::Totals;

/// The largest number of datagrams that one receiver holds. A small pool runs empty, but not for
/// ever.
const MOST_HELD: usize = 48;

/// How a receiver receives.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Plain,
    /// Drops its future before a datagram comes, and receives again.
    Impatient,
    Batches,
    /// Polls with `try_recv` instead of waiting in the socket.
    Looking,
    /// Keeps datagrams for a while.
    Holding,
    Slow,
}

/// Receives from a socket, and records what it receives in the account of the socket.
pub(super) struct Receiver<A: Address> {
    pub(super) socket: Rc<DatagramSocket<A>>,
    pub(super) account: Rc<RefCell<Account>>,
    pub(super) totals: Arc<Totals>,
    pub(super) random: Random,
    held: VecDeque<Datagram<A>>,
}

impl<A: Address> Receiver<A> {
    pub(super) fn new(
        socket: &Rc<DatagramSocket<A>>,
        account: &Rc<RefCell<Account>>,
        totals: &Arc<Totals>,
        random: Random,
    ) -> Self {
        Self {
            socket: Rc::clone(socket),
            account: Rc::clone(account),
            totals: Arc::clone(totals),
            random,
            held: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let manner = match self.random.within(0..=9) {
            0..=2 => Manner::Plain,
            3..=4 => Manner::Impatient,
            5 => Manner::Batches,
            6 => Manner::Looking,
            7..=8 => Manner::Holding,
            _ => Manner::Slow,
        };
        if let Err(error) = self.receive(manner).await {
            self.totals.fail(format!("a receiver ({manner:?}) got an error: {error}"));
        }
    }

    async fn receive(&mut self, manner: Manner) -> io::Result<()> {
        let mut batch = Vec::new();
        loop {
            let datagram = match manner {
                Manner::Plain | Manner::Holding | Manner::Slow => self.socket.recv().await?,
                Manner::Impatient => {
                    let patience = self.random.millis(0..=1);
                    match timeout(patience, self.socket.recv()).await {
                        Ok(received) => received?,
                        Err(_dropped_while_it_waited) => continue,
                    }
                }
                Manner::Batches => {
                    if self.socket.recv_batch(&mut batch, 16).await? == 0 {
                        return Ok(());
                    }
                    for datagram in batch.drain(..) {
                        enter(&self.account, &self.totals, &datagram);
                    }
                    continue;
                }
                Manner::Looking => match self.socket.try_recv() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        match self.random.percent(50) {
                            true => yield_now().await,
                            false => sleep(self.random.millis(0..=2)).await,
                        }
                        continue;
                    }
                    received => received?,
                },
            };
            let Some(datagram) = datagram else { return Ok(()) };
            enter(&self.account, &self.totals, &datagram);
            match manner {
                Manner::Holding => self.hold(datagram).await,
                Manner::Slow if self.random.percent(10) => sleep(self.random.millis(0..=3)).await,
                _ => {}
            }
        }
    }

    async fn hold(&mut self, datagram: Datagram<A>) {
        self.held.push_back(datagram);
        if self.held.len() >= MOST_HELD || self.random.percent(5) {
            sleep(self.random.millis(0..=3)).await;
            let kept = self.random.index(self.held.len() + 1);
            self.held.truncate(kept);
        }
    }
}

fn enter<A: Address>(account: &RefCell<Account>, totals: &Totals, datagram: &Datagram<A>) {
    let mut account = account.borrow_mut();
    account.delivered += 1;
    totals.delivered.fetch_add(1, Ordering::Relaxed);
    if let Err(error) = account.check(datagram) {
        totals.fail(format!("a receiver of {}: {error}; {account:?}", type_name::<A>()));
    }
}
