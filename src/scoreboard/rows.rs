//! What a worker counts, and the reading of it.

use std::{
    fmt, io,
    ops::AddAssign,
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::mapping::Mapping;

/// Upper bounds of the latency buckets in milliseconds: OpenTelemetry's for `http.server.request.duration`. One more bucket takes the rest.
pub(crate) const LATENCY_BOUNDS_MS: [u64; 14] = [
    5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000,
];

const RELEASE: u64 = 1;
const CLOSE: u64 = 2;

const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

/// The page itself. What different parts of a worker write stands on different cache lines.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Counters {
    connections: Connections,
    requests: Requests,
    latency: Latency,
    life: Life,
    orders: Orders,
}

#[repr(C, align(64))]
#[derive(Debug)]
struct Connections {
    taken: AtomicU64,
    closed: AtomicU64,
    given_back: AtomicU64,
    lost: AtomicU64,
    accepted: AtomicU64,
    adopted: AtomicU64,
}

#[repr(C, align(64))]
#[derive(Debug)]
struct Requests {
    called: AtomicU64,
    in_flight: AtomicU64,
    by_class: [AtomicU64; 5],
}

#[repr(C, align(64))]
#[derive(Debug)]
struct Latency {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

#[repr(C, align(64))]
#[derive(Debug)]
struct Life {
    heartbeat: AtomicU64,
    paused: AtomicU64,
    shut: AtomicU64,
}

/// Written by the primary only.
#[repr(C, align(64))]
#[derive(Debug)]
struct Orders {
    leave: AtomicU64,
    unready: AtomicU64,
}

/// One worker's page, mapped. Writes are relaxed atomic adds: no system call, no lock.
pub(crate) struct Row {
    page: Mapping,
    /// Told in this process of each connection that it is done with.
    freed: Notify,
}

impl Row {
    /// A new page, and the descriptor that lets another process map it.
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let (page, fd) = Mapping::create()?;
        Ok((Self::mapped(page), fd))
    }

