//! Every datagram that the kernel has put on the queue of an open socket before the seal is handed
//! to a receiver exactly once, per socket in queue order.

mod backlogs;
mod writer_and_counter;
mod zero_length;
