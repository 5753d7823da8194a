//! [`Life`]: one runtime, the channels that it opens and ends while others send to them, and the
//! balance at its end.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ebbtide::net::{Address, Datagram, DatagramSocket, UdpSocket, UnixAddr, UnixDatagram};
use ebbtide::time::sleep;
use ebbtide::{Drain, DrainReport, DriverChoice, JoinHandle, Runtime};
use ebbtide_testkit::socket::dropped;
use socket2::Socket;

use super::account::Account;
use super::board::{Board, Channel, Destination};
use super::kernel;
use super::random::Random;
use super::receiver::Receiver;
use super::sender;
use super::totals::{Sums, Totals};

/// The length of the longest datagram that is sent.
const LONGEST: usize = 65_536;

/// How often the settlement looks for datagrams that are still in transit. The looks are a
/// millisecond apart. A busy kernel delivers on another CPU. A sender that was interrupted before
/// it counted its send may wait for that CPU. After a minute it is stuck.
const LOOKS: u32 = 60_000;

/// A kind of socket.
trait Kind: Address + 'static {
    fn open() -> io::Result<(DatagramSocket<Self>, Destination)>;

    /// Returns the socket to std and closes it. Other descriptors keep its queue.
    fn hand_over(socket: DatagramSocket<Self>) -> io::Result<Vec<Datagram<Self>>>;
}

impl Kind for SocketAddr {
    fn open() -> io::Result<(DatagramSocket<Self>, Destination)> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        Ok((socket.into(), Destination::Udp(address)))
    }

    fn hand_over(socket: DatagramSocket<Self>) -> io::Result<Vec<Datagram>> {
        Ok(UdpSocket::from(socket).into_std()?.1)
    }
}

impl Kind for UnixAddr {
    fn open() -> io::Result<(DatagramSocket<Self>, Destination)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ebbtide-soak-{}-{count}", std::process::id());
        let address = UnixAddr::from_abstract_name(name)?;
        Ok((UnixDatagram::bind_addr(&address)?.into(), Destination::Unix(address)))
    }

    fn hand_over(socket: DatagramSocket<Self>) -> io::Result<Vec<Datagram<UnixAddr>>> {
        Ok(UnixDatagram::from(socket).into_std()?.1)
    }
}

/// How a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Its receivers have reached the end of its queue. Its account holds everything that was sent.
    Drained,
    /// The socket was dropped, and some datagrams with it.
    Dropped,
    HandedOver,
    /// It was open when its runtime ended.
    Open,
}

/// The state of a channel that outlives its socket.
struct Record {
    channel: Arc<Channel>,
    account: Rc<RefCell<Account>>,
    /// A second descriptor of the socket, which keeps its queue and its drop counter.
    observer: Socket,
    ending: Cell<Ending>,
}

/// How a runtime ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Shutdown,
    /// With a deadline that is too short for slow receivers.
    Hurried,
    Stop,
    /// Drained while the runtime runs, then dropped.
    DrainThenDrop,
}

/// The open channels of a runtime.
#[derive(Default)]
pub(super) struct Open {
    channels: RefCell<Vec<Arc<Channel>>>,
    /// True once no more channels may be opened.
    is_ending: Cell<bool>,
}

impl Open {
    pub(super) fn pick(&self, random: &mut Random) -> Option<Arc<Channel>> {
        let channels = self.channels.borrow();
        match channels.len() {
            0 => None,
            len => Some(Arc::clone(&channels[random.index(len)])),
        }
    }
}

pub(super) struct Life {
    random: RefCell<Random>,
    board: Arc<Board>,
    totals: Arc<Totals>,
    open: Rc<Open>,
    records: RefCell<Vec<Rc<Record>>>,
}

