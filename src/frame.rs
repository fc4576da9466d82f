//! What a datagram of the channel holds: whole frames, one after the other. Pure: bytes in, frames out.
//!
//! A frame is a kind (one byte), a length (four bytes, little endian) and that many bytes. A datagram never holds part of one, so a
//! frame that does not fit what is left of its datagram is malformed, and nothing is ever allocated for a length that was only claimed.

mod cut;

use std::time::Duration;

use http::{Method, StatusCode};

pub(crate) use cut::{decode_cuts, encode_cuts};

use crate::message::{MAX_MESSAGE, RequestNotice};

/// Raised when frames or settings change so that an older peer would misread them.
pub(crate) const WIRE_VERSION: u32 = 2;

/// A frame's kind and length.
const HEADER: usize = 5;

/// The largest datagram: one message of the largest size and its header.
pub(crate) const MAX_DATAGRAM: usize = MAX_MESSAGE + HEADER;

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
    /// Either: a message of the program.
    Message(&'a [u8]),
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
            Self::GiveBack(_) => 8,
            Self::Cut(_) => 9,
            Self::Reopen => 10,
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
            (8, _) => number(payload).map(Self::GiveBack),
            (9, _) => Ok(Self::Cut(payload)),
            (10, []) => Ok(Self::Reopen),
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
                | Self::Cut(bytes) => bytes.len(),
                Self::Consumed(_) | Self::GiveBack(_) => 4,
                Self::Leaving | Self::Reopen => 0,
            }
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
            | Self::Cut(bytes) => datagram.extend_from_slice(bytes),
            Self::Consumed(n) | Self::GiveBack(n) => datagram.extend_from_slice(&n.to_le_bytes()),
            Self::Leaving | Self::Reopen => {}
        }
    }
}

fn number(payload: &[u8]) -> Result<u32, Malformed> {
    let number = payload.try_into().map_err(|_| Malformed)?;
    Ok(u32::from_le_bytes(number))
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

    #[test]
    fn many_frames_travel_in_one_datagram() {
        let sent = [
            Frame::Hello(b"{}"),
            Frame::Listening(b"[]"),
            Frame::Message(b"{\"cmd\":\"notifyRequest\"}"),
            Frame::Message(b""),
            Frame::Consumed(70_000),
            Frame::Leaving,
            Frame::GiveBack(64),
            Frame::Cut(b"12345678"),
            Frame::Reopen,
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
