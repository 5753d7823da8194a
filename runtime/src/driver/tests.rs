//! What the driver owns, and until when: **owned until final**, on whichever backend there is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::descriptor::eventfd;
use super::{Armed, Batch, Driver, DriverChoice, Layout, ReceiveKey, Sink, Verdict, Wait, Wakes};
use crate::limits::Limits;

#[cfg(ebbtide_model)]
mod lost;
#[cfg(ebbtide_model)]
mod scripted;

/// A socket that nobody sends to.
struct Quiet(UnixDatagram);

impl Quiet {
    fn bind(name: &str) -> io::Result<Rc<Self>> {
        let address = SocketAddr::from_abstract_name(name)?;
        Ok(Rc::new(Self(UnixDatagram::bind_addr(&address)?)))
    }
}

impl Sink for Quiet {
    fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn layout(&self) -> Layout {
        Layout::new(0, 0)
    }

    fn receive(&self, _: Batch<'_>, _: Armed, _: &mut Wakes) -> Verdict {
        unreachable!("nobody sends")
    }

    fn end(&self, _: Option<io::Error>, _: Armed, _: &mut Wakes) -> Verdict {
        Verdict::Keep
    }
}

/// A driver with the receive of `sink` in flight.
fn receiving(choice: DriverChoice, sink: &Rc<Quiet>) -> (Driver, ReceiveKey) {
    let eventfd = Arc::new(eventfd().unwrap());
    let limits = Limits { buffers: 8, buffer_size: 512, ..Limits::default() };
    let mut driver = Driver::new(choice, &limits, eventfd).unwrap();
    let key = driver.register(Rc::clone(sink) as Rc<dyn Sink>);
    driver.arm(key);
    driver.submit_and_wait(Wait::No);
    (driver, key)
}

/// Fails when the sink is dropped while its receive is in flight. The receive names the socket of
/// the sink, and the request that is stored with it.
#[test]
fn a_sink_stays_until_the_final_completion_of_its_receive() {
    for choice in [DriverChoice::Auto, DriverChoice::Epoll] {
        let name = format!("ebbtide-driver-stays-{}", std::process::id());
        let sink = Quiet::bind(&name).unwrap();
        let (mut driver, key) = receiving(choice, &sink);
        assert!(driver.deregister(key).is_none(), "{choice:?}: the receive is in flight");
        assert!(Rc::strong_count(&sink) > 1, "{choice:?}: the driver keeps the sink");
        let mut wakes = Wakes::default();
        for _attempt in 0..100 {
            driver.submit_and_wait(Wait::AtMost(Duration::from_millis(100)));
            driver.collect(&mut wakes);
            wakes.run();
            if Rc::strong_count(&sink) == 1 {
                break;
            }
        }
        assert_eq!(Rc::strong_count(&sink), 1, "{choice:?}: the receive has ended");
        assert_eq!(driver.counts().in_flight, 0, "{choice:?}");
    }
}

/// The end of a runtime that a panic cuts short, while a forked child keeps the ring alive. Fails
/// when the receive is left to the end of the ring: it would still have the socket, and write into
/// the pool.
#[test]
fn a_dropped_driver_gives_the_sockets_back_first() {
    for choice in [DriverChoice::Auto, DriverChoice::Epoll] {
        let name = format!("ebbtide-driver-dropped-{}", std::process::id());
        for round in 0..2 {
            let sink = Quiet::bind(&name).unwrap_or_else(|error| panic!("{round}: {error}"));
            let (driver, _) = receiving(choice, &sink);
            let _child = match &driver.backend {
                Backend::Ring(ring) => ring.as_in_a_child(),
                Backend::Epoll(_) | Backend::Ended => None,
            };
            drop(driver);
            assert_eq!(Rc::strong_count(&sink), 1);
            drop(sink);
            Quiet::bind(&name).expect("its address is free");
        }
    }
}