    pub(crate) fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self::mapped(Mapping::open(fd)?))
    }

    fn mapped(page: Mapping) -> Self {
        Self {
            page,
            freed: Notify::new(),
        }
    }

    /// `n` connections were taken out of the intake.
    pub(crate) fn took(&self, n: u64) {
        self.page.connections.taken.fetch_add(n, Relaxed);
    }

    /// A connection was accepted by the worker itself.
    pub(crate) fn accepted_one(&self) {
        self.page.connections.accepted.fetch_add(1, Relaxed);
    }

    /// Connections that the worker accepted itself.
    pub(crate) fn accepted(&self) -> u64 {
        self.page.connections.accepted.load(Relaxed)
    }

    /// A connection came by another way than the intake. It counts as taken, and by [`closed`](Self::closed) as closed.
    pub(crate) fn adopted(&self) {
        self.took(1);
        self.page.connections.adopted.fetch_add(1, Relaxed);
    }

    /// A connection that was taken is closed; called after its descriptor is.
    pub(crate) fn closed(&self) {
        self.page.connections.closed.fetch_add(1, Relaxed);
        self.freed.notify_one();
    }

    /// A connection was given back to the primary.
    pub(crate) fn gave_back(&self) {
        self.page.connections.given_back.fetch_add(1, Relaxed);
        self.freed.notify_one();
    }

    /// Completes when a connection has been closed or given back in this process since the last time; for one who waits. What else is
    /// counted of a connection may follow a little later.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// A datagram of the intake lost `n` connections on its way: the kernel had no descriptors left for them.
    pub(crate) fn lost(&self, n: u64) {
        self.page.connections.lost.fetch_add(n, Relaxed);
    }

    /// A request has come, for the service.
    pub(crate) fn called(&self) {
        self.page.requests.called.fetch_add(1, Relaxed);
    }

    /// A request is in flight from here on, until [`Row::ended`]: its answer is written.
    pub(crate) fn began(&self) {
        self.page.requests.in_flight.fetch_add(1, Relaxed);
    }

    /// `n` requests are no longer in flight.
    pub(crate) fn ended(&self, n: u64) {
        self.page.requests.in_flight.fetch_sub(n, Relaxed);
    }

    /// The service answered with `status` after `elapsed`.
    pub(crate) fn answered(&self, status: u16, elapsed: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.page.requests.by_class[class].fetch_add(1, Relaxed);
        let bucket = LATENCY_BOUNDS_MS
            .iter()
            .position(|&bound| elapsed <= Duration::from_millis(bound))
            .unwrap_or(BUCKETS - 1);
        self.page.latency.buckets[bucket].fetch_add(1, Relaxed);
        self.page.latency.micros.fetch_add(
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            Relaxed,
        );
    }

    /// The worker's runtime turns.
    pub(crate) fn beat(&self) {
        self.page.life.heartbeat.fetch_add(1, Relaxed);
    }

    /// How a worker whose intake ends is to leave. Written before the intake is ended, so that it is there when the end is seen, and
    /// again when a release that has begun turns into an end of the whole cluster.
    pub(crate) fn order_to_leave(&self, release: bool) {
        self.page
            .orders
            .leave
            .store(if release { RELEASE } else { CLOSE }, Release);
    }

    /// Whether it has been ordered to leave, in whichever way.
    pub(crate) fn is_to_leave(&self) -> bool {
        self.page.orders.leave.load(Acquire) != 0
    }

    /// Whether connections are to be given back; otherwise, and when the primary has gone without a word, nobody takes them.
    pub(crate) fn is_to_release(&self) -> bool {
        self.page.orders.leave.load(Acquire) == RELEASE
    }

    /// The cluster is going to end: this worker serves on, and says to who asks that it is not ready.
    pub(crate) fn order_unready(&self) {
        self.page.orders.unready.store(1, Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.page.orders.unready.load(Relaxed) == 0
    }

    /// The worker has no room for more connections, or has it again.
    pub(crate) fn pause(&self, paused: bool) {
        self.page.life.paused.store(u64::from(paused), Relaxed);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.page.life.paused.load(Relaxed) != 0
    }

    /// The worker accepts nothing for now, because it is full or busy, or does again.
    pub(crate) fn shut(&self, shut: bool) {
        self.page.life.shut.store(u64::from(shut), Relaxed);
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.page.life.shut.load(Relaxed) != 0
    }

    pub(crate) fn heartbeat(&self) -> u64 {
        self.page.life.heartbeat.load(Relaxed)
    }

    /// Connections taken out of the intake.
    pub(crate) fn taken(&self) -> u64 {
        let Connections { taken, adopted, .. } = &self.page.connections;
        taken.load(Relaxed).saturating_sub(adopted.load(Relaxed))
    }

    pub(crate) fn given_back(&self) -> u64 {
        self.page.connections.given_back.load(Relaxed)
    }

    /// Connections of those that the primary sent which the worker does not hold any more, closed or given back, or never did: lost on
    /// their way. Less by those of its own that are open; never more.
    pub(crate) fn done_with(&self) -> u64 {
        let Connections {
            closed,
            given_back,
            lost,
            adopted,
            ..
        } = &self.page.connections;
        [closed, given_back, lost]
            .iter()
            .fold(0_u64, |sum, more| sum.wrapping_add(more.load(Relaxed)))
            .saturating_sub(adopted.load(Relaxed))
    }

    pub(crate) fn read(&self) -> Numbers {
        let Counters {
            connections,
            requests,
            latency,
            ..
        } = &*self.page;
        Numbers {
            taken: connections
                .taken
                .load(Relaxed)
                .wrapping_add(connections.accepted.load(Relaxed)),
            closed: connections.closed.load(Relaxed),
            lost: connections.lost.load(Relaxed),
            requests: requests.called.load(Relaxed),
            in_flight: requests.in_flight.load(Relaxed),
            by_class: requests
                .by_class
                .each_ref()
                .map(|class| class.load(Relaxed)),
            latency: latency
                .buckets
                .each_ref()
                .map(|bucket| bucket.load(Relaxed)),
            latency_micros: latency.micros.load(Relaxed),
        }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.read()).finish()
    }
}

