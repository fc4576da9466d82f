//! What a datagram from the primary brings a worker.

use std::{os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;

use super::Worker;
use crate::{
    error::Result,
    frame::{Envelope, Frame, Kind, frames},
    ipc::{channel::Receipt, letter::Letter, requests::FarAsker},
    message::Message,
};

/// Deals with everything in it; with orders as `order` does. Messages are slices of the one datagram.
pub(crate) fn take_in(
    worker: &Worker,
    datagram: &Bytes,
    mut fds: impl Iterator<Item = Arc<OwnedFd>>,
    mut order: impl FnMut(Frame<'_>),
) {
    for frame in frames(datagram) {
        match frame {
            Ok(frame @ Frame::Message(bytes)) => worker
                .hub()
                .push(Message::received(datagram.slice_ref(bytes)), frame.weight()),
            Ok(frame @ Frame::Letter(envelope)) => {
                if let Err(what) = letter(worker, &envelope, frame.weight(), datagram, &mut fds) {
                    tracing::error!(worker = %worker.id(), error = %what, "a message is lost");
                    worker.hub().consumption().add(frame.weight());
                }
            }
            Ok(Frame::NoReply(number)) => worker.outbox().answered(number, None),
            Ok(Frame::Consumed(n)) => {
                worker.outbox().consumed(n as usize);
            }
            Ok(Frame::NoReplies(number)) => worker.outbox().unanswered(number),
            Ok(frame) => order(frame),
            Err(_) => tracing::error!("the primary sent a malformed frame"),
        }
    }
}

fn letter(
    worker: &Worker,
    envelope: &Envelope<'_>,
    weight: usize,
    datagram: &Bytes,
    fds: &mut impl Iterator<Item = Arc<OwnedFd>>,
) -> Result<()> {
    let letter = Letter::received(envelope, datagram, fds)?;
    if let Kind::Reply(number) = letter.kind {
        let receipt = Receipt::new(worker.hub().consumption(), weight);
        worker
            .outbox()
            .answered(number, Some((letter, Some(receipt))));
    } else {
        let asker = FarAsker::of(&letter, worker.outbox());
        worker.hub().push(letter.open(asker)?, weight);
    }
    Ok(())
}
