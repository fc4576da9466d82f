//! Over TCP where sockets matter, over in-memory streams with paused time where time does.

mod balance;
mod counting;
mod http1;
mod http2;
mod leave;
mod random;
mod release;
mod service;
mod support;
mod timeouts;
mod upgrade;
