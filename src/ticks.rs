//! Turns that come again and again, without a timer in the runtime.
//!
//! While a runtime has a timer, each of its turns reads the clock and has the kernel set a timer of its own, whether anything is
//! due or not: 330 instructions outside the kernel. A worker at rest has none but these, so here the kernel's one is set once.

use std::{future::pending, io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use crate::reactor;

/// Completes [`next`](Self::next) once an interval.
#[derive(Debug)]
pub(crate) enum Ticks {
    Kernel(AsyncFd<OwnedFd>),
    /// Where the process is out of descriptors, and where a test has the runtime's time in hand.
    Runtime(Duration),
}

impl Ticks {
    pub(crate) fn every(interval: Duration) -> Self {
        timer(interval).map_or(Self::Runtime(interval), Self::Kernel)
    }

    /// Waits for the next turn. Those that were missed meanwhile are one.
    ///
    /// What comes over sockets at the same time is known to the runtime by then: it looks for both at once.
    pub(crate) async fn next(&self) {
        match self {
            Self::Runtime(interval) => sleep(*interval).await,
            Self::Kernel(timer) => {
                let Ok(mut ready) = timer.readable().await else {
                    // Only a runtime that ends does not watch it any more.
                    return pending().await;
                };
                // It cannot block, whoever else may have read: then the turn is taken all the same.
                let _ = rustix::io::read(timer, &mut [0_u8; 8]);
                // Else the next call would ask the kernel, in vain, before it waits.
                ready.clear_ready();
            }
        }
    }
}

fn timer(interval: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let interval = Timespec::try_from(interval).map_err(io::Error::other)?;
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let times = Itimerspec {
        it_interval: interval,
        it_value: interval,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    reactor::watch(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn they_come_at_the_interval_and_never_early() {
        let begun = Instant::now();
        let ticks = Ticks::every(Duration::from_millis(20));
        assert!(matches!(ticks, Ticks::Kernel(_)));
        for n in 1..=3 {
            ticks.next().await;
            assert!(begun.elapsed() >= Duration::from_millis(20) * n);
        }
    }
}
