//! What this worker serves, for connections that come to it by other ways than its intake.

use std::fmt;

use tokio::sync::{mpsc, watch};

use super::{Apps, Serving, Worker};
use crate::{
    error::{Error, Result},
    http::Connections,
    ipc::intake::Conn,
};

/// The apps, as soon as they are built and for as long as they are served.
#[derive(Default)]
pub(crate) struct Served(watch::Sender<Stage>);

#[derive(Clone, Default)]
enum Stage {
    #[default]
    NotYet,
    Now(Connections, Apps),
    NoMore,
}

impl Served {
    pub(crate) fn begin(&self, connections: &Connections, apps: &[std::sync::Arc<dyn super::App>]) {
        self.0
            .send_replace(Stage::Now(connections.clone(), apps.to_vec()));
    }

    /// Lets the apps go: they may know the worker, which has this.
    pub(crate) fn end(&self) {
        self.0.send_replace(Stage::NoMore);
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl Worker {
    /// Serves a connection with the first app, once there is one.
    pub(crate) async fn serve_conn(&self, conn: Conn) -> Result<()> {
        let mut served = self.served().0.subscribe();
        let begun = served.wait_for(|stage| !matches!(stage, Stage::NotYet));
        let stage = begun.await.map_err(|_| Error::Gone)?.clone();
        let (connections, app) = match stage {
            Stage::Now(connections, mut apps) if !apps.is_empty() => {
                (connections, apps.swap_remove(0))
            }
            _ => return Err(Error::Gone),
        };
        let serving = Serving {
            connections,
            worker: self.clone(),
            // It did not come from the primary, so it is not given to it.
            intake: None,
            // Nor is it waited for on its way there: that it is open is known.
            done: mpsc::channel(1).0,
        };
        self.row().adopted();
        app.spawn(conn, &serving);
        Ok(())
    }
}
