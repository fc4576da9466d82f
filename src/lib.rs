//! Node's `cluster` module for axum and hyper.
//!
//! One **primary** process owns the listening sockets and supervises **worker** processes. Each worker runs the same program and serves
//! the same axum router on connections that the primary hands it: a process per core, crash isolation, exact fairness, request counts
//! and messages across processes.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use axum_cluster::ClusteredServer;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> axum_cluster::Result<()> {
//!     let app = Router::new().route("/", get(|| async { "hello world" }));
//!     ClusteredServer::bind("127.0.0.1:8000").workers(4).serve(app).await
//! }
//! ```
//!
//! Who comes from Node finds every member and event in [`from_node`].
//!
//! # What runs where
//!
//! Every process runs `main` from the top. A primary supervises at `serve`; a worker serves there. **Everything above `serve` runs in
//! every process**: what must happen once goes into [`prepare`](ClusteredServer::prepare), what only workers need into
//! [`serve_with`](ClusteredServer::serve_with). [`cluster::is_primary()`] and [`cluster::is_worker()`] answer from the first line on.
//! `serve` returns in both: in a worker when it has drained and its messages are flushed, in the primary when the last worker has ended.
//! What stands below it runs in every process too.
//!
//! # Counting requests across processes
//!
//! Node's documented example, and the same without a message a request:
//!
//! ```no_run
//! # use axum_cluster::ClusteredServer;
//! # let app = axum::Router::new();
//! let mut requests = 0_u64;
//! ClusteredServer::bind("127.0.0.1:8000")
//!     // In a handler: worker.send(&serde_json::json!({"cmd": "notifyRequest"}))
//!     .on_message(move |worker, message| {
//!         requests += 1;
//!         println!("{requests}: {:?} from worker {}", message.bytes(), worker.id());
//!     })
//!     // One notice a request, many in a datagram.
//!     .on_request(|worker, notice| println!("{} {} {:?}", worker.slot(), notice.status, notice.elapsed))
//!     // Nothing at all a request: the total is read from shared memory.
//!     .on_ready(|primary| println!("{} requests so far", primary.requests()))
//!     .serve(app);
//! ```
//!
//! # How it works
//!
//! A worker is the program started again (`fork` here never means a bare `fork(2)`), its standard input one end of a socket pair. On
//! that **channel** travel orders and messages; on a second one, the **intake**, connections. The intake's small buffer in the kernel is
//! the window: a worker that does not keep up is passed over, and when nobody has room the primary stops accepting and the kernel's
//! backlog holds the clients. The primary keeps a duplicate of each worker's end: what a dead or stuck worker has not taken, another one
//! gets. Counters stand in a page of shared memory a worker, the **scoreboard**, which the primary reads at any time.
//!
//! | what happens | what holds |
//! |---|---|
//! | a worker dies, however | only its own requests in flight fail; it is replaced at once; nobody is refused |
//! | a rolling restart | never fewer workers; live HTTP/1.1 connections move to the new workers, no client notices |
//! | a worker has served enough, if told so | replaced like in a restart, one at a time, none together |
//! | a worker holds more than its share | idle HTTP/1.1 connections move to emptier ones, no client notices |
//! | a worker hangs or is stopped | after 20 to 70 ms it is passed over, after 100 to 150 ms its waiting connections are with others; after `hang_timeout` it is aborted and replaced |
//! | TERM or INT | what has come is accepted, what is in flight finishes, exit 0, nothing is left |
//! | the primary is killed | workers drain and end; none outlives the drain deadline, none becomes a primary |
//! | messages | at most once, in order, flushed on a graceful end; a killed worker takes with it what it had not sent: at most 10 ms' worth, or since a handler began to block its thread |
//!
//! # Outside the program
//!
//! The variables `AXUM_CLUSTER_WORKERS` and `AXUM_CLUSTER_SCHEDULING` override [`workers`](ClusteredServer::workers) and
//! [`scheduling`](ClusteredServer::scheduling); a value that means nothing is an error. To the primary, TERM and INT are a graceful end,
//! QUIT an end at once, HUP a rolling restart, USR2 an upgrade in place, USR1 [`on_reopen`](ClusteredServer::on_reopen), TTIN and TTOU one
//! worker more or fewer. What happens is told through `tracing`: without a subscriber nothing is, not even why a restart was given up.
//!
//! # Features
//!
//! | feature | default | what it gives |
//! |---|---|---|
//! | `axum` | yes | `serve(Router)`, the [`Worker`] extractor, `ConnectInfo`, the route in notices |
//!
//! Without it there is [`serve_service`](ClusteredServer::serve_service) for any tower service.
//!
//! # Layout
//!
//! Imports point down the floors, never up; a test reads the sources and keeps it so.
//!
//! ```text
//! 5 surface    server (ClusteredServer, Serve)  times  upkeep  hooks  events  fork  start  running  single  service  cluster  listen  udp  binding  layer  extract
//! 4 roles      primary/ (driver/, dispatch/, fork, choice, acceptor, link, gate, process, memory, image, succession, handle, life, wishes, hooks)
//!              worker/ (run, apps, doors, served, ports, inbox, hub, leaving, watch)
//! 3 http       http/ (serving, timeouts, draining, letting go): knows a stream and a service, not who handed them over
//! 2 wires      ipc/ (channel, intake, outbox, letter, requests, datagram, memfd, parcel, limits)  scoreboard/  listeners  sockets/  signals  birth  reactor  ticks
//! 1 machines   supervisor/  recycling  rebalance  scheduler  pace  frame: pure, no tokio, no descriptor, no clock
//! 0 words      schedule  settings  address  wanted  event  message  moved  signal  id  error
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod address;
mod binding;
mod birth;
pub mod cluster;
mod error;
mod event;
mod events;
#[cfg(feature = "axum")]
mod extract;
#[cfg(test)]
mod floors;
mod fork;
mod frame;
mod hooks;
mod http;
mod id;
mod ipc;
mod layer;
mod listen;
mod listeners;
mod message;
mod moved;
mod pace;
mod primary;
mod reactor;
mod rebalance;
mod recycling;
mod running;
mod schedule;
mod scheduler;
mod scoreboard;
mod server;
mod service;
mod settings;
mod signal;
mod signals;
mod single;
mod sockets;
mod start;
mod supervisor;
mod ticks;
mod times;
mod udp;
mod upkeep;
mod wanted;
mod worker;

pub use address::{Address, Addresses, PrimaryFd};
pub use error::{BoxError, Error, Result};
pub use event::{CutRequest, Exit, Restarted};
#[cfg(feature = "axum")]
pub use extract::NoWorker;
pub use http::RequestBody;
pub use id::{Generation, Slot, WorkerId};
pub use ipc::{Reply, Sending};
pub use layer::{ClusterLayer, ClusterService, ResponseFuture};
pub use message::{Message, RequestNotice};
pub use primary::{Primary, Ticket, WorkerHandle, WorkerProcess};
pub use schedule::{Candidate, Schedule};
pub use server::{ClusteredServer, Role, Serve};
pub use settings::Scheduling;
pub use signal::Signal;
pub use worker::{Draining, Messages, Worker};

#[doc = include_str!("../docs/restarting.md")]
pub mod restarting {}

#[doc = include_str!("../docs/node.md")]
pub mod from_node {}

/// The README's snippets, kept compiling.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