impl Life {
    /// Makes a runtime, runs it for a while, ends it, and checks the balance.
    pub(super) fn live(
        driver: DriverChoice,
        random: &mut Random,
        board: &Arc<Board>,
        totals: &Arc<Totals>,
    ) {
        let mut builder = Runtime::builder().driver(driver);
        match random.within(0..=3) {
            // The queues keep overflowing, and the pool keeps running empty.
            0 => builder = builder.submission_entries(8).completion_entries(8).buffers(4),
            1 => builder = builder.submission_entries(2).buffers(64).buffer_size(2_048),
            _ => {}
        }
        let runtime = match builder.build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // The pause keeps a driver that cannot start from being tried in a loop.
                thread::sleep(Duration::from_secs(1));
                return totals.fail(format!("no runtime: {error}"));
            }
        };
        let life = Rc::new(Self {
            random: RefCell::new(random.fork()),
            board: Arc::clone(board),
            totals: Arc::clone(totals),
            open: Rc::default(),
            records: RefCell::default(),
        });
        let (end, report) = life.work_and_end(runtime, random);
        life.settle(driver, end, &report);
    }

    fn work_and_end(self: &Rc<Self>, runtime: Runtime, random: &mut Random) -> (End, DrainReport) {
        let slots = random.within(4..=16);
        let time = random.millis(100..=1_500);
        let end = match random.within(0..=9) {
            0..=4 => End::Shutdown,
            5 => End::Hurried,
            6 => End::Stop,
            _ => End::DrainThenDrop,
        };
        runtime.block_on(async {
            for _ in 0..slots {
                let life = Rc::clone(self);
                match self.random.borrow_mut().percent(50) {
                    true => ebbtide::spawn(life.keep_a_channel::<SocketAddr>()),
                    false => ebbtide::spawn(life.keep_a_channel::<UnixAddr>()),
                };
            }
            let (random, open) = (self.random.borrow_mut().fork(), Rc::clone(&self.open));
            let totals = Arc::clone(&self.totals);
            ebbtide::spawn(async move { sender::run_inside(random, open, &totals).await });
            sleep(time).await;
        });
        for record in self.records.borrow().iter() {
            record.begin_drain();
        }
        // No task opens another channel. Otherwise the drain would wait for the new ones as well.
        self.open.is_ending.set(true);
        let report = match end {
            End::Shutdown => runtime.shutdown(Drain::default()),
            End::Hurried => runtime.shutdown(Drain::default().deadline(Duration::from_millis(1))),
            End::Stop => runtime.stop(),
            End::DrainThenDrop => {
                let report = runtime.block_on(ebbtide::drain());
                drop(runtime);
                report
            }
        };
        (end, report)
    }

    /// A task that opens a channel, ends it, and opens the next one.
    async fn keep_a_channel<K: Kind>(self: Rc<Self>) {
        while !self.open.is_ending.get() {
            match self.open_and_end_a_channel::<K>().await {
                Ok(()) => {}
                // The runtime is shutting down.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => return self.totals.fail(format!("a channel: {error}")),
            }
        }
    }

    async fn open_and_end_a_channel<K: Kind>(&self) -> io::Result<()> {
        let mut random = self.random.borrow_mut().fork();
        let (socket, destination) = K::open()?;
        let record = Rc::new(Record {
            channel: Channel::new(destination),
            account: Rc::default(),
            observer: socket.as_fd().try_clone_to_owned()?.into(),
            ending: Cell::new(Ending::Open),
        });
        self.records.borrow_mut().push(Rc::clone(&record));
        let socket = Rc::new(socket);
        let mut receivers: Vec<JoinHandle<()>> = Vec::new();
        for _ in 0..random.within(1..=3) {
            receivers.push(self.receive(&socket, &record, &mut random));
        }
        self.board.post(&record.channel);
        self.open.channels.borrow_mut().push(Arc::clone(&record.channel));

        for _ in 0..random.within(0..=4) {
            sleep(random.millis(1..=60)).await;
            // Aborts one receiver, whatever it is doing. Another one takes over.
            receivers.swap_remove(random.index(receivers.len())).abort();
            receivers.push(self.receive(&socket, &record, &mut random));
        }
        sleep(random.millis(1..=100)).await;
        if self.open.is_ending.get() {
            return Ok(());
        }
        // From here to the end of the socket, only its receivers are awaited. A drain of the
        // runtime in between finds the socket either drained or open.
        match random.within(0..=9) {
            0..=5 => {
                record.begin_drain();
                socket.drain()?;
                self.close(&record);
                for receiver in receivers {
                    // Aborted receivers were removed. This one ends with the socket.
                    if receiver.await.is_err() {
                        self.totals.fail("a receiver panicked".to_owned());
                    }
                }
                record.ending.set(Ending::Drained);
            }
            6..=7 => {
                self.end(&record, receivers).await;
                // Set before anything else can run.
                record.ending.set(Ending::Dropped);
                drop(socket);
            }
            _ => {
                self.end(&record, receivers).await;
                match Rc::try_unwrap(socket) {
                    Ok(socket) => self.hand_over(&record, socket)?,
                    Err(_) => {
                        self.totals.fail("an aborted receiver still holds its socket".to_owned())
                    }
                }
            }
        }
        Ok(())
    }

    fn receive<K: Kind>(
        &self,
        socket: &Rc<DatagramSocket<K>>,
        record: &Record,
        random: &mut Random,
    ) -> JoinHandle<()> {
        let receiver = Receiver::new(socket, &record.account, &self.totals, random.fork());
        ebbtide::spawn(receiver.run())
    }

    /// Removes the channel from the board. A thread that is sending to it may go on for a moment.
    fn close(&self, record: &Record) {
        self.board.remove(&record.channel);
        self.open.channels.borrow_mut().retain(|open| !Arc::ptr_eq(open, &record.channel));
    }

    /// Ends the receivers of a channel without draining it.
    async fn end(&self, record: &Record, receivers: Vec<JoinHandle<()>>) {
        self.close(record);
        receivers.iter().for_each(JoinHandle::abort);
        for receiver in receivers {
            let _aborted = receiver.await;
        }
    }

    fn hand_over<K: Kind>(&self, record: &Record, socket: DatagramSocket<K>) -> io::Result<()> {
        let taken = K::hand_over(socket)?;
        record.ending.set(Ending::HandedOver);
        let mut account = record.account.borrow_mut();
        account.handed_over += taken.len() as u64;
        for datagram in &taken {
            if let Err(error) = account.check(datagram) {
                self.totals.fail(format!("a datagram that was handed over: {error}"));
            }
        }
        Ok(())
    }

    /// Compares what was sent to every channel with what was received and counted.
    fn settle(&self, driver: DriverChoice, end: End, report: &DrainReport) {
        let records = self.records.borrow();
        for record in records.iter() {
            self.close(record);
        }
        let mut sums = Sums { lives: 1, ..Sums::default() };
        let is_settled = (0..LOOKS).any(|look| {
            if look > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            if records.iter().any(|record| !record.channel.is_quiet()) {
                return false;
            }
            sums = self.sums(&records, report);
            sums.missing() == 0
        });
        let life = format!("{driver:?}, {end:?}: {report}");
        let broken = report.operations_leaked + report.unsealed + report.completions_lost as usize;
        if broken > 0 {
            self.totals.fail(format!(
                "operations leaked, sockets were not sealed, or completions were lost: {life}"
            ));
        }
        if sums.delivered != report.stats.delivered {
            self.totals.fail(format!(
                "receivers got {} datagrams, but the report differs: {life}",
                sums.delivered
            ));
        }
        if !is_settled {
            let missing = sums.missing();
            println!("{missing} missing: {life}");
            for record in records.iter() {
                println!("  {}", record.describe());
            }
            // Drops of the backlog are compared at the end. They do not explain a datagram that
            // came twice.
            if missing < 0 {
                self.totals.fail(format!("{} datagrams too many: {life}", -missing));
            }
        }
        let is_complete = matches!(end, End::Shutdown | End::DrainThenDrop);
        for record in records.iter() {
            record.check(is_complete && report.undelivered == 0, &self.totals);
        }
        self.totals.add(&sums);
    }

    fn sums(&self, records: &[Rc<Record>], report: &DrainReport) -> Sums {
        let stats = &report.stats;
        let mut sums = Sums {
            lives: 1,
            undelivered: report.undelivered,
            discarded: stats.discarded,
            rearmed: stats.rearmed,
            starved: stats.starved,
            paused: stats.paused,
            truncated: stats.truncated,
            ..Sums::default()
        };
        for record in records {
            record.take_what_is_left(&self.totals);
            let account = record.account.borrow();
            sums.udp_sockets += u64::from(record.is_udp());
            sums.unix_sockets += u64::from(!record.is_udp());
            sums.sent += record.channel.sent();
            sums.delivered += account.delivered;
            sums.handed_over += account.handed_over;
            sums.left += account.left;
            sums.dropped += record.drops();
        }
        sums
    }
}

