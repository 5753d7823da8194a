//! When `shutdown` returns, it is over: no operation is in flight, the kernel writes no memory any
//! more, and the addresses are free.

mod addresses;
mod lifetimes;
mod outliving_sockets;
