//! What a worker asks the primary to bind, and the answer.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{
    address::Address,
    error::{Error, Result},
};

/// Listeners that workers asked for have numbers from here on; those that the program names at its start have lower ones.
pub(crate) const FIRST: u16 = 0x8000;

/// Whether a worker asked for the listener of this number.
pub(crate) fn is_asked_for(listener: u16) -> bool {
    listener >= FIRST
}

/// How a socket is to be bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) backlog: u32,
    pub(crate) reuse_port: bool,
    /// `None`: as the system has it.
    pub(crate) ipv6_only: Option<bool>,
    /// Of a unix socket's file.
    pub(crate) mode: Option<u32>,
}

impl Options {
    pub(crate) fn backlog(&self) -> i32 {
        i32::try_from(self.backlog).unwrap_or(i32::MAX)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backlog: 1024,
            reuse_port: false,
            ipv6_only: None,
            mode: None,
        }
    }
}

/// What is to be bound. Workers that want the same share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    pub(crate) options: Options,
    /// Where any free port is asked for: the how many-th of the worker's. The first of each worker is the same port, the second another.
    pub(crate) index: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    Stream(Address),
    /// UDP: every worker gets the socket itself.
    Datagram(Address),
}

impl Wanted {
    /// Any free port is asked for.
    pub(crate) fn is_any_port(&self) -> bool {
        match &self.place {
            Place::Stream(address) | Place::Datagram(address) => address.is_any_port(),
        }
    }

    pub(crate) fn address(&self) -> Address {
        match &self.place {
            Place::Stream(address) | Place::Datagram(address) => address.clone(),
        }
    }
}

/// What comes of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Connections will have this number; or the socket itself comes along.
    Listening { listener: u16, local: Address },
    /// No socket, for this reason.
    Failed(Failure),
}

/// An error on its way to whom it concerns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    code: Option<i32>,
    text: String,
    /// It is no address.
    bad_address: bool,
}

impl Failure {
    /// The error number, and what else is to be said.
    pub(crate) fn new(code: i32, text: &str) -> Self {
        Self {
            code: Some(code),
            text: text.to_owned(),
            bad_address: false,
        }
    }

    pub(crate) fn of(error: &Error) -> Self {
        let cause = |source: &io::Error, bad_address| Self {
            code: source.raw_os_error().or_else(|| code_of(source.kind())),
            text: match source.raw_os_error() {
                Some(_) => String::new(),
                None => source.to_string(),
            },
            bad_address,
        };
        match error {
            Error::Bind { source, .. } => cause(source, false),
            Error::Address { source, .. } => cause(source, true),
            other => Self {
                code: None,
                text: format!("{other:?}"),
                bad_address: false,
            },
        }
    }

    pub(crate) fn into_error(self, address: Address) -> Error {
        let source = match self.code.map(io::Error::from_raw_os_error) {
            Some(error) if self.text.is_empty() => error,
            Some(error) => io::Error::new(error.kind(), self.text),
            None => io::Error::other(self.text),
        };
        if self.bad_address {
            Error::Address {
                given: address.to_string(),
                source,
            }
        } else {
            Error::Bind { address, source }
        }
    }

    pub(crate) fn into_result<T>(self, address: Address) -> Result<T> {
        Err(self.into_error(address))
    }
}

/// The number that stands for what this crate says itself.
fn code_of(kind: io::ErrorKind) -> Option<i32> {
    use rustix::io::Errno;
    let errno = match kind {
        io::ErrorKind::AddrInUse => Errno::ADDRINUSE,
        io::ErrorKind::AlreadyExists => Errno::EXIST,
        io::ErrorKind::TimedOut => Errno::TIMEDOUT,
        io::ErrorKind::InvalidInput => Errno::INVAL,
        _ => return None,
    };
    Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    // L-5: the asker is told what the system said.
    #[test]
    fn an_error_arrives_as_what_it_was() {
        let address = Address::from(([127, 0, 0, 1], 80));
        for kind in [
            io::Error::from_raw_os_error(98),
            io::Error::from_raw_os_error(13),
            io::ErrorKind::AddrInUse.into(),
            io::Error::other("strange"),
        ] {
            let (before, text) = (kind.kind(), kind.to_string());
            let failure = Failure::of(&Error::Bind {
                address: address.clone(),
                source: kind,
            });
            let Error::Bind { source, .. } = failure.into_error(address.clone()) else {
                panic!("another error");
            };
            assert_eq!((source.kind(), source.to_string()), (before, text));
        }
    }
}
