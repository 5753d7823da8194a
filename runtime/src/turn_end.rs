//! [`TurnEnds`]: sockets that have something to do after the tasks of a turn have run.
//!
//! A socket may have to do something for several tasks, such as sending what they left to it. It
//! must not depend on one of their futures being polled: that future may be kept, or forgotten. So
//! the loop calls the socket after every task that was ready has run, and does not sleep before.

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Weak;

use crate::wakes::Wakes;

/// A socket that can ask to be called at the end of a turn: see [`Registration::at_turn_end`].
///
/// [`Registration::at_turn_end`]: crate::Registration::at_turn_end
pub trait AtTurnEnd: 'static {
    /// Called when the tasks that were ready have run, and nothing is borrowed. Puts what has to be
    /// woken into `wakes`.
    fn turn_ends(&self, wakes: &mut Wakes) -> Again;
}

/// Whether a socket is called again at the end of the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Again {
    /// No, unless it asks again.
    No,
    /// Yes. The thread may sleep before that: an operation or a timer of the socket ends the sleep.
    AfterSleep,
    /// Yes, and the thread does not sleep before that.
    WithoutSleep,
}

/// The sockets that asked to be called.
#[derive(Default)]
pub(crate) struct TurnEnds {
    sockets: RefCell<Vec<Weak<dyn AtTurnEnd>>>,
    /// True exactly when one of them has to be called before the thread sleeps.
    forbids_sleep: Cell<bool>,
}

impl TurnEnds {
    pub(crate) fn ask(&self, socket: Weak<dyn AtTurnEnd>) {
        self.forbid_sleep();
        self.sockets.borrow_mut().push(socket);
    }

    pub(crate) fn forbid_sleep(&self) {
        self.forbids_sleep.set(true);
    }

    /// Whether the thread must not sleep before the next call of [`call`](Self::call).
    pub(crate) fn forbids_sleep(&self) -> bool {
        self.forbids_sleep.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.borrow().is_empty()
    }

    /// Calls the sockets that have asked.
    pub(crate) fn call(&self, wakes: &mut Wakes) {
        self.forbids_sleep.set(false);
        let mut sockets = mem::take(&mut *self.sockets.borrow_mut());
        sockets.retain(|socket| {
            let Some(socket) = socket.upgrade() else { return false };
            let again = socket.turn_ends(wakes);
            if again == Again::WithoutSleep {
                self.forbids_sleep.set(true);
            }
            again != Again::No
        });
        let mut new = self.sockets.borrow_mut();
        sockets.append(&mut new);
        *new = sockets;
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// Returns what it is told to, and counts the calls.
    struct Socket {
        answer: Cell<Again>,
        calls: Cell<usize>,
    }

    impl AtTurnEnd for Socket {
        fn turn_ends(&self, _wakes: &mut Wakes) -> Again {
            self.calls.set(self.calls.get() + 1);
            self.answer.get()
        }
    }

    fn socket(answer: Again) -> Rc<Socket> {
        Rc::new(Socket { answer: Cell::new(answer), calls: Cell::new(0) })
    }

    fn ask(ends: &TurnEnds, socket: &Rc<Socket>) {
        let socket: Weak<Socket> = Rc::downgrade(socket);
        ends.ask(socket);
    }

    /// Fails when a socket that has asked is not called, or is called once too often.
    #[test]
    fn a_socket_is_called_as_often_as_it_wants() {
        let ends = TurnEnds::default();
        let sockets = [Again::No, Again::AfterSleep, Again::WithoutSleep].map(socket);
        sockets.iter().for_each(|socket| ask(&ends, socket));
        for calls in [[1, 1, 1], [1, 2, 2]] {
            assert!(ends.forbids_sleep(), "one has asked, or forbids the sleep");
            ends.call(&mut Wakes::default());
            assert_eq!(sockets.each_ref().map(|socket| socket.calls.get()), calls);
        }
        sockets[2].answer.set(Again::No);
        ends.call(&mut Wakes::default());
        assert!(!ends.forbids_sleep() && !ends.is_empty(), "one waits for something else");
        sockets[1].answer.set(Again::No);
        ends.call(&mut Wakes::default());
        assert!(ends.is_empty());
    }

    #[test]
    fn a_socket_that_is_gone_is_not_called() {
        let ends = TurnEnds::default();
        ask(&ends, &socket(Again::WithoutSleep));
        ends.call(&mut Wakes::default());
        assert!(ends.is_empty() && !ends.forbids_sleep());
    }
}
