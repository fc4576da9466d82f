//! A choice of the program's own: who gets the next connection.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::id::WorkerId;

/// A worker that may get the next connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its number.
    pub id: WorkerId,
    /// Connections that it was given and is not done with; those that are just on their way included.
    pub connections: u64,
}

/// Chooses the worker for a connection; see [`ClusteredServer::schedule_with`](crate::ClusteredServer::schedule_with).
///
/// Any `FnMut(Option<SocketAddr>, &[Candidate]) -> Option<WorkerId> + Send` is one.
pub trait Schedule: Send {
    /// Chooses among the workers that have room, of which there is at least one, in rising order of their ids. `peer` is the client's
    /// address, `None` over a unix socket.
    ///
    /// `None`, an id that is not among them, and a panic leave the choice to a strict rotation. Called in the primary for each connection,
    /// between accepting and handing over: whatever takes long here holds up every new client.
    fn choose(&mut self, peer: Option<SocketAddr>, candidates: &[Candidate]) -> Option<WorkerId>;
}

impl<F> Schedule for F
where
    F: FnMut(Option<SocketAddr>, &[Candidate]) -> Option<WorkerId> + Send,
{
    fn choose(&mut self, peer: Option<SocketAddr>, candidates: &[Candidate]) -> Option<WorkerId> {
        self(peer, candidates)
    }
}

/// The program's choice, and the list that it is shown.
pub(crate) struct Custom {
    schedule: Box<dyn Schedule>,
    candidates: Vec<Candidate>,
}

impl Custom {
    pub(crate) fn new(schedule: impl Schedule + 'static) -> Self {
        Self {
            schedule: Box::new(schedule),
            candidates: Vec::new(),
        }
    }

    /// One of these ids, if the program names one.
    pub(crate) fn choose(
        &mut self,
        peer: Option<SocketAddr>,
        free: impl Iterator<Item = (WorkerId, u64)>,
    ) -> Option<WorkerId> {
        self.candidates.clear();
        self.candidates
            .extend(free.map(|(id, connections)| Candidate { id, connections }));
        if self.candidates.is_empty() {
            return None;
        }
        let choose = || self.schedule.choose(peer, &self.candidates);
        let chosen = catch_unwind(AssertUnwindSafe(choose)).unwrap_or_else(|_| {
            tracing::error!("the schedule panicked: this connection goes by rotation");
            None
        })?;
        self.candidates
            .binary_search_by_key(&chosen, |candidate| candidate.id)
            .is_ok()
            .then_some(chosen)
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}
