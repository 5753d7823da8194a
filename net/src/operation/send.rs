//! Send one datagram that could not be sent at once.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use ebbtide_runtime::driver::{Activity, Operation, OutgoingMessage, Submission};

use crate::datagram::Endpoint;

/// Owns a copy of the payload: it may outlive the future that waits for it.
#[derive(Debug)]
pub(crate) struct Send {
    /// Keeps the socket open.
    endpoint: Rc<Endpoint>,
    message: OutgoingMessage,
}

impl Send {
    pub(crate) fn new(endpoint: Rc<Endpoint>, payload: &[u8], name: &[u8]) -> Self {
        Self { endpoint, message: OutgoingMessage::new(payload, name) }
    }
}

impl Operation for Send {
    type Output = io::Result<usize>;
    const ACTIVITY: Activity = Activity::Active;

    fn submission(&mut self) -> Submission<'_> {
        Submission::Send { socket: self.endpoint.as_fd(), message: &self.message }
    }

    fn attempt(&mut self) -> io::Result<u32> {
        self.message.send_now(self.endpoint.as_fd())
    }

    fn finish(self, result: io::Result<u32>) -> Self::Output {
        result.map(|len| len as usize)
    }
}
