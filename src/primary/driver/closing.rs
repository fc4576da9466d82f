//! Listeners that are being closed, so that their addresses can be bound again.

use std::cell::RefCell;

use tokio::{sync::Mutex, task::JoinHandle};

/// Sockets that close as soon as their tasks have ended.
#[derive(Default)]
pub(super) struct Closing {
    tasks: RefCell<Vec<JoinHandle<()>>>,
    turn: Mutex<()>,
}

impl Closing {
    pub(super) fn add(&self, task: JoinHandle<()>) {
        self.tasks.borrow_mut().push(task);
    }

    /// Completes when everything closed so far is: only then its addresses can be bound again.
    pub(super) async fn settle(&self) {
        let _turn = self.turn.lock().await;
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for task in tasks {
            // Aborted, which is no news.
            let _ = task.await;
        }
    }
}
