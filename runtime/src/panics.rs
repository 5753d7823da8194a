//! Catches panics of third-party code that must affect nothing else: wakers, destructors, and
//! payloads of panics. The panic hook has reported each of them to the user. `task/tasks.rs` catches
//! the panics of tasks.

use std::any::Any;
use std::fmt;
use std::mem::{self, ManuallyDrop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// Runs `f`. Returns the payload if it panicked.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Payload> {
    catch_unwind(AssertUnwindSafe(f)).map_err(Payload::new)
}

/// Runs `f`. A panic ends only `f`.
pub(crate) fn contain(f: impl FnOnce()) {
    drop(catch(f));
}

/// Wraps a third-party waker, for code that aborts if a waker panics.
pub(crate) struct Contained {
    /// Taken out on drop, and not before.
    waker: Option<Waker>,
}

impl Contained {
    pub(crate) fn waker(waker: &Waker) -> Waker {
        Waker::from(Arc::new(Self { waker: Some(waker.clone()) }))
    }
}

impl Wake for Contained {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        contain(|| self.waker.iter().for_each(Waker::wake_by_ref));
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let waker = self.waker.take();
        contain(|| drop(waker));
    }
}

/// The payload of a panic.
///
/// Its destructor is third-party code, too. If the destructor panics, the new payload is leaked: it
/// may have a destructor that panics, and so on for ever.
pub(crate) struct Payload {
    /// Taken out on drop, and not before.
    payload: ManuallyDrop<Box<dyn Any + Send>>,
}

impl Payload {
    fn new(payload: Box<dyn Any + Send>) -> Self {
        Self { payload: ManuallyDrop::new(payload) }
    }

    /// Returns the payload, to resume the panic.
    pub(crate) fn into_inner(self) -> Box<dyn Any + Send> {
        let mut this = ManuallyDrop::new(self);
        mem::replace(&mut *this.payload, Box::new(()))
    }

    /// Returns the message, if the payload is one.
    pub(crate) fn message(&self) -> Option<&str> {
        let message = self.payload.downcast_ref::<&'static str>().copied();
        message.or_else(|| self.payload.downcast_ref::<String>().map(String::as_str))
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        let payload = mem::replace(&mut *self.payload, Box::new(()));
        if let Err(next) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(next);
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Payload").field(&self.message()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{panic_any, resume_unwind};

    use super::*;

    /// Panics when it is dropped, with another value of this type.
    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new(Bomb(self.0 + 1)));
        }
    }

    /// Fails, by an endless chain or an abort, when a payload is dropped without catching its
    /// panic.
    #[test]
    #[cfg_attr(miri, ignore = "what cannot be dropped is forgotten, which Miri calls leaked")]
    fn a_payload_whose_destructor_panics_ends_nothing() {
        contain(|| resume_unwind(Box::new(Bomb(0))));
        contain(|| drop(Bomb(0)));
        let payload = catch(|| resume_unwind(Box::new(Bomb(7)))).expect_err("the closure panicked");
        let bomb = payload.into_inner().downcast::<Bomb>().expect("the payload is a bomb");
        assert_eq!(bomb.0, 7);
        mem::forget(bomb);
    }

    #[test]
    fn a_message_is_found_in_either_form() {
        let said = |panic: fn()| {
            catch(panic).expect_err("the function panics").message().map(str::to_owned)
        };
        assert_eq!(said(|| resume_unwind(Box::new("plain"))), Some("plain".into()));
        assert_eq!(said(|| resume_unwind(Box::new("made".to_owned()))), Some("made".into()));
        assert_eq!(said(|| panic_any(7)), None);
    }
}
