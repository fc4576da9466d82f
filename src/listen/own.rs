//! Accepting at a listener that is this process's own.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use tokio::io::unix::AsyncFd;

use crate::{sockets, worker::Worker};

/// Descriptors or memory are used up: how long accepting pauses.
const PAUSE: Duration = Duration::from_millis(100);

type Accepted = (OwnedFd, Option<SocketAddr>);

/// Accepts by oneself; `None` when this worker leaves and nobody waits any more.
pub(super) async fn accept(
    socket: &AsyncFd<sockets::Listener>,
    worker: Option<&Worker>,
) -> Option<Accepted> {
    let draining = async {
        match worker {
            Some(worker) => worker.draining().await,
            None => std::future::pending().await,
        }
    };
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
