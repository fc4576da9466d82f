//! The one task that keeps all timeouts of a process: it looks at one word a connection.

use std::time::Duration;

use super::{Timeouts, link::Hub};
use crate::ticks::Ticks;

/// Runs for ever.
pub(super) async fn run(hub: &Hub, mut ticks: Ticks) {
    loop {
        ticks.next().await;
        hub.clock.advance();
        // Woken here, the driver looks for bytes once more before it gives the connection up: they came to the runtime's
        // notice in the same turn as this tick, or have not come.
        for link in hub.registry.order_late(hub.clock.now()) {
            link.wake();
        }
    }
}

/// Fine enough for the smallest timeout, and no finer.
pub(super) fn interval(timeouts: &Timeouts) -> Duration {
    let Timeouts {
        first_byte,
        head,
        idle,
        linger,
    } = *timeouts;
    // Without a linger nothing waits for this task.
    let linger = Some(linger).filter(|linger| !linger.is_zero());
    let smallest = [first_byte, head, idle, linger]
        .into_iter()
        .flatten()
        .fold(Duration::MAX, Duration::min);
    (smallest / 8).clamp(Duration::from_millis(25), Duration::from_secs(1))
}
