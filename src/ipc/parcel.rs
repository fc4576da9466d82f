//! What a primary leaves to the program that it executes in its own place: descriptors and bytes, all of them queued in one socket.
//!
//! The socket's reading end is put on descriptor 0, the one descriptor that survives the execution. Everything else stays CLOEXEC for
//! its whole life: clearing the flag, even for a moment, leaks descriptors into whatever other threads start meanwhile.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::Bytes;
use rustix::net::sockopt::set_socket_send_buffer_size;

use super::{
    datagram::{self, MAX_FDS, Received},
    memfd,
};

/// The version of what a parcel holds. A program that reads another one is told to a primary by its workers' hello, and refused.
pub(crate) const PARCEL_VERSION: u32 = 1;

/// Asked for; the kernel gives what it allows. At the usual limit this holds the descriptors of more than a thousand workers.
const BUFFER: usize = 4 * 1024 * 1024;

/// Far more than the description of the largest cluster, and than anybody should keep in memory between two programs.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The reading end of a parcel, unpacked.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// What was standard input.
    pub(crate) stdin: OwnedFd,
    pub(crate) description: Bytes,
    /// What the program's own `on_upgrade` left.
    pub(crate) inheritance: Bytes,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Packs everything and returns the end from which [`unpack`] reads it.
pub(crate) fn pack(
    stdin: BorrowedFd<'_>,
    description: &[u8],
    inheritance: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<OwnedFd> {
    // Whoever unpacks it would refuse it, when there is no way back any more.
    if description.len().max(inheritance.len()) > MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "more than 64 MiB is to be left to the next program",
        ));
    }
    let (ours, theirs) = datagram::pair()?;
    set_socket_send_buffer_size(&ours, BUFFER)?;
    let (description, inheritance) = (memfd::seal(description)?, memfd::seal(inheritance)?);
    let count = u32::try_from(fds.len()).map_err(|_| too_many())?;
    datagram::send(
        &ours,
        &count.to_le_bytes(),
        &[stdin, description.as_fd(), inheritance.as_fd()],
    )?;
    for some in fds.chunks(MAX_FDS) {
        datagram::send(&ours, b"+", some).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => too_many(),
            _ => error,
        })?;
    }
    Ok(theirs)
}

fn too_many() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "more descriptors than one socket holds (net.core.wmem_max)",
    )
}

/// Takes everything out of a parcel.
pub(crate) fn unpack(socket: impl AsFd) -> io::Result<Parcel> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "a malformed parcel");
    let mut head = [0; 4];
    let Received { len: 4, fds, .. } = datagram::receive(&socket, &mut head)? else {
        return Err(bad());
    };
    let count = u32::from_le_bytes(head) as usize;
    let [stdin, description, inheritance] = fds.try_into().map_err(|_| bad())?;
    let mut fds = Vec::new();
    while fds.len() < count {
        let received = datagram::receive(&socket, &mut [0; 1])?;
        if received.truncated || received.fds.is_empty() {
            return Err(bad());
        }
        fds.extend(received.fds);
    }
    Ok(Parcel {
        stdin,
        description: memfd::open(description, MAX_BYTES)?,
        inheritance: memfd::open(inheritance, MAX_BYTES)?,
        fds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_in_order() {
        let stdin = std::io::stdin();
        let pairs: Vec<_> = (0..50).map(|_| datagram::pair().unwrap()).collect();
        let fds: Vec<_> = pairs.iter().map(|(a, _)| a.as_fd()).collect();
        let end = pack(stdin.as_fd(), b"{}", b"state", &fds).unwrap();
        let parcel = unpack(&end).unwrap();
        assert_eq!(
            (&*parcel.description, &*parcel.inheritance),
            (&b"{}"[..], &b"state"[..])
        );
        assert_eq!(parcel.fds.len(), 50);
        for (n, (fd, (_, other))) in parcel.fds.iter().zip(&pairs).enumerate() {
            datagram::send(fd, &[n as u8], &[]).unwrap();
            let mut byte = [0];
            datagram::receive(other, &mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), n);
        }
    }

    #[test]
    fn what_would_not_be_unpacked_is_not_packed() {
        let (stdin, most) = (std::io::stdin(), vec![0; MAX_BYTES + 1]);
        let pack = |bytes: &[u8]| pack(stdin.as_fd(), b"{}", bytes, &[]);
        assert!(pack(&most).is_err());
        let parcel = unpack(pack(&most[1..]).unwrap()).unwrap();
        assert_eq!(parcel.inheritance.len(), MAX_BYTES);
    }

    #[test]
    fn a_socket_that_is_no_parcel_is_an_error() {
        let (a, b) = datagram::pair().unwrap();
        datagram::send(&a, b"hello", &[]).unwrap();
        drop(a);
        assert!(unpack(&b).is_err());
        assert!(unpack(&b).is_err());
    }
}
