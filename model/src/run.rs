//! Runs one seed: a world, a program, its end, and the checks after it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::time::Duration;

use ebbtide_runtime::model::set_time;
use ebbtide_runtime::{Drain, DrainOutcome, DrainReport, Runtime};

use crate::choices::Choices;
use crate::coverage::{Coverage, Event};
use crate::holding::MOST_KEPT;
use crate::program::{Program, Size};
use crate::ring::Ring;
use crate::socket::{Arrival, Seal};
use crate::version::Version;
use crate::world::{Shared, Stage, World};

/// How seeds are run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether to print every step.
    pub trace: bool,
    /// Whether to keep the programs small, for an interpreter.
    pub small: bool,
}

/// An invariant did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed that replays it.
    pub seed: u64,
    /// Which invariant, and how it failed.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

/// Runs the program of a seed. Returns its events.
///
/// # Errors
///
/// The first invariant that did not hold.
pub fn run_seed(seed: u64, options: Options) -> Result<Coverage, Failure> {
    listen_to_panics();
    SEED.set(Some(seed));
    PANIC.take();
    let (choices, version) = (Choices::from_seed(seed), Version::of_seed(seed));
    let world = Rc::new(RefCell::new(World::new(choices, version, options.trace)));
    let ran = catch_unwind(AssertUnwindSafe(|| run_program(&world, options)));
    SEED.set(None);
    set_time(None);
    let panicked = PANIC.take();
    let what = match (panicked, ran) {
        (Some(panicked), _) => Some(panicked),
        (None, Err(_)) => Some("a panic unwound through the runtime".to_owned()),
        (None, Ok(Err(error))) => Some(format!("the program could not be started: {error}")),
        (None, Ok(Ok(()))) => None,
    };
    // If the world had a cycle it would leak. Leak checkers find that.
    let world = world.borrow();
    match what.or_else(|| world.violation().cloned()) {
        Some(what) => Err(Failure { seed, what }),
        None => Ok(world.coverage.clone()),
    }
}

thread_local! {
    /// The seed that runs on this thread.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    /// The first unexpected panic of the seed.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Records unexpected panics, also those that end inside of tasks. Intended panics do not call the
/// hook.
fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let Some(seed) = SEED.get() else { return before(info) };
            // Printed at once, because a panic during unwinding aborts.
            eprintln!("seed {seed}: {info}");
            PANIC.with_borrow_mut(|panic| {
                panic.get_or_insert_with(|| info.to_string());
            });
        }));
    });
}

/// How many datagrams of a hundred tasks hold.
const KEEPING: [usize; 5] = [15, 15, 15, 15, 95];

/// The number of buffers for a program that holds nearly everything. All of them can be held, and
/// starved receives still wait for several. Receiving continues when one or two are dropped.
const HOARDED: [usize; 2] = [40, 64];

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Shutdown(Drain),
    Stop,
    Drop,
    /// A panic of the main future that unwinds through the runtime.
    Panic,
}

fn run_program(world: &Shared, options: Options) -> std::io::Result<()> {
    let (builder, submission, completion, size, end, deadline) = {
        let mut inside = world.borrow_mut();
        let choices = &mut inside.choices;
        let keeping = choices.one_of(&KEEPING);
        let hoards = keeping > MOST_KEPT && !options.small;
        let buffers = match hoards {
            true => choices.one_of(&HOARDED),
            false => choices.one_of(&[1, 2, 3, 4, 6, 8, 16, 40, 150]),
        };
        let buffer_size = choices.one_of(&[24, 64, 200]);
        let submission = choices.one_of(&[2, 2, 4, 16]);
        let completion = choices.one_of(&[2, 4, 8, 64]).max(submission);
        let deadline = choices.one_of(&[0, 0, 3, 10_000, 10_000, 10_000]);
        let drain = Drain::default().deadline(Duration::from_millis(deadline));
        let builder = Runtime::builder()
            .buffers(buffers)
            .buffer_size(buffer_size)
            .submission_entries(submission)
            .completion_entries(completion)
            .tasks_per_turn(choices.one_of(&[1, 3, 100]))
            .operations_per_poll(choices.one_of(&[1, 5, 100]))
            .drain(drain);
        let size = match options.small {
            true => {
                Size { sockets: 2, tasks: 3, datagrams: 10, moves: 10, has_flood: false, keeping }
            }
            false => Size {
                sockets: choices.between(1, 4),
                tasks: choices.between(0, 6),
                datagrams: if hoards { 60 } else { choices.one_of(&[5, 20, 60]) },
                moves: if hoards { 100 } else { choices.one_of(&[10, 40, 100]) },
                has_flood: choices.chance(25),
                keeping,
            },
        };
        let end = match choices.below(8) {
            0..4 => End::Shutdown(drain),
            4 => End::Stop,
            5 | 6 => End::Drop,
            _ => End::Panic,
        };
        let bustle = choices.one_of(&[0, 1, 1, 3, 8]);
        let errors = choices.one_of(&[0, 0, 3, 90]);
        inside.bustle = bustle;
        inside.refusals = inside.choices.one_of(&[3, 3, 3, 30]);
        inside.errors_left = errors;
        inside.losses_left = inside.choices.one_of(&[0, 0, 0, 3, 20]);
        inside.buffer_size = buffer_size;
        // With a flood, such a socket would never reach its end.
        inside.may_refuse_seals = !size.has_flood;
        inside.tell(format_args!(
            "{buffers} buffers of {buffer_size} bytes, queues of {submission} and {completion}, \
             {size:?}, at most {bustle} moves a call, {end:?}"
        ));
        (builder, submission, completion, size, end, deadline)
    };
    let runtime = builder.build_on(Box::new(Ring::new(world, submission, completion)))?;
    if size.has_flood {
        world.borrow_mut().note(Event::Flood);
    }
    let program = Program::new(world, size)?;
    let main = Rc::clone(&program).main(end == End::Panic);
    let report = end_program(world, runtime, end, deadline, main);
    world.borrow_mut().advance(Stage::Ended);
    check_end(world, &program, report.as_ref(), end, deadline);
    Ok(())
}

