//! Accepting in the worker itself, under shared scheduling: a small thread that waits at the cluster's listening sockets.
//!
//! The thread only finds out that somebody has come: it accepts one connection and lends its doors to the runtime, which accepts what else
//! there is in its own time, and returns them when there is nothing. So a busy worker accepts without changing threads, and one that does
//! not get on has one connection to give back.
//!
//! It waits in an epoll of its own, exclusively, so that a connection wakes one worker, and goes to the end of the kernel's queue after
//! each connection, so that the workers take turns. Four workers, 200 connections 5 ms apart: 50 each. As tokio waits, each connection
//! wakes all four; exclusively but without the turns, one worker gets all 200.
//!
//! An exclusive wake-up is for whoever gets it to deal with. The kernel gives it only to a thread that waits, so the thread accepts once
//! for each listener that woke it before it does anything else, also before it ends. What is lost with a killed worker, the primary makes up for.

mod porter;

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Notify, oneshot};

use self::porter::Porter;
use crate::{
    http::Connections,
    ipc::intake::{Conn, IntakeReceiver},
    pace::Pace,
    scoreboard::Row,
    sockets,
};

/// Connections that the runtime accepts before it turns to those that it has.
const TOGETHER: usize = 8;

/// Connections so close to each other, on average, come fast: then the runtime keeps the doors, and looks again after a pause, rather
/// than have the thread wait there. Others wait at doors of their own meanwhile.
const CLOSE: Duration = Duration::from_micros(300);

/// That pause: the shortest that the runtime has.
const GATHER: Duration = Duration::from_millis(1);

/// When a runtime has not served what came, it is busy: what comes back to the primary had better go elsewhere.
const STUCK: Duration = Duration::from_millis(5);

/// When connections that wait for a runtime that does not turn go back, for another worker to serve.
const GIVE_UP: Duration = Duration::from_millis(50);

/// How often a worker that can hold no more connections looks whether one has closed.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The pause where descriptors or memory are used up.
const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// Clients that come faster than they are accepted must not put off the end.
const REST: Duration = Duration::from_secs(1);

/// What the thread's own eventfd is called in its epoll; doors are called by their place.
const WAKE: u64 = u64::MAX;

/// The worker's doors: none, until the primary gives it listening sockets.
#[derive(Debug)]
pub(super) struct Doors {
    hall: Arc<Hall>,
    limit: usize,
    connections: Connections,
    intake: Arc<IntakeReceiver>,
    row: Arc<Row>,
}

/// Between the thread and the runtime.
#[derive(Debug)]
struct Hall {
    state: Mutex<State>,
    /// A connection has come, and the doors are lent.
    came: Notify,
    /// Written to, it wakes the thread.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    conns: VecDeque<Conn>,
    /// Since when the doors are lent to the runtime.
    lent: Option<Instant>,
    doors: Vec<Arc<Door>>,
    closing: bool,
    /// Completes when the thread has ended; there is none without it.
    ended: Option<oneshot::Receiver<()>>,
}

/// One listening socket.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: OwnedFd,
    pub(super) number: u16,
    pub(super) app: u16,
}

impl Hall {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Full means that the thread has been woken and has not looked yet.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Doors {
    pub(super) fn new(
        limit: usize,
        connections: Connections,
        intake: Arc<IntakeReceiver>,
        row: Arc<Row>,
    ) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            hall: Arc::new(Hall {
                state: Mutex::default(),
                came: Notify::new(),
                wake,
            }),
            limit,
            connections,
            intake,
            row,
        })
    }

    /// Accepts at these too from now on. Without effect once [`close`](Self::close) has begun.
    pub(super) fn open(&self, doors: Vec<Door>) -> io::Result<()> {
        let mut state = self.hall.state();
        if state.closing {
            return Ok(());
        }
        state.doors.extend(doors.into_iter().map(Arc::new));
        if state.ended.is_none() {
            let (ends, ended) = oneshot::channel();
            let porter = Porter::new(self)?;
            thread::Builder::new()
                .name("cluster accept".into())
                .stack_size(64 * 1024)
                .spawn(move || porter.run(ends))?;
            state.ended = Some(ended);
        }
        drop(state);
        self.hall.wake();
        Ok(())
    }

    /// Serves what comes, for ever.
    pub(super) async fn serve(&self, mut serve: impl FnMut(Conn)) {
        let mut doors = Vec::new();
        let mut pace = Pace::new(Instant::now(), CLOSE);
        loop {
            self.hall.came.notified().await;
            // As at the intake: what is due in the same turn comes first, and may block; who waits in the hall can be given back.
            tokio::task::yield_now().await;
            {
                let mut state = self.hall.state();
                if doors.len() != state.doors.len() {
                    doors.clone_from(&state.doors);
                }
                mem::take(&mut state.conns)
            }
            .into_iter()
            .for_each(&mut serve);
            while pace.after(self.accept_all(&doors, &mut serve).await, Instant::now()) {
                self.hall.state().lent = Some(Instant::now());
                tokio::time::sleep(GATHER).await;
            }
            self.hall.state().lent = None;
            self.hall.wake();
        }
    }

    /// Accepts at the doors that are lent until nobody comes any more; how many came.
    async fn accept_all(&self, doors: &[Arc<Door>], serve: &mut impl FnMut(Conn)) -> usize {
        let mut all = 0;
        loop {
            match self.accept(doors, serve) {
                0 => return all,
                came => all += came,
            }
            // Others may have come by when these are served.
            tokio::task::yield_now().await;
        }
    }

    /// Accepts some; how many came.
    fn accept(&self, doors: &[Arc<Door>], serve: &mut impl FnMut(Conn)) -> usize {
        let mut came = 0;
        for door in doors {
            for _ in 0..TOGETHER {
                let full = self.limit != usize::MAX && self.connections.open() >= self.limit;
                match (!full).then(|| door.let_in()) {
                    Some(Ok(conn)) => {
                        self.row.accepted_one();
                        serve(conn);
                        came += 1;
                    }
                    // Full, nobody there, or means are used up: the thread waits.
                    None => break,
                    Some(Err(error)) if is_end(&error) => break,
                    // This one connection failed before it was accepted: its client has gone.
                    Some(Err(_)) => {}
                }
            }
        }
        came
    }

    /// Accepts for the last time and closes all doors; serves what is still in the hall.
    pub(super) async fn close(&self, serve: impl FnMut(Conn)) {
        let ended = {
            let mut state = self.hall.state();
            state.closing = true;
            state.ended.take()
        };
        if let Some(ended) = ended {
            self.hall.wake();
            // Dropped by the end of the thread, however it ends.
            let _ = ended.await;
        }
        let conns = mem::take(&mut self.hall.state().conns);
        conns.into_iter().for_each(serve);
    }
}

impl Door {
    fn let_in(&self) -> io::Result<Conn> {
        let (fd, peer) = sockets::accept(&self.listener)?;
        Ok(Conn {
            fd,
            listener: self.number,
            app: self.app,
            peer,
            moved: None,
        })
    }
}

/// Whether nothing more can be accepted for now.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || sockets::is_shortage(error)
}
