//! What `cluster::listen` and `cluster::bind_udp` have in common: an address, how it is to be bound, and who binds it.

use std::io;

use crate::{
    address::Address,
    birth::{Birth, birth},
    cluster,
    error::{Error, Result},
    wanted::{Options, Place, Wanted},
    worker::Worker,
};

/// A socket that is being described.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) address: Address,
    pub(crate) options: Options,
    /// In this process, for it alone.
    pub(crate) exclusive: bool,
}

/// Who binds it.
pub(crate) enum Binder {
    /// The primary, whom this worker asks for it.
    Primary(Worker, Wanted),
    /// This process; the worker, where it is one.
    Itself(Option<Worker>),
}

impl Binding {
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            options: Options {
                ipv6_only: Some(false),
                ..Options::default()
            },
            exclusive: false,
        }
    }

    pub(crate) fn reuse_port(&mut self) {
        self.options.reuse_port = true;
        self.exclusive = true;
    }

    /// Who binds it, from wherever the program is.
    pub(crate) fn binder(&self, place: fn(Address) -> Place) -> Result<Binder> {
        let worker = match birth() {
            Birth::Orphan(reason) => return Err(Error::Orphaned { reason }),
            Birth::Worker(_) => Some(cluster::worker().ok_or(Error::NotStarted)?),
            // In one process that is primary and worker, there is a worker and nobody to ask.
            Birth::Plain | Birth::Successor(_) => cluster::worker(),
        };
        match worker {
            Some(worker) if worker.ports().can_ask() && !self.exclusive => {
                let wanted = Wanted {
                    place: place(self.address.clone()),
                    options: self.options.clone(),
                    index: 0,
                };
                Ok(Binder::Primary(worker, wanted))
            }
            Some(worker) if worker.ports().can_ask() && self.address.is_primary_fd() => {
                Err(self.exclusively_the_primarys())
            }
            worker => Ok(Binder::Itself(worker)),
        }
    }

    /// A worker's own socket that is the primary's: there is no such thing.
    fn exclusively_the_primarys(&self) -> Error {
        let text = "a descriptor of the primary is shared by all workers; ask for it without `exclusive` and `reuse_port`";
        self.failed(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    pub(crate) fn failed(&self, source: io::Error) -> Error {
        Error::Bind {
            address: self.address.clone(),
            source,
        }
    }
}
