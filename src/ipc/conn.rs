//! A connection on its way from one process to another: one datagram, many of them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use bytes::Bytes;

use super::{
    datagram::{self, MAX_FDS, Received},
    limits, memfd,
};
use crate::moved::{Awaits, Moved};

/// Connections in one datagram, at the most.
pub(crate) const BATCH: usize = MAX_FDS;

/// What was read of a connection travels in its datagram up to this size, beyond it in a memfd: a larger datagram would not fit the
/// window at any time.
pub(super) const INLINE: usize = 2 * 1024;

/// The most that can have been read of a connection: hyper's buffer and what is before it.
const MAX_READ: usize = 1024 * 1024;

/// Room for sixteen heads with IPv6 peers, and for one with what was read of it.
const MAX_DATAGRAM: usize = INLINE + 1024;

/// A connection on its way from one process to another.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) fd: OwnedFd,
    /// Which of the cluster's listeners accepted it.
    pub(crate) listener: u16,
    /// Which app of the worker that it is sent to serves that listener.
    pub(crate) app: u16,
    /// `None` for a unix socket.
    pub(crate) peer: Option<SocketAddr>,
    /// Where it stood when another worker let it go. `None`: just accepted.
    pub(crate) moved: Option<Moved>,
}

const FRESH: u8 = 0;
const READ_INLINE: u8 = 1;
const READ_IN_MEMFD: u8 = 2;

const FIRST_BYTE: u8 = 0;
const HEAD: u8 = 1;
const REQUEST: u8 = 2;

impl Conn {
    /// Whether it may share a datagram with others.
    fn is_small(&self) -> bool {
        self.moved
            .as_ref()
            .is_none_or(|moved| moved.read.is_empty())
    }

    /// Appends the head; what was read and is large comes back as a descriptor to be sent after the connection's own.
    fn encode(&self, datagram: &mut Vec<u8>) -> io::Result<Option<OwnedFd>> {
        datagram.extend_from_slice(&self.listener.to_le_bytes());
        datagram.extend_from_slice(&self.app.to_le_bytes());
        match self.peer {
            None => datagram.push(0),
            Some(SocketAddr::V4(peer)) => {
                datagram.push(4);
                datagram.extend_from_slice(&peer.ip().octets());
                datagram.extend_from_slice(&peer.port().to_le_bytes());
            }
            Some(SocketAddr::V6(peer)) => {
                datagram.push(6);
                datagram.extend_from_slice(&peer.ip().octets());
                datagram.extend_from_slice(&peer.port().to_le_bytes());
                datagram.extend_from_slice(&peer.scope_id().to_le_bytes());
            }
        }
        let Some(Moved {
            read,
            awaits,
            waited,
        }) = &self.moved
        else {
            datagram.push(FRESH);
            return Ok(None);
        };
        let is_inline = read.len() <= INLINE;
        datagram.push(if is_inline {
            READ_INLINE
        } else {
            READ_IN_MEMFD
        });
        datagram.push(match awaits {
            Awaits::FirstByte => FIRST_BYTE,
            Awaits::Head => HEAD,
            Awaits::Request => REQUEST,
        });
        // Seven weeks are as good as for ever.
        let waited = u32::try_from(waited.as_millis()).unwrap_or(u32::MAX);
        datagram.extend_from_slice(&waited.to_le_bytes());
        if !is_inline {
            return memfd::seal(read).map(Some);
        }
        datagram.extend_from_slice(&(read.len() as u16).to_le_bytes());
        datagram.extend_from_slice(read);
        Ok(None)
    }
}

/// Encodes and sends connections in one datagram, all or none of them.
pub(super) fn send(socket: impl AsFd, conns: &[Conn]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(conns.len() * 16);
    let mut memfd = None;
    for conn in conns {
        // Only a connection that travels alone has one.
        memfd = conn.encode(&mut bytes)?;
    }
    let fds: Vec<_> = conns
        .iter()
        .map(|conn| conn.fd.as_fd())
        .chain(memfd.as_ref().map(AsFd::as_fd))
        .collect();
    datagram::send(socket, &bytes, &fds)
}

/// The connections of one datagram, and how many of it were lost because this process was out of descriptors.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) conns: Vec<Conn>,
    pub(crate) lost: usize,
}

