//! What handing connections over costs a machine at the least: a process that accepts and sends, in the largest batches that there are, to
//! two that answer as the epoll loop does. No workers' loads, no choice, nothing is counted, nobody is replaced.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, accept_with, recvmsg, sendmsg,
    socketpair,
};

use crate::canned::{self, Connections};
use crate::{Result, peers, recipes};

/// The receiving end.
pub(crate) const WORKER: &str = "bare-worker";

const BATCH: usize = 64;

pub(crate) fn serve() -> Result<()> {
    let listener = canned::listen()?;
    let workers = (0..recipes::WORKERS)
        .map(|_| start())
        .collect::<Result<Vec<_>>>()?;
    let mut batches: Vec<Vec<OwnedFd>> = workers.iter().map(|_| Vec::new()).collect();
    let mut next = 0;
    loop {
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
        for _ in 0..BATCH {
            let Ok(stream) = accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            else {
                break;
            };
            batches[next].push(stream);
            next = (next + 1) % workers.len();
        }
        for (batch, worker) in batches.iter_mut().zip(&workers) {
            if !batch.is_empty() {
                hand_over(worker, batch)?;
                batch.clear(); // closes them here
            }
        }
    }
}

/// Another process of this program, and the socket to it, which is its standard input.
fn start() -> Result<OwnedFd> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // It ends with this process, as all peers do.
    let _ = Command::new(std::env::current_exe()?)
        .args([peers::ARGUMENT, WORKER])
        .stdin(Stdio::from(theirs))
        .spawn()?;
    Ok(ours)
}

fn hand_over(worker: &OwnedFd, batch: &[OwnedFd]) -> Result<()> {
    let fds: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    with.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(worker, &[IoSlice::new(b"c")], &mut with, SendFlags::empty())?;
    Ok(())
}

pub(crate) fn work() -> Result<()> {
    let channel = std::io::stdin();
    let mut connections = Connections::beside(&channel)?;
    loop {
        if connections.answer_those_that_ask()? {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut with = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(
                &channel,
                &mut [IoSliceMut::new(&mut byte)],
                &mut with,
                flags,
            )?;
            if received.bytes == 0 {
                return Ok(());
            }
            for message in with.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    for stream in fds {
                        connections.add(stream)?;
                    }
                }
            }
        }
    }
}
