//! What a datagram of the channel holds: whole frames, one after the other. Pure: bytes in, frames out.
//!
//! A frame is a kind (one byte), a length (four bytes, little endian) and that many bytes. A datagram never holds part of one, so a
//! frame that does not fit what is left of its datagram is malformed, and nothing is ever allocated for a length that was only claimed.

mod cut;
mod envelope;
mod notice;

pub(crate) use cut::{decode_cuts, encode_cuts};
pub(crate) use envelope::{Envelope, Kind, MESSAGE_FDS, Payload};
pub(crate) use notice::{encode_notice, notices};

use envelope::LETTER;

/// The largest payload that travels in its datagram; a larger one travels beside it, in a sealed memfd.
pub(crate) const INLINE: usize = 64 * 1024;

/// Raised when frames or settings change so that an older peer would misread them.
pub(crate) const WIRE_VERSION: u32 = 3;

/// A frame's kind and length.
const HEADER: usize = 5;

/// The largest datagram: one message of the largest size that is not put into a memfd.
pub(crate) const MAX_DATAGRAM: usize = HEADER + LETTER + INLINE;

/// One frame. What carries JSON is rare; what is frequent is plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// Worker: I am here (JSON).
    Hello(&'a [u8]),
    /// Primary: what you are (JSON, with the intake and the scoreboard page).
    Welcome(&'a [u8]),
    /// Worker: I serve, at these addresses (JSON: each as asked for, and the app behind it).
    Listening(&'a [u8]),
    /// Worker: I was sent TERM, please retire me.
    Leaving,
    /// Either: a message of the program, and nothing more.
    Message(&'a [u8]),
    /// Either: a message of the program that asks, answers, is passed on, or brings descriptors.
    Letter(Envelope<'a>),
    /// Either: the request of this number was dropped unanswered.
    NoReply(u64),
    /// Worker: requests answered; see [`notices`].
    Notices(&'a [u8]),
    /// Either: so many bytes of messages and notices have been consumed since the last time.
    Consumed(u32),
    /// Primary: so many idle connections would do better elsewhere, give them back.
    GiveBack(u32),
    /// Worker: requests that were cut at the drain deadline; see [`decode_cuts`]. Once at the most.
    Cut(&'a [u8]),
    /// Primary: open log files anew.
    Reopen,
    /// Worker: I leave, as I was not told to.
    Disconnecting,
    /// Primary: leave. Told by the end of the intake too, which only those see who serve.
    Leave,
    /// Primary: end by this signal, now.
    EndBy(u32),
    /// Primary: requests up to this number that are not answered yet never will be; another program goes on there.
    NoReplies(u64),
    /// Primary: accept at these sockets yourself (JSON: number and app of each, with the sockets in a datagram of its own).
    Accept(&'a [u8]),
    /// Worker: it takes connections of this listener, which it asked for, or has room for them again.
    Accepting(u16),
    /// Worker: its queue of this listener is full; what comes all the same it gives back.
    Full(u16),
    /// Worker: it has closed this listener.
    Unlisten(u16),
}

impl<'a> Frame<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Listening(_) => 3,
            Self::Leaving => 4,
            Self::Message(_) => 5,
            Self::Notices(_) => 6,
            Self::Consumed(_) => 7,
            Self::Letter(_) => 8,
            Self::NoReply(_) => 9,
            Self::GiveBack(_) => 10,
            Self::Cut(_) => 11,
            Self::Reopen => 12,
            Self::NoReplies(_) => 13,
            Self::Accept(_) => 14,
            Self::Leave => 17,
            Self::EndBy(_) => 15,
            Self::Disconnecting => 16,
            Self::Accepting(_) => 20,
            Self::Full(_) => 21,
            Self::Unlisten(_) => 22,
        }
    }

    fn new(kind: u8, payload: &'a [u8]) -> Result<Self, Malformed> {
        match (kind, payload) {
            (1, _) => Ok(Self::Hello(payload)),
            (2, _) => Ok(Self::Welcome(payload)),
            (3, _) => Ok(Self::Listening(payload)),
            (4, []) => Ok(Self::Leaving),
            (5, _) => Ok(Self::Message(payload)),
            (6, _) => Ok(Self::Notices(payload)),
            (7, _) => number(payload).map(Self::Consumed),
            (8, _) => Envelope::new(payload).map(Self::Letter).ok_or(Malformed),
            (9, _) => long_number(payload).map(Self::NoReply),
            (10, _) => number(payload).map(Self::GiveBack),
            (11, _) => Ok(Self::Cut(payload)),
            (12, []) => Ok(Self::Reopen),
            (13, _) => long_number(payload).map(Self::NoReplies),
            (14, _) => Ok(Self::Accept(payload)),
            (17, []) => Ok(Self::Leave),
            (15, _) => number(payload).map(Self::EndBy),
            (16, []) => Ok(Self::Disconnecting),
            (20, _) => short_number(payload).map(Self::Accepting),
            (21, _) => short_number(payload).map(Self::Full),
            (22, _) => short_number(payload).map(Self::Unlisten),
            _ => Err(Malformed),
        }
    }

    /// The size of the frame as [`encode`](Self::encode) writes it.
    pub(crate) fn size(&self) -> usize {
        HEADER
            + match self {
                Self::Hello(bytes)
                | Self::Welcome(bytes)
                | Self::Listening(bytes)
                | Self::Message(bytes)
                | Self::Notices(bytes)
                | Self::Accept(bytes)
                | Self::Cut(bytes) => bytes.len(),
                Self::Letter(letter) => letter.size(),
                Self::NoReply(_) | Self::NoReplies(_) => 8,
                Self::Consumed(_) | Self::GiveBack(_) | Self::EndBy(_) => 4,
                Self::Accepting(_) | Self::Full(_) | Self::Unlisten(_) => 2,
                Self::Leaving | Self::Reopen | Self::Leave | Self::Disconnecting => 0,
            }
    }

    /// What the frame counts against the bound of what may be under way: its size, and what it brings beside the datagram.
    pub(crate) fn weight(&self) -> usize {
        let beside = match self {
            Self::Letter(letter) => letter.beside(),
            _ => 0,
        };
        self.size() + beside
    }

    /// Appends the frame to a datagram.
    pub(crate) fn encode(&self, datagram: &mut Vec<u8>) {
        let length = u32::try_from(self.size() - HEADER)
            .expect("no payload is near 4 GiB: messages are capped before");
        datagram.push(self.kind());
        datagram.extend_from_slice(&length.to_le_bytes());
        match self {
            Self::Hello(bytes)
            | Self::Welcome(bytes)
            | Self::Listening(bytes)
            | Self::Message(bytes)
            | Self::Notices(bytes)
            | Self::Accept(bytes)
            | Self::Cut(bytes) => datagram.extend_from_slice(bytes),
            Self::Letter(letter) => letter.encode(datagram),
            Self::NoReply(n) | Self::NoReplies(n) => {
                datagram.extend_from_slice(&n.to_le_bytes());
            }
            Self::Consumed(n) | Self::GiveBack(n) | Self::EndBy(n) => {
                datagram.extend_from_slice(&n.to_le_bytes());
            }
            Self::Accepting(n) | Self::Full(n) | Self::Unlisten(n) => {
                datagram.extend_from_slice(&n.to_le_bytes());
            }
            Self::Leaving | Self::Reopen | Self::Leave | Self::Disconnecting => {}
        }
    }
}

fn long_number(payload: &[u8]) -> Result<u64, Malformed> {
    let number = payload.try_into().map_err(|_| Malformed)?;
    Ok(u64::from_le_bytes(number))
}

fn number(payload: &[u8]) -> Result<u32, Malformed> {
    let number = payload.try_into().map_err(|_| Malformed)?;
    Ok(u32::from_le_bytes(number))
}

fn short_number(payload: &[u8]) -> Result<u16, Malformed> {
    let number = payload.try_into().map_err(|_| Malformed)?;
    Ok(u16::from_le_bytes(number))
}

/// A datagram is not what this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The frames of a datagram, up to the first that is malformed.
pub(crate) fn frames(mut datagram: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, Malformed>> {
    std::iter::from_fn(move || {
        let &[kind, a, b, c, d, ref rest @ ..] = datagram else {
            return (!std::mem::take(&mut datagram).is_empty()).then_some(Err(Malformed));
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            datagram = &[];
            return Some(Err(Malformed));
        };
        datagram = rest;
        Some(Frame::new(kind, payload))
    })
}

fn array<const N: usize>(payload: &mut &[u8]) -> Option<[u8; N]> {
    payload.split_off(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::{envelope::SEALED, *};
    use proptest::prelude::*;

    fn letter(kind: Kind, fds: u8, payload: Payload<'_>) -> Envelope<'_> {
        Envelope { kind, fds, payload }
    }

    #[test]
    fn what_no_letter_may_be_is_malformed() {
        let good = letter(Kind::Message, 0, Payload::Sealed(64 << 20));
        let encoded = |letter: Envelope<'_>| {
            let mut datagram = Vec::new();
            Frame::Letter(letter).encode(&mut datagram);
            datagram
        };
        let is_malformed =
            |datagram: &[u8]| frames(datagram).collect::<Vec<_>>() == [Err(Malformed)];
        assert!(!is_malformed(&encoded(good)));
        // The cap: a size that is only claimed is never allocated.
        assert!(is_malformed(&encoded(letter(
            Kind::Message,
            0,
            Payload::Sealed((64 << 20) + 1)
        ))));
        assert!(is_malformed(&encoded(letter(
            Kind::Message,
            16,
            Payload::Here(b"")
        ))));
        let mut unknown = encoded(good);
        unknown[5] = SEALED | 5;
        assert!(is_malformed(&unknown));
        let mut numbered = encoded(good);
        numbered[7] = 1;
        assert!(is_malformed(&numbered));
    }

    #[test]
    fn many_frames_travel_in_one_datagram() {
        let sent = [
            Frame::Hello(b"{}"),
            Frame::Listening(b"[]"),
            Frame::Message(b"{\"cmd\":\"notifyRequest\"}"),
            Frame::Message(b""),
            Frame::Letter(letter(Kind::Message, 3, Payload::Here(b"with three"))),
            Frame::Letter(letter(Kind::Broadcast, 0, Payload::Here(b""))),
            Frame::Letter(letter(Kind::Request(7), 0, Payload::Here(b"?"))),
            Frame::Letter(letter(Kind::Reply(u64::MAX), 15, Payload::Sealed(64 << 20))),
            Frame::NoReply(8),
            Frame::Consumed(70_000),
            Frame::Leaving,
            Frame::GiveBack(64),
            Frame::Cut(b"12345678"),
            Frame::Reopen,
            Frame::Leave,
            Frame::EndBy(15),
            Frame::Disconnecting,
            Frame::NoReplies(9),
            Frame::Letter(letter(Kind::Ask(8), 0, Payload::Here(b"?"))),
            Frame::Accepting(0x8000),
            Frame::Full(u16::MAX),
            Frame::Unlisten(3),
        ];
        let mut datagram = Vec::new();
        sent.iter().for_each(|frame| frame.encode(&mut datagram));
        assert_eq!(datagram.len(), sent.iter().map(Frame::size).sum::<usize>());
        let received: Vec<_> = frames(&datagram).map(Result::unwrap).collect();
        assert_eq!(received, sent);
    }

    #[test]
    fn a_cut_datagram_is_malformed_once_and_ends() {
        let mut datagram = Vec::new();
        Frame::Message(b"hello").encode(&mut datagram);
        for end in 1..datagram.len() {
            assert_eq!(
                frames(&datagram[..end]).collect::<Vec<_>>(),
                [Err(Malformed)],
                "{end}"
            );
        }
        assert_eq!(
            frames(&[5, 255, 255, 255, 255]).collect::<Vec<_>>(),
            [Err(Malformed)]
        );
    }

    #[test]
    fn notices_come_back_as_they_were() {
        let mut payload = Vec::new();
        encode_notice(
            &Method::GET,
            Some("/users/{id}"),
            StatusCode::OK,
            Duration::from_micros(17),
            &mut payload,
        );
        encode_notice(
            &Method::from_bytes(b"PURGE").unwrap(),
            None,
            StatusCode::NOT_FOUND,
            Duration::MAX,
            &mut payload,
        );
        let read: Vec<_> = notices(&payload).map(Result::unwrap).collect();
        assert_eq!(read[0].route.as_deref(), Some("/users/{id}"));
        assert_eq!(
            (read[1].method.as_str(), read[1].status.as_u16()),
            ("PURGE", 404)
        );
        assert_eq!(read.len(), 2);
    }

    proptest! {
        // T14: nothing that a worker writes can do more than be malformed.
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for frame in frames(&bytes).flatten() {
                if let Frame::Notices(payload) | Frame::Message(payload) = frame {
                    notices(payload).for_each(drop);
                }
            }
            notices(&bytes).for_each(drop);
        }
    }
}
