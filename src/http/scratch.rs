//! A buffer a thread for reads whose result is copied or thrown away: connections that wait own none.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

const SIZE: usize = 8 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Reads once and shows `look` the bytes; none at the end of the stream.
pub(super) fn poll_read<R: AsyncRead, T>(
    reader: Pin<&mut R>,
    cx: &mut Context<'_>,
    look: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    // Taken, not borrowed: whatever `reader` does, even reading through here, is fine.
    let mut buffer = BUFFER.take();
    buffer.resize(SIZE, 0);
    let mut unfilled = ReadBuf::new(&mut buffer);
    let read = reader
        .poll_read(cx, &mut unfilled)
        .map_ok(|()| look(unfilled.filled()));
    BUFFER.set(buffer);
    read
}
