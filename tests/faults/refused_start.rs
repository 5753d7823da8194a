//! Starting a runtime when the kernel refuses. The error names the cause and the remedy. Also,
//! limits at both ends of their ranges.

use std::fs;
use std::io;

use ebbtide::net::UnixDatagram;
use ebbtide::{Builder, Drain, DriverChoice, RunningDriver, Runtime, StartCause, StartError};
use ebbtide_testkit::child::in_a_child;
use ebbtide_testkit::descriptor::use_up;
use ebbtide_testkit::namespace::mount_privately;
use ebbtide_testkit::rights::{drop_the_right_to_lock_memory, limit};
use ebbtide_testkit::seccomp::with_refused;

/// A builder that requires a ring.
fn ring() -> Builder {
    Runtime::builder().driver(DriverChoice::IoUring)
}

/// Starts a runtime that must fail. Returns the error and its `StartError`.
fn refused(builder: Builder) -> (io::Error, StartError) {
    let error = builder.build().expect_err("the start fails");
    let inside = error.get_ref().and_then(|inside| inside.downcast_ref::<StartError>()).cloned();
    let inside = inside.unwrap_or_else(|| panic!("the error has no StartError: {error}"));
    (error, inside)
}

/// Fails unless a refusal of `syscall` with `errno` is reported as `cause`, with all `remedies`.
fn assert_told(syscall: libc::c_long, errno: i32, cause: StartCause, remedies: &[&str]) {
    let (error, inside) = with_refused(syscall, errno, || refused(ring()));
    assert_eq!(inside.cause(), cause, "{error}");
    for remedy in remedies {
        assert!(error.to_string().contains(remedy), "{remedy:?} is not in: {error}");
    }
}

#[test]
fn a_refusal_by_policy_names_seccomp() {
    let remedies = ["seccomp", "io_uring_setup", "io_uring_enter", "io_uring_register"];
    for syscall in refusable() {
        assert_told(syscall, libc::EPERM, StartCause::RefusedByPolicy, &remedies);
        assert_told(syscall, libc::EACCES, StartCause::RefusedByPolicy, &remedies);
    }
}

#[test]
fn a_kernel_without_io_uring_is_told() {
    let remedies = ["ENOSYS", "CONFIG_IO_URING", "gVisor"];
    assert_told(libc::SYS_io_uring_setup, libc::ENOSYS, StartCause::Absent, &remedies);
}

/// Every retry with fewer features is refused as well, because a filter cannot see the features.
#[test]
fn a_kernel_too_old_names_what_it_lacks() {
    let remedies = ["EINVAL", "multishot recvmsg", "ring-mapped buffers", "Linux 6.1"];
    for syscall in refusable() {
        assert_told(syscall, libc::EINVAL, StartCause::KernelTooOld, &remedies);
    }
}

#[test]
fn locked_memory_names_ulimit_l() {
    let remedies = ["ENOMEM", "ulimit -l", "LimitMEMLOCK="];
    assert_told(libc::SYS_io_uring_setup, libc::ENOMEM, StartCause::LockedMemory, &remedies);
}

#[test]
fn descriptors_name_ulimit_n() {
    let remedies = ["EMFILE", "ulimit -n", "LimitNOFILE="];
    for errno in [libc::EMFILE, libc::ENFILE] {
        assert_told(libc::SYS_io_uring_setup, errno, StartCause::Descriptors, &remedies);
    }
}

#[test]
fn any_other_refusal_is_told_in_the_kernels_words() {
    assert_told(libc::SYS_io_uring_setup, libc::EIO, StartCause::Other, &["Input/output error"]);
}

