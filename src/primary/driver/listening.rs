//! Listeners that workers ask for: bound once for all who want the same, closed with the last who listens there.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    time::Instant,
};

use rustix::io::Errno;
use tokio::task::{JoinHandle, spawn_local};

use super::{Driver, closing::Closing};
use crate::{
    error::{Error, Result},
    frame::Kind,
    id::WorkerId,
    ipc::letter::Letter,
    listeners::{Bound, Name},
    message::Message,
    primary::{acceptor::Acceptor, dispatch::Way, hooks::Event, link::Seen, succession::KeptAsked},
    sockets::Listener,
    wanted::{Answer, FIRST, Failure, Place, Wanted},
};

/// A worker, and the number of its question.
pub(super) type Asker = (WorkerId, u64);

/// One such listener.
struct Asked {
    wanted: Wanted,
    socket: Socket,
    /// Who has been told that it listens there.
    members: BTreeSet<WorkerId>,
    /// Of whom it has been told that they listen there.
    told: BTreeSet<WorkerId>,
    /// Since when there is nobody. The last one has ended without closing it: its successor finds clients waiting.
    deserted: Option<Instant>,
}

enum Socket {
    /// Accepted from here, and handed to those who listen.
    Accepted(Rc<Acceptor>, JoinHandle<()>),
    /// Only kept, for those who come later: all have it.
    Kept(Listener),
}

