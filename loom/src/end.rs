//! The owner ends while other threads push. Nothing may stay in the queue, because nobody would
//! ever drop it.

use std::sync::Arc;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::sync::Eventfd;
use crate::task::RemoteQueue;

/// Counts its drops.
struct Item {
    dropped: Arc<AtomicUsize>,
}

impl Drop for Item {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Threads push while the owner pops and closes. When all have ended, every item was popped or
/// dropped. None is left in the queue, which is still alive.
fn nothing_is_left(pushes: &[usize]) {
    let inbox = Arc::new(RemoteQueue::new(Arc::new(Eventfd::default())));
    let dropped = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = pushes
        .iter()
        .map(|&count| {
            let (inbox, dropped) = (Arc::clone(&inbox), Arc::clone(&dropped));
            thread::spawn(move || {
                for _ in 0..count {
                    inbox.push(Item { dropped: Arc::clone(&dropped) });
                }
            })
        })
        .collect();
    drop(inbox.pop());
    inbox.close();
    for thread in threads {
        thread.join().expect("the thread does not panic");
    }
    assert_eq!(dropped.load(Ordering::Relaxed), pushes.iter().sum::<usize>());
}

/// One thread pushes twice.
pub fn nothing_of_one_thread_is_left_after_the_end() {
    nothing_is_left(&[2]);
}

/// Two threads push at the same time. Each may drop the item of the other.
pub fn nothing_of_two_threads_is_left_after_the_end() {
    nothing_is_left(&[1, 1]);
}
