//! What workers give back, on its way to others.

use std::{cell::RefCell, rc::Rc};

use rustix::process::Signal;

use crate::{
    id::WorkerId,
    ipc::{
        intake::{Batch, CROWDED, Handbacks},
        limits,
    },
    primary::{dispatch::Dispatch, process::Process},
};

/// Connections that come back are placed in lots of this size, so that accepting has its turn in between.
const TOGETHER: usize = 64;

/// Reads what a worker gives back, always: a worker that leaves waits for it, and it for nobody.
pub(super) async fn read_handbacks(
    id: WorkerId,
    handbacks: Rc<Handbacks>,
    dispatch: Rc<RefCell<Dispatch>>,
    process: Rc<Process>,
) {
    let broken = loop {
        match handbacks.receive().await {
            Ok(Some(mut batch)) => {
                let full = |batch: &Batch| batch.conns.iter().any(|conn| limits::is_full(&conn.fd));
                // What has come meanwhile shares its datagrams.
                while batch.conns.len() < TOGETHER
                    && !full(&batch)
                    && let Some(more) = handbacks.rest()
                {
                    batch.lost += more.lost;
                    batch.conns.extend(more.conns);
                }
                let full = full(&batch);
                if !dispatch.borrow_mut().take_returned(id, batch) {
                    break "gave back more than it was given";
                }
                while full && dispatch.borrow().waiting() > 0 {
                    tokio::time::sleep(CROWDED).await;
                }
            }
            Ok(None) => break "shut its intake",
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                break "gave back what is no connection";
            }
            // A peer that closed with something unread: not the end of what it said.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => {
                tracing::error!(worker = %id, %error, "cannot read what a worker gives back");
                return;
            }
        }
    };
    tracing::error!(worker = %id, "{broken}: it is replaced");
    process.signal(Signal::KILL);
}
