//! What a worker serves: for each listener of the cluster an app, its type hidden.

use std::{fmt, future::Future, marker::PhantomData, net::SocketAddr, pin::Pin, sync::Arc};

use super::Worker;
use crate::{
    error::Result,
    http::{Connections, Content, Serves, Start},
    sockets::Stream,
};

/// Serves connections, each as a task of its own.
pub(crate) trait App: Send + Sync {
    fn spawn(&self, connections: &Connections, stream: Stream, peer: Option<SocketAddr>);
}

/// The app of each listener.
pub(crate) type Apps = Vec<Arc<dyn App>>;

/// Builds the apps, in a worker only.
pub(crate) type AppSource = Box<dyn FnOnce(Worker) -> Pin<Box<dyn Future<Output = Result<Apps>> + Send>> + Send>;

/// An app from a closure that makes the service for a connection.
pub(crate) fn app<F, S, B>(service_for: F) -> Arc<dyn App>
where
    F: Fn(Option<SocketAddr>) -> S + Send + Sync + 'static,
    S: Serves<B>,
    B: Content,
{
    Arc::new(PerConnection { service_for, body: PhantomData })
}

struct PerConnection<F, B> {
    service_for: F,
    body: PhantomData<fn() -> B>,
}

impl<F, S, B> App for PerConnection<F, B>
where
    F: Fn(Option<SocketAddr>) -> S + Send + Sync,
    S: Serves<B>,
    B: Content,
{
    fn spawn(&self, connections: &Connections, stream: Stream, peer: Option<SocketAddr>) {
        // A clone of the service for the case that the connection is let go and has to be taken up again is made only then.
        let service = (self.service_for)(peer);
        drop(tokio::spawn(connections.serve(stream, Start::Fresh, service)));
    }
}

impl fmt::Debug for dyn App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("App")
    }
}