impl Socket {
    fn get(&self) -> &Listener {
        match self {
            Self::Accepted(acceptor, _) => acceptor.listener(),
            Self::Kept(socket) => socket,
        }
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Listening {
    open: BTreeMap<u16, Asked>,
    /// Being bound, and who waits for it.
    binding: Vec<(Wanted, Vec<Asker>)>,
    closing: Rc<Closing>,
    /// Numbers given out: one that is free again is not used at once, because connections of it may still be under way.
    given: u16,
}

impl Listening {
    fn next_number(&mut self) -> Option<u16> {
        (0..FIRST).find_map(|_| {
            let number = FIRST + self.given;
            self.given = (self.given + 1) % FIRST;
            (!self.open.contains_key(&number)).then_some(number)
        })
    }
}

impl Driver {
    /// A worker wants to listen.
    pub(super) fn asked_to_listen(&mut self, asker: Asker, wanted: Wanted) {
        if let Err(failure) = self.may_listen(asker.0, &wanted) {
            return self.answer(asker, &Answer::Failed(failure));
        }
        let mut open = self.listening.open.iter_mut();
        if let Some((&listener, asked)) = open.find(|(_, asked)| asked.wanted == wanted) {
            asked.members.insert(asker.0);
            asked.deserted = None;
            let local = asked.socket.get().local.clone();
            let answer = Answer::Listening { listener, local };
            return match &asked.socket {
                Socket::Accepted(..) => self.answer(asker, &answer),
                Socket::Kept(socket) => match socket.duplicate() {
                    Ok(fd) => self.answer_with(asker, &answer, vec![fd]),
                    Err(source) => {
                        let address = wanted.address();
                        let failure = Failure::of(&Error::Bind { address, source });
                        self.unlisten(listener, asker.0);
                        self.answer(asker, &Answer::Failed(failure));
                    }
                },
            };
        }
        let mut binding = self.listening.binding.iter_mut();
        if let Some((_, askers)) = binding.find(|(other, _)| *other == wanted) {
            askers.push(asker);
            return;
        }
        self.listening.binding.push((wanted.clone(), vec![asker]));
        let (closing, seen) = (self.listening.closing.clone(), self.seen.clone());
        spawn_local(async move {
            closing.settle().await;
            let bound = bind(&wanted).await;
            let _ = seen.send(Seen::BoundFor(wanted, bound.map_err(|e| Failure::of(&e))));
        });
    }

    fn may_listen(&self, id: WorkerId, wanted: &Wanted) -> Result<(), Failure> {
        let child = self.children.get(&id);
        let leaves = child.is_none_or(|child| child.handle.is_retired());
        if leaves || self.is_closing() {
            // Node never answers.
            let code = Errno::SHUTDOWN.raw_os_error();
            return Err(Failure::new(code, "this worker leaves the cluster"));
        }
        let in_use = |text| Failure::new(Errno::ADDRINUSE.raw_os_error(), text);
        let same_place = |asked: &&Asked| {
            asked.wanted.place == wanted.place && asked.wanted.index == wanted.index
        };
        match self.listening.open.values().find(same_place) {
            Some(asked) if asked.wanted == *wanted && asked.members.contains(&id) => {
                Err(in_use("this worker listens there already"))
            }
            Some(asked) if asked.wanted != *wanted && !wanted.is_any_port() => Err(in_use(
                "another worker of this cluster listens there with other options",
            )),
            _ => Ok(()),
        }
    }

    /// What a worker wants is bound, or cannot be.
    pub(super) fn bound_for(&mut self, wanted: &Wanted, bound: Result<Listener, Failure>) {
        let mut binding = self.listening.binding.iter();
        let Some(at) = binding.position(|(other, _)| other == wanted) else {
            return;
        };
        let (_, askers) = self.listening.binding.swap_remove(at);
        let opened = bound.and_then(|listener| self.open(wanted.clone(), listener));
        match opened {
            // The first of them is one who asks as if it came now, like all others.
            Ok(()) => askers
                .into_iter()
                .for_each(|asker| self.asked_to_listen(asker, wanted.clone())),
            Err(failure) => {
                let answer = Answer::Failed(failure);
                askers
                    .into_iter()
                    .for_each(|asker| self.answer(asker, &answer));
            }
        }
    }

    fn open(&mut self, wanted: Wanted, listener: Listener) -> Result<(), Failure> {
        let full = || Failure::new(Errno::MFILE.raw_os_error(), "too many listeners");
        let number = self.listening.next_number().ok_or_else(full)?;
        tracing::info!("listening on {} for a worker", listener.local);
        self.take_up(number, wanted, listener)
            .map_err(|error| Failure::of(&error))
    }

    /// Accepts at a listener; nobody takes what comes yet.
    pub(super) fn take_up(
        &mut self,
        number: u16,
        wanted: Wanted,
        listener: Listener,
    ) -> Result<()> {
        let socket = match &wanted.place {
            Place::Stream(_) => self.accept_for_workers(number, listener),
            Place::Datagram(_) => Socket::Kept(listener),
        };
        let asked = Asked {
            wanted,
            socket,
            members: BTreeSet::new(),
            told: BTreeSet::new(),
            deserted: Some(Instant::now()),
        };
        self.listening.open.insert(number, asked);
        Ok(())
    }

    fn accept_for_workers(&self, number: u16, listener: Listener) -> Socket {
        let bound = Bound {
            number,
            name: Name::asked_for(),
            app: 0,
            listener,
        };
        let acceptor = Rc::new(Acceptor::new(bound));
        self.dispatch.borrow_mut().open_pool(number);
        let (running, dispatch) = (acceptor.clone(), self.dispatch.clone());
        let running = spawn_local(async move { running.run(dispatch).await });
        Socket::Accepted(acceptor, running)
    }

    /// What the next program is told of them; their descriptors are appended.
    pub(super) fn kept_asked<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> Vec<KeptAsked> {
        let open = self.listening.open.iter();
        open.map(|(&number, asked)| {
            let listener = asked.socket.get();
            fds.push(listener.as_fd());
            let members: Vec<_> = asked.members.iter().copied().collect();
            let dispatch = self.dispatch.borrow();
            let accepts = |&id: &WorkerId| dispatch.takes_there(number, id);
            KeptAsked {
                number,
                wanted: asked.wanted.clone(),
                has_file: listener.has_file(),
                accepting: members.iter().copied().filter(accepts).collect(),
                members,
            }
        })
        .collect()
    }

    /// Goes on with a listener of the program before. What was asked and not answered by it the workers ask again.
    pub(super) fn adopt_asked(&mut self, kept: KeptAsked, fd: OwnedFd) -> Result<()> {
        let listener = Listener::inherited(fd, kept.has_file, Some(kept.wanted.address()))
            .map_err(|source| Error::Succession { source })?;
        self.listening.given = self.listening.given.max(kept.number % FIRST + 1) % FIRST;
        self.take_up(kept.number, kept.wanted, listener)?;
        if let Some(asked) = self.listening.open.get_mut(&kept.number) {
            let lives = |id: &WorkerId| self.children.contains_key(id);
            asked.members = kept.members.into_iter().filter(lives).collect();
            asked.told = asked.members.clone();
        }
        for id in kept.accepting {
            self.accepts(kept.number, id);
        }
        Ok(())
    }

    fn answer(&self, asker: Asker, answer: &Answer) {
        self.answer_with(asker, answer, Vec::new());
    }

    fn answer_with(&self, (id, request): Asker, answer: &Answer, fds: Vec<OwnedFd>) {
        let letter = Message::encode(answer)
            .and_then(|message| Letter::new(Kind::Reply(request), &message, fds));
        match (self.children.get(&id), letter) {
            (Some(child), Ok(letter)) => child.handle.outbox().pass_on(letter, None),
            (_, Err(error)) => tracing::error!(worker = %id, %error, "cannot be answered"),
            (None, _) => {}
        }
    }

    /// A worker takes connections of a listener, or has room for them again.
    pub(super) fn accepts(&mut self, listener: u16, id: WorkerId) {
        self.tell_of(listener, id);
        if let (Some(child), true) = (self.children.get(&id), self.is_member(listener, id)) {
            let way = || Way {
                sender: child.intake.clone(),
                row: child.handle.row().clone(),
                apps: Rc::default(),
                accepts: Rc::default(),
            };
            if !child.handle.is_retired() {
                self.dispatch.borrow_mut().accepts(listener, id, way);
            }
        }
    }

    /// The first time, it is an event that a worker listens there.
    fn tell_of(&mut self, listener: u16, id: WorkerId) {
        if let Some(child) = self.children.get(&id)
            && let Some(asked) = self.listening.open.get_mut(&listener)
            && asked.members.contains(&id)
            && child.handle.is_connected()
            && asked.told.insert(id)
        {
            let (worker, bound) = (child.handle.clone(), asked.socket.get().local.clone());
            let asked = asked.wanted.address();
            self.events.send(Event::ListeningAt(worker, asked, bound));
        }
    }

    pub(super) fn is_full(&mut self, listener: u16, id: WorkerId) {
        if self.is_member(listener, id) {
            self.dispatch.borrow_mut().is_full(listener, id);
        }
    }

    fn is_member(&self, listener: u16, id: WorkerId) -> bool {
        let asked = self.listening.open.get(&listener);
        asked.is_some_and(|asked| asked.members.contains(&id))
    }

    /// A worker has closed a listener.
    pub(super) fn unlisten(&mut self, listener: u16, id: WorkerId) {
        let leaves = self
            .children
            .get(&id)
            .is_none_or(|child| child.handle.is_retired());
        let Some(asked) = self.listening.open.get_mut(&listener) else {
            return;
        };
        asked.told.remove(&id);
        if !asked.members.remove(&id) {
            return;
        }
        self.dispatch.borrow_mut().leaves(listener, id);
        if asked.members.is_empty() {
            if leaves {
                // As others do that leave: it was not the program's wish that nobody listens.
                asked.deserted = Some(Instant::now());
            } else {
                self.close_asked(listener);
            }
        }
    }

    /// A worker has ended.
    pub(super) fn listens_no_more(&mut self, id: WorkerId) {
        for asked in self.listening.open.values_mut() {
            if asked.members.remove(&id) && asked.members.is_empty() {
                asked.deserted = Some(Instant::now());
            }
        }
        for (_, askers) in &mut self.listening.binding {
            askers.retain(|&(asker, _)| asker != id);
        }
    }

    /// Closes listeners to which nobody has come back in the time that a worker may take to get ready.
    pub(super) fn close_deserted(&mut self, now: Instant) {
        let patience = self.settings.boot_timeout;
        let open = self.listening.open.iter();
        let late = open.filter(|(_, asked)| {
            let since = asked.deserted.filter(|_| asked.members.is_empty());
            since.is_some_and(|since| now.duration_since(since) >= patience)
        });
        let late: Vec<_> = late.map(|(&listener, _)| listener).collect();
        late.into_iter()
            .for_each(|listener| self.close_asked(listener));
    }

    fn close_asked(&mut self, listener: u16) {
        if let Some(asked) = self.listening.open.remove(&listener) {
            tracing::info!("not listening on {} any more", asked.socket.get().local);
            if let Socket::Accepted(_, running) = asked.socket {
                running.abort();
                self.listening.closing.add(running);
                self.dispatch.borrow_mut().close_pool(listener);
            }
        }
    }

    /// Accepts what has come, and closes all of them.
    pub(super) async fn accept_last_asked(&mut self) {
        for (_, asked) in std::mem::take(&mut self.listening.open) {
            if let Socket::Accepted(acceptor, running) = asked.socket {
                running.abort();
                let _ = running.await;
                if !asked.members.is_empty() {
                    acceptor.accept_rest(&self.dispatch);
                }
            }
        }
    }

    pub(super) fn close_all_asked(&mut self) {
        for (_, asked) in std::mem::take(&mut self.listening.open) {
            if let Socket::Accepted(_, running) = asked.socket {
                running.abort();
            }
        }
    }
}

async fn bind(wanted: &Wanted) -> Result<Listener> {
    match &wanted.place {
        Place::Stream(address) => Listener::bind_as(address, &wanted.options).await,
        Place::Datagram(address) => Listener::datagram(address, &wanted.options).await,
    }
}
