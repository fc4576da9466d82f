//! The program's hooks, and the queue of events that leads to them.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Primary, handle::WorkerHandle, life};
use crate::{
    address::Address,
    error::{Error, Result},
    event::Exit,
    frame::{self, Frame},
    id::Slot,
    ipc::{
        channel::{Consumption, Receipt},
        letter::Letter,
        requests::FarAsker,
    },
    message::{Message, RequestNotice},
    signals,
};

/// What the primary's loop tells the program. One queue, so that everything about one worker is in order.
#[derive(Debug)]
pub(crate) enum Event {
    Setup,
    Ready,
    Fork(WorkerHandle),
    Online(WorkerHandle),
    Listening(WorkerHandle),
    /// At an address that it asked for itself: as asked, and as bound.
    ListeningAt(WorkerHandle, Address, Address),
    /// Messages, framed as they came: an event a datagram, not one a message. With what to tell when they are consumed.
    Messages(WorkerHandle, Bytes, Arc<Consumption>),
    /// A message that is more than its bytes. It is read here, not by the loop that accepts.
    Letter(WorkerHandle, Letter, Receipt),
    Notices(WorkerHandle, Bytes, Arc<Consumption>),
    Disconnect(WorkerHandle),
    Exit(WorkerHandle, Exit),
    Error(Concerned, Error),
    /// Log files are to be opened anew.
    Reopen,
    /// Answered when hooks have come so far.
    CatchUp(oneshot::Sender<()>),
    /// Another program follows this one: after this no hook is called, unless it does not come to that. Answered with what is left to it.
    Upgrade(oneshot::Sender<Vec<u8>>),
    StandStill(Stand),
}

/// Whom an error is about, if it is about anybody.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    pub(crate) worker: Option<WorkerHandle>,
    pub(crate) slot: Option<Slot>,
}

impl Concerned {
    pub(crate) fn worker(worker: &WorkerHandle) -> Self {
        Self {
            worker: Some(worker.clone()),
            slot: Some(worker.slot()),
        }
    }

    pub(crate) fn slot(slot: Slot) -> Self {
        Self {
            worker: None,
            slot: Some(slot),
        }
    }
}

/// The last moment before another program is executed: the program's own thread takes no signal from now on, and does nothing.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) stands: oneshot::Sender<()>,
    /// Ends when this program goes on after all.
    pub(crate) ends: std::sync::mpsc::Receiver<()>,
}

impl Stand {
    /// Blocks this thread, if it is the runtime's only one: nobody else would be handed the signals that it was about to take.
    pub(crate) fn hold(self) {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let alone = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
        let blocked = alone.then(signals::block_all).and_then(Result::ok);
        let _ = self.stands.send(());
        if let Some(blocked) = blocked {
            let _ = self.ends.recv();
            signals::restore(&blocked);
        }
    }
}

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    pub(crate) queue: mpsc::UnboundedSender<Event>,
    pub(crate) wants: Wants,
}

/// What nobody wants is not decoded, not queued, not sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wants {
    pub(crate) messages: bool,
    pub(crate) notices: bool,
}

impl Events {
    pub(crate) fn send(&self, event: Event) {
        life::note(&event);
        // The program may have dropped the future that runs hooks.
        let _ = self.queue.send(event);
    }

    /// Passes messages on, framed as they came: one event for all that came together.
    pub(crate) fn messages(
        &self,
        worker: &WorkerHandle,
        framed: Bytes,
        consumption: &Arc<Consumption>,
    ) {
        if framed.is_empty() {
            return;
        }
        if self.wants.messages {
            self.send(Event::Messages(worker.clone(), framed, consumption.clone()));
        } else {
            consumption.add(framed.len());
        }
    }
}

type Hook<A> = Option<Box<dyn FnMut(A) + Send>>;
type ListeningHook = Option<Box<dyn FnMut(&WorkerHandle, &[Address]) + Send>>;
type WorkerHook<A> = Option<Box<dyn FnMut(&WorkerHandle, A) + Send>>;

/// The hooks that were set. Called one at a time, in order, by the future that awaits the cluster.
#[derive(Default)]
pub(crate) struct Hooks {
    /// Events may be read as a stream: messages too are wanted then.
    streamed: bool,
    pub(crate) setup: Option<Box<dyn FnOnce() + Send>>,
    pub(crate) ready: Option<Box<dyn FnOnce(Primary) + Send>>,
    pub(crate) fork: WorkerHook<()>,
    pub(crate) online: WorkerHook<()>,
    pub(crate) listening: ListeningHook,
    pub(crate) message: WorkerHook<Message>,
    pub(crate) request: WorkerHook<RequestNotice>,
    pub(crate) disconnect: WorkerHook<()>,
    pub(crate) exit: WorkerHook<Exit>,
    pub(crate) error: Hook<Error>,
    pub(crate) reopen: Option<Box<dyn FnMut() + Send>>,
    pub(crate) upgrade: Option<Box<dyn FnMut() -> Vec<u8> + Send>>,
}

