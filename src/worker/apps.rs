//! What a worker serves: for each listener of the cluster an app, its type hidden.

use std::{
    convert::Infallible, fmt, future::Future, marker::PhantomData, net::SocketAddr, pin::Pin,
    sync::Arc,
};

use tokio::sync::mpsc;

use super::Worker;
use crate::{
    error::Result,
    http::{Connections, Content, End, Serves, Start, Taken},
    ipc::intake::{Conn, IntakeReceiver},
    moved::Moved,
    sockets::Early,
};

/// Serves connections, each as a task of its own.
pub(crate) trait App: Send + Sync {
    /// Serves one connection until it is closed or another worker has it.
    fn spawn(self: Arc<Self>, conn: Conn, serving: &Serving);
}

/// The app of each listener.
pub(crate) type Apps = Vec<Arc<dyn App>>;

/// Builds the apps, in a worker only.
pub(crate) type AppSource =
    Box<dyn FnOnce(Worker) -> Pin<Box<dyn Future<Output = Result<Apps>> + Send>> + Send>;

/// What the tasks of all connections share.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(crate) connections: Connections,
    pub(crate) worker: Worker,
    /// The way back; none where there is one process only.
    pub(crate) intake: Option<Arc<IntakeReceiver>>,
    /// Dropped by the last task: until then a connection may be on its way back, neither open here nor given to anybody.
    pub(crate) done: mpsc::Sender<Infallible>,
}

/// An app from a closure that makes the service for a connection.
pub(crate) fn app<F, S, Q, B>(service_for: F) -> Arc<dyn App>
where
    F: Fn(Option<SocketAddr>) -> S + Send + Sync + 'static,
    S: Serves<Q, B>,
    Q: Taken,
    B: Content,
{
    Arc::new(PerConnection {
        service_for,
        bodies: PhantomData,
    })
}

struct PerConnection<F, Q, B> {
    service_for: F,
    bodies: PhantomData<fn(Q) -> B>,
}

impl<F, S, Q, B> App for PerConnection<F, Q, B>
where
    F: Fn(Option<SocketAddr>) -> S + Send + Sync + 'static,
    S: Serves<Q, B>,
    Q: Taken,
    B: Content,
{
    fn spawn(self: Arc<Self>, conn: Conn, serving: &Serving) {
        let Conn {
            fd,
            listener,
            peer,
            moved,
            ..
        } = conn;
        let stream = Early::new(fd, peer);
        let start = moved.map_or(Start::Fresh, Start::Moved);
        let serve = serving
            .connections
            .serve(stream, start, (self.service_for)(peer));
        let serving = serving.clone();
        drop(tokio::spawn(async move {
            if let End::Released(stream, moved) = serve.await {
                // Rare, and large: not a part of every connection's task.
                Box::pin(self.let_go(stream, moved, listener, peer, serving)).await;
            }
        }));
    }
}

impl<F, S, Q, B> PerConnection<F, Q, B>
where
    F: Fn(Option<SocketAddr>) -> S + Send + Sync,
    S: Serves<Q, B>,
    Q: Taken,
    B: Content,
{
    /// Gives a connection that was let go back to the primary, or goes on with it where nobody takes it.
    async fn let_go(
        self: Arc<Self>,
        stream: Early,
        moved: Moved,
        listener: u16,
        peer: Option<SocketAddr>,
        serving: Serving,
    ) {
        let Serving {
            connections,
            worker,
            intake,
            done: _done,
        } = serving;
        let conn = match stream.into_fd() {
            Ok(fd) => Conn {
                fd,
                listener,
                app: 0,
                peer,
                moved: Some(moved),
            },
            Err(error) => {
                tracing::error!(%error, "a connection could not be taken out of the runtime");
                worker.row().closed();
                return;
            }
        };
        let kept = match intake {
            Some(intake) => intake.give_back(conn).await,
            None => Err(conn),
        };
        match kept {
            Ok(()) => worker.row().gave_back(),
            Err(conn) => {
                let start = Start::Stays(conn.moved.unwrap_or_default());
                connections
                    .serve(Early::new(conn.fd, peer), start, (self.service_for)(peer))
                    .await;
            }
        }
    }
}

impl fmt::Debug for dyn App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("App")
    }
}
