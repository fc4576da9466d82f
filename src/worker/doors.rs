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

use std::{
    collections::VecDeque,
    io, mem,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{
    EventfdFlags, Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
    eventfd,
};
use tokio::sync::{Notify, oneshot};

use crate::{
    http::Connections,
    ipc::intake::{Conn, IntakeReceiver},
    moved::{Awaits, Moved},
    scoreboard::Row,
    sockets,
};

/// Connections that the runtime accepts before it turns to those that it has.
const TOGETHER: usize = 8;

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
        loop {
            self.hall.came.notified().await;
            {
                let mut state = self.hall.state();
                if doors.len() != state.doors.len() {
                    doors.clone_from(&state.doors);
                }
                mem::take(&mut state.conns)
            }
            .into_iter()
            .for_each(&mut serve);
            while self.accept(&doors, &mut serve) {
                tokio::task::yield_now().await;
            }
            self.hall.state().lent = None;
            self.hall.wake();
        }
    }

    /// Accepts at the doors that are lent. True: there may be more.
    fn accept(&self, doors: &[Arc<Door>], serve: &mut impl FnMut(Conn)) -> bool {
        let mut more = false;
        for door in doors {
            for turn in 1..=TOGETHER {
                let full = self.limit != usize::MAX && self.connections.open() >= self.limit;
                match (!full).then(|| door.let_in()) {
                    Some(Ok(conn)) => {
                        self.row.accepted_one();
                        serve(conn);
                    }
                    // Full, nobody there, or means are used up: the thread waits.
                    None => break,
                    Some(Err(error)) if is_end(&error) => break,
                    // This one connection failed before it was accepted: its client has gone.
                    Some(Err(_)) => {}
                }
                more |= turn == TOGETHER;
            }
        }
        more
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

/// The thread.
struct Porter {
    epoll: OwnedFd,
    hall: Arc<Hall>,
    /// With whether the thread waits there.
    doors: Vec<(Arc<Door>, bool)>,
    connections: Connections,
    limit: usize,
    intake: Arc<IntakeReceiver>,
    row: Arc<Row>,
    /// As told to the primary.
    shut: bool,
    short_until: Option<Instant>,
}

/// Whether to accept, and when to look again if nothing happens.
enum Look {
    Open,
    /// The runtime accepts.
    Lent(Duration),
    Shut(Option<Duration>),
    Close,
}

impl Porter {
    fn new(doors: &Doors) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = EventData::new_u64(WAKE);
        epoll::add(&epoll, &doors.hall.wake, wake, EventFlags::IN)?;
        Ok(Self {
            epoll,
            hall: doors.hall.clone(),
            doors: Vec::new(),
            connections: doors.connections.clone(),
            limit: doors.limit,
            intake: doors.intake.clone(),
            row: doors.row.clone(),
            shut: false,
            short_until: None,
        })
    }

    fn run(mut self, _ends: oneshot::Sender<()>) {
        let mut events = Vec::with_capacity(16);
        loop {
            let timeout = match self.look() {
                Look::Open => {
                    self.set(true, false);
                    None
                }
                Look::Lent(timeout) => {
                    self.set(false, false);
                    Some(timeout)
                }
                Look::Shut(timeout) => {
                    self.set(false, true);
                    timeout
                }
                Look::Close => break,
            };
            events.clear();
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            // Interrupted only: nothing has happened.
            let _ = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            );
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.hall.wake, &mut [0; 8]);
                    }
                    place => self.answer(place as usize),
                }
            }
        }
        self.leave();
    }

    fn look(&mut self) -> Look {
        let (now, hall) = (Instant::now(), self.hall.clone());
        if self.short_until.is_some_and(|until| now >= until) {
            self.short_until = None;
        }
        let mut state = hall.state();
        for door in &state.doors[self.doors.len()..] {
            self.doors.push((door.clone(), false));
        }
        if state.closing {
            return Look::Close;
        }
        if let Some(lent) = state.lent {
            let waited = now.duration_since(lent);
            if waited < STUCK {
                return Look::Lent(STUCK - waited);
            }
            if state.conns.is_empty() {
                // It accepts, or is busy with what it has: it returns the doors by itself.
                return Look::Shut(None);
            }
            if waited >= GIVE_UP {
                self.give_up(&mut state);
            }
            return Look::Shut(Some(GIVE_UP.saturating_sub(waited).max(STUCK)));
        }
        if let Some(until) = self.short_until {
            return Look::Shut(Some(until - now));
        }
        if self.limit != usize::MAX && self.connections.open() >= self.limit {
            return Look::Shut(Some(FULL_PAUSE));
        }
        Look::Open
    }

    /// Gives back what the runtime does not serve. Where everything leaves, nobody would take it.
    fn give_up(&self, state: &mut State) {
        while let Some(mut conn) = state.conns.pop_front() {
            conn.moved = Some(Moved {
                awaits: Awaits::FirstByte,
                ..Moved::default()
            });
            if let Err(conn) = self.intake.give_back_now(conn) {
                return state.conns.push_front(conn);
            }
            self.row.gave_back();
        }
    }

    /// Waits at all doors, or at none, and tells the primary whether nobody is to be sent here.
    fn set(&mut self, open: bool, shut: bool) {
        if self.shut != shut {
            self.shut = shut;
            self.row.shut(shut);
        }
        for (place, (door, is_open)) in self.doors.iter_mut().enumerate() {
            if *is_open != open {
                let done = if open {
                    let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
                    epoll::add(
                        &self.epoll,
                        &door.listener,
                        EventData::new_u64(place as u64),
                        flags,
                    )
                } else {
                    epoll::delete(&self.epoll, &door.listener)
                };
                // Out of memory at the most: tried again after the next event.
                *is_open = if done.is_ok() { open } else { *is_open };
            }
        }
    }

    /// Somebody is at this door: lets one in, and goes to the end of the queue of those who wait there.
    fn answer(&mut self, place: usize) {
        self.let_in(place);
        if let Some((door, is_open)) = self.doors.get_mut(place)
            && *is_open
            && epoll::delete(&self.epoll, &door.listener).is_ok()
        {
            *is_open = false;
        }
    }

    /// Accepts once. True: there may be more.
    fn let_in(&mut self, place: usize) -> bool {
        let Some((door, _)) = self.doors.get(place) else {
            return false;
        };
        match door.let_in() {
            Ok(conn) => {
                // Before it can be given back.
                self.row.accepted_one();
                let mut state = self.hall.state();
                state.conns.push_back(conn);
                state.lent.get_or_insert_with(Instant::now);
                drop(state);
                // Also while they are lent already: at another door, and perhaps the runtime has looked into the hall before.
                self.hall.came.notify_one();
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if sockets::is_shortage(&error) => {
                tracing::error!(%error, "cannot accept; clients wait in the backlog, or go to another worker");
                self.short_until = Some(Instant::now() + SHORT_PAUSE);
                false
            }
            // This one connection failed before it was accepted: its client has gone.
            Err(_) => true,
        }
    }

    /// No wake-up is for this thread any more, and what the last one was for is accepted. Where the whole cluster ends, everything that
    /// has come: it must not be reset by the close of the socket.
    fn leave(&mut self) {
        self.set(false, true);
        let (all, begun) = (!self.row.is_to_release(), Instant::now());
        for place in 0..self.doors.len() {
            while self.let_in(place) && all && begun.elapsed() < REST {}
        }
    }
}
