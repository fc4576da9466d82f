//! The scoreboard (Apache's word): one shared page of counters a worker, written by the worker without a system call, read by
//! the primary at any time, also of a worker that hangs or has died.

mod mapping;
mod rows;

pub(crate) use rows::{Numbers, Row};
