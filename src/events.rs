//! What happens in the cluster as one ordered stream, for programs that want the control themselves.

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    address::Address,
    cluster::{self, Exit, Primary, WorkerHandle},
    error::Error,
    frame::{Frame, frames},
    id::Slot,
    ipc::channel::Consumption,
    message::Message,
    primary,
    running::Running,
    start::Part,
};

/// What has happened in the cluster (the events of Node's `cluster`).
///
/// Everything about one worker comes in order: fork, online, listening, its messages among them, disconnect, exit. The last two come
/// exactly once, its last message before both.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The cluster has been set up: the first event, once.
    Setup,
    /// A worker process was started.
    Fork {
        /// Which.
        worker: WorkerHandle,
    },
    /// A worker said hello.
    Online {
        /// Which.
        worker: WorkerHandle,
    },
    /// A worker listens: it serves, with one event for each address of the server, or has
    /// [opened a listener](crate::cluster::listen) or a [UDP socket](crate::cluster::bind_udp) of its own.
    Listening {
        /// Which.
        worker: WorkerHandle,
        /// The address as it was asked for; `None` for a listener that the program made.
        asked: Option<Address>,
        /// The address as bound, with its real port.
        bound: Address,
    },
    /// A `ClusteredServer` has as many workers that listen as it wants, for the first time.
    Ready,
    /// A worker sent a message.
    Message {
        /// Which.
        worker: WorkerHandle,
        /// What it sent.
        message: Message,
    },
    /// A worker's channel closed.
    Disconnect {
        /// Which.
        worker: WorkerHandle,
    },
    /// A worker's process ended.
    Exit {
        /// Which.
        worker: WorkerHandle,
        /// How.
        exit: Exit,
    },
    /// Something went wrong that no call could return: an automatic start failed, or a worker sent what nobody understands.
    Error {
        /// The worker that it is about; `None` where there is none, or not yet.
        worker: Option<WorkerHandle>,
        /// The place that it is about: of that worker, or of one that could not be started.
        slot: Option<Slot>,
        /// What.
        error: Error,
    },
}

/// The events of the cluster, in order, from the first one on; see [`Primary::events`].
pub struct Events {
    running: Option<Box<Running>>,
    due: VecDeque<Event>,
    /// Messages that came together, and are handed out one at a time.
    messages: Option<(WorkerHandle, Bytes, Arc<Consumption>)>,
}

impl Primary {
    /// The events of a cluster that was [started](crate::cluster::Cluster::start), from the very first on. Events wait until they are
    /// read; messages that are not read count against their sender's 4 MiB.
    ///
    /// There is one stream. While it is there, the hooks for what it tells are not called, and [`wait`](Self::wait) and a second
    /// stream get nothing (the second ends at once). Dropped, it leaves what it has not told to the next one, or to `wait`, which also
    /// tells what the cluster ended with. The cluster goes on meanwhile.
    ///
    /// After `serve` there is no stream: there the hooks are called.
    pub fn events(&self) -> Events {
        let running = match cluster::take_kept() {
            Some(Part::Primary(running)) => Some(running),
            Some(other) => {
                cluster::keep(other);
                None
            }
            None => None,
        };
        Events {
            running,
            due: VecDeque::new(),
            messages: None,
        }
    }
}

impl Events {
    /// The next event; `None` when the cluster has ended, and in a second stream.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.due.pop_front().or_else(|| self.message()) {
                return Some(event);
            }
            let event = self.running.as_mut()?.next().await?;
            self.take(event);
        }
    }

    fn take(&mut self, event: primary::Event) {
        let Some(running) = &mut self.running else {
            return;
        };
        let event = match event {
            primary::Event::Setup => Event::Setup,
            primary::Event::Ready => Event::Ready,
            primary::Event::Fork(worker) => Event::Fork { worker },
            primary::Event::Online(worker) => Event::Online { worker },
            primary::Event::Listening(worker) => {
                let listeners = running.listeners().iter().cloned();
                self.due
                    .extend(listeners.map(|(asked, bound)| Event::Listening {
                        worker: worker.clone(),
                        asked,
                        bound,
                    }));
                return;
            }
            primary::Event::ListeningAt(worker, asked, bound) => Event::Listening {
                worker,
                asked: Some(asked),
                bound,
            },
            primary::Event::Messages(worker, framed, consumption) => {
                self.messages = Some((worker, framed, consumption));
                return;
            }
            primary::Event::Letter(worker, letter, _receipt) => {
                match primary::open(&worker, letter) {
                    Ok(message) => Event::Message { worker, message },
                    Err(error) => Event::Error {
                        slot: Some(worker.slot()),
                        worker: Some(worker),
                        error,
                    },
                }
            }
            primary::Event::Disconnect(worker) => Event::Disconnect { worker },
            primary::Event::Exit(worker, exit) => Event::Exit { worker, exit },
            primary::Event::Error(concerned, error) => Event::Error {
                worker: concerned.worker,
                slot: concerned.slot,
                error,
            },
            // What only hooks are told.
            other => return running.call(other),
        };
        self.due.push_back(event);
    }

    /// The next of the messages that came together.
    fn message(&mut self) -> Option<Event> {
        let (worker, framed, consumption) = self.messages.as_mut()?;
        let Some(Ok(frame)) = frames(framed).next() else {
            self.messages = None;
            return None;
        };
        let (size, weight) = (frame.size(), frame.weight());
        let message = match frame {
            Frame::Message(bytes) => Some(Message::received(framed.slice_ref(bytes))),
            _ => None,
        };
        let worker = worker.clone();
        drop(framed.split_to(size));
        consumption.add(weight);
        message.map(|message| Event::Message { worker, message })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            if let Some((worker, framed, consumption)) = self.messages.take() {
                running.put_back(primary::Event::Messages(worker, framed, consumption));
            }
            cluster::keep(Part::Primary(running));
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
