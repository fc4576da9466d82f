//! The lanes of an outbox, and what they may hold. No lock, no task, no system call.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    channel::Receipt,
    datagram::{self, MAX_FDS},
    letter::Letter,
};
use crate::{
    error::{Error, Result},
    frame::{Frame, Kind, MAX_DATAGRAM},
};

/// Bytes of messages and notices that may be on their way in one direction.
pub(crate) const CAPACITY: usize = 4 * 1024 * 1024;

/// Under this much, a message that is larger than the capacity may go as well. The receiver tells what it has consumed in lots of this
/// size, so whoever waits for it waits only for what is really unread.
pub(crate) const NEARLY_NOTHING: usize = 256 * 1024;

/// Messages and notices are sent at once when this many bytes of them wait.
pub(super) const FULL: usize = 32 * 1024;

/// The longest that small messages wait for company, and only those that come within it of the datagram before, with nothing heard
/// from the other side since. Each datagram wakes two threads of the other side: a message a request costs 15 % more than none,
/// where a crowd waits no longer than others 18 % (four workers at full load, medians of seven rounds), without company 33 % (two).
const COMPANY: Duration = Duration::from_millis(2);

/// The same after a datagram of at least [`CROWD`] bytes.
const COMPANY_IN_A_CROWD: Duration = Duration::from_millis(5);

/// What comes within [`COMPANY`] where some ten thousand small messages a second do.
const CROWD: usize = 512;

/// Whether so much more may be under way.
pub(super) fn admits(under_way: usize, more: usize) -> bool {
    under_way < NEARLY_NOTHING || under_way.saturating_add(more) <= CAPACITY
}

/// What goes in one system call.
#[derive(Debug, Default)]
pub(crate) struct Datagram {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<Arc<OwnedFd>>,
}

/// A letter for which there is no room yet.
#[derive(Debug)]
pub(super) struct Waiting {
    ticket: u64,
    letter: Letter,
    weight: usize,
    queued: Queued,
}

/// Who is told that a letter has been queued.
#[derive(Debug)]
pub(super) enum Queued {
    /// A ticket; told that it will not be by the drop.
    Ticket(oneshot::Sender<()>),
    /// Nobody; what came from somebody else counts as consumed then.
    PassedOn { _receipt: Option<Arc<Receipt>> },
}

impl Queued {
    /// Not under the lock: what it lets go may queue something elsewhere.
    pub(super) fn tell(self) {
        if let Self::Ticket(ticket) = self {
            // Whoever waited may have gone.
            let _ = ticket.send(());
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    orders: VecDeque<Vec<u8>>,
    messages: VecDeque<Datagram>,
    waiting: VecDeque<Waiting>,
    next_ticket: u64,
    pub(super) notices: Vec<u8>,
    /// When the notices must go; none wait without it.
    pub(super) notices_due: Option<Instant>,
    /// Until then messages wait for company; from the last datagram of them on.
    company: Option<Instant>,
    /// The writer looks by then at the latest, so that what begins to wait meanwhile need not wake it.
    writer_looks: bool,
    /// Somebody waits for an answer to what is among the messages, or for the answer: no waiting for company.
    urgent: bool,
    /// Weight queued or not yet consumed by the other side.
    pub(super) under_way: usize,
    /// A datagram has been taken and not yet been sent.
    pub(super) sending: bool,
    pub(super) closed: bool,
    /// Notices for which there was no room.
    pub(super) dropped: u64,
    /// A buffer that has been sent, for the next datagram.
    spare: Vec<u8>,
    /// What the writer writes to. Not kept open by this: it ends with the channel.
    pub(super) socket: Weak<OwnedFd>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
            && self.messages.is_empty()
            && self.waiting.is_empty()
            && self.notices.is_empty()
    }

    /// From now on nothing is queued. What was, to be dropped.
    pub(super) fn close(&mut self) -> Self {
        let closed = Self {
            closed: true,
            dropped: self.dropped,
            ..Self::default()
        };
        std::mem::replace(self, closed)
    }

    /// Makes room for a notice, which never waits and never goes beyond the bound.
    pub(super) fn reserve_notice(&mut self, size: usize) -> bool {
        let room = !self.closed && self.under_way + size <= CAPACITY;
        if room {
            self.under_way += size;
        }
        room
    }

    /// Whether a message of this weight can be queued now. Those that wait are first: a large one would wait for ever otherwise.
    pub(super) fn has_room(&self, weight: usize) -> Result<()> {
        if self.closed {
            Err(Error::Gone)
        } else if self.waiting.is_empty() && admits(self.under_way, weight) {
            Ok(())
        } else {
            Err(Error::Full)
        }
    }

    /// Sends a message for which there is room from where it is given, unless it is to wait for company. It has gone then, also if the
    /// program blocks its thread next, or exits; and the writer need not be woken for it. False when it has to be queued.
    pub(super) fn send_alone(&mut self, frame: &Frame<'_>, weight: usize) -> bool {
        if self.company.is_some() && self.writer_looks {
            return false;
        }
        let now = Instant::now();
        if self.company.is_some_and(|until| now < until) {
            return false;
        }
        let Some(socket) = self.idle_socket() else {
            return false;
        };
        let mut bytes = std::mem::take(&mut self.spare);
        frame.encode(&mut bytes);
        // Under the lock, or something else could be sent in between; it never waits. What fails is left to the writer.
        let sent = datagram::send(&socket, &bytes, &[]).is_ok();
        bytes.clear();
        self.spare = bytes;
        if sent {
            self.under_way += weight;
            self.company = Some(now + COMPANY);
            self.writer_looks = false;
        }
        sent
    }

    /// Queues a message for which there is room. True: the writer has to be told.
    pub(super) fn push(
        &mut self,
        frame: &Frame<'_>,
        weight: usize,
        mut fds: Vec<Arc<OwnedFd>>,
    ) -> bool {
        self.under_way += weight;
        if let Some(last) = self.messages.back_mut()
            && last.bytes.len() + frame.size() <= MAX_DATAGRAM
            && last.fds.len() + fds.len() <= MAX_FDS
        {
            let before = last.bytes.len();
            frame.encode(&mut last.bytes);
            last.fds.append(&mut fds);
            return before < FULL && last.bytes.len() >= FULL;
        }
        let mut bytes = std::mem::take(&mut self.spare);
        frame.encode(&mut bytes);
        let waits = self.writer_looks && self.messages.is_empty() && bytes.len() < FULL;
        self.messages.push_back(Datagram { bytes, fds });
        !waits
    }

    pub(super) fn push_letter(&mut self, letter: &Letter, weight: usize) -> bool {
        let urgent = matches!(
            letter.kind,
            Kind::Request(_) | Kind::Reply(_) | Kind::Ask(_)
        );
        self.urgent |= urgent;
        self.push(&letter.frame(), weight, letter.all_fds()) || urgent
    }

    /// Lets a letter wait for room. Its number, to withdraw it.
    pub(super) fn wait(&mut self, letter: Letter, weight: usize, queued: Queued) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push_back(Waiting {
            ticket,
            letter,
            weight,
            queued,
        });
        ticket
    }

