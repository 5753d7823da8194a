//! When `shutdown` returns, it is over: no operation is in flight, the kernel writes to no memory
//! of the runtime, and the addresses are free.

mod addresses;
mod lifetimes;
mod outliving_sockets;
