//! Turns that come again and again, without a timer in the runtime.
//!
//! While a runtime has a timer, each of its turns reads the clock and has the kernel set a timer of its own, whether anything is
//! due or not: 330 instructions outside the kernel. A process at rest has none but these, so here the kernel's one is set once.

use std::{future::pending, io, os::fd::OwnedFd, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::reactor;

/// Completes [`next`](Self::next) once an interval.
#[derive(Debug)]
pub(crate) enum Ticks {
    Kernel(AsyncFd<OwnedFd>),
    /// Where the process is out of descriptors, and where a test has the runtime's time in hand.
    Runtime(Interval),
}

impl Ticks {
    pub(crate) fn every(interval: Duration) -> Self {
        timer(interval).map_or_else(|_| Self::by_the_runtime(interval), Self::Kernel)
    }

    pub(crate) fn by_the_runtime(interval: Duration) -> Self {
        let mut turns = interval_at(Instant::now() + interval, interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Runtime(turns)
    }

    /// Waits for the next turn. Those that were missed meanwhile are one. Dropped before, it puts the turn off for nobody: a loop that
    /// something else wakes all the time has its turns as well.
    ///
    /// What comes over sockets at the same time is known to the runtime by then: it looks for both at once.
    pub(crate) async fn next(&mut self) {
        match self {
            Self::Runtime(turns) => {
                turns.tick().await;
            }
            Self::Kernel(timer) => {
                let Ok(mut ready) = timer.readable().await else {
                    // Only a runtime that ends does not watch it any more.
                    return pending().await;
                };
                // It does not block; were there nothing to read, the turn would be early.
                let _ = rustix::io::read(ready.get_inner(), &mut [0_u8; 8]);
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

    #[tokio::test]
    async fn they_come_at_the_interval_and_never_early() {
        let begun = Instant::now();
        let mut ticks = Ticks::every(Duration::from_millis(20));
        assert!(matches!(ticks, Ticks::Kernel(_)));
        for n in 1..=3 {
            ticks.next().await;
            assert!(begun.elapsed() >= Duration::from_millis(20) * n);
        }
    }

    #[tokio::test]
    async fn they_come_in_a_loop_that_is_woken_more_often() {
        let interval = Duration::from_millis(20);
        for mut ticks in [Ticks::every(interval), Ticks::by_the_runtime(interval)] {
            let turn = async {
                loop {
                    tokio::select! {
                        () = ticks.next() => break,
                        () = tokio::time::sleep(interval / 4) => {}
                    }
                }
            };
            let came = tokio::time::timeout(Duration::from_secs(10), turn).await;
            assert!(came.is_ok());
        }
    }
}
