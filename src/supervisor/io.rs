//! What goes into the supervisor and what comes out.

use std::time::Duration;

use crate::id::{Generation, Slot, WorkerId};

/// What the driver saw, or was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Spawn the first workers.
    Start,
    /// Spawn one worker, where nobody is spawned otherwise, in the lowest slot that no living worker has.
    Fork,
    /// The process exists. Every [`Action::Spawn`] is answered by this or by [`Input::SpawnFailed`].
    Spawned(WorkerId),
    /// There is no process, and no further input names this id.
    SpawnFailed(WorkerId),
    /// It said hello.
    Online(WorkerId),
    /// It serves.
    Listening(WorkerId),
    /// Its heartbeat moved. Told for all workers before the [`Input::Tick`] of the same moment.
    Beat(WorkerId),
    /// Its channel closed. Comes once for every spawned worker, before or after [`Input::Exited`].
    Disconnected(WorkerId),
    /// Its process was reaped. Comes once for every spawned worker.
    Exited(WorkerId),
    /// It was sent TERM and asks to be retired; it serves on until it is ordered to.
    Leaving(WorkerId),
    /// It has served enough ([`Recycling`](crate::recycling::Recycling)): replaced as one that asked to leave, but without the grace.
    Recycle(WorkerId),
    /// The program wants it to leave now; its slot is filled again at once.
    Disconnect(WorkerId),
    /// The program wants it to leave, and to end by a signal when it has not by the drain deadline, or is leaving already.
    DisconnectAndEnd(WorkerId),
    /// The program wants it to end by a signal now.
    End(WorkerId),
    /// Replace every worker by one of a new generation, each of which must have listened for `min_up` to count.
    Restart { min_up: Duration },
    /// Have this many workers from now on; zero is ignored.
    Scale(u32),
    /// The end has been announced: those that have asked to leave stay for it instead of being replaced.
    Ending,
    /// Retire every worker.
    Shutdown,
    /// Kill every worker.
    ShutdownNow,
    /// Time passed. Due ten times a second, so that a longer silence tells that the primary itself was stopped.
    Tick,
}

/// What the driver has to do. No action names a worker that has exited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process from the image of this generation.
    Spawn {
        id: WorkerId,
        slot: Slot,
        generation: Generation,
    },
    /// Take it out of scheduling, then order it to drain. At most once a worker.
    Retire(WorkerId),
    /// Have it end by the signal that the program named. At most once a worker, and not of one that was aborted.
    End(WorkerId),
    /// Send SIGABRT. At most once a worker.
    Abort(WorkerId),
    /// Send SIGKILL. At most once a worker.
    Kill(WorkerId),
    /// Tell people; nothing to do.
    Note(Note),
    /// After a shutdown or giving up: no worker process is left. The last action ever.
    Finished,
}

/// What happened, for logs and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// As many workers listen as were wanted, for the first time.
    Ready,
    /// The slot stays empty, or its leaving worker stays, for this long.
    BackOff { slot: Slot, delay: Duration },
    /// It did not listen in time and is killed.
    BootTimeout(WorkerId),
    /// Its heartbeat stopped; it is aborted.
    Hung(WorkerId),
    /// It did not drain in time and is killed.
    DeadlinePassed(WorkerId),
    /// Every older worker has been ordered to retire. `took` leaves out gaps in which the primary was stopped.
    Restarted {
        generation: Generation,
        replaced: u32,
        took: Duration,
    },
    /// The successor in this slot did not come up; every worker that was not replaced yet stays.
    RestartAbandoned {
        generation: Generation,
        slot: Slot,
        id: WorkerId,
    },
    /// No worker ever listened and one slot died too often, lastly as this worker: everything is shut down.
    GiveUp { id: WorkerId },
}