/// Reads a message that is more than its bytes.
pub(crate) fn open(worker: &WorkerHandle, letter: Letter) -> Result<Message> {
    let asker = FarAsker::of(&letter, worker.outbox());
    letter.open(asker)
}

impl Hooks {
    pub(crate) fn streamed() -> Self {
        let mut hooks = Self::default();
        hooks.stream();
        hooks
    }

    /// The program may ask for a stream of events.
    pub(crate) fn stream(&mut self) {
        self.streamed = true;
    }

    pub(crate) fn wants(&self) -> Wants {
        Wants {
            messages: self.streamed || self.message.is_some(),
            notices: self.request.is_some(),
        }
    }

    /// Calls the hook of this event. A hook that panics is reported; the cluster goes on.
    pub(crate) fn call(&mut self, event: Event, primary: &Primary) {
        match event {
            Event::Setup => {
                if let Some(hook) = self.setup.take() {
                    guard(primary, "on_setup", hook);
                }
            }
            Event::Ready => {
                if let Some(hook) = self.ready.take() {
                    guard(primary, "on_ready", || hook(primary.clone()));
                }
            }
            Event::Fork(worker) => self::worker(primary, "on_fork", &mut self.fork, &worker, ()),
            Event::Online(worker) => {
                self::worker(primary, "on_online", &mut self.online, &worker, ())
            }
            Event::Listening(worker) => {
                if let Some(hook) = &mut self.listening {
                    guard(primary, "on_listening", || {
                        hook(&worker, primary.local_addrs())
                    });
                }
            }
            Event::ListeningAt(worker, _, bound) => {
                if let Some(hook) = &mut self.listening {
                    guard(primary, "on_listening", || hook(&worker, &[bound]));
                }
            }
            Event::Messages(worker, messages, consumption) => {
                for frame in frame::frames(&messages).flatten() {
                    if let Frame::Message(bytes) = frame {
                        let message = Message::received(messages.slice_ref(bytes));
                        self::worker(primary, "on_message", &mut self.message, &worker, message);
                    }
                    consumption.add(frame.weight());
                }
            }
            Event::Letter(worker, letter, _receipt) => match open(&worker, letter) {
                Ok(message) => {
                    self::worker(primary, "on_message", &mut self.message, &worker, message)
                }
                Err(error) => self.call(Event::Error(Concerned::worker(&worker), error), primary),
            },
            Event::Notices(worker, payload, consumption) => {
                for notice in frame::notices(&payload) {
                    match notice {
                        Ok(notice) => {
                            self::worker(primary, "on_request", &mut self.request, &worker, notice)
                        }
                        Err(frame::Malformed) => {
                            tracing::error!(worker = %worker.id(), "sent a malformed notice")
                        }
                    }
                }
                consumption.add(payload.len());
            }
            Event::Disconnect(worker) => {
                self::worker(primary, "on_disconnect", &mut self.disconnect, &worker, ())
            }
            Event::Exit(worker, exit) => {
                self::worker(primary, "on_exit", &mut self.exit, &worker, exit)
            }
            Event::Error(_, error) => {
                if let Some(hook) = &mut self.error {
                    guard(primary, "on_error", || hook(error));
                }
            }
            Event::Reopen => {
                if let Some(hook) = &mut self.reopen {
                    guard(primary, "on_reopen", hook);
                }
            }
            Event::CatchUp(reply) => {
                let _ = reply.send(());
            }
            Event::Upgrade(reply) => {
                let mut left = Vec::new();
                if let Some(hook) = &mut self.upgrade {
                    guard(primary, "on_upgrade", || left = hook());
                }
                let _ = reply.send(left);
            }
            Event::StandStill(stand) => stand.hold(),
        }
    }
}

fn worker<A>(
    primary: &Primary,
    name: &'static str,
    hook: &mut WorkerHook<A>,
    worker: &WorkerHandle,
    argument: A,
) {
    if let Some(hook) = hook {
        guard(primary, name, || hook(worker, argument));
    }
}

fn guard(primary: &Primary, name: &'static str, hook: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(hook)).is_err() {
        primary.hook_panicked();
        tracing::error!(hook = name, "a hook panicked; the cluster goes on");
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("wants", &self.wants())
            .finish_non_exhaustive()
    }
}
