//! The two wires to a worker, both AF_UNIX SEQPACKET: the channel for orders and messages, the intake for connections.

pub(crate) mod channel;
mod conn;
mod datagram;
pub(crate) mod intake;
pub(crate) mod limits;
mod memfd;
pub(crate) mod outbox;
pub(crate) mod parcel;