/// Runs the main future and ends the runtime. Returns the report of the end, if there is one.
fn end_program(
    world: &Shared,
    runtime: Runtime,
    end: End,
    deadline: u64,
    main: impl Future<Output = ()>,
) -> Option<DrainReport> {
    let main = async {
        world.borrow_mut().pool =
            ebbtide_runtime::Registration::current().ok().map(|port| port.pool().clone());
        main.await;
    };
    let event = match end {
        End::Shutdown(_) => Event::EndShutdown,
        End::Stop => Event::EndStop,
        End::Drop => Event::EndDrop,
        End::Panic => Event::EndPanic,
    };
    world.borrow_mut().note(event);
    if deadline == 0 {
        world.borrow_mut().note(Event::DeadlineZero);
    }
    if end == End::Panic {
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let runtime = runtime;
            let _ending = Ending { world };
            runtime.block_on(main);
        }));
        if let Err(payload) = unwound
            && !payload.is::<crate::program::Expected>()
        {
            resume_unwind(payload);
        }
        return None;
    }
    runtime.block_on(main);
    world.borrow_mut().advance(Stage::Ending);
    match end {
        End::Shutdown(policy) => Some(runtime.shutdown(policy)),
        End::Stop => Some(runtime.stop()),
        End::Drop | End::Panic => {
            drop(runtime);
            None
        }
    }
}

/// Marks the end of the program. When a panic unwinds, it is dropped before the runtime.
struct Ending<'a> {
    world: &'a Shared,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.world.borrow_mut().advance(Stage::Ending);
    }
}

fn check_end(
    world: &Shared,
    program: &Rc<Program>,
    report: Option<&DrainReport>,
    end: End,
    deadline: u64,
) {
    if world.borrow().is_broken() {
        program.forget_tasks();
        drop(program.take_sockets());
        program.release_all();
        return;
    }
    if let Some(report) = report {
        check_report(world, program, report, end, deadline);
    }
    for (index, socket) in program.take_sockets() {
        let stats = socket.stats();
        let waiting = socket.waiting();
        let mut world = world.borrow_mut();
        if waiting > 0 {
            world.violate(format!("socket {index}: {waiting} receivers wait after the end"));
        }
        let ledger = &world.sockets[index].ledger;
        let drops = u64::from(ledger.drops_told);
        let holds = stats.received == ledger.taken
            && stats.delivered == ledger.delivered
            && stats.discarded == ledger.undelivered()
            && stats.truncated == ledger.truncated
            && stats.errors == ledger.errors_delivered
            && stats.dropped_by_kernel + stats.refused == drops
            && stats.dropped_by_kernel <= u64::from(ledger.dropped)
            && stats.refused >= u64::from(ledger.refused).min(drops - stats.dropped_by_kernel)
            && stats.abandoned == ledger.abandoned;
        if !holds {
            let ledger = (ledger.queued, ledger.taken, ledger.delivered, ledger.truncated, drops);
            world.violate(format!("socket {index}: {stats:?} differs from {ledger:?}"));
        }
    }
    program.forget_tasks();
    program.release_all();
    let pool = world.borrow_mut().pool.take();
    if let Some(pool) = pool
        && pool.free() != pool.count()
    {
        let what = format!("{} of {} buffers were returned", pool.free(), pool.count());
        world.borrow_mut().violate(what);
    }
    if Rc::strong_count(program) > 1 {
        world.borrow_mut().violate("a task outlived the runtime".into());
    }
    check_world(&mut world.borrow_mut());
}