/// A head as decoded, before it meets its descriptors.
struct Head {
    listener: u16,
    app: u16,
    peer: Option<SocketAddr>,
    /// Without what was read, if that is in a memfd.
    moved: Option<Moved>,
    in_memfd: bool,
}

fn decode_head(bytes: &mut &[u8]) -> Option<Head> {
    let listener = u16::from_le_bytes(array(bytes)?);
    let app = u16::from_le_bytes(array(bytes)?);
    let peer = match array::<1>(bytes)? {
        [0] => None,
        [4] => Some(SocketAddr::from((
            Ipv4Addr::from(array::<4>(bytes)?),
            u16::from_le_bytes(array(bytes)?),
        ))),
        [6] => {
            let ip = Ipv6Addr::from(array::<16>(bytes)?);
            let port = u16::from_le_bytes(array(bytes)?);
            Some(SocketAddrV6::new(ip, port, 0, u32::from_le_bytes(array(bytes)?)).into())
        }
        _ => return None,
    };
    let [kind] = array(bytes)?;
    let moved = match kind {
        FRESH => None,
        READ_INLINE | READ_IN_MEMFD => Some(decode_moved(kind == READ_INLINE, bytes)?),
        _ => return None,
    };
    Some(Head {
        listener,
        app,
        peer,
        moved,
        in_memfd: kind == READ_IN_MEMFD,
    })
}

fn decode_moved(is_inline: bool, bytes: &mut &[u8]) -> Option<Moved> {
    let awaits = match array(bytes)? {
        [FIRST_BYTE] => Awaits::FirstByte,
        [HEAD] => Awaits::Head,
        [REQUEST] => Awaits::Request,
        _ => return None,
    };
    let waited = Duration::from_millis(u32::from_le_bytes(array(bytes)?).into());
    let read = if is_inline {
        let length = usize::from(u16::from_le_bytes(array(bytes)?));
        Bytes::copy_from_slice(bytes.split_off(..length)?)
    } else {
        Bytes::new()
    };
    Some(Moved {
        read,
        awaits,
        waited,
    })
}

fn decode(mut bytes: &[u8], received: Received) -> Option<Batch> {
    let mut heads = Vec::with_capacity(received.fds.len());
    while !bytes.is_empty() {
        heads.push(decode_head(&mut bytes)?);
    }
    let memfds = heads.iter().filter(|head| head.in_memfd).count();
    let missing = (heads.len() + memfds).saturating_sub(received.fds.len());
    if heads.len() + memfds < received.fds.len()
        || (missing > 0) != received.truncated
        || (memfds > 0 && heads.len() > 1)
    {
        return None;
    }
    if memfds > 0 && missing > 0 {
        // Without what was read of it a connection cannot go on.
        return Some(Batch {
            conns: Vec::new(),
            lost: heads.len(),
        });
    }
    let mut fds = received.fds.into_iter();
    let mut conns = Vec::with_capacity(heads.len());
    for Head {
        listener,
        app,
        peer,
        mut moved,
        in_memfd,
    } in heads
    {
        let Some(fd) = fds.next() else { break };
        if let Some(moved) = moved.as_mut().filter(|_| in_memfd) {
            moved.read = memfd::open(fds.next()?, MAX_READ).ok()?;
        }
        conns.push(Conn {
            fd,
            listener,
            app,
            peer,
            moved,
        });
    }
    Some(Batch {
        conns,
        lost: missing,
    })
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    bytes.split_off(..N)?.try_into().ok()
}

/// Receives a datagram, with the limit of descriptors lifted; `None` at the end.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Option<Batch>> {
    let mut buffer = [0; MAX_DATAGRAM];
    let received = limits::lifted(|| datagram::receive(socket, &mut buffer))?;
    if received.len == 0 && received.fds.is_empty() {
        return Ok(None);
    }
    let len = received.len;
    decode(&buffer[..len], received)
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a malformed hand-over"))
}

/// Whether a connection may go into the same datagram as those in `batch`.
pub(crate) fn fits(batch: &[Conn], conn: &Conn) -> bool {
    batch.is_empty() || (batch.len() < BATCH && conn.is_small() && batch[0].is_small())
}
