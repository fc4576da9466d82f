//! One worker's channel, seen from the primary: its hello, what it says, and its end.

use std::{
    cell::Cell,
    os::fd::{AsFd, OwnedFd},
    process::ExitStatus,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::FutureExt;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::{
    Shared,
    gate::Gate,
    handle::WorkerHandle,
    hooks::{Concerned, Event, Events},
    process::Process,
};
use crate::{
    birth::{Hello, Welcome},
    error::Error,
    event::Cuts,
    frame::{Frame, Kind, WIRE_VERSION, decode_cuts, frames},
    id::{Generation, WorkerId},
    ipc::{
        channel::{Buffer, Channel, Consumption, MAX_FDS, Receipt, Received},
        intake::IntakeSender,
        letter::{Incomplete, Letter},
    },
    listeners::{Asked, Bound},
    sockets::Listener,
    supervisor::Input,
    wanted::{Failure, Wanted},
};

const FLOOD: &str = "more than a worker may have under way";

/// What a link tells the primary's loop.
#[derive(Debug)]
pub(super) enum Seen {
    Input(Input),
    /// With the version of a parcel that its program reads.
    Online(WorkerId, u32),
    /// With what its program asked to listen on.
    Listening(WorkerId, Asked),
    /// An address that the program of this worker will need, or why it cannot be had.
    Bound(WorkerId, Result<Bound, String>),
    /// Hooks have come to what happened before an upgrade to this generation was due; or they have not, in time.
    CaughtUp(Generation, bool),
    /// What it had to cut at its drain deadline.
    Cut(WorkerId, Cuts),
    Exited(WorkerId, ExitStatus),
    /// It asks to listen, under this number.
    AskedToListen(WorkerId, u64, Wanted),
    /// What a worker asked for, or why it cannot be had.
    BoundFor(Wanted, Result<Listener, Failure>),
    /// What it does at a listener that it asked for.
    Accepts(WorkerId, u16),
    Full(WorkerId, u16),
    Unlisten(WorkerId, u16),
}

/// What it takes to look after one worker.
pub(super) struct Link {
    pub(super) handle: WorkerHandle,
    pub(super) process: Rc<Process>,
    pub(super) channel: Rc<Channel>,
    pub(super) intake: Rc<IntakeSender>,
    pub(super) page: Rc<OwnedFd>,
    pub(super) consumption: Arc<Consumption>,
    pub(super) latest_asked: Rc<Cell<u64>>,
    /// What it is told when it says hello; `None` once it has.
    pub(super) welcome: Option<Welcome>,
    /// Its channel has not closed.
    pub(super) connected: bool,
    /// It has said what it cut, which is about its last word.
    pub(super) has_cut: bool,
    pub(super) gate: Rc<Gate>,
    pub(super) seen: mpsc::UnboundedSender<Seen>,
    pub(super) events: Events,
    pub(super) shared: Arc<Shared>,
}

impl Link {
    /// Attends to the worker until its process has ended and its last words are read.
    pub(super) async fn run(mut self) {
        let id = self.handle.id();
        if self.welcome.is_none() && self.connected {
            self.write();
        }
        let mut status = None;
        if self.connected {
            status = self.listen().await;
            self.handle.outbox().close();
            self.tell(Input::Disconnected(id));
        }
        let status = match status {
            Some(status) => status,
            None => self.gate.pass(self.process.exited()).await,
        };
        // Nobody is told if the loop has ended; then nothing is left to be told.
        let _ = self.seen.send(Seen::Exited(id, status));
    }

    /// Deals with what the worker says until its channel closes or, with its status, its process has ended.
    async fn listen(&mut self) -> Option<ExitStatus> {
        let mut buffer = Buffer::new();
        let mut broken = false;
        loop {
            // Nothing is read that could not be dealt with before another program goes on here.
            let next = self.gate.pass(async {
                tokio::select! {
                    biased;
                    received = self.channel.receive(&mut buffer) => Ok(received),
                    status = self.process.exited() => Err(status),
                }
            });
            match next.await {
                Ok(received) => {
                    if !self.heard(received, &buffer, &mut broken).await {
                        return None;
                    }
                }
                Err(status) => {
                    // Its last words; not waited for, since a stray child may hold the channel open for ever.
                    while let Some(received) = self.channel.receive(&mut buffer).now_or_never() {
                        if !self.heard(received, &buffer, &mut broken).await {
                            break;
                        }
                    }
                    return Some(status);
                }
            }
        }
    }

    /// Deals with one datagram; false when there will be no more.
    async fn heard(
        &mut self,
        received: std::io::Result<Option<Received>>,
        buffer: &Buffer,
        broken: &mut bool,
    ) -> bool {
        let protocol = match received {
            Ok(None) => return false,
            // Already being killed: what it still says is not listened to.
            Ok(Some(_)) if *broken => return true,
            Ok(Some(received)) => self.datagram(buffer.get(received.len), received).await,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err("an oversized datagram")
            }
            Err(_) => return false,
        };
        if let Err(what) = protocol {
            tracing::error!(worker = %self.handle.id(), "sent {what}: it is replaced");
            let concerned = Concerned::worker(&self.handle);
            self.events
                .send(Event::Error(concerned, Error::Protocol(what)));
            *broken = true;
            self.process.signal(Signal::KILL);
        }
        true
    }

    async fn datagram(&mut self, datagram: &[u8], received: Received) -> Result<(), &'static str> {
        if !came_whole(datagram, &received) {
            return Err("descriptors that nobody asked for");
        }
        let mut fds = received.fds.into_iter().map(Arc::new);
        // One copy for all messages in it; each is then a slice.
        let datagram = Bytes::copy_from_slice(datagram);
        // Where the messages begin that are not passed on yet, and where this frame does.
        let (mut begun, mut at) = (0, 0);
        for frame in frames(&datagram) {
            let frame = frame.map_err(|_| "a malformed frame")?;
            if let Some(welcome) = self.welcome.take() {
                let Frame::Hello(hello) = frame else {
                    return Err("something before its hello");
                };
                self.welcome(hello, &welcome).await?;
                at += frame.size();
                begun = at;
                continue;
            }
            let consumption = &self.consumption;
            if let Frame::Message(_) = frame {
                if !consumption.received(frame.weight()) {
                    return Err(FLOOD);
                }
                at += frame.size();
                continue;
            }
            self.events
                .messages(&self.handle, datagram.slice(begun..at), &self.consumption);
            at += frame.size();
            begun = at;
            match frame {
                Frame::Listening(asked) => {
                    let asked = serde_json::from_slice(asked)
                        .map_err(|_| "unreadable addresses to listen on")?;
                    let _ = self.seen.send(Seen::Listening(self.handle.id(), asked));
                    self.events.send(Event::Listening(self.handle.clone()));
                }
                Frame::Disconnecting => self.tell(Input::Disconnect(self.handle.id())),
                Frame::Leaving => self.tell(Input::Leaving(self.handle.id())),
                Frame::Letter(envelope) => {
                    if !consumption.received(frame.weight()) {
                        return Err(FLOOD);
                    }
                    let receipt = Receipt::new(consumption, frame.weight());
                    match Letter::received(&envelope, &datagram, &mut fds) {
                        Ok(letter) => self.letter(letter, receipt)?,
                        Err(Incomplete) if received.truncated => {
                            tracing::error!(worker = %self.handle.id(), "a message is lost: this process is out of descriptors");
                        }
                        Err(Incomplete) => return Err("a message without its descriptors"),
                    }
                }
                Frame::Accepting(n) => drop(self.seen.send(Seen::Accepts(self.handle.id(), n))),
                Frame::Full(n) => drop(self.seen.send(Seen::Full(self.handle.id(), n))),
                Frame::Unlisten(n) => drop(self.seen.send(Seen::Unlisten(self.handle.id(), n))),
                Frame::NoReply(number) => self.handle.outbox().answered(number, None),
                Frame::Notices(payload) => {
                    if !consumption.received(payload.len()) {
                        return Err(FLOOD);
                    }
                    if self.events.wants.notices {
                        self.events.send(Event::Notices(
                            self.handle.clone(),
                            datagram.slice_ref(payload),
                            consumption.clone(),
                        ));
                    } else {
                        consumption.add(payload.len());
                    }
                }
                Frame::Consumed(n) => {
                    if !self.handle.outbox().consumed(n as usize) {
                        return Err("a count of more than it was sent");
                    }
                }
                Frame::Cut(payload) if !std::mem::replace(&mut self.has_cut, true) => {
                    let cuts = decode_cuts(payload).map_err(|_| "a malformed report")?;
                    let _ = self.seen.send(Seen::Cut(self.handle.id(), cuts));
                }
                Frame::Hello(_)
                | Frame::Welcome(_)
                | Frame::Message(_)
                | Frame::GiveBack(_)
                | Frame::Accept(_)
                | Frame::Cut(_)
                | Frame::Reopen
                | Frame::Leave
                | Frame::EndBy(_)
                | Frame::NoReplies(_) => {
                    return Err("a frame that workers do not send");
                }
            }
        }
        self.events
            .messages(&self.handle, datagram.slice(begun..at), &self.consumption);
        Ok(())
    }

    fn letter(&self, letter: Letter, receipt: Receipt) -> Result<(), &'static str> {
        if let Kind::Request(number) | Kind::Ask(number) = letter.kind {
            self.latest_asked.set(self.latest_asked.get().max(number));
        }
        match letter.kind {
            Kind::Broadcast => {
                let letter = letter.passed_on(Kind::Message);
                // Consumed when the last of them has room for it.
                let receipt = Arc::new(receipt);
                self.shared.others(self.handle.id(), |other| {
                    other
                        .outbox()
                        .pass_on(letter.clone(), Some(receipt.clone()));
                });
            }
            Kind::Reply(number) => self
                .handle
                .outbox()
                .answered(number, Some((letter, Some(receipt)))),
            Kind::Request(_) | Kind::Ask(_) if self.handle.outbox().is_unread() => {
                return Err("requests, and reads no answers");
            }
            Kind::Ask(number) => {
                let asked = letter.open(None).and_then(|message| message.json());
                let wanted = asked.map_err(|_| "an unreadable question")?;
                let _ = self
                    .seen
                    .send(Seen::AskedToListen(self.handle.id(), number, wanted));
            }
            Kind::Request(number) if !self.events.wants.messages => {
                self.handle.outbox().order(&Frame::NoReply(number));
            }
            Kind::Message if !self.events.wants.messages => {}
            Kind::Message | Kind::Request(_) => {
                self.events
                    .send(Event::Letter(self.handle.clone(), letter, receipt))
            }
        }
        Ok(())
    }

    /// Answers a hello with everything the worker needs.
    async fn welcome(&self, hello: &[u8], welcome: &Welcome) -> Result<(), &'static str> {
        let hello: Hello = serde_json::from_slice(hello).map_err(|_| "an unreadable hello")?;
        if hello.wire != WIRE_VERSION {
            return Err("a hello of another version of axum-cluster");
        }
        if hello.pid != self.handle.pid() {
            return Err("a hello of another process");
        }
        let welcome = serde_json::to_vec(welcome).map_err(|_| "a hello that cannot be answered")?;
        let mut datagram = Vec::new();
        Frame::Welcome(&welcome).encode(&mut datagram);
        // A worker that has gone meanwhile is noticed by its end.
        let _ = self
            .channel
            .send(
                &datagram,
                &[self.intake.worker_end().as_fd(), self.page.as_fd()],
            )
            .await;
        self.write();
        self.events.send(Event::Online(self.handle.clone()));
        let _ = self.seen.send(Seen::Online(self.handle.id(), hello.parcel));
        Ok(())
    }

    /// Begins to send what is in the outbox.
    fn write(&self) {
        let (channel, outbox) = (self.channel.clone(), self.handle.outbox().clone());
        tokio::task::spawn_local(async move { channel.write(&outbox).await });
    }

    fn tell(&self, input: Input) {
        let _ = self.seen.send(Seen::Input(input));
    }
}

/// Whether a datagram came with exactly the descriptors that its frames announce, or could not for want of room here.
fn came_whole(datagram: &[u8], received: &Received) -> bool {
    if received.truncated {
        // The kernel also cuts what no datagram of this crate has.
        return received.fds.len() < MAX_FDS;
    }
    let announced = |frame: Frame<'_>| match frame {
        Frame::Letter(envelope) => envelope.all_fds(),
        _ => 0,
    };
    // Frames that announce more than came are found where they are read.
    received.fds.is_empty()
        || received.fds.len() == frames(datagram).flatten().map(announced).sum::<usize>()
}