/// What must hold of the world when nothing of the program is left.
fn check_world(world: &mut World) {
    if world.queues.in_flight() > 0 {
        let what = format!("{} requests are in flight after the end", world.queues.in_flight());
        world.violate(what);
    }
    if world.buffers.is_registered() {
        world.violate("the ring of buffers is registered after the end".into());
    }
    for index in 0..world.sockets.len() {
        let socket = &world.sockets[index];
        if socket.is_open() {
            world.violate(format!("socket {index} is open after the end"));
        } else if socket.was_read_out_at_end()
            && socket.ledger.queued != socket.ledger.taken + socket.ledger.lost
        {
            let (queued, taken) = (socket.ledger.queued, socket.ledger.taken);
            let what = format!("{queued} datagrams were queued, but {taken} taken");
            world.violate(format!("sealed socket {index}: {what}"));
        }
    }
}

fn check_report(world: &Shared, program: &Program, report: &DrainReport, end: End, deadline: u64) {
    let must_complete =
        matches!(end, End::Shutdown(_)) && deadline >= 10_000 && program.must_complete();
    let mut world = world.borrow_mut();
    world.tell(format_args!("{report}"));
    let sum =
        |count: fn(&crate::socket::Socket) -> u64| -> u64 { world.sockets.iter().map(count).sum() };
    let taken = sum(|socket| socket.ledger.taken);
    let delivered = sum(|socket| socket.ledger.delivered);
    let truncated = sum(|socket| socket.ledger.truncated);
    let errors = sum(|socket| socket.ledger.errors_delivered);
    let drops = sum(|socket| u64::from(socket.ledger.dropped + socket.ledger.refused));
    let dropped = sum(|socket| u64::from(socket.ledger.dropped));
    let abandoned = sum(|socket| socket.ledger.abandoned);
    let refused_seals = sum(|socket| u64::from(socket.seal == Seal::Refused));
    let is_clean = report.stats.discarded + report.stats.abandoned == 0;
    let must_complete = must_complete && refused_seals == 0 && is_clean;
    let stats = report.stats;
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &'static str| {
        if !holds {
            wrong.push(what);
        }
    };
    let gone = stats.discarded + report.undelivered;
    check(stats.received == taken || refused_seals > 0, "`received` differs from what was taken");
    check(stats.delivered == delivered, "`delivered` differs from what was delivered");
    check(
        stats.received == stats.delivered + gone || refused_seals > 0,
        "the report does not balance",
    );
    check(
        stats.truncated == truncated || refused_seals > 0,
        "`truncated` differs from what was cut",
    );
    check(stats.errors == errors, "`errors` differs from what was delivered");
    check(stats.dropped_by_kernel <= dropped, "`dropped_by_kernel` is too high");
    check(
        stats.dropped_by_kernel + stats.refused <= drops,
        "`dropped_by_kernel` and `refused` are too high",
    );
    check(
        stats.abandoned == abandoned || refused_seals > 0,
        "`abandoned` differs from what was left",
    );
    check(stats.handed_over == 0, "`handed_over` is not 0");
    check(report.operations_leaked == 0, "operations leaked");
    check(
        report.completions_lost == u64::from(world.queues.lost()),
        "`completions_lost` differs from the losses",
    );
    check(!report.panicking, "the report says that it panicked");
    let is_complete = report.outcome == DrainOutcome::Complete;
    check(
        !is_complete || report.undelivered == 0,
        "the end is complete, but a datagram is undelivered",
    );
    // At the deadline, the end is complete even if the budget of a poll still holds up a send.
    let is_quiescent = is_complete
        && matches!(end, End::Shutdown(_))
        && report.elapsed < Duration::from_millis(deadline);
    check(!is_quiescent || world.sends_cut == 0, "the end is complete, but a send was dropped");
    let is_discarded = report.outcome == DrainOutcome::Discarded;
    let thrown_away = stats.discarded + stats.abandoned;
    check(!is_complete || thrown_away == 0, "the end is complete, but a datagram was discarded");
    check(!is_discarded || thrown_away > 0, "the outcome is Discarded, but nothing was discarded");
    check(
        !must_complete || is_complete || is_discarded,
        "every socket is received from, but not all was delivered",
    );
    let wrong = wrong.join("; ");
    if !wrong.is_empty() {
        let ledger = (taken, delivered, truncated, dropped, drops, abandoned);
        world.violate(format!("{wrong}: {report} ({stats:?}), the world has {ledger:?}"));
    }
    world.note(match report.outcome {
        DrainOutcome::Complete => Event::Complete,
        DrainOutcome::DeadlinePassed => Event::DeadlinePassed,
        DrainOutcome::Discarded => Event::Discarded,
        _ => Event::Unclaimed,
    });
    if must_complete {
        world.note(Event::MustComplete);
    }
    let in_inboxes = world.sockets.iter().flat_map(|socket| &socket.ledger.in_inbox);
    let left = in_inboxes.filter(|arrival| matches!(arrival, Arrival::Datagram(_))).count() as u64;
    if left != gone && refused_seals == 0 {
        world.violate(format!("{left} are left, but {gone} are counted: {report}"));
    }
    let coverage = &mut world.coverage;
    coverage.note_many(Event::TasksDropped, report.tasks_dropped as u64);
    coverage.note_many(Event::Undelivered, report.undelivered);
    coverage.note_many(Event::Paused, stats.paused);
    coverage.note_many(Event::Starved, stats.starved);
}
