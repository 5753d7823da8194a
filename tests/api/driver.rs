//! Which driver a runtime gets, and what it reports about the choice.

use std::io;
use std::time::Duration;

use ebbtide::net::{UdpSocket, UnixDatagram};
use ebbtide::time::timeout;
use ebbtide::{Drain, DriverChoice, RunningDriver, Runtime, StartCause};
use ebbtide_testkit::child::in_a_child_with;
use ebbtide_testkit::descriptor::Number;
use ebbtide_testkit::seccomp::{with_refused, with_refused_if};

/// Runs `f` as if in a container with Docker's default seccomp profile.
fn as_in_a_container<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    with_refused(libc::SYS_io_uring_setup, libc::EPERM, f)
}

fn start(choice: DriverChoice) -> io::Result<Runtime> {
    Runtime::builder().driver(choice).build()
}

/// Sends a datagram to the same socket, shuts down, and fails unless it was received.
fn passes_a_datagram(runtime: Runtime) {
    runtime.block_on(async {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).await.unwrap();
        assert_eq!(&socket.recv().await.unwrap().expect("not drained")[..], b"x");
    });
    assert_eq!(runtime.shutdown(Drain::default()).stats.delivered, 1);
}

#[test]
fn auto_takes_io_uring_where_there_is_one() {
    // If the environment selects another driver, or the machine refuses io_uring, there is nothing
    // to test.
    match (start(DriverChoice::IoUring), std::env::var_os("EBBTIDE_DRIVER")) {
        (Ok(_), None) => {
            let runtime = start(DriverChoice::Auto).unwrap();
            assert!(matches!(runtime.driver(), RunningDriver::IoUring { .. }));
            assert_eq!(runtime.driver().to_string(), "io_uring");
        }
        (Err(error), _) => println!("skipped: {error}"),
        (_, Some(value)) => println!("skipped: EBBTIDE_DRIVER={value:?}"),
    }
}

#[test]
fn auto_takes_epoll_where_io_uring_is_refused_and_says_why() {
    if let Some(value) = std::env::var_os("EBBTIDE_DRIVER") {
        return println!("skipped: EBBTIDE_DRIVER={value:?}");
    }
    as_in_a_container(|| {
        let runtime = start(DriverChoice::Auto).unwrap();
        let RunningDriver::Epoll { refusal: Some(error), .. } = runtime.driver() else {
            panic!("the driver is {}", runtime.driver());
        };
        assert_eq!(error.cause(), StartCause::RefusedByPolicy);
        assert!(runtime.driver().to_string().contains("seccomp"), "{}", runtime.driver());
        passes_a_datagram(runtime);
    });
}

/// A sandbox may allow a ring and refuse operations on it. Fails when the driver is chosen before
/// these are tried: the first turn then panics.
#[test]
fn auto_takes_epoll_where_any_call_of_io_uring_is_refused() {
    if let Some(value) = std::env::var_os("EBBTIDE_DRIVER") {
        return println!("skipped: EBBTIDE_DRIVER={value:?}");
    }
    if let Err(error) = start(DriverChoice::IoUring) {
        return println!("skipped: {error}");
    }
    for (syscall, name) in [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ] {
        for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL, libc::EIO] {
            with_refused(syscall, errno, || {
                let runtime = start(DriverChoice::Auto).unwrap();
                let RunningDriver::Epoll { refusal: Some(refusal), .. } = runtime.driver() else {
                    panic!("{name}, errno {errno}: the driver is {}", runtime.driver());
                };
                if refusal.cause() == StartCause::RefusedByPolicy {
                    assert!(
                        refusal.to_string().contains(&format!("{name} is refused")),
                        "{refusal}"
                    );
                }
                passes_a_datagram(runtime);
                let error = start(DriverChoice::IoUring).expect_err("io_uring is refused");
                assert!(error.to_string().contains(&refusal.to_string()), "{error}, not {refusal}");
            });
        }
    }
}

#[test]
fn io_uring_is_not_replaced_where_it_was_asked_for() {
    let error =
        as_in_a_container(|| start(DriverChoice::IoUring).expect_err("io_uring is refused"));
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn epoll_runs_where_it_was_asked_for() {
    let runtime = start(DriverChoice::Epoll).unwrap();
    assert!(matches!(runtime.driver(), RunningDriver::Epoll { refusal: None, .. }));
    assert_eq!(runtime.driver().to_string(), "epoll");
    passes_a_datagram(runtime);
}

#[test]
fn the_environment_overrides_auto_and_nothing_else() {
    in_a_child_with(&[("EBBTIDE_DRIVER", "epoll")], || {
        assert_eq!(start(DriverChoice::Auto).unwrap().driver().to_string(), "epoll");
        if let Ok(runtime) = start(DriverChoice::IoUring) {
            assert_eq!(runtime.driver().to_string(), "io_uring");
        }
    });
}

#[test]
fn a_driver_that_does_not_exist_is_refused() {
    in_a_child_with(&[("EBBTIDE_DRIVER", "kqueue")], || {
        let error = start(DriverChoice::Auto).expect_err("the driver does not exist");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("io_uring, epoll or auto"), "{error}");
        start(DriverChoice::Epoll).expect("only Auto reads the environment");
    });
}

/// Fails when an error of epoll_ctl(2) is ignored: the socket then never receives. The drain reads
/// it nevertheless.
#[test]
fn a_socket_that_epoll_has_no_memory_for_says_so() {
    let high = Number::FIRST as u32..=u32::MAX;
    with_refused_if(libc::SYS_epoll_ctl, 2, high, libc::ENOMEM, || {
        let runtime = Runtime::builder().driver(DriverChoice::Epoll).build().unwrap();
        runtime.block_on(async {
            let (sender, receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
            let receiver = Number::reserve().duplicate(&receiver);
            let receiver = UnixDatagram::from_std(receiver.into()).unwrap();
            let received = timeout(Duration::from_secs(5), receiver.recv()).await;
            let error = received.expect("the error is reported in time").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
            sender.send(b"queued").unwrap();
            receiver.drain().unwrap();
            loop {
                match receiver.recv().await {
                    Ok(datagram) => break assert_eq!(datagram.unwrap()[..], *b"queued"),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::OutOfMemory),
                }
            }
        });
    });
}
