//! The first bytes of a connection, which tell HTTP/1 from HTTP/2.

use std::{future::poll_fn, task::Poll};

use tokio::io::AsyncRead;

use super::{orders::Orders, socket::Socket};

/// How HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preamble {
    Http1,
    Http2,
    /// Nothing yet that tells, and the process is leaving: let it go as it is.
    Release,
    /// Too little, for too long.
    Late,
    /// The client has gone without a word, or the connection was cut.
    Gone,
}

/// Reads until the protocol is known. Owns no buffer while nothing comes, and keeps what came in the socket.
pub(super) async fn read<IO: AsyncRead + Unpin>(socket: &mut Socket<IO>) -> Preamble {
    poll_fn(|cx| {
        loop {
            let orders = socket.link().orders.look();
            if orders.contains(Orders::CUT) {
                return Poll::Ready(Preamble::Gone);
            }
            if let Some(protocol) = protocol(socket.before()) {
                return Poll::Ready(protocol);
            }
            match socket.poll_more(cx) {
                Poll::Ready(Ok(1..)) => continue,
                // A beginning of the preface and then the end: hyper answers it as what it is, a bad request.
                Poll::Ready(Ok(0)) if !socket.before().is_empty() => {
                    return Poll::Ready(Preamble::Http1);
                }
                Poll::Ready(_) => return Poll::Ready(Preamble::Gone),
                Poll::Pending => {}
            }
            if orders.contains(Orders::LATE) && socket.link().is_still_late() {
                return Poll::Ready(Preamble::Late); // before a release: it would be late elsewhere
            }
            if orders.releases() {
                return Poll::Ready(Preamble::Release);
            }
            return Poll::Pending;
        }
    })
    .await
}

/// `None` as long as it can be either.
fn protocol(bytes: &[u8]) -> Option<Preamble> {
    if bytes.starts_with(PREFACE) {
        Some(Preamble::Http2)
    } else if PREFACE.starts_with(bytes) {
        None
    } else {
        Some(Preamble::Http1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_of_the_preface_can_be_either() {
        for n in 0..PREFACE.len() {
            assert_eq!(protocol(&PREFACE[..n]), None);
            assert_eq!(
                protocol(&[&PREFACE[..n], b"?"].concat()),
                Some(Preamble::Http1)
            );
        }
        assert_eq!(
            protocol(&[PREFACE, b"more"].concat()),
            Some(Preamble::Http2)
        );
        assert_eq!(protocol(b"GET / HTTP/1.1\r\n"), Some(Preamble::Http1));
    }
}
