//! The thread that sees to it that a worker ends: it notices the primary's death even if the runtime is stuck, and ends a process that
//! does not end by itself.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, getpid, kill_process},
};

/// Ends this process by force. Unlike `_exit` it is safe to call, and unlike `exit` no destructor can hang it.
fn end_process() {
    // The one signal that cannot fail to arrive at oneself.
    let _ = kill_process(getpid(), Signal::KILL);
}

/// When the process is to be ended by force; shared with the thread.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    begun: Instant,
    /// Milliseconds after `begun`; `u64::MAX`: not at all.
    end_at: Arc<AtomicU64>,
    /// Written to, it wakes the thread.
    wake: Arc<OwnedFd>,
}

impl Watch {
    /// Watches a duplicate of the channel. When the primary is gone, the worker has `deadline` and `grace` from then on.
    pub(super) fn start(channel: OwnedFd, deadline: Duration, grace: Duration) -> io::Result<Self> {
        let wake = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )?;
        let watch = Self {
            begun: Instant::now(),
            end_at: Arc::new(AtomicU64::new(u64::MAX)),
            wake: Arc::new(wake),
        };
        let thread = watch.clone();
        thread::Builder::new()
            .name("cluster watch".into())
            .stack_size(64 * 1024)
            .spawn(move || thread.run(&channel, deadline + grace))?;
        Ok(watch)
    }

    /// Ends the process this long from now, or earlier if that was ordered before.
    pub(super) fn end_within(&self, time: Duration) {
        let at = u64::try_from((self.begun.elapsed() + time).as_millis()).unwrap_or(u64::MAX);
        self.end_at.fetch_min(at, Relaxed);
        // Full means that the thread has been woken and has not looked yet.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    fn run(&self, channel: &OwnedFd, time_to_leave: Duration) {
        let mut primary = Some(channel);
        loop {
            let end_at = self.end_at.load(Relaxed);
            let left = (end_at != u64::MAX)
                .then(|| Duration::from_millis(end_at).saturating_sub(self.begun.elapsed()));
            if left == Some(Duration::ZERO) {
                return end_process();
            }
            let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
            // Only the hang-up, which is always reported: messages do not wake this thread.
            fds.extend(primary.map(|channel| PollFd::new(channel, PollFlags::empty())));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            if poll(&mut fds, timeout.as_ref()).is_err() {
                continue;
            }
            if fds
                .get(1)
                .is_some_and(|fd| fd.revents().contains(PollFlags::HUP))
            {
                primary = None;
                self.end_within(time_to_leave);
            }
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        }
    }
}
