//! What the loop looks at to find out whether a drain has something left to wait for.

use std::collections::HashSet;
use std::time::Instant;

use super::exit::Exit;
use super::quiescence::{Look, Progress, Ready, Receiver, Standing};
use super::sockets::Presence;
use crate::clock;
use crate::handle::LocalHandle;
use crate::task::{Cause, TaskId};
use crate::wakes::Wakes;

/// Step 6 for sockets that outlive their tasks, because the program has them elsewhere.
pub(crate) fn end_sockets(handle: &LocalHandle) {
    for socket in handle.sockets().take_open() {
        socket.end();
        handle.sockets().close(&*socket);
    }
}

/// Called when no task is ready, and from time to time if some always are. Wakes the drains that
/// wait if nothing is left to do.
pub(crate) fn notice_quiescence(handle: &LocalHandle, ready: Ready) {
    let quiescence = handle.quiescence();
    let is_awaited = quiescence.is_awaited();
    quiescence.set_held_open(is_awaited && handle.blocking().count() > 0);
    // The task that waited may have dropped its drain.
    if !is_awaited || quiescence.time().is_none() {
        return;
    }
    let mut wakes = Wakes::default();
    let standing = match (standing(handle, &mut wakes), ready) {
        (Standing::Quiescent, Ready::Always) => Standing::Uncertain,
        (standing, _) => standing,
    };
    let (delivered, steps) = (handle.sockets().delivered(), handle.tasks().progress());
    let done = Progress { delivered, steps };
    quiescence.notice(standing, clock::now(), done, &mut wakes);
    handle.tasks().wake_because_of(Cause::Drain, || wakes.run());
}

/// What is known of the runtime now.
fn standing(handle: &LocalHandle, wakes: &mut Wakes) -> Standing {
    if is_busy(handle) {
        // A send may wait for buffer space on a socket whose receive waits for buffers of the pool.
        // That socket may be of a later stage. Once it is sealed, it is read without buffers.
        let waits_for_buffers = handle.blocking().count() == 0 && handle.driver().has_starved();
        return if waits_for_buffers { Standing::Uncertain } else { Standing::Busy };
    }
    let waiting = waits_for_drains(handle);
    let look = look(handle, &waiting, wakes);
    let survey = handle.tasks().survey(&waiting, drain_time(handle).0);
    look.standing(&survey, in_hand(handle), handle.driver().active().unclaimed)
}

/// When the drains under way began, and when they end.
pub(super) fn drain_time(handle: &LocalHandle) -> (Instant, Instant) {
    handle.quiescence().time().expect("a drain is under way")
}

/// The tasks that wait for drains, directly or through others.
pub(super) fn waits_for_drains(handle: &LocalHandle) -> Vec<TaskId> {
    let mut tasks = handle.quiescence().tasks();
    handle.tasks().add_who_awaits(&mut tasks);
    tasks
}

/// What the receivers of the sockets still have to do. The tasks `waiting` wait for drains.
pub(super) fn look(handle: &LocalHandle, waiting: &[TaskId], wakes: &mut Wakes) -> Look {
    let sockets = handle.sockets().open();
    let all: Vec<_> = sockets.iter().map(|socket| socket.receivers(wakes)).collect();
    let (start, end) = drain_time(handle);
    let waits: HashSet<(TaskId, usize)> = (all.iter().enumerate())
        .flat_map(|(index, receivers)| receivers.members.iter().map(move |it| (index, it)))
        .filter(|(_, member)| member.presence == Presence::Waiting)
        .map(|(index, member)| (member.task, index))
        .collect();
    let waits_anywhere: HashSet<TaskId> = waits.iter().map(|(task, _)| *task).collect();
    let mut look = Look::default();
    for (index, (socket, receivers)) in sockets.iter().zip(&all).enumerate() {
        if !socket.is_sealed() {
            continue;
        }
        let living = receivers.members.iter().filter_map(|member| {
            let presence = handle.tasks().presence(member.task, start, end)?;
            let waits_elsewhere =
                waits_anywhere.contains(&member.task) && !waits.contains(&(member.task, index));
            Some(Receiver {
                presence: member.presence,
                waits_for_drain: waiting.contains(&member.task),
                has_moved_on: waits_elsewhere && presence.last_handed != member.last_handed,
                task: presence,
            })
        });
        let had_any = receivers.has_forgotten || !receivers.members.is_empty();
        // A socket that is left has other owners, who would have wanted what was taken from it.
        let had_any = had_any || socket.exit() == Exit::Leave;
        look.take(socket.undelivered(), living, had_any);
    }
    look
}

/// How many operations in flight, blocking calls and holds the exit waits for.
fn under_way(handle: &LocalHandle) -> usize {
    handle.driver().active().in_flight + handle.blocking().count()
}

/// Whether operations, blocking calls or holds are under way that may end.
pub(super) fn is_busy(handle: &LocalHandle) -> bool {
    under_way(handle) > stuck(handle)
}

/// What is under way, and completed operations whose results nobody has taken.
pub(super) fn unfinished(handle: &LocalHandle) -> usize {
    under_way(handle) + handle.driver().active().unclaimed
}

/// Operations that will not complete, because the driver has failed.
pub(super) fn stuck(handle: &LocalHandle) -> usize {
    let driver = handle.driver();
    if driver.has_failed() { driver.active().in_flight } else { 0 }
}

/// Whether another thread has released what held the exit open at the last look.
pub(crate) fn was_let_go(handle: &LocalHandle) -> bool {
    handle.quiescence().is_held_open() && handle.blocking().count() == 0
}

/// How many received messages the program has.
pub(crate) fn in_hand(handle: &LocalHandle) -> usize {
    handle.pool().held().saturating_sub(handle.sockets().buffers_held())
}

/// Makes the exit wait for nothing. A drain that is under way ends at once, and so does each that
/// follows.
pub(crate) fn stop_draining(handle: &LocalHandle) {
    let mut wakes = Wakes::default();
    handle.quiescence().stop(&mut wakes);
    wakes.run();
}
