//! The promises, shown with the real examples as real processes. One module a promise; `cargo test --test it MODULE` runs one.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub
)]

#[allow(dead_code, reason = "a client has more ways to ask than tests use")]
mod client;
mod support;

mod bad_input;
mod birth;
mod counting;
mod crash;
mod distribution;
mod drain;
mod handlers;
mod hooks;
mod limits;
mod mail;
mod messages;
mod quickstart;
mod restart;
mod sessions;
mod single;
mod stop;
mod supervision;
mod wires;
