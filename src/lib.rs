#![cfg_attr(test, allow(clippy::unwrap_used))]
mod address;
mod birth;
pub mod cluster;
mod error;
mod event;
#[cfg(feature = "axum")]
mod extract;
mod frame;
mod hooks;
mod http;
mod id;
mod ipc;
mod layer;
mod message;
mod primary;
mod reactor;
mod scheduler;
mod scoreboard;
mod server;
mod service;
mod settings;
mod signals;
mod single;
mod sockets;
mod start;
mod supervisor;
mod worker;

#[cfg(feature = "axum")]
pub use extract::NoWorker;
pub use address::{Address, Addresses};
pub use error::{BoxError, Error, Result};
pub use event::Exit;
pub use http::RequestBody;
pub use id::{Generation, Slot, WorkerId};
pub use layer::{ClusterLayer, ClusterService, ResponseFuture};
pub use message::{Message, RequestNotice};
pub use primary::{Primary, Ticket, WorkerHandle};
pub use server::{ClusteredServer, Role, Serve};
pub use settings::Scheduling;
pub use worker::{Draining, Messages, Worker};
