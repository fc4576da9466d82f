//! What keeps a worker in touch with its primary, whatever it serves.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use super::{
    Worker,
    doors::{Door, Doors},
    inbox::take_in,
    leaving,
};
use crate::{
    frame::{Frame, frames},
    http::Connections,
    ipc::channel::{Buffer, Channel},
    signals::WorkerSignals,
    ticks::Ticks,
};

/// How often a worker shows that its runtime turns.
const HEARTBEAT: Duration = Duration::from_secs(1);

pub(super) async fn write(channel: Arc<Channel>, worker: Worker) {
    channel.write(worker.outbox()).await;
}

/// Reads orders and messages until the primary is gone.
pub(super) async fn read(
    channel: Arc<Channel>,
    worker: Worker,
    connections: Connections,
    doors: Arc<Doors>,
) {
    let mut buffer = Buffer::new();
    while let Ok(Some(received)) = channel.receive(&mut buffer).await {
        let datagram = bytes::Bytes::copy_from_slice(buffer.get(received.len));
        if let Some(Ok(Frame::Accept(said))) = frames(&datagram).next() {
            accept(&doors, said, received.fds);
            continue;
        }
        let fds = received.fds.into_iter().map(Arc::new);
        take_in(&worker, &datagram, fds, |order| match order {
            // Only whether it is still there: it has been passed over, and the next beat may be a second away.
            Frame::GiveBack(0) => worker.row().beat(),
            Frame::GiveBack(n) => {
                let told = connections.give_back(n as usize);
                tracing::debug!(worker = %worker.id(), connections = told, "gives idle connections back");
            }
            Frame::Reopen => worker.reopen(),
            Frame::Leave => worker.leave(),
            Frame::EndBy(signal) => leaving::end_by(signal),
            _ => tracing::error!("the primary sent a frame that this version does not know"),
        });
    }
    // Not when it was told to leave, or has closed the channel itself.
    if worker.is_connected() && !worker.row().is_to_leave() {
        tracing::warn!(worker = %worker.id(), "the primary is gone: finishes what is in flight, and ends");
    }
    worker.outbox().close();
    worker.hub().end();
    // Nobody is left to work for.
    worker.leave();
}

/// Accepts at the listening sockets that came; `said` is the number and the app of each.
fn accept(doors: &Doors, said: &[u8], fds: Vec<OwnedFd>) {
    let said: Vec<(u16, u16)> = serde_json::from_slice(said).unwrap_or_default();
    let given = fds.into_iter().zip(said);
    let given = given.map(|(listener, (number, app))| Door {
        listener,
        number,
        app,
    });
    if let Err(error) = doors.open(given.collect()) {
        // The primary sees that nobody accepts, and does so itself.
        tracing::error!(%error, "cannot accept connections");
    }
}

/// Beats from inside the runtime: where it does not turn, the worker is of no use, whatever its other threads do.
pub(super) async fn beat(worker: Worker) {
    let mut ticks = Ticks::every(HEARTBEAT);
    loop {
        worker.row().beat();
        ticks.next().await;
    }
}

/// A TERM that was sent to this worker: the primary replaces it, or ends too, because it got one itself.
pub(super) async fn tell_of_term(mut signals: WorkerSignals, worker: Worker) {
    loop {
        signals.term().await;
        worker.outbox().order(&Frame::Leaving);
    }
}
