//! A gate before everything that would change what the program after this one is told.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, Waker},
};

/// Open, but for the moments before another program goes on in this process: then what workers say and how they end stays in the kernel,
/// where the next program finds it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Gate {
    /// Polls the future as long as the gate is open. From [`close`](Self::close) on nothing comes through, not even what is ready.
    pub(super) async fn pass<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.closed.get() {
                self.waiting.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            future.as_mut().poll(cx)
        })
        .await
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
    }

    pub(super) fn open(&self) {
        self.closed.set(false);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn nothing_comes_through_a_closed_gate() {
        let gate = Gate::default();
        assert_eq!(gate.pass(std::future::ready(1)).now_or_never(), Some(1));
        gate.close();
        let mut waiting = Box::pin(gate.pass(std::future::ready(2)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        gate.open();
        assert_eq!(waiting.now_or_never(), Some(2));
    }
}