    /// Takes a letter back; `None` when it has been queued, or never will be.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<Waiting> {
        let at = self
            .waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
            .ok()?;
        self.waiting.remove(at)
    }

    /// Queues those that wait, as far as there is room; returns who is to be told, once the lock is let go.
    pub(super) fn admit(&mut self) -> Vec<Queued> {
        let mut queued = Vec::new();
        while let Some(first) = self.waiting.front()
            && admits(self.under_way, first.weight)
            && let Some(first) = self.waiting.pop_front()
        {
            self.push_letter(&first.letter, first.weight);
            queued.push(first.queued);
        }
        queued
    }

    pub(super) fn push_order(&mut self, frame: &Frame<'_>) {
        match self.orders.back_mut() {
            Some(last) if last.len() + frame.size() <= MAX_DATAGRAM => frame.encode(last),
            _ => {
                let mut datagram = Vec::with_capacity(frame.size());
                frame.encode(&mut datagram);
                self.orders.push_back(datagram);
            }
        }
    }

    /// What to write to, if nothing is before what would be written. Notices do not count: they wait for company anyway.
    pub(super) fn idle_socket(&self) -> Option<Arc<OwnedFd>> {
        let nothing = self.orders.is_empty() && self.messages.is_empty() && self.waiting.is_empty();
        (nothing && !self.sending)
            .then(|| self.socket.upgrade())
            .flatten()
    }

    /// How many datagrams of orders wait; more than one only where the other side does not read.
    pub(super) fn orders(&self) -> usize {
        self.orders.len()
    }

    /// When the writer has to look again, if it hears of nothing meanwhile. For the writer, which does.
    pub(super) fn due(&mut self) -> Option<Instant> {
        self.writer_looks = self.company.is_some();
        match (self.notices_due, self.company) {
            (Some(notices), Some(company)) => Some(notices.min(company)),
            (notices, company) => notices.or(company),
        }
    }

    /// The next datagram that should go now: orders, notices that have waited long enough, messages.
    pub(super) fn take(&mut self) -> Option<Datagram> {
        if let Some(bytes) = self.orders.pop_front() {
            return Some(bytes.into());
        }
        if self.notices.len() >= FULL || self.notices_due.is_some_and(|due| due <= Instant::now()) {
            self.notices_due = None;
            let notices = std::mem::take(&mut self.notices);
            let frame = Frame::Notices(&notices);
            let mut datagram = Vec::with_capacity(frame.size());
            frame.encode(&mut datagram);
            return Some(datagram.into());
        }
        self.take_messages()
    }

    /// The next message need not wait.
    pub(super) fn forget_company(&mut self) {
        self.company = None;
        self.writer_looks = false;
    }

    fn take_messages(&mut self) -> Option<Datagram> {
        let now = Instant::now();
        let waits = self.company.is_some_and(|until| now < until);
        let Some(first) = self.messages.front() else {
            self.company = self.company.filter(|_| waits);
            self.writer_looks &= waits;
            return None;
        };
        let last = self.messages.len() == 1;
        if waits && last && first.bytes.len() < FULL && !self.urgent {
            return None;
        }
        self.urgent &= !last;
        let company = if first.bytes.len() < CROWD {
            COMPANY
        } else {
            COMPANY_IN_A_CROWD
        };
        self.company = Some(now + company);
        self.writer_looks = true;
        self.messages.pop_front()
    }

    /// Takes a buffer back that has been sent: a stream of small messages then allocates nothing.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > self.spare.capacity() && buffer.capacity() <= 2 * MAX_DATAGRAM {
            buffer.clear();
            self.spare = buffer;
        }
    }
}

impl From<Vec<u8>> for Datagram {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            fds: Vec::new(),
        }
    }
}