#[test]
fn the_kind_of_the_error_says_whether_another_kernel_or_more_rights_would_help() {
    for (errno, kind) in [
        (libc::EPERM, io::ErrorKind::PermissionDenied),
        (libc::ENOSYS, io::ErrorKind::Unsupported),
        (libc::EINVAL, io::ErrorKind::Unsupported),
    ] {
        let (error, _) = with_refused(libc::SYS_io_uring_setup, errno, || refused(ring()));
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// Runs on a thread that sees another value of `kernel.io_uring_disabled` than the machine has.
#[test]
fn the_sysctl_is_named_where_it_is_what_refuses() {
    let value = concat!(env!("CARGO_TARGET_TMPDIR"), "/io_uring_disabled");
    fs::write(value, "2\n").unwrap();
    with_refused(libc::SYS_io_uring_setup, libc::EPERM, || {
        if let Err(error) = mount_privately(value, "/proc/sys/kernel/io_uring_disabled") {
            return println!("skipped: no right to mount: {error}");
        }
        let (error, inside) = refused(ring());
        assert_eq!(inside.cause(), StartCause::DisabledBySysctl, "{error}");
        assert!(error.to_string().contains("kernel.io_uring_disabled"), "{error}");
    });
}

#[test]
fn a_process_without_descriptors_is_told_ulimit_n() {
    in_a_child(|| {
        limit(libc::RLIMIT_NOFILE, 64);
        let mut open = use_up();
        for room in 0..2 {
            let (error, inside) = refused(Runtime::builder());
            assert_eq!(inside.cause(), StartCause::Descriptors, "{room} descriptors: {error}");
            assert!(error.to_string().contains("ulimit -n"), "{room} descriptors: {error}");
            open.pop();
        }
        Runtime::new().expect("a runtime opens only an eventfd and a ring, or epoll");
    });
}

#[test]
fn a_process_without_locked_memory_is_told_ulimit_l() {
    in_a_child(|| {
        drop_the_right_to_lock_memory();
        limit(libc::RLIMIT_MEMLOCK, 0);
        match ring().build() {
            Ok(_) => return println!("skipped: this kernel does not count rings as locked memory"),
            Err(error) if is_refused_anyway(&error) => {
                return println!("skipped: io_uring is not available");
            }
            Err(_) => {}
        }
        let (error, inside) = refused(ring());
        assert_eq!(inside.cause(), StartCause::LockedMemory, "{error}");
        assert!(error.to_string().contains("ulimit -l"), "{error}");
    });
}

/// Fails when the ring is not halved until it fits.
#[test]
fn a_ring_that_does_not_fit_into_locked_memory_is_made_smaller() {
    in_a_child(|| {
        drop_the_right_to_lock_memory();
        let asked = ring().submission_entries(1024).completion_entries(65_536);
        limit(libc::RLIMIT_MEMLOCK, 512 * 1024);
        let runtime = match asked.build() {
            Err(error) if is_refused_anyway(&error) => {
                return println!("skipped: io_uring is not available");
            }
            built => built.expect("a smaller ring fits"),
        };
        if matches!(runtime.driver(), RunningDriver::IoUring { completion_entries: 65_536, .. }) {
            return println!("skipped: this kernel does not count rings as locked memory");
        }
        passes_a_thousand_datagrams(runtime);
    });
}

#[test]
fn a_pool_that_does_not_fit_into_memory_names_its_setters() {
    in_a_child(|| {
        limit(libc::RLIMIT_AS, 1 << 30);
        let (error, inside) = refused(ring().buffers(32_768));
        assert_eq!(inside.cause(), StartCause::PoolTooLarge, "{error}");
        assert!(error.to_string().contains("Builder::buffers"), "{error}");
    });
}

/// The system calls of a start that may be refused. If the machine refuses the first already, the
/// second is never made.
fn refusable() -> Vec<libc::c_long> {
    match ring().build() {
        Err(error) if is_refused_anyway(&error) => vec![libc::SYS_io_uring_setup],
        _ => vec![libc::SYS_io_uring_setup, libc::SYS_io_uring_register],
    }
}

/// The ring was made, so the kernel has the call, and another kernel would not help.
#[test]
fn a_call_that_a_sandbox_hides_is_no_lack_of_the_kernel() {
    let remedies = ["io_uring_enter is refused", "seccomp"];
    if refusable().len() > 1 {
        for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL] {
            let enter = libc::SYS_io_uring_enter;
            assert_told(enter, errno, StartCause::RefusedByPolicy, &remedies);
        }
    }
}

/// Whether io_uring is refused for a ring of any size.
fn is_refused_anyway(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

#[test]
fn a_limit_out_of_range_is_refused_by_its_name() {
    let builder = Runtime::builder;
    for (builder, message) in [
        (builder().submission_entries(1), "submission_entries(1) is out of range: give 2 to 32768"),
        (builder().submission_entries(32_769), "submission_entries(32769)"),
        (builder().completion_entries(1), "completion_entries(1) is out of range: give 2 to 65536"),
        (builder().completion_entries(65_537), "completion_entries(65537)"),
        (builder().buffers(0), "buffers(0) is out of range: give 1 to 32768"),
        (builder().buffers(32_769), "buffers(32769)"),
        (builder().buffer_size(0), "buffer_size(0) is out of range: give 1 to 1048576"),
        (builder().buffer_size((1 << 20) + 1), "buffer_size(1048577)"),
        (builder().tasks_per_turn(0), "tasks_per_turn(0)"),
        (builder().operations_per_poll(0), "operations_per_poll(0)"),
    ] {
        let error = builder.build().expect_err(message);
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(&format!("Builder::{message}")), "{error}");
    }
}

#[test]
fn limits_at_the_ends_of_their_ranges_work() {
    let builder = Runtime::builder;
    for builder in [
        builder().submission_entries(2).completion_entries(2).buffers(1),
        builder().submission_entries(2).completion_entries(2).buffers(1).buffer_size(4),
        builder().submission_entries(32_768).completion_entries(65_536),
        builder().submission_entries(32_768).completion_entries(2),
        builder().buffers(32_768),
        builder().buffer_size(1 << 20),
        builder().tasks_per_turn(1).operations_per_poll(1),
        builder().tasks_per_turn(usize::MAX).operations_per_poll(u32::MAX),
    ] {
        passes_a_thousand_datagrams(builder.build().unwrap());
    }
}

fn passes_a_thousand_datagrams(runtime: Runtime) {
    let received = runtime.block_on(async {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let sending = ebbtide::spawn(async move {
            for number in 0..1000u32 {
                sender.send(&number.to_le_bytes()).await.unwrap();
            }
        });
        for number in 0..1000u32 {
            let datagram = receiver.recv().await.unwrap().expect("not drained");
            assert_eq!(datagram[..], number.to_le_bytes());
        }
        sending.await.unwrap();
        receiver.stats().received
    });
    assert_eq!(received, 1000);
    assert_eq!(runtime.shutdown(Drain::default()).undelivered, 0);
}
