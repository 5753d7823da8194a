//! Every datagram that the kernel has queued on an open socket before the seal is delivered to a
//! receiver exactly once, in the order of the socket's queue.

mod backlogs;
mod writer_and_counter;
mod zero_length;
