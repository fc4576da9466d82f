//! What has happened in one worker's life, for those who wait for it: latched, so that nobody comes too late.

use tokio::sync::watch;

use super::{WorkerHandle, hooks::Event};
use crate::{
    error::{Error, Result},
    event::Exit,
};

/// How far a worker has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    online: bool,
    listening: bool,
    disconnected: bool,
    exit: Option<Exit>,
}

impl Life {
    pub(super) fn exit(&self) -> Option<&Exit> {
        self.exit.as_ref()
    }

    /// Goes on with a worker that the program before this one saw come so far.
    pub(super) fn resumed(listening: bool, disconnected: bool) -> Self {
        Self {
            online: true,
            listening,
            disconnected,
            exit: None,
        }
    }
}

/// Notes what an event tells about a worker, when it is put into the queue.
pub(super) fn note(event: &Event) {
    match event {
        Event::Online(worker) => worker.life().send_modify(|life| life.online = true),
        Event::Listening(worker) | Event::ListeningAt(worker, ..) => {
            worker.life().send_modify(|life| life.listening = true)
        }
        Event::Disconnect(worker) => worker.life().send_modify(|life| life.disconnected = true),
        Event::Exit(worker, exit) => {
            worker
                .life()
                .send_modify(|life| life.exit = Some(exit.clone()));
        }
        _ => {}
    }
}

/// Each completes at once if it has happened, and may be dropped at any time. What the primary's hooks and events tell comes in its own time.
impl WorkerHandle {
    /// Completes when the worker has said hello (Node's `online` event).
    ///
    /// # Errors
    ///
    /// [`Gone`](Error::Gone) when it ended before.
    pub fn online(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        reached(self.life().subscribe(), |life| life.online)
    }

    /// Completes when the worker listens for the first time: when it serves, or at an address that it
    /// [asked for itself](crate::cluster::listen) (Node's `listening` event).
    ///
    /// # Errors
    ///
    /// [`Gone`](Error::Gone) when it ended before.
    pub fn listening(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        reached(self.life().subscribe(), |life| life.listening)
    }

    /// Completes when the worker's channel has closed (Node's `disconnect` event): after its last message.
    pub fn disconnected(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut life = self.life().subscribe();
        async move {
            // Its sender is gone only with the whole primary.
            let _ = life.wait_for(|life| life.disconnected).await;
        }
    }

    /// Completes when the worker's process has ended (Node's `exit` event), with how it ended.
    ///
    /// ```no_run
    /// # async fn example(worker: axum_cluster::WorkerHandle) {
    /// let exit = worker.exited().await;
    /// match (exit.code(), exit.signal()) {
    ///     (Some(0), _) => println!("worker {} is done", worker.id()),
    ///     (Some(code), _) => println!("worker {} exited with {code}", worker.id()),
    ///     (None, signal) => println!("worker {} was killed by {signal:?}", worker.id()),
    /// }
    /// # }
    /// ```
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        let this = self.clone();
        async move {
            let mut life = this.life().subscribe();
            loop {
                if let Some(exit) = &life.borrow_and_update().exit {
                    return exit.clone();
                }
                // Cannot fail: this handle holds the sender.
                let _ = life.changed().await;
            }
        }
    }
}

async fn reached(mut life: watch::Receiver<Life>, point: impl Fn(&Life) -> bool) -> Result<()> {
    let over = |life: &Life| life.disconnected || life.exit.is_some();
    match life.wait_for(|life| point(life) || over(life)).await {
        Ok(life) if point(&life) => Ok(()),
        _ => Err(Error::Gone),
    }
}
