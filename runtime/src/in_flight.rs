//! [`InFlight`]: the future of an operation.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::driver::{Id, Operation, Polled};
use crate::handle::LocalHandle;
use crate::wakes::Wakes;

/// The future of an operation in flight.
///
/// # Cancellation
///
/// Dropping it cancels the operation and discards the result. The driver keeps the operation until
/// the kernel no longer uses its memory. The operation takes effect completely or not at all.
pub struct InFlight<O: Operation> {
    handle: LocalHandle,
    /// `None` once the result was taken.
    id: Option<Id>,
    operation: PhantomData<fn() -> O>,
}

impl LocalHandle {
    /// Passes `operation` to the driver and returns the future of its result.
    pub(crate) fn submit<O: Operation>(&self, operation: O) -> InFlight<O> {
        let id = self.driver().submit(Box::new(operation));
        InFlight { handle: self.clone(), id: Some(id), operation: PhantomData }
    }
}

impl<O: Operation> Future for InFlight<O> {
    type Output = O::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let id = self.id.expect("polled after completion");
        // Cloned before and dropped after the borrow: wakers are third-party code.
        let waker = cx.waker().clone();
        let polled = self.handle.driver().poll(id, waker);
        match polled {
            Polled::Pending { replaced: _replaced } => Poll::Pending,
            Polled::Ready { operation, result, unused: _unused } => {
                self.id = None;
                let operation: Box<dyn Any> = operation;
                let operation = operation.downcast::<O>().expect("ids are never mixed up");
                let result = u32::try_from(result)
                    .map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()));
                Poll::Ready(operation.finish(result))
            }
        }
    }
}

impl<O: Operation> Drop for InFlight<O> {
    fn drop(&mut self) {
        if let Some(id) = self.id
            // In a forked child, the operation is the parent's.
            && !self.handle.is_inherited()
        {
            let mut wakes = Wakes::default();
            self.handle.driver().orphan(id, &mut wakes);
            wakes.run();
        }
    }
}

impl<O: Operation> fmt::Debug for InFlight<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("id", &self.id.map(Id::to_user_data))
            .finish_non_exhaustive()
    }
}
