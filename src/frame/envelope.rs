//! The payload of a [`Frame::Letter`](super::Frame::Letter): a message that asks, answers, is passed on, or brings descriptors.

use crate::message::MAX_MESSAGE;

/// The most descriptors of the program's own that a message carries: with a memfd they fit one datagram.
pub(crate) const MESSAGE_FDS: usize = 15;

/// What a descriptor counts against the bound of what may be under way: in transit it is far more to the kernel than four bytes.
const FD_WEIGHT: usize = 16 * 1024;

/// What a letter says of itself before its payload: kind, descriptors, number.
pub(super) const LETTER: usize = 10;

/// Set in a letter's kind: the payload is in a memfd, and here stands its size.
pub(super) const SEALED: u8 = 0x80;

/// What a message of the program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    /// To all other workers; the primary passes it on.
    Broadcast,
    /// Wants an answer, under this number of the asker's.
    Request(u64),
    /// The answer to the request of this number.
    Reply(u64),
    /// Wants an answer of the crate's own part over there, not of the program. Numbered with the requests.
    Ask(u64),
}

/// The payload of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    Here(&'a [u8]),
    /// In the memfd that comes before the letter's other descriptors, with this size.
    Sealed(u32),
}

/// A message that is more than a few bytes from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) kind: Kind,
    /// How many descriptors are the program's own, beside a memfd.
    pub(crate) fds: u8,
    pub(crate) payload: Payload<'a>,
}

impl<'a> Envelope<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let ([kind, fds, number @ ..], payload) = bytes.split_first_chunk::<LETTER>()?;
        let number = u64::from_le_bytes(*number);
        let payload = if kind & SEALED == 0 {
            Payload::Here(payload)
        } else {
            let size = u32::from_le_bytes(payload.try_into().ok()?);
            // Checked here, before anybody maps or reads it.
            (size as usize <= MAX_MESSAGE).then_some(Payload::Sealed(size))?
        };
        let kind = match (kind & !SEALED, number) {
            (0, 0) => Kind::Message,
            (1, 0) => Kind::Broadcast,
            (2, number) => Kind::Request(number),
            (3, number) => Kind::Reply(number),
            (4, number) => Kind::Ask(number),
            _ => return None,
        };
        (usize::from(*fds) <= MESSAGE_FDS).then_some(Self {
            kind,
            fds: *fds,
            payload,
        })
    }

    /// How many descriptors come with it, a memfd among them.
    pub(crate) fn all_fds(&self) -> usize {
        usize::from(self.fds) + usize::from(matches!(self.payload, Payload::Sealed(_)))
    }

    pub(super) fn size(&self) -> usize {
        LETTER
            + match self.payload {
                Payload::Here(bytes) => bytes.len(),
                Payload::Sealed(_) => 4,
            }
    }

    /// What it brings beside the datagram, as it counts against the bound of what may be under way.
    pub(super) fn beside(&self) -> usize {
        let sealed = match self.payload {
            Payload::Here(_) => 0,
            Payload::Sealed(size) => size as usize,
        };
        sealed + usize::from(self.fds) * FD_WEIGHT
    }

    pub(super) fn encode(&self, datagram: &mut Vec<u8>) {
        let (kind, number) = match self.kind {
            Kind::Message => (0, 0),
            Kind::Broadcast => (1, 0),
            Kind::Request(number) => (2, number),
            Kind::Reply(number) => (3, number),
            Kind::Ask(number) => (4, number),
        };
        let sealed = match self.payload {
            Payload::Here(_) => 0,
            Payload::Sealed(_) => SEALED,
        };
        datagram.extend_from_slice(&[kind | sealed, self.fds]);
        datagram.extend_from_slice(&number.to_le_bytes());
        match self.payload {
            Payload::Here(bytes) => datagram.extend_from_slice(bytes),
            Payload::Sealed(size) => datagram.extend_from_slice(&size.to_le_bytes()),
        }
    }
}
