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

mod attacks;
mod bad_input;
mod birth;
mod broken;
mod counting;
mod crash;
mod distribution;
mod drain;
mod first;
mod forks;
mod handlers;
mod hooks;
mod limits;
mod listening;
mod lives;
mod lost;
mod mail;
mod messages;
mod notices;
mod oddities;
mod protocols;
mod quickstart;
mod ready;
mod rebalance;
mod recycling;
mod restart;
mod rows;
mod scale;
mod send_socket;
mod sessions;
mod shaken;
mod shared;
mod single;
mod smuggling;
mod stop;
mod supervision;
mod upgrade;
mod wires;
