//! Node's `cluster` object: what this process is, and the cluster it belongs to.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{
    birth::{Birth, birth},
    error::{Error, Result},
    id::Slot,
    start::Part,
    worker::Worker,
};
pub use crate::{
    event::{CutRequest, Exit, Restarted},
    events::{Event, Events},
    fork::Cluster,
    listen::{Listen, Listener, Peer, Stream, listen},
    primary::{ForkOptions, Primary, Ticket, WorkerHandle, WorkerProcess},
    server::Role,
    udp::{BindUdp, UdpSocket, bind_udp},
};

static STARTED: AtomicBool = AtomicBool::new(false);
static WORKER: OnceLock<Worker> = OnceLock::new();
static PRIMARY: OnceLock<Primary> = OnceLock::new();

/// Whether this process is a primary, or will be one once it serves (Node's `cluster.isPrimary`).
///
/// Right from the first line of `main`, before `serve`.
pub fn is_primary() -> bool {
    !is_worker()
}

/// Whether this process was started as a worker (Node's `cluster.isWorker`).
///
/// Right from the first line of `main`. The first call into this crate moves the worker's channel away from standard input: a program
/// that starts child processes above `serve` calls this before.
pub fn is_worker() -> bool {
    matches!(birth(), Birth::Worker(_) | Birth::Orphan(_))
}

/// The worker that this process is (Node's `cluster.worker`): `None` in a primary, and before `serve`.
pub fn worker() -> Option<Worker> {
    WORKER.get().cloned()
}

/// The primary that this process is, once it serves.
pub fn primary() -> Option<Primary> {
    PRIMARY.get().cloned()
}

/// What the [`on_upgrade`](crate::ClusteredServer::on_upgrade) of the program before this one returned; `None` in a program that was
/// started in the ordinary way, and in workers. Right from the first line of `main`.
///
/// ```no_run
/// # use axum_cluster::{ClusteredServer, cluster};
/// # use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
/// let before = cluster::inherited().and_then(|bytes| bytes.try_into().ok());
/// let seen = Arc::new(AtomicU64::new(before.map_or(0, u64::from_le_bytes)));
/// let left = seen.clone();
/// ClusteredServer::bind("127.0.0.1:8000")
///     .on_request(move |_worker, _notice| { seen.fetch_add(1, Relaxed); })
///     .on_upgrade(move || left.load(Relaxed).to_le_bytes().to_vec())
/// # ;
/// ```
pub fn inherited() -> Option<Vec<u8>> {
    match birth() {
        Birth::Successor(left) => Some(left.inheritance().to_vec()),
        _ => None,
    }
}

/// The place of the worker that this process is, from the first line of `main`; `None` in a primary.
pub fn slot() -> Option<Slot> {
    match birth() {
        Birth::Worker(born) => Some(born.slot),
        Birth::Plain | Birth::Successor(_) | Birth::Orphan(_) => None,
    }
}

/// What this process is, for log lines: `primary`, `worker 2` (by slot).
pub fn label() -> String {
    slot().map_or_else(
        || {
            if is_primary() {
                "primary".into()
            } else {
                "orphaned worker".into()
            }
        },
        |slot| format!("worker {slot}"),
    )
}

/// One cluster a process. Given up again by the drop, unless [kept](Claim::keep): a bind that failed may be tried anew.
#[derive(Debug)]
pub(crate) struct Claim(());

impl Claim {
    pub(crate) fn new() -> Result<Self> {
        if STARTED.swap(true, Relaxed) {
            Err(Error::AlreadyStarted)
        } else {
            Ok(Self(()))
        }
    }

    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        STARTED.store(false, Relaxed);
    }
}

/// What `start` has begun, until `wait` or `serve` goes on with it.
static KEPT: Mutex<Option<Part>> = Mutex::new(None);

pub(crate) fn keep(part: Part) {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
}

pub(crate) fn take_kept() -> Option<Part> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).take()
}

pub(crate) fn announce_worker(worker: &Worker) {
    // Only the one who claimed the process comes here.
    let _ = WORKER.set(worker.clone());
}

pub(crate) fn announce_primary(primary: &Primary) {
    let _ = PRIMARY.set(primary.clone());
}