/// The number of CPUs, which is how many sends can be in progress at once.
fn processors() -> u64 {
    thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

impl Record {
    fn is_udp(&self) -> bool {
        matches!(self.channel.destination, Destination::Udp(_))
    }

    fn drops(&self) -> u64 {
        match self.is_udp() {
            true => dropped(&self.observer).map_or(0, u64::from),
            false => 0,
        }
    }

    /// Records how much was sent so far. A socket that is already drained keeps its earlier record.
    fn begin_drain(&self) {
        if self.ending.get() == Ending::Open {
            self.account.borrow_mut().begin_drain(self.channel.sent_by_sender());
        }
    }

    /// Reads the rest of the kernel's queue of a socket that was not drained.
    fn take_what_is_left(&self, totals: &Totals) {
        let mut memory = Vec::with_capacity(LONGEST);
        while kernel::take(&self.observer, &mut memory).is_some() {
            // Whether handed over or dropped, the rest comes after what was received.
            if let Err(error) = self.account.borrow_mut().check_left(&memory) {
                totals.fail(format!("a datagram that was left: {error}"));
            }
        }
    }

    /// Checks one channel by itself, unless a part of it was dropped. If it was drained, nothing
    /// that was sent before the drain began may be left in the kernel. A datagram that was sent
    /// during the drain is late if it came after the last read, when a UDP socket had its filter
    /// back: the observer keeps the queue. `sent_before` may include sends that had not yet
    /// returned, one for each CPU.
    fn check(&self, is_life_complete: bool, totals: &Totals) {
        let account = self.account.borrow();
        let (sent, ending) = (self.channel.sent(), self.ending.get());
        let is_drained = match ending {
            Ending::Drained => true,
            Ending::Open => is_life_complete,
            Ending::HandedOver | Ending::Dropped => false,
        };
        if ending == Ending::Dropped || ending == Ending::Open && !is_drained {
            return;
        }
        let found = account.delivered + account.handed_over + account.left + self.drops();
        let balances = match self.is_udp() {
            // A datagram that the backlog of a CPU dropped reached no socket. The total accounts
            // for it.
            true => found <= sent,
            false => found == sent && account.holes == 0,
        };
        let late = if is_drained { account.left } else { 0 };
        totals.late.fetch_add(late, Ordering::Relaxed);
        let missed = if is_drained { account.missed } else { 0 };
        let most = if self.is_udp() { processors() } else { 0 };
        if !balances || missed > most || !self.is_udp() && late > 0 {
            totals.fail(format!("a channel does not balance: {}", self.describe()));
        }
    }

    fn describe(&self) -> String {
        let (sent, drops) = (self.channel.sent(), self.drops());
        format!(
            "{:?}, {:?}: sent {sent}, dropped {drops}, {:?}",
            self.channel.destination,
            self.ending.get(),
            self.account.borrow()
        )
    }
}
