//! Tests of [`RemoteQueue`] with a real eventfd. They are in their own file, because `loom/`
//! compiles the other one without a kernel.

use std::fs::File;
use std::sync::Arc;
use std::task::Wake;

use super::{Permission, RemoteQueue, Root};

fn remote_queue() -> (Arc<RemoteQueue<u32>>, Arc<File>) {
    let eventfd = Arc::new(crate::driver::descriptor::eventfd().unwrap());
    (Arc::new(RemoteQueue::new(Arc::clone(&eventfd))), eventfd)
}

fn writes(eventfd: &File) -> u64 {
    let mut bytes = [0; 8];
    match std::io::Read::read(&mut &*eventfd, &mut bytes) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}

#[test]
fn many_wakes_in_one_sleep_write_once() {
    let (remote_queue, eventfd) = remote_queue();
    assert_eq!(remote_queue.fall_asleep(), Permission::Sleep);
    for item in 0..100 {
        remote_queue.push(item);
    }
    assert_eq!(writes(&eventfd), 1);
}

#[test]
fn wakes_while_awake_write_nothing() {
    let (remote_queue, eventfd) = remote_queue();
    remote_queue.push(1);
    assert_eq!(writes(&eventfd), 0);
    assert_eq!(remote_queue.fall_asleep(), Permission::StayAwake);
}

#[test]
fn what_is_pushed_after_the_end_is_dropped() {
    let eventfd = Arc::new(crate::driver::descriptor::eventfd().unwrap());
    let remote_queue = RemoteQueue::new(eventfd);
    let item = Arc::new(());
    remote_queue.push(Arc::clone(&item));
    remote_queue.close();
    assert_eq!(Arc::strong_count(&item), 1);
    remote_queue.push(Arc::clone(&item));
    assert_eq!(Arc::strong_count(&item), 1);
}

/// Fails when only the queue is checked before the sleep: nobody would poll that future again.
#[test]
fn a_future_of_block_on_that_was_woken_is_not_slept_over() {
    let (remote_queue, eventfd) = remote_queue();
    let root = Arc::new(Root::new(Arc::clone(&remote_queue)));
    assert_eq!(root.fall_asleep(), Permission::StayAwake, "it has to be polled once");
    remote_queue.awake();
    assert!(root.take_wake());
    assert_eq!(root.fall_asleep(), Permission::Sleep);
    Wake::wake_by_ref(&root);
    assert_eq!(writes(&eventfd), 1);
    remote_queue.awake();
    assert_eq!(root.fall_asleep(), Permission::StayAwake);
}
