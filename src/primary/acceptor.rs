//! Accepting: from the kernel's backlog to the dispatch, as long as some worker has room.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::dispatch::Dispatch;
use crate::{
    ipc::intake::Conn,
    listeners::{Bound, Name},
    reactor,
    sockets::{self, Listener},
};

/// Connections accepted before the batches are sent: full datagrams for four workers, and the bound of what may wait in the primary.
const ACCEPT_BATCH: usize = 64;

/// A listening socket in the primary's runtime.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: AsyncFd<Listener>,
    pub(super) number: u16,
    pub(super) name: Name,
    pub(super) app: u16,
}

enum Accepted {
    /// The backlog is empty.
    All,
    /// There may be more.
    Some,
    /// Descriptors or memory are used up.
    Failed(io::Error),
}

impl Acceptor {
    pub(super) fn new(bound: Bound) -> io::Result<Self> {
        Ok(Self {
            listener: reactor::watch(bound.listener, Interest::READABLE)?,
            number: bound.number,
            name: bound.name,
            app: bound.app,
        })
    }

    pub(super) fn listener(&self) -> &Listener {
        self.listener.get_ref()
    }

    /// Accepts for ever.
    pub(super) async fn run(&self, dispatch: Rc<RefCell<Dispatch>>) {
        loop {
            room(&dispatch, self.number).await;
            let Ok(mut ready) = self.listener.readable().await else {
                return;
            };
            // Another listener may have used up the room meanwhile.
            if !dispatch.borrow().has_room_for(self.number) {
                continue;
            }
            match self.accept(&dispatch) {
                Accepted::All => ready.clear_ready(),
                Accepted::Some => {
                    ready.retain_ready();
                    tokio::task::yield_now().await;
                }
                Accepted::Failed(error) => {
                    ready.retain_ready();
                    tracing::error!(%error, address = %self.listener.get_ref().local, "cannot accept; clients wait in the backlog");
                    // Also the bound of the log's rate. Descriptors come free by other tasks of this thread, so it must not be blocked.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Accepts what has already come, for the last time: a listener must not be closed on clients that wait in its backlog.
    pub(super) fn accept_rest(&self, dispatch: &RefCell<Dispatch>) {
        let begun = Instant::now();
        while matches!(self.accept(dispatch), Accepted::Some) && begun.elapsed() < REST {}
    }

    fn accept(&self, dispatch: &RefCell<Dispatch>) -> Accepted {
        let mut dispatch = dispatch.borrow_mut();
        dispatch.sync_loads();
        let mut outcome = Accepted::Some;
        for _ in 0..ACCEPT_BATCH {
            match sockets::accept(&self.listener) {
                Ok((fd, peer)) => dispatch.place(Conn {
                    fd,
                    listener: self.number,
                    app: 0,
                    peer,
                    moved: None,
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    outcome = Accepted::All;
                    break;
                }
                Err(error) if sockets::is_shortage(&error) => {
                    outcome = Accepted::Failed(error);
                    break;
                }
                // This one connection failed before it was accepted: its client has gone.
                Err(_) => {}
            }
        }
        dispatch.flush();
        outcome
    }
}

const PAUSE: Duration = Duration::from_millis(100);

/// Clients that come faster than they are accepted must not put off the end.
const REST: Duration = Duration::from_secs(1);

/// Completes when some worker has room.
async fn room(dispatch: &RefCell<Dispatch>, listener: u16) {
    let news = dispatch.borrow().news();
    loop {
        let notified = news.notified();
        tokio::pin!(notified);
        // From here on no news is missed.
        notified.as_mut().enable();
        if dispatch.borrow().has_room_for(listener) {
            return;
        }
        notified.await;
    }
}
