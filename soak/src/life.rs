//! [`Life`]: one runtime, the channels that it opens and ends while others send to them, and the
//! balance when it has ended.

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

/// Bytes of the longest datagram that is sent.
const LONGEST: usize = 65_536;

/// How often the settlement looks again for what may still be on its way, a millisecond apart: the
/// kernel delivers on another processor when it is busy, and a sender that was interrupted before
/// it counted its send may wait for that processor. After a minute it is stuck.
const LOOKS: u32 = 60_000;

/// A kind of sockets.
trait Kind: Address + 'static {
    fn open() -> io::Result<(DatagramSocket<Self>, Destination)>;

    /// Gives the socket back and closes it; other descriptors keep what it is.
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
    /// Its receivers came to the end of what was queued: all that was sent is in its account.
    Drained,
    /// Thrown away with its socket, in part.
    Dropped,
    HandedOver,
    /// With its runtime.
    Open,
}

/// What outlives a channel's socket.
struct Record {
    channel: Arc<Channel>,
    account: Rc<RefCell<Account>>,
    /// A descriptor of the same socket, which keeps its queue and its counter.
    observer: Socket,
    ending: Cell<Ending>,
}

/// How a runtime ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Shutdown,
    /// With a deadline that slow receivers miss.
    Hurried,
    Stop,
    /// Drained while it runs, and dropped afterwards.
    DrainThenDrop,
}

/// The channels of a runtime that are open.
#[derive(Default)]
pub(super) struct Open {
    channels: RefCell<Vec<Arc<Channel>>>,
    /// True once no channel is to be opened any more.
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
    /// Makes a runtime, lets it work for a while, ends it, and checks the balance.
    pub(super) fn live(
        driver: DriverChoice,
        random: &mut Random,
        board: &Arc<Board>,
        totals: &Arc<Totals>,
    ) {
        let mut builder = Runtime::builder().driver(driver);
        match random.within(0..=3) {
            // Queues that overflow and a pool that runs empty, all the time.
            0 => builder = builder.submission_entries(8).completion_entries(8).buffers(4),
            1 => builder = builder.submission_entries(2).buffers(64).buffer_size(2_048),
            _ => {}
        }
        let runtime = match builder.build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // Without a pause, a driver that cannot start would be tried in a loop.
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
        // Nobody opens another channel: a drain would wait for those as well.
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
            // One receiver is aborted in the middle of whatever it does, and another takes over.
            receivers.swap_remove(random.index(receivers.len())).abort();
            receivers.push(self.receive(&socket, &record, &mut random));
        }
        sleep(random.millis(1..=100)).await;
        if self.open.is_ending.get() {
            return Ok(());
        }
        // From here to the end of the socket nothing is awaited but its receivers: a drain of the
        // runtime that comes in between finds it drained, or open.
        match random.within(0..=9) {
            0..=5 => {
                record.begin_drain();
                socket.drain()?;
                self.close(&record);
                for receiver in receivers {
                    // Aborted ones were taken out: it ends with the socket.
                    if receiver.await.is_err() {
                        self.totals.fail("a receiver has panicked".to_owned());
                    }
                }
                record.ending.set(Ending::Drained);
            }
            6..=7 => {
                self.end(&record, receivers).await;
                // Marked before anything can come in between.
                record.ending.set(Ending::Dropped);
                drop(socket);
            }
            _ => {
                self.end(&record, receivers).await;
                match Rc::try_unwrap(socket) {
                    Ok(socket) => self.hand_over(&record, socket)?,
                    Err(_) => self.totals.fail("an aborted receiver holds its socket".to_owned()),
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

    /// No longer to be sent to by anybody; who sends just now may go on for a moment.
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
                self.totals.fail(format!("handed over: {error}"));
            }
        }
        Ok(())
    }

    /// Balances what was sent to every channel against what was received and counted.
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
            self.totals.fail(format!("operations, seals or completions went wrong: {life}"));
        }
        if sums.delivered != report.stats.delivered {
            self.totals.fail(format!("{} were received: {life}", sums.delivered));
        }
        if !is_settled {
            let missing = sums.missing();
            println!("{missing} missing: {life}");
            for record in records.iter() {
                println!("  {}", record.describe());
            }
            // Whether the backlog explains it is decided at the end; nothing explains a double.
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

/// How many datagrams can be on their way at once.
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

    /// Notes what has been sent so far. A socket that is drained already keeps its own note.
    fn begin_drain(&self) {
        if self.ending.get() == Ending::Open {
            self.account.borrow_mut().begin_drain(self.channel.sent_by_sender());
        }
    }

    /// Reads what the kernel still has of a socket that was not drained.
    fn take_what_is_left(&self, totals: &Totals) {
        let mut memory = Vec::with_capacity(LONGEST);
        while kernel::take(&self.observer, &mut memory).is_some() {
            // Handed over or thrown away, it comes after what was received.
            if let Err(error) = self.account.borrow_mut().check_left(&memory) {
                totals.fail(format!("left: {error}"));
            }
        }
    }

    /// Checks one channel by itself, unless a part of it was thrown away. One that came to its end
    /// has left nothing in the kernel that was sent before its drain began. What was sent during
    /// the drain is late if it came after the last read, when a UDP socket had its filter back: the
    /// observer keeps the queue. A send that had not yet returned may be in the note of what was
    /// sent before, one for each processor.
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
            // One that a processor's backlog dropped came to no socket: the total decides.
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
