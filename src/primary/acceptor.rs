//! Accepting: from the kernel's backlog to the dispatch, as long as some worker has room.

use std::{
    cell::RefCell,
    io,
    os::fd::AsFd,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;

use super::dispatch::Dispatch;
use crate::{
    ipc::intake::Conn,
    listeners::{Bound, Name},
    pace::Pace,
    reactor,
    sockets::{self, Listener},
};

/// Connections accepted before the batches are sent: full datagrams for four workers, and the bound of what may wait in the primary.
const ACCEPT_BATCH: usize = 64;

/// A listening socket in the primary's runtime.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: Listener,
    pub(super) number: u16,
    pub(super) name: Name,
    pub(super) app: u16,
}

enum Accepted {
    /// So many; the backlog is empty.
    All(usize),
    /// There may be more.
    Some,
    /// Descriptors or memory are used up.
    Failed(io::Error),
}

impl Acceptor {
    pub(super) fn new(bound: Bound) -> Self {
        Self {
            listener: bound.listener,
            number: bound.number,
            name: bound.name,
            app: bound.app,
        }
    }

    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Accepts for ever, where and while no worker does.
    pub(super) async fn run(&self, dispatch: Rc<RefCell<Dispatch>>) {
        let is_shared = |dispatch: &Dispatch| dispatch.is_shared(self.number);
        loop {
            when(&dispatch, |dispatch| {
                dispatch.has_room_for(self.number) && !is_shared(dispatch)
            })
            .await;
            // Watched no longer than this process accepts: it would be woken for each connection that a worker accepts.
            let watched = match reactor::watch(self.listener.as_fd(), Interest::READABLE) {
                Ok(watched) => watched,
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            let mut pace = Pace::new(Instant::now(), CLOSE);
            loop {
                when(&dispatch, |dispatch| {
                    dispatch.has_room_for(self.number) || is_shared(dispatch)
                })
                .await;
                if is_shared(&dispatch.borrow()) {
                    break;
                }
                let Ok(mut ready) = watched.readable().await else {
                    return;
                };
                // Another listener may have used up the room meanwhile, or a worker has come that accepts.
                if !dispatch.borrow().has_room_for(self.number) || is_shared(&dispatch.borrow()) {
                    continue;
                }
                match self.accept(&dispatch) {
                    Accepted::All(came) if pace.after(came, Instant::now()) => {
                        ready.retain_ready();
                        // The whole thread: a timer of the runtime's takes a millisecond, one of the kernel's three system calls.
                        thread::sleep(GATHER);
                        tokio::task::yield_now().await;
                    }
                    Accepted::All(_) => ready.clear_ready(),
                    Accepted::Some => {
                        ready.retain_ready();
                        tokio::task::yield_now().await;
                    }
                    Accepted::Failed(error) => {
                        ready.retain_ready();
                        self.failed(&error).await;
                    }
                }
            }
        }
    }

    async fn failed(&self, error: &io::Error) {
        tracing::error!(%error, address = %self.listener.local, "cannot accept; clients wait in the backlog");
        // Also the bound of the log's rate. Descriptors come free by other tasks of this thread, so it must not be blocked.
        tokio::time::sleep(PAUSE).await;
    }

    /// Whether clients wait to be accepted.
    pub(super) fn is_waited_at(&self) -> bool {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Accepts a batch of what has come, if there is room for it.
    pub(super) fn accept_some(&self, dispatch: &RefCell<Dispatch>) {
        if dispatch.borrow().has_room() {
            let _ = self.accept(dispatch);
        }
    }

    /// Accepts what has already come, for the last time: a listener must not be closed on clients that wait in its backlog.
    pub(super) fn accept_rest(&self, dispatch: &RefCell<Dispatch>) {
        let begun = Instant::now();
        // Until nobody came while the last ones were placed, so that between the last look and the close there is next to no time.
        while matches!(self.accept(dispatch), Accepted::Some | Accepted::All(1..))
            && begun.elapsed() < REST
        {}
    }

    /// The same, and ends listening in workers too. A listener that was given to this program may be somebody else's as well, who goes on.
    pub(super) fn end(&self, dispatch: &RefCell<Dispatch>) {
        self.accept_rest(dispatch);
        if self.name.address().is_some() {
            sockets::stop_listening(&self.listener);
        }
    }

    fn accept(&self, dispatch: &RefCell<Dispatch>) -> Accepted {
        let mut dispatch = dispatch.borrow_mut();
        dispatch.sync_loads();
        dispatch.look(Instant::now());
        let mut outcome = Accepted::Some;
        for came in 0..ACCEPT_BATCH {
            match sockets::accept(&self.listener) {
                Ok((fd, peer)) => dispatch.place(Conn {
                    fd,
                    listener: self.number,
                    app: 0,
                    peer,
                    moved: None,
                }),
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock || sockets::is_stopped(&error) =>
                {
                    outcome = Accepted::All(came);
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

/// Connections so close to each other, on average, come fast: three or more gather in a pause.
const CLOSE: Duration = Duration::from_micros(100);

/// That pause, to which the kernel adds its slack of 50 µs. With a third of it, a connection costs a sixth more.
const GATHER: Duration = Duration::from_micros(300);

/// Clients that come faster than they are accepted must not put off the end.
const REST: Duration = Duration::from_secs(1);

/// Completes when this is so, as far as it depends on workers and their room.
async fn when(dispatch: &RefCell<Dispatch>, is_so: impl Fn(&Dispatch) -> bool) {
    let news = dispatch.borrow().news();
    loop {
        let notified = news.notified();
        tokio::pin!(notified);
        // From here on no news is missed.
        notified.as_mut().enable();
        if is_so(&dispatch.borrow()) {
            return;
        }
        notified.await;
    }
}
