//! What waits to be sent over a channel: never waits itself, bounded in bytes, many small messages to a datagram.
//!
//! Three lanes. Orders go first and have no bound (there are few). A small message goes in the call that sends it; those that
//! follow closely go with the writer and wait for company, see `queue`. Notices wait up to [`LINGER`] so that a notice a request
//! costs a fraction of a system call.
//! The bound counts what is queued and what the other side has received but not yet consumed, so neither side's memory can grow,
//! and the reader of a channel never has to stop reading: an order is never stuck behind messages.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub(crate) use super::queue::{CAPACITY, Datagram, NEARLY_NOTHING};
use super::{
    channel::Receipt,
    datagram,
    letter::Letter,
    queue::{FULL, Queue, Queued},
    requests::Requests,
    sending::Sending,
};
use crate::{
    error::Result,
    frame::{Frame, INLINE, Kind, encode_notice},
    message::Message,
};

/// The longest a notice waits for company.
pub(crate) const LINGER: Duration = Duration::from_millis(10);

/// A peer for which so many datagrams of orders wait does not read: more than all its requests under way can be refused with.
const ORDERS_FULL: usize = 2 * CAPACITY / INLINE;

/// The sending half of a channel's memory. Shared by everybody who sends and the one task that writes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Something waits, or will be due at another time than the writer knows.
    news: Notify,
    /// Nothing waits any more, or nothing will ever be sent.
    idle: Notify,
    /// What was asked over this channel and is not answered yet.
    requests: Requests,
    /// Something has come from the other side since the writer looked.
    heard: AtomicBool,
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Queues an order. Lost without a word when the other side is gone: then its process is being dealt with already.
    pub(crate) fn order(&self, frame: &Frame<'_>) {
        let mut queue = self.queue();
        if !queue.closed {
            queue.push_order(frame);
            drop(queue);
            self.news.notify_one();
        }
    }

    /// Whether orders pile up as they only do where the other side asks and does not read the answers.
    pub(crate) fn is_unread(&self) -> bool {
        self.queue().orders() > ORDERS_FULL
    }

    /// Queues a message that fits a datagram and is nothing but its bytes: what there are a million of.
    pub(super) fn small(&self, bytes: &[u8]) -> Result<()> {
        let frame = Frame::Message(bytes);
        let mut queue = self.queue();
        queue.has_room(frame.weight())?;
        let heard = self.has_heard() && self.heard.swap(false, Relaxed);
        if heard {
            queue.forget_company();
        }
        let tell = !queue.send_alone(&frame, frame.weight())
            && (queue.push(&frame, frame.weight(), Vec::new()) || heard);
        drop(queue);
        if tell {
            self.news.notify_one();
        }
        Ok(())
    }

    /// Queues a message of any kind, or says why it cannot be.
    pub(crate) fn post(&self, kind: Kind, message: &Message, fds: Vec<OwnedFd>) -> Result<()> {
        // Asked before a large one is copied into its memfd, and again after.
        self.queue()
            .has_room(Letter::weight_of(kind, message, fds.len()))?;
        let letter = Letter::new(kind, message, fds)?;
        let weight = letter.frame().weight();
        let mut queue = self.queue();
        queue.has_room(weight)?;
        let tell = self.send_or_push(&mut queue, &letter, weight);
        drop(queue);
        if tell {
            self.news.notify_one();
        }
        Ok(())
    }

    /// For which there is room. True: the writer has to be told.
    fn send_or_push(&self, queue: &mut Queue, letter: &Letter, weight: usize) -> bool {
        !send_now(queue, letter, weight) && (queue.push_letter(letter, weight) || self.has_heard())
    }

    /// Queues a message of any kind, as soon as there is room.
    pub(super) fn post_or_wait(
        self: &Arc<Self>,
        kind: Kind,
        message: &Message,
        fds: Vec<OwnedFd>,
    ) -> Sending {
        let letter = match Letter::new(kind, message, fds) {
            Ok(letter) => letter,
            Err(error) => return Sending::done(Err(error)),
        };
        let (queued, told) = oneshot::channel();
        match self.push_or_wait(letter, Queued::Ticket(queued)) {
            Ok(None) => Sending::done(Ok(())),
            Ok(Some(ticket)) => Sending::waiting(self.clone(), ticket, told),
            Err(error) => Sending::done(Err(error)),
        }
    }

    /// Queues what one worker sends to all others, as soon as there is room: until then it counts against the one who sent it.
    pub(crate) fn pass_on(&self, letter: Letter, receipt: Option<Arc<Receipt>>) {
        // A worker that is gone gets nothing.
        let _ = self.push_or_wait(letter, Queued::PassedOn { _receipt: receipt });
    }

    fn push_or_wait(&self, letter: Letter, queued: Queued) -> Result<Option<u64>> {
        let weight = letter.frame().weight();
        let mut queue = self.queue();
        let tell = match queue.has_room(weight) {
            Ok(()) => self.send_or_push(&mut queue, &letter, weight),
            Err(crate::Error::Full) => return Ok(Some(queue.wait(letter, weight, queued))),
            Err(error) => return Err(error),
        };
        drop(queue);
        queued.tell();
        if tell {
            self.news.notify_one();
        }
        Ok(None)
    }

    /// Takes back what still waits for room.
    pub(super) fn withdraw(&self, ticket: u64) {
        let mut queue = self.queue();
        let withdrawn = queue.withdraw(ticket);
        let queued = queue.admit();
        drop(queue);
        drop(withdrawn);
        self.admitted(queued);
    }

    fn admitted(&self, queued: Vec<Queued>) {
        if !queued.is_empty() {
            self.news.notify_one();
            queued.into_iter().for_each(Queued::tell);
        }
    }

    /// Queues a notice, or drops and counts it when the primary does not keep up: a request never waits for a hook.
    pub(crate) fn notice(
        &self,
        method: &Method,
        route: Option<&str>,
        status: StatusCode,
        elapsed: Duration,
    ) {
        let mut queue = self.queue();
        let before = queue.notices.len();
        encode_notice(method, route, status, elapsed, &mut queue.notices);
        let size = queue.notices.len() - before;
        if !queue.reserve_notice(size) {
            queue.notices.truncate(before);
            queue.dropped += 1;
            return;
        }
        if before == 0 {
            queue.notices_due = Some(Instant::now() + LINGER);
        }
        let tell = before == 0 || (before < FULL && queue.notices.len() >= FULL);
        drop(queue);
        if tell {
            self.news.notify_one();
        }
    }

    /// The other side has consumed `bytes` of what was sent. False when it claims more than it was sent.
    pub(crate) fn consumed(&self, bytes: usize) -> bool {
        let mut queue = self.queue();
        let honest = bytes <= queue.under_way;
        queue.under_way = queue.under_way.saturating_sub(bytes);
        let queued = queue.admit();
        drop(queue);
        self.admitted(queued);
        honest
    }

    /// An answer has come, or word that there will be none.
    pub(crate) fn answered(&self, number: u64, answer: Option<(Letter, Option<Receipt>)>) {
        self.requests.answer(number, answer);
    }

    /// Requests up to this number that are not answered yet will not be.
    pub(crate) fn unanswered(&self, up_to: u64) {
        self.requests.give_up(up_to);
    }

    /// Nothing can be sent any more: the other side is gone, or this one is leaving and has been flushed.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        let old = queue.close();
        drop(queue);
        // Not under the lock: what it lets go may queue something elsewhere.
        drop(old);
        self.requests.close();
        self.news.notify_one();
        self.idle.notify_waiters();
    }

    /// Goes on where the program before this one stopped: so much of what was sent is not consumed.
    pub(crate) fn resumed(under_way: usize, latest_request: u64) -> Self {
        let outbox = Self::default();
        outbox.queue().under_way = under_way;
        outbox.requests.resume(latest_request);
        outbox
    }

    pub(crate) fn latest_request(&self) -> u64 {
        self.requests.latest()
    }

    /// Bytes sent and not yet consumed by the other side; `None` while anything waits to be sent.
    pub(crate) fn settled(&self) -> Option<usize> {
        let queue = self.queue();
        (queue.closed || (queue.is_empty() && !queue.sending)).then_some(queue.under_way)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// The writer has come, and this is what it writes to.
    pub(super) fn connect(&self, socket: &Arc<OwnedFd>) {
        self.queue().socket = Arc::downgrade(socket);
    }

    /// Something has come from the other side: what is sent next is perhaps the answer, and waits for no company.
    pub(super) fn heard(&self) {
        self.heard.store(true, Relaxed);
    }

    /// Then there is no waiting for company, and the writer has to be told so.
    fn has_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// The next datagram to send, as soon as one is due; `None` once closed. For the one writer, which gives the last one's buffer back.
    ///
    /// Cancel safe: a datagram is taken only when it is returned.
    pub(crate) async fn next(&self, spent: Vec<u8>) -> Option<Datagram> {
        let mut spent = Some(spent);
        loop {
            let due = {
                let mut queue = self.queue();
                queue.sending = false;
                if let Some(spent) = spent.take() {
                    queue.recycle(spent);
                }
                if queue.closed {
                    return None;
                }
                if self.heard.swap(false, Relaxed) {
                    queue.forget_company();
                }
                if let Some(datagram) = queue.take() {
                    queue.sending = true;
                    return Some(datagram);
                }
                if queue.is_empty() {
                    self.idle.notify_waiters();
                }
                queue.due()
            };
            match due {
                None => self.news.notified().await,
                Some(due) => tokio::select! {
                    () = self.news.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// Completes when everything queued so far has been sent, or nothing will be; what waits for company does so first, 10 ms at most.
    pub(crate) async fn flushed(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            {
                let queue = self.queue();
                if queue.closed || (queue.is_empty() && !queue.sending) {
                    return;
                }
            }
            idle.await;
        }
    }
}

/// Sends a question or an answer from where it is given, if nothing is before it: somebody waits for it, and the way over the writer
/// costs a change of threads. Everything else goes better in company. False when it has to be queued.
fn send_now(queue: &mut Queue, letter: &Letter, weight: usize) -> bool {
    let Some(socket) = queue.idle_socket() else {
        return false;
    };
    if !matches!(letter.kind, Kind::Request(_) | Kind::Reply(_)) {
        return false;
    }
    let mut bytes = Vec::with_capacity(letter.frame().size());
    letter.frame().encode(&mut bytes);
    let fds = letter.all_fds();
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    // Under the lock, or something else could be sent in between; it never waits. What fails is left to the writer.
    let sent = datagram::send(&socket, &bytes, &fds).is_ok();
    if sent {
        queue.under_way += weight;
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    use crate::{error::Error, frame::frames};

    fn post(outbox: &Outbox, size: usize) -> Result<()> {
        outbox.send_bytes(vec![b'x'; size])
    }

    async fn next(outbox: &Outbox) -> Vec<u8> {
        outbox.next(Vec::new()).await.unwrap().bytes
    }

    /// Everything that can be sent now.
    async fn drain(outbox: &Outbox) -> Vec<Datagram> {
        let mut all = Vec::new();
        while let Some(Some(datagram)) = outbox.next(Vec::new()).now_or_never() {
            all.push(datagram);
        }
        all
    }

    // K-16.
    #[tokio::test]
    async fn small_messages_share_a_datagram_and_orders_go_first() {
        let outbox = Outbox::default();
        for _ in 0..100 {
            post(&outbox, 24).unwrap();
        }
        outbox.order(&Frame::Leaving);
        let order = next(&outbox).await;
        assert_eq!(frames(&order).next(), Some(Ok(Frame::Leaving)));
        let datagram = next(&outbox).await;
        assert_eq!(frames(&datagram).count(), 100);
    }

    #[tokio::test]
    async fn the_bound_counts_what_is_not_consumed() {
        let outbox = Outbox::default();
        let mut sent = 0;
        let full = loop {
            match post(&outbox, 60_000) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, Error::Full));
        assert_eq!(sent, CAPACITY / 60_005);
        drain(&outbox).await;
        assert!(
            matches!(post(&outbox, 60_000), Err(Error::Full)),
            "sent is not yet consumed"
        );
        assert!(outbox.consumed(60_005));
        post(&outbox, 60_000).unwrap();
        assert!(
            !outbox.consumed(usize::MAX),
            "a peer that claims too much is found out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn notices_wait_for_company_and_no_longer() {
        let outbox = Outbox::default();
        for _ in 0..3 {
            outbox.notice(&Method::GET, Some("/"), StatusCode::OK, Duration::ZERO);
        }
        let begun = tokio::time::Instant::now();
        let datagram = next(&outbox).await;
        assert!(
            begun.elapsed() >= LINGER && begun.elapsed() < LINGER * 3,
            "{:?}",
            begun.elapsed()
        );
        let Some(Ok(Frame::Notices(payload))) = frames(&datagram).next() else {
            panic!("notices")
        };
        assert_eq!(crate::frame::notices(payload).count(), 3);
    }

    // Also where the program blocks its thread next, or exits. The one that follows is the writer's, who is told and looks when it is time.
    #[tokio::test(start_paused = true)]
    async fn one_alone_goes_from_where_it_is_given() {
        let (ours, theirs) = datagram::pair().unwrap();
        let outbox = Arc::new(Outbox::default());
        let ours = Arc::new(ours);
        outbox.connect(&ours);
        let mut buffer = [0; 1000];
        let mut received = || {
            let received = datagram::receive(&theirs, &mut buffer).ok()?;
            Some(frames(&buffer[..received.len]).count())
        };
        for _ in 0..3 {
            post(&outbox, 24).unwrap();
            assert_eq!(received(), Some(1));
            assert!(outbox.news.notified().now_or_never().is_none());
            tokio::time::advance(LINGER).await;
        }
        post(&outbox, 24).unwrap();
        post(&outbox, 24).unwrap();
        post(&outbox, 24).unwrap();
        assert_eq!((received(), received()), (Some(1), None));
        outbox.news.notified().now_or_never().expect("told, once");
        assert!(outbox.next(Vec::new()).now_or_never().is_none());
        outbox.heard();
        post(&outbox, 24).unwrap();
        assert_eq!(received(), None, "two are before it");
        outbox.news.notified().now_or_never().expect("told again");
        assert_eq!(frames(&next(&outbox).await).count(), 3);
        assert!(outbox.next(Vec::new()).now_or_never().is_none());
        outbox.heard();
        post(&outbox, 24).unwrap();
        assert_eq!(received(), Some(1), "in a conversation");
        assert_eq!(outbox.queue().under_way, 8 * 29);
    }

    // The writer is not woken for what waits for company: it looks by itself, and once more when nothing has come.
    #[tokio::test(start_paused = true)]
    async fn the_writer_looks_when_company_has_been_waited_for() {
        let outbox = Arc::new(Outbox::default());
        let (sent, mut out) = tokio::sync::mpsc::unbounded_channel();
        let writes = outbox.clone();
        tokio::spawn(async move {
            while let Some(datagram) = writes.next(Vec::new()).await {
                let _ = sent.send(frames(&datagram.bytes).count());
            }
        });
        let waited = async |out: &mut tokio::sync::mpsc::UnboundedReceiver<usize>, count| {
            let begun = tokio::time::Instant::now();
            assert_eq!(out.recv().await, Some(count));
            begun.elapsed()
        };
        let mut waits = Vec::new();
        for count in [1, 100, 1] {
            for _ in 0..count {
                post(&outbox, 24).unwrap();
            }
            waits.push(waited(&mut out, count).await.as_millis());
        }
        assert!(
            waits[0] == 0 && (1..4).contains(&waits[1]) && (4..8).contains(&waits[2]),
            "{waits:?}"
        );
        tokio::time::sleep(LINGER).await;
        post(&outbox, 24).unwrap();
        let alone = waited(&mut out, 1).await;
        assert!(alone.as_millis() == 0, "{alone:?}");
        outbox.close();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_small_messages_waits_for_company_and_a_question_does_not() {
        let outbox = Arc::new(Outbox::default());
        let begun = tokio::time::Instant::now();
        post(&outbox, 24).unwrap();
        assert_eq!(frames(&next(&outbox).await).count(), 1);
        assert!(begun.elapsed().is_zero(), "the first goes at once");
        for _ in 0..3 {
            post(&outbox, 24).unwrap();
        }
        assert!(drain(&outbox).await.is_empty());
        assert_eq!(frames(&next(&outbox).await).count(), 3);
        let waited = begun.elapsed();
        assert!(!waited.is_zero() && waited < LINGER, "{waited:?}");
        post(&outbox, 24).unwrap();
        assert!(drain(&outbox).await.is_empty());
        outbox.heard();
        assert_eq!(drain(&outbox).await.len(), 1, "in a conversation, at once");
        post(&outbox, 24).unwrap();
        let asked = outbox.request(&1);
        assert_eq!(drain(&outbox).await.len(), 1, "both, at once");
        while drain(&outbox).await.is_empty() {
            post(&outbox, 1000).unwrap();
        }
        assert!(
            begun.elapsed() < waited + LINGER / 5,
            "a full one does not wait"
        );
        drop(asked);
    }

    #[tokio::test]
    async fn closing_ends_senders_writer_and_flush() {
        let outbox = Outbox::default();
        post(&outbox, 1).unwrap();
        outbox.close();
        assert!(matches!(post(&outbox, 1), Err(Error::Gone)));
        assert!(outbox.next(Vec::new()).await.is_none());
        outbox.flushed().await;
    }

    #[tokio::test]
    async fn one_larger_message_goes_when_nearly_nothing_is_under_way() {
        let outbox = Outbox::default();
        post(&outbox, 1000).unwrap();
        post(&outbox, 5 << 20).unwrap();
        assert!(matches!(post(&outbox, 1), Err(Error::Full)));
        let sent = drain(&outbox).await;
        let fds: usize = sent.iter().map(|datagram| datagram.fds.len()).sum();
        assert_eq!(fds, 1, "a memfd");
        assert!(outbox.consumed(5 << 20));
        post(&outbox, 5 << 20).unwrap();
        let error = outbox.send_bytes(vec![0; (64 << 20) + 1]).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }

    // A large one that waits is not overtaken for ever by small ones that always fit.
    #[tokio::test]
    async fn those_that_wait_go_first_and_in_order() {
        let outbox = Arc::new(Outbox::default());
        while post(&outbox, 60_000).is_ok() {}
        let large = outbox.send_wait(&"x".repeat(5 << 20));
        let mut small = outbox.send_wait(&1);
        let withdrawn = outbox.send_wait(&2);
        drain(&outbox).await;
        let counts = outbox.queue().under_way;
        outbox.consumed(60_005);
        assert!(
            matches!(post(&outbox, 1), Err(Error::Full)),
            "there is room, and somebody waits for it"
        );
        assert!((&mut small).now_or_never().is_none());
        drop(withdrawn);
        outbox.consumed(counts - 60_005);
        large.await.unwrap();
        assert!((&mut small).now_or_never().is_none());
        let datagram = next(&outbox).await;
        assert_eq!(frames(&datagram).count(), 1);
        outbox.consumed(6 << 20);
        small.await.unwrap();
        assert_eq!(frames(&next(&outbox).await).count(), 1, "not the withdrawn");
    }

    #[tokio::test]
    async fn a_ticket_dropped_sends_nothing_or_everything() {
        let outbox = Arc::new(Outbox::default());
        drop(outbox.send_wait(&"there is room"));
        assert_eq!(frames(&next(&outbox).await).count(), 1);
        while post(&outbox, 60_000).is_ok() {}
        let sent = drain(&outbox).await.len();
        drop(outbox.send_wait(&"x".repeat(60_000)));
        outbox.consumed(CAPACITY / 2);
        assert_eq!(drain(&outbox).await.len(), 0, "after {sent}");
    }

    #[tokio::test]
    async fn those_that_wait_learn_of_the_end() {
        let outbox = Arc::new(Outbox::default());
        while post(&outbox, 60_000).is_ok() {}
        let waits = outbox.send_wait(&"x".repeat(60_000));
        let asks = outbox.request(&1);
        outbox.close();
        assert!(matches!(waits.await, Err(Error::Gone)));
        assert!(matches!(asks.await, Err(Error::Gone)));
        assert!(matches!(outbox.send_wait(&1).await, Err(Error::Gone)));
        assert!(matches!(outbox.request(&1).await, Err(Error::Gone)));
    }

    // I-5.
    #[tokio::test]
    async fn an_answer_finds_its_request_and_a_late_one_nobody() {
        let outbox = Arc::new(Outbox::default());
        let answer = |text| {
            let message = Message::encode(&text).unwrap();
            Some((
                Letter::new(Kind::Reply(0), &message, Vec::new()).unwrap(),
                None,
            ))
        };
        let (first, second) = (outbox.request(&1), outbox.request(&2));
        outbox.answered(2, answer("two"));
        outbox.answered(2, answer("two again"));
        outbox.answered(7, answer("nobody asked"));
        assert_eq!(second.await.unwrap().json::<String>().unwrap(), "two");
        drop(first);
        outbox.answered(1, answer("late"));
        let third = outbox.request(&3);
        outbox.answered(3, None);
        assert!(matches!(third.await, Err(Error::NoReply)));
    }

    // I-6: what is sent at once never overtakes what waits.
    #[tokio::test]
    async fn a_question_goes_at_once_only_where_nothing_is_before_it() {
        let (ours, theirs) = datagram::pair().unwrap();
        let outbox = Arc::new(Outbox::default());
        let ours = Arc::new(ours);
        outbox.connect(&ours);
        let mut buffer = [0; 1000];
        let mut received = || datagram::receive(&theirs, &mut buffer).map(|received| received.len);
        let first = outbox.request(&1);
        assert!(received().is_ok(), "sent by the call");
        post(&outbox, 1).unwrap();
        assert!(received().is_ok(), "so is one alone");
        post(&outbox, 1).unwrap();
        let second = outbox.request(&2);
        assert!(received().is_err(), "a message is before it");
        // Taken by the writer, and not sent yet.
        assert_eq!(frames(&next(&outbox).await).count(), 2);
        let third = outbox.request(&3);
        assert!(received().is_err(), "the writer is at it");
        assert_eq!(frames(&next(&outbox).await).count(), 1);
        assert!(outbox.next(Vec::new()).now_or_never().is_none());
        let fourth = outbox.request(&4);
        assert!(received().is_ok());
        assert_eq!(outbox.queue().under_way, 4 * 16 + 2 * 6);
        drop((first, second, third, fourth, ours));
        assert!(received().is_ok_and(|len| len == 0), "the socket is let go");
    }

    // What a hostile worker could do with requests whose answers it does not read.
    #[tokio::test]
    async fn refusals_that_nobody_reads_are_noticed() {
        let outbox = Outbox::default();
        // As many as the smallest requests that may be under way.
        for number in 0..(CAPACITY / 15) as u64 {
            outbox.order(&Frame::NoReply(number));
        }
        assert!(!outbox.is_unread());
        for number in 0..1_000_000 {
            outbox.order(&Frame::NoReply(number));
        }
        assert!(outbox.is_unread());
        for datagram in drain(&outbox).await {
            assert!(datagram.bytes.len() <= crate::frame::MAX_DATAGRAM);
        }
    }
}
