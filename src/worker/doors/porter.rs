//! The thread that waits at the doors.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
};
use tokio::sync::oneshot;

use super::{Door, Doors, FULL_PAUSE, GIVE_UP, Hall, REST, SHORT_PAUSE, STUCK, State, WAKE};
use crate::{
    http::Connections,
    ipc::intake::IntakeReceiver,
    moved::{Awaits, Moved},
    scoreboard::Row,
    sockets,
};

/// The thread.
pub(super) struct Porter {
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
    pub(super) fn new(doors: &Doors) -> io::Result<Self> {
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

    pub(super) fn run(mut self, _ends: oneshot::Sender<()>) {
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
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock || sockets::is_stopped(&error) =>
            {
                false
            }
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
