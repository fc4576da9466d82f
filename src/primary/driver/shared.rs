//! Workers that accept themselves: they are given the listening sockets, and what they miss is made up for.

use std::{os::fd::AsFd, rc::Rc};

use tokio::task::{JoinHandle, spawn_local};

use super::{Driver, children::Child};
use crate::{frame::Frame, id::WorkerId, ipc::channel::MAX_FDS, primary::acceptor::Acceptor};

impl Driver {
    /// Accepts what waits although a worker should have accepted it. The kernel wakes one worker for a connection: if that one dies, or
    /// is stopped, nobody else is woken for it before the next one comes.
    pub(super) fn look_at_listeners(&mut self) {
        let accepted = self.dispatch.borrow().accepted();
        let waits = |(acceptor, _): &(Rc<Acceptor>, _)| {
            self.dispatch.borrow().is_shared(acceptor.number) && acceptor.is_waited_at()
        };
        let waited = accepted.filter(|_| self.acceptors.iter().any(waits));
        // As long as somebody accepts, those that came first are first.
        if waited.is_some() && waited == self.waited {
            self.accept_missed();
        }
        self.waited = waited;
    }

    /// A worker has ended, perhaps with a wake-up that was meant for somebody who lives.
    pub(super) fn accept_for(&mut self, ended: WorkerId) {
        if self.dispatch.borrow().accepted().is_some() {
            tracing::debug!(worker = %ended, "accepts what it may have missed");
            self.accept_missed();
        }
    }

    fn accept_missed(&self) {
        for (acceptor, _) in &self.acceptors {
            if self.dispatch.borrow().is_shared(acceptor.number) {
                acceptor.accept_some(&self.dispatch);
            }
        }
    }
}

/// Gives a worker those listeners that its own program asks for and it does not have, and says which.
///
/// Not with its welcome: it may still turn out that it cannot stay, and by then it must not have accepted anything.
pub(super) fn give_listeners(
    child: &Child,
    acceptors: &[(Rc<Acceptor>, JoinHandle<()>)],
    has: &[u16],
) -> Vec<u16> {
    let mut given = Vec::new();
    for (acceptor, _) in acceptors {
        let asked = child.asked.iter().find(|(name, _)| *name == acceptor.name);
        if let Some(&(_, app)) = asked
            && !has.contains(&acceptor.number)
        {
            given.push((acceptor.clone(), app));
        }
    }
    let numbers = given.iter().map(|(acceptor, _)| acceptor.number).collect();
    let channel = child.channel.clone();
    spawn_local(async move {
        for lot in given.chunks(MAX_FDS) {
            let said: Vec<_> = lot
                .iter()
                .map(|(acceptor, app)| (acceptor.number, *app))
                .collect();
            let Ok(said) = serde_json::to_vec(&said) else {
                return;
            };
            let mut datagram = Vec::new();
            Frame::Accept(&said).encode(&mut datagram);
            let fds: Vec<_> = lot
                .iter()
                .map(|(acceptor, _)| acceptor.listener().as_fd())
                .collect();
            // A worker that has gone meanwhile is noticed by its end.
            let _ = channel.send(&datagram, &fds).await;
        }
    });
    numbers
}
