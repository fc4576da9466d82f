//! Descriptors in tokio's reactor.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::sockets::Listener;

/// What always has the same descriptor, open for as long as it lives.
pub(crate) trait Steady: AsRawFd {}

impl Steady for OwnedFd {}
impl Steady for std::sync::Arc<OwnedFd> {}
impl Steady for BorrowedFd<'_> {}
impl Steady for Listener {}

/// Registers a descriptor with the current runtime.
#[allow(
    deprecated,
    reason = "its successor is `unsafe`, for types whose descriptor might change or close; `Steady` ones do not"
)]
pub(crate) fn watch<T: Steady>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
