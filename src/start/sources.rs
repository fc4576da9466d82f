//! From what a program asks to listen on to its listeners.

use std::{io, net::IpAddr, os::fd::OwnedFd};

use crate::{
    address::{Address, Kind},
    error::{Error, Result},
    listeners::{Asked, Bound, Name, names},
    server::Source,
    sockets::Listener,
};

/// The names of what the program asks for, and the apps behind them.
pub(super) fn asked(sources: &[(Source, u16)]) -> Asked {
    let flat = sources.iter().flat_map(|(source, app)| match source {
        Source::Addresses(addresses) => addresses
            .iter()
            .map(|address| (Some(address), *app))
            .collect(),
        Source::Made(_) => vec![(None, *app)],
    });
    let (asked, apps): (Vec<_>, Vec<_>) = flat.unzip();
    names(asked).into_iter().zip(apps).collect()
}

/// What this program listens on, and what the program before it did and this one does not.
pub(super) struct Listeners {
    pub(super) here: Vec<Bound>,
    pub(super) dropped: Vec<Bound>,
}

/// What is still to be bound: by address, or by a closure.
enum Wanted {
    Address(Address),
    Made(Box<dyn FnOnce() -> std::io::Result<OwnedFd> + Send>),
}

impl Wanted {
    async fn bind(self, backlog: u32) -> Result<Listener> {
        match self {
            Self::Address(address) => Listener::bind(&address, backlog).await,
            Self::Made(make) => {
                let made = make().map_err(|source| Error::System {
                    doing: "make the listener in `bind_with`",
                    source,
                })?;
                Listener::ready_made(made)
            }
        }
    }
}

fn wanted(sources: Vec<(Source, u16)>) -> Vec<(Name, u16, Wanted)> {
    let asked = asked(&sources);
    let wanted = sources.into_iter().flat_map(|(source, _)| match source {
        Source::Addresses(addresses) => addresses.into_iter().map(Wanted::Address).collect(),
        Source::Made(make) => vec![Wanted::Made(make)],
    });
    let named = asked.into_iter().zip(wanted);
    named
        .map(|((name, app), wanted)| (name, app, wanted))
        .collect()
}

pub(super) async fn bind(sources: Vec<(Source, u16)>, backlog: u32) -> Result<Listeners> {
    let mut here = Vec::new();
    for (number, (name, app, wanted)) in (0..).zip(wanted(sources)) {
        let listener = match wanted.bind(backlog).await {
            Ok(listener) => listener,
            Err(error) => return Err(explain(error, &here).await),
        };
        here.push(Bound {
            number,
            name,
            app,
            listener,
        });
    }
    let dropped = Vec::new();
    Ok(Listeners { here, dropped })
}

/// Where an address is in use by this very program, says so: the system would have it be somebody else.
async fn explain(error: Error, here: &[Bound]) -> Error {
    let (address, source) = match error {
        Error::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
            (address, source)
        }
        other => return other,
    };
    let mut forms = vec![address.clone().absolute()];
    if let Kind::Name(name) = address.kind() {
        let found = tokio::net::lookup_host(name).await;
        forms = found.map_or(forms, |found| found.map(Address::from).collect());
    }
    let mut listening = here.iter().map(|bound| &bound.listener.local);
    match listening.find(|local| forms.iter().any(|form| is_taken_by(form, local))) {
        Some(local) => Error::GivenTwice {
            address,
            listening: local.clone(),
        },
        None => Error::Bind { address, source },
    }
}

/// Whether who listens on the one is in the way of the other.
fn is_taken_by(address: &Address, local: &Address) -> bool {
    let (Some(one), Some(other)) = (address.socket_addr(), local.socket_addr()) else {
        return *address == local.clone().absolute();
    };
    // All of IPv6 is all of IPv4 too.
    let holds = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let (ip, other_ip) = (one.ip(), other.ip());
    one.port() == other.port() && (ip == other_ip || holds(ip, other_ip) || holds(other_ip, ip))
}

/// Goes on with the listeners of the program before. One that cannot be had is said and left out: the others have to be served.
pub(super) async fn inherit(
    sources: Vec<(Source, u16)>,
    backlog: u32,
    mut left: Vec<(u16, Name, bool, OwnedFd)>,
) -> Listeners {
    let mut here = Vec::new();
    let mut next = left
        .iter()
        .map(|&(number, ..)| number + 1)
        .max()
        .unwrap_or(0);
    for (name, app, wanted) in wanted(sources) {
        let at = left.iter().position(|(_, other, ..)| *other == name);
        let (number, listener) = match at.map(|at| left.swap_remove(at)) {
            Some((number, _, has_file, fd)) => (
                number,
                Listener::inherited(fd, has_file, name.address())
                    .map_err(|source| Error::Succession { source }),
            ),
            None => {
                next += 1;
                (next - 1, wanted.bind(backlog).await)
            }
        };
        match listener {
            Ok(listener) => here.push(Bound {
                number,
                name,
                app,
                listener,
            }),
            Err(error) => {
                let error = explain(error, &here).await;
                tracing::error!(?error, "an address is not served any more");
            }
        }
    }
    let mut dropped = Vec::new();
    for (number, name, has_file, fd) in left {
        if let Ok(listener) = Listener::inherited(fd, has_file, name.address()) {
            dropped.push(Bound {
                number,
                name,
                app: 0,
                listener,
            });
        }
    }
    Listeners { here, dropped }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    // Whoever gave it twice does not look for another program.
    #[tokio::test]
    async fn an_address_that_was_given_twice_is_no_other_programs() {
        for (host, again) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "localhost"),
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
        ] {
            let first = TcpListener::bind((host, 0)).unwrap();
            let first_addr = first.local_addr().unwrap();
            let port = first_addr.port();
            let made = Source::Made(Box::new(move || Ok(first.into())));
            let given = Source::Addresses(vec![Address::from(format!("{again}:{port}"))]);
            let error = bind(vec![(made, 0), (given, 1)], 16).await.err().unwrap();
            let Error::GivenTwice { address, listening } = &error else {
                panic!("{host}, then {again}: {error:?}");
            };
            assert_eq!(address.to_string(), format!("{again}:{port}"));
            assert_eq!(listening.socket_addr(), Some(first_addr));
        }
    }

    #[tokio::test]
    async fn what_somebody_else_has_is_not_called_given_twice() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [
            Address::from("127.0.0.1:0"),
            Address::from(other.local_addr().unwrap()),
        ];
        let error = bind(vec![(Source::Addresses(addresses.into()), 0)], 16).await;
        let error = error.err().unwrap();
        assert!(matches!(error, Error::Bind { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_path_that_was_given_twice_is_said_to_be() {
        let name = format!("given-twice-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let address = Address::unix(path.clone());
        let source = Source::Addresses(vec![address.clone(), address.clone()]);
        let error = bind(vec![(source, 0)], 16).await.err().unwrap();
        assert!(
            matches!(&error, Error::GivenTwice { address: twice, .. } if *twice == address),
            "{error:?}"
        );
        assert!(!path.exists(), "nothing is left behind");
    }
}
