//! One datagram with descriptors, sent or received without waiting. What is received is CLOEXEC and owned from the moment it exists.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// The most descriptors a datagram of this crate carries.
pub(crate) const MAX_FDS: usize = 16;

const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// What one receive brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// The bytes read; 0 with no descriptors is the end: nobody sends an empty datagram.
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
    /// Descriptors were sent that this process had no room for; the kernel has closed them.
    pub(crate) truncated: bool,
}

/// Two connected sockets, both non-blocking and CLOEXEC from birth.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?)
}

pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one datagram",
        ));
    }
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Whether something waits: an error of kind `WouldBlock` if not.
pub(crate) fn look(socket: impl AsFd) -> io::Result<()> {
    rustix::net::recv(
        socket,
        &mut [0_u8; 1],
        RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::TRUNC,
    )?;
    Ok(())
}

pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )?;
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an oversized datagram",
        ));
    }
    let fds = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok(Received {
        len: message.bytes,
        fds,
        truncated: message.flags.contains(ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // N-9.
    #[test]
    fn bytes_and_descriptors_travel_together() {
        let (a, b) = pair().unwrap();
        let (x, y) = pair().unwrap();
        send(&a, b"hello", &[x.as_fd(), y.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let received = receive(&b, &mut buffer).unwrap();
        assert_eq!(
            (
                &buffer[..received.len],
                received.fds.len(),
                received.truncated
            ),
            (&b"hello"[..], 2, false)
        );
        for fd in &received.fds {
            assert!(
                rustix::io::fcntl_getfd(fd)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
        }
        assert_eq!(
            receive(&b, &mut buffer).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn an_oversized_datagram_is_an_error_and_its_descriptors_are_closed() {
        let (a, b) = pair().unwrap();
        let (x, y) = pair().unwrap();
        send(&a, &[0; 64], &[x.as_fd()]).unwrap();
        drop(x);
        assert_eq!(
            receive(&b, &mut [0; 8]).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            receive(&y, &mut [0; 8]).unwrap().len,
            0,
            "the copy in the datagram was the last one"
        );
    }
}