/// One reading of a row, or a sum of readings. Written by a worker, so never trusted with more than being numbers: sums wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Numbers {
    pub(crate) taken: u64,
    pub(crate) closed: u64,
    pub(crate) lost: u64,
    pub(crate) requests: u64,
    pub(crate) in_flight: u64,
    pub(crate) by_class: [u64; 5],
    pub(crate) latency: [u64; BUCKETS],
    pub(crate) latency_micros: u64,
}

impl AddAssign for Numbers {
    fn add_assign(&mut self, other: Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.wrapping_add(more);
        add(&mut self.taken, other.taken);
        add(&mut self.closed, other.closed);
        add(&mut self.lost, other.lost);
        add(&mut self.requests, other.requests);
        add(&mut self.in_flight, other.in_flight);
        add(&mut self.latency_micros, other.latency_micros);
        self.by_class
            .iter_mut()
            .zip(other.by_class)
            .for_each(|(sum, more)| add(sum, more));
        self.latency
            .iter_mut()
            .zip(other.latency)
            .for_each(|(sum, more)| add(sum, more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn both_ends_see_the_same_numbers() {
        let (mine, fd) = Row::create().unwrap();
        let theirs = Row::open(fd.as_fd()).unwrap();
        theirs.took(3);
        theirs.closed();
        theirs.called();
        theirs.began();
        theirs.answered(204, Duration::from_millis(7));
        theirs.ended(1);
        theirs.beat();
        let numbers = mine.read();
        assert_eq!(
            (
                numbers.taken,
                numbers.closed,
                numbers.requests,
                numbers.in_flight
            ),
            (3, 1, 1, 0)
        );
        assert_eq!(numbers.by_class, [0, 1, 0, 0, 0]);
        assert_eq!(numbers.latency[1], 1);
        assert_eq!(mine.heartbeat(), 1);
    }

    #[test]
    fn a_status_out_of_range_is_counted_and_never_panics() {
        let (row, _fd) = Row::create().unwrap();
        row.answered(0, Duration::ZERO);
        row.answered(999, Duration::from_secs(99));
        assert_eq!(row.read().by_class, [1, 0, 0, 0, 1]);
    }

    #[test]
    fn the_page_can_neither_shrink_nor_take_more_seals() {
        let (_row, fd) = Row::create().unwrap();
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
        assert!(rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE).is_err());
    }

    #[test]
    fn an_ordinary_file_is_no_page() {
        let fd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert!(Row::open(fd.as_fd()).is_err());
    }

    /// All that is done for one request on a row, with the two looks at the clock and without:
    /// `cargo test --release --lib a_count_costs -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout, reason = "its result")]
    fn what_a_count_costs() {
        use std::{hint::black_box, time::Instant};

        const REQUESTS: u32 = 5_000_000;
        let (row, _fd) = Row::create().unwrap();
        let count = |elapsed: &dyn Fn(Instant) -> Duration, now: &dyn Fn() -> Instant| {
            let begun = Instant::now();
            for _ in 0..REQUESTS {
                let row = black_box(&row);
                let began = now();
                row.called();
                row.began();
                row.answered(black_box(200), elapsed(began));
                row.ended(1);
            }
            begun.elapsed() / REQUESTS
        };
        let fixed = Instant::now();
        for _ in 0..5 {
            let alone = count(&|_| black_box(Duration::from_micros(100)), &|| fixed);
            let timed = count(&|began| began.elapsed(), &Instant::now);
            println!("a request counted: {alone:?}; counted and timed: {timed:?}");
        }
        assert_eq!(row.read().requests, u64::from(REQUESTS) * 10);
    }
}
