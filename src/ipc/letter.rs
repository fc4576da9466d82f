//! A message on its way: what it is for, its payload wherever that lies, and the descriptors that go with it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;

use super::memfd;
use crate::{
    error::{Error, Result},
    frame::{Envelope, Frame, INLINE, Kind, MESSAGE_FDS, Payload},
    message::{Asker, Message},
};

/// What came is not what was said to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete;

impl From<Incomplete> for Error {
    fn from(_: Incomplete) -> Self {
        Self::Protocol("a message without the descriptors that belong to it")
    }
}

/// One message, queued or just arrived. Clones share what they carry.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) kind: Kind,
    body: Body,
    fds: Vec<Arc<OwnedFd>>,
}

#[derive(Clone, Debug)]
enum Body {
    Here(Bytes),
    /// In a sealed memfd of this size.
    Sealed(Arc<OwnedFd>, u32),
}

impl Letter {
    /// Puts a large message into a memfd at once, in the caller's time and not in that of the loop that sends it.
    pub(crate) fn new(kind: Kind, message: &Message, fds: Vec<OwnedFd>) -> Result<Self> {
        if fds.len() > MESSAGE_FDS {
            return Err(Error::TooManyFds {
                count: fds.len(),
                limit: MESSAGE_FDS,
            });
        }
        let bytes = message.bytes();
        let body = match u32::try_from(bytes.len()) {
            Ok(size) if bytes.len() > INLINE => {
                let fd = memfd::seal(bytes).map_err(|source| Error::System {
                    doing: "put a large message into shared memory",
                    source,
                })?;
                Body::Sealed(Arc::new(fd), size)
            }
            _ => Body::Here(bytes.clone()),
        };
        Ok(Self {
            kind,
            body,
            fds: fds.into_iter().map(Arc::new).collect(),
        })
    }

    /// What it would weigh, before anything is spent on it.
    pub(crate) fn weight_of(kind: Kind, message: &Message, fds: usize) -> usize {
        let size = message.bytes().len();
        let payload = match u32::try_from(size) {
            Ok(size) if size as usize > INLINE => Payload::Sealed(size),
            _ => Payload::Here(message.bytes()),
        };
        let fds = u8::try_from(fds).unwrap_or(u8::MAX);
        Frame::Letter(Envelope { kind, fds, payload }).weight()
    }

    /// Takes what an envelope announces from what came with its datagram. A memfd is checked, not read.
    pub(crate) fn received(
        envelope: &Envelope<'_>,
        datagram: &Bytes,
        fds: &mut impl Iterator<Item = Arc<OwnedFd>>,
    ) -> Result<Self, Incomplete> {
        let body = match envelope.payload {
            Payload::Here(bytes) => Body::Here(datagram.slice_ref(bytes)),
            Payload::Sealed(size) => {
                let fd = fds.next().ok_or(Incomplete)?;
                memfd::check(&fd, size.into()).map_err(|_| Incomplete)?;
                Body::Sealed(fd, size)
            }
        };
        let count = usize::from(envelope.fds);
        let fds: Vec<_> = fds.take(count).collect();
        if fds.len() < count {
            return Err(Incomplete);
        }
        Ok(Self {
            kind: envelope.kind,
            body,
            fds,
        })
    }

    /// The same, for somebody else.
    pub(crate) fn passed_on(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// As it stands in a datagram.
    pub(crate) fn frame(&self) -> Frame<'_> {
        let payload = match &self.body {
            Body::Here(bytes) => Payload::Here(bytes),
            Body::Sealed(_, size) => Payload::Sealed(*size),
        };
        match (self.kind, payload) {
            (Kind::Message, Payload::Here(bytes)) if self.fds.is_empty() => Frame::Message(bytes),
            (kind, payload) => Frame::Letter(Envelope {
                kind,
                // Checked when it was made, or when it was received.
                fds: u8::try_from(self.fds.len()).unwrap_or(u8::MAX),
                payload,
            }),
        }
    }

    /// The descriptors that go with its frame, in their order.
    pub(crate) fn all_fds(&self) -> Vec<Arc<OwnedFd>> {
        let mut all = self.fds.clone();
        if let Body::Sealed(fd, _) = &self.body {
            all.insert(0, fd.clone());
        }
        all
    }

