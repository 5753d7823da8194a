//! The datagram sockets of [`ebbtide`](https://docs.rs/ebbtide): [`UdpSocket`] and
//! [`UnixDatagram`].
//!
//! Programs use the crate `ebbtide`, which exports this crate as `ebbtide::net`.
//!
//! The sockets work on every driver. They use public parts of `ebbtide-runtime`: operations, sinks,
//! which a receive delivers to, and buffers.

#![warn(clippy::unwrap_used)]
// The stricter lints are not for tests, nor for builds with the model.
#![cfg_attr(
    not(any(test, ebbtide_model)),
    warn(
        clippy::pedantic,
        clippy::as_underscore,
        clippy::clone_on_ref_ptr,
        clippy::empty_structs_with_brackets,
        clippy::exit,
        clippy::get_unwrap,
        clippy::lossy_float_literal,
        clippy::mixed_read_write_in_expression,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::rest_pat_in_fully_bound_structs,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unnecessary_self_imports,
        clippy::verbose_file_reads,
    )
)]
#![cfg_attr(
    not(any(test, ebbtide_model)),
    allow(
        clippy::doc_markdown,
        clippy::duration_suboptimal_units,
        clippy::inline_always,
        clippy::match_bool,
        clippy::match_same_arms,
        clippy::missing_panics_doc,
        clippy::similar_names,
        clippy::single_match_else,
        clippy::struct_excessive_bools,
        clippy::unchecked_time_subtraction,
        clippy::unnecessary_debug_formatting,
        clippy::unnested_or_patterns,
        reason = "the names of the kernel are prose; what is inlined was measured; arms have \
                  reasons of their own; a panic that is a bug is no part of the contract"
    )
)]
// A number that does not fit is an error, or becomes the largest that fits. Nothing wraps on its
// way to the kernel.
#![cfg_attr(
    not(test),
    warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)
)]

mod datagram;
mod listen_fds;
#[cfg(ebbtide_model)]
#[doc(hidden)]
pub mod model;
mod sys;

pub use datagram::{
    Datagram, DatagramSocket, Incoming, Recv, RecvBatch, RecvFrom, RecvTrain, SendBatch, Sending,
    Train, Transmit, UdpOptions, UdpSocket, UnixAddr, UnixDatagram, Writable,
};
pub use ebbtide_runtime::{Exit, SocketStats};
pub use listen_fds::{ListenFd, listen_fds};
pub use sys::address::Address;
pub use sys::control::EcnCodepoint;

/// Properties of the parsers, for `fuzz/`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing {
    pub fn address(input: &[u8]) {
        crate::sys::address::properties::hold(input);
    }

    pub fn header(input: &[u8]) {
        crate::datagram::message_properties::hold(input);
    }

    pub fn control(input: &[u8]) {
        crate::sys::control::properties::hold(input);
    }
}
