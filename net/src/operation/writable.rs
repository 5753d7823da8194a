//! Wait until a socket has room for a datagram.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use ebbtide_runtime::driver::{Interest, Readiness};

use crate::datagram::Endpoint;

/// Keeps the socket open while the operation is in flight.
#[derive(Debug)]
pub(crate) struct OpenSocket(Rc<Endpoint>);

impl AsFd for OpenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) fn writable(endpoint: &Rc<Endpoint>) -> Readiness<OpenSocket> {
    Readiness::new(OpenSocket(Rc::clone(endpoint)), Interest::Writable)
}
