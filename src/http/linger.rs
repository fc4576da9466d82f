//! An end that loses no response.
//!
//! To close a socket with unread input makes the kernel send a reset, which destroys what the client has not read yet,
//! its last response included. So where a client may still be sending, the server shuts down its own side and reads on.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{exchange::Writers, phase::Phase, scratch, socket::Socket};

/// How long, and how much is read. A client that reads what it is sent has noticed the end by then.
const TIME: Duration = Duration::from_secs(1);
const BYTES: usize = 256 * 1024;

/// Shuts down, then reads until the client does the same, within bounds.
pub(super) async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<IO>) {
    socket.link().settle(u32::MAX, Writers::Many); // what is not written by now never will be
    socket.link().wait_for(Phase::Busy);
    // It ends one way or another; how makes no difference.
    let _ = timeout(TIME, pin!(drain(&mut socket))).await;
}

async fn drain<IO: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<IO>) -> io::Result<()> {
    socket.shutdown().await?;
    let mut read = 0;
    while read < BYTES {
        match poll_fn(|cx| scratch::poll_read(Pin::new(&mut *socket), cx, <[u8]>::len)).await? {
            0 => break,
            more => read += more,
        }
    }
    Ok(())
}
