//! The two wires to a worker, both AF_UNIX SEQPACKET: the channel for orders and messages, the intake for connections.

pub(crate) mod channel;
mod conn;
pub(crate) mod datagram;
mod handles;
pub(crate) mod intake;
pub(crate) mod letter;
pub(crate) mod limits;
mod memfd;
pub(crate) mod outbox;
pub(crate) mod parcel;
mod post;
mod queue;
pub(crate) mod requests;
mod sending;

pub use requests::Reply;
pub use sending::Sending;