    #[cfg(test)]
    fn count_fds(&self) -> usize {
        self.fds.len() + usize::from(matches!(self.body, Body::Sealed(..)))
    }

    /// Reads it, with whom to answer. A large one is read here: 64 MiB take some 20 ms.
    pub(crate) fn open(self, asker: Option<Box<dyn Asker>>) -> Result<Message> {
        let system = |doing| move |source| Error::System { doing, source };
        let bytes = match self.body {
            Body::Here(bytes) => bytes,
            Body::Sealed(fd, size) => {
                memfd::open(&fd, size as usize).map_err(system("read a large message"))?
            }
        };
        let own = |fd: Arc<OwnedFd>| {
            // Shared only where one that was passed on never left the process.
            Arc::try_unwrap(fd).or_else(|fd| fd.as_fd().try_clone_to_owned())
        };
        let fds: std::io::Result<_> = self.fds.into_iter().map(own).collect();
        let fds = fds.map_err(system("duplicate a descriptor"))?;
        Ok(Message::received_with(bytes, fds, asker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::frames;

    /// Through a datagram and out of it again.
    fn through(letter: &Letter) -> Result<Letter, Incomplete> {
        let mut datagram = Vec::new();
        letter.frame().encode(&mut datagram);
        let datagram = Bytes::from(datagram);
        let fds = letter.all_fds();
        let Some(Ok(Frame::Letter(envelope))) = frames(&datagram).next() else {
            panic!("a letter");
        };
        Letter::received(&envelope, &datagram, &mut fds.into_iter())
    }

    fn message(size: usize) -> Message {
        Message::from_bytes(vec![7; size]).unwrap()
    }

    fn some_fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn small_ones_and_large_ones_come_back() {
        for size in [0, 1, INLINE, INLINE + 1, 1_000_000] {
            for fds in [0, 1, MESSAGE_FDS] {
                let fds = (0..fds).map(|_| some_fd()).collect::<Vec<_>>();
                let count = fds.len();
                let letter = Letter::new(Kind::Request(1), &message(size), fds).unwrap();
                assert_eq!(
                    letter.frame().weight(),
                    Letter::weight_of(Kind::Request(1), &message(size), count)
                );
                assert_eq!(letter.count_fds(), count + usize::from(size > INLINE));
                let received = through(&letter).unwrap().open(None).unwrap();
                assert_eq!(received, message(size));
                assert_eq!(received.take_fds().len(), count);
                assert_eq!(received.take_fds().len(), 0);
            }
        }
    }

    #[test]
    fn what_is_plain_is_written_plainly() {
        let letter = Letter::new(Kind::Message, &message(3), Vec::new()).unwrap();
        assert_eq!(letter.frame(), Frame::Message(&[7; 3]));
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let fds = (0..=MESSAGE_FDS).map(|_| some_fd()).collect();
        let error = Letter::new(Kind::Message, &message(3), fds).unwrap_err();
        assert!(matches!(error, Error::TooManyFds { count: 16, .. }));
    }

    // T14: what is said to come and does not, or is another thing.
    #[test]
    fn what_was_announced_and_did_not_come_is_found_out() {
        let datagram = Bytes::new();
        let received = |fds, payload, came: Vec<OwnedFd>| {
            let envelope = Envelope {
                kind: Kind::Message,
                fds,
                payload,
            };
            Letter::received(&envelope, &datagram, &mut came.into_iter().map(Arc::new)).map(drop)
        };
        assert_eq!(
            received(2, Payload::Here(&datagram), vec![some_fd()]),
            Err(Incomplete)
        );
        assert_eq!(received(0, Payload::Sealed(9), vec![]), Err(Incomplete));
        assert_eq!(
            received(0, Payload::Sealed(9), vec![some_fd()]),
            Err(Incomplete)
        );
        let sealed = || memfd::seal(&[1; 9]).unwrap();
        assert_eq!(
            received(0, Payload::Sealed(8), vec![sealed()]),
            Err(Incomplete)
        );
        assert_eq!(received(0, Payload::Sealed(9), vec![sealed()]), Ok(()));
    }
}
