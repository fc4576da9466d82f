//! From what a program asks to listen on to its listeners.

use std::os::fd::OwnedFd;

use crate::{
    address::Address,
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
        here.push(Bound {
            number,
            name,
            app,
            listener: wanted.bind(backlog).await?,
        });
    }
    let dropped = Vec::new();
    Ok(Listeners { here, dropped })
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
            Err(error) => tracing::error!(error = ?error, "an address is not served any more"),
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
