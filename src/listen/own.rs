//! Accepting at a listener that is this process's own.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::{
    io::unix::AsyncFd,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{sockets, worker::Worker};

/// Descriptors or memory are used up: how long accepting pauses.
const PAUSE: Duration = Duration::from_millis(100);

type Accepted = (OwnedFd, Option<SocketAddr>);

/// Room for one more connection; `None` when this worker leaves and has none: it would not take whoever waits.
pub(super) async fn place(
    room: &Arc<Semaphore>,
    worker: Option<&Worker>,
) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        place = room.clone().acquire_owned() => place.ok(),
        () = draining(worker) => None,
    }
}

/// Accepts by oneself; `None` when this worker leaves and nobody waits any more.
pub(super) async fn accept(
    socket: &AsyncFd<sockets::Listener>,
    worker: Option<&Worker>,
) -> Option<Accepted> {
    let draining = draining(worker);
    tokio::pin!(draining);
    loop {
        match sockets::accept(socket) {
            Ok(accepted) => return Some(accepted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if sockets::is_shortage(&error) => {
                tracing::error!(%error, "cannot accept; clients wait in the backlog");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            // This one failed before it was accepted.
            Err(_) => continue,
        }
        tokio::select! {
            ready = socket.readable() => match ready {
                Ok(mut ready) => {
                    // Asked again first: what comes after that sets it again.
                    match sockets::accept(socket) {
                        Ok(accepted) => return Some(accepted),
                        Err(_) => ready.clear_ready(),
                    }
                }
                Err(_) => return None,
            },
            () = &mut draining => return sockets::accept(socket).ok(),
        }
    }
}

async fn draining(worker: Option<&Worker>) {
    match worker {
        Some(worker) => worker.draining().await,
        None => std::future::pending().await,
    }
}
