//! What a datagram of the channel holds: whole frames, one after the other. Pure: bytes in, frames out.
//!
//! A frame is a kind (one byte), a length (four bytes, little endian) and that many bytes. A datagram never holds part of one, so a
//! frame that does not fit what is left of its datagram is malformed, and nothing is ever allocated for a length that was only claimed.

mod cut;

use std::time::Duration;

use http::{Method, StatusCode};

pub(crate) use cut::{decode_cuts, encode_cuts};

use crate::message::{MAX_MESSAGE, RequestNotice};

/// The largest payload that travels in its datagram; a larger one travels beside it, in a sealed memfd.
pub(crate) const INLINE: usize = 64 * 1024;

/// The most descriptors of the program's own that a message carries: with a memfd they fit one datagram.
pub(crate) const MESSAGE_FDS: usize = 15;

/// What a descriptor counts against the bound of what may be under way: in transit it is far more to the kernel than four bytes.
const FD_WEIGHT: usize = 16 * 1024;

/// Raised when frames or settings change so that an older peer would misread them.
pub(crate) const WIRE_VERSION: u32 = 3;

/// A frame's kind and length.
const HEADER: usize = 5;

/// What a letter says of itself before its payload: kind, descriptors, number.
const LETTER: usize = 10;

/// Set in a letter's kind: the payload is in a memfd, and here stands its size.
const SEALED: u8 = 0x80;

/// The largest datagram: one message of the largest size that is not put into a memfd.
pub(crate) const MAX_DATAGRAM: usize = HEADER + LETTER + INLINE;

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
    fn new(bytes: &'a [u8]) -> Option<Self> {
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

    fn size(&self) -> usize {
        LETTER
            + match self.payload {
                Payload::Here(bytes) => bytes.len(),
                Payload::Sealed(_) => 4,
            }
    }

    fn encode(&self, datagram: &mut Vec<u8>) {
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
            Self::Letter(letter) => {
                let sealed = match letter.payload {
                    Payload::Here(_) => 0,
                    Payload::Sealed(size) => size as usize,
                };
                sealed + usize::from(letter.fds) * FD_WEIGHT
            }
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

/// Appends one notice to the payload of a [`Frame::Notices`].
pub(crate) fn encode_notice(
    method: &Method,
    route: Option<&str>,
    status: StatusCode,
    elapsed: Duration,
    payload: &mut Vec<u8>,
) {
    let method = method.as_str().as_bytes();
    let method = &method[..method.len().min(255)];
    // u16::MAX stands for "no route"; a route is program text and far shorter.
    let route = route
        .map(str::as_bytes)
        .filter(|route| route.len() < usize::from(u16::MAX));
    payload.push(method.len() as u8);
    payload.extend_from_slice(method);
    payload.extend_from_slice(
        &route
            .map_or(u16::MAX, |route| route.len() as u16)
            .to_le_bytes(),
    );
    payload.extend_from_slice(route.unwrap_or_default());
    payload.extend_from_slice(&status.as_u16().to_le_bytes());
    payload.extend_from_slice(
        &u32::try_from(elapsed.as_micros())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
}

/// The notices in the payload of a [`Frame::Notices`], up to the first that is malformed.
pub(crate) fn notices(
    mut payload: &[u8],
) -> impl Iterator<Item = Result<RequestNotice, Malformed>> {
    std::iter::from_fn(move || {
        if payload.is_empty() {
            return None;
        }
        let notice = decode_notice(&mut payload);
        if notice.is_none() {
            payload = &[];
        }
        Some(notice.ok_or(Malformed))
    })
}

fn decode_notice(payload: &mut &[u8]) -> Option<RequestNotice> {
    let &method_length = payload.split_off_first()?;
    let method = Method::from_bytes(payload.split_off(..usize::from(method_length))?).ok()?;
    let route = match u16::from_le_bytes(array(payload)?) {
        u16::MAX => None,
        length => Some(
            str::from_utf8(payload.split_off(..usize::from(length))?)
                .ok()?
                .to_owned(),
        ),
    };
    let status = StatusCode::from_u16(u16::from_le_bytes(array(payload)?)).ok()?;
    let elapsed = Duration::from_micros(u32::from_le_bytes(array(payload)?).into());
    Some(RequestNotice {
        method,
        route,
        status,
        elapsed,
    })
}

fn array<const N: usize>(payload: &mut &[u8]) -> Option<[u8; N]> {
    payload.split_off(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
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
