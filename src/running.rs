//! The cluster as the program holds it: the end at which its events come out.

use std::{future::Future, pin::Pin};

use tokio::sync::{mpsc, oneshot};

use crate::{
    address::Address,
    error::{Error, Result},
    primary::{Event, Hooks, Primary},
};

/// The cluster runs; this end runs the hooks.
pub(crate) struct Running {
    pub(crate) primary: Primary,
    pub(crate) hooks: Hooks,
    /// What was taken and is to be dealt with before all others.
    pub(crate) first: Option<Event>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
    /// The addresses as asked for, and as bound.
    pub(crate) listeners: Vec<(Option<Address>, Address)>,
    pub(crate) result: oneshot::Receiver<Result<()>>,
    pub(crate) ended: bool,
}

impl Running {
    /// The next event; `None` when the loop has ended, and every event of it has been seen. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.events.recv().await,
        }
    }

    pub(crate) fn put_back(&mut self, event: Event) {
        self.first = Some(event);
    }

    pub(crate) fn call(&mut self, event: Event) {
        self.hooks.call(event, &self.primary);
    }

    pub(crate) fn listeners(&self) -> &[(Option<Address>, Address)] {
        &self.listeners
    }

    /// Runs hooks until the cluster has ended; begins a graceful end when `graceful` completes.
    pub(crate) async fn wait(
        mut self,
        graceful: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    ) -> Result<()> {
        let mut graceful = graceful.unwrap_or_else(|| Box::pin(std::future::pending()));
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                () = &mut graceful, if !asked => {
                    asked = true;
                    drop(self.primary.shutdown());
                }
                event = self.next() => match event {
                    Some(event) => self.call(event),
                    None => break,
                },
            }
        }
        self.ended = true;
        (&mut self.result).await.unwrap_or_else(|_| {
            Err(Error::Runtime(std::io::Error::other(
                "the primary's thread panicked",
            )))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            drop(self.primary.shutdown());
        }
    }
}
