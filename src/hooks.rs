//! The builder's hooks.

use crate::{
    address::Address,
    cluster::{Exit, Primary, WorkerHandle},
    error::Error,
    message::{Message, RequestNotice},
    server::ClusteredServer,
};

/// Hooks. They run in the primary, one at a time and in order, in the future that awaits `serve`. A slow hook delays hooks and, past
/// 4 MiB a worker, that worker's messages, never connections. One that panics is logged and counted; the cluster goes on.
impl ClusteredServer {
    /// The cluster has been set up, and no worker has been started yet (Node's `setup`). Once, before every other hook.
    pub fn on_setup(mut self, hook: impl FnOnce() + Send + 'static) -> Self {
        self.hooks.setup = Some(Box::new(hook));
        self
    }

    /// All workers listen, for the first time: with the running [`Primary`].
    pub fn on_ready(mut self, hook: impl FnOnce(Primary) + Send + 'static) -> Self {
        self.hooks.ready = Some(Box::new(hook));
        self
    }

    /// A worker process was started (Node's `fork`).
    pub fn on_fork(mut self, mut hook: impl FnMut(&WorkerHandle) + Send + 'static) -> Self {
        self.hooks.fork = Some(Box::new(move |worker: &WorkerHandle, ()| hook(worker)));
        self
    }

    /// A worker said hello (Node's `online`).
    pub fn on_online(mut self, mut hook: impl FnMut(&WorkerHandle) + Send + 'static) -> Self {
        self.hooks.online = Some(Box::new(move |worker: &WorkerHandle, ()| hook(worker)));
        self
    }

    /// A worker listens (Node's `listening`): it serves, with the server's addresses as bound; or it has
    /// [opened a listener](crate::cluster::listen) or a [UDP socket](crate::cluster::bind_udp) of its own, with that address alone.
    pub fn on_listening(
        mut self,
        hook: impl FnMut(&WorkerHandle, &[Address]) + Send + 'static,
    ) -> Self {
        self.hooks.listening = Some(Box::new(hook));
        self
    }

    /// A worker sent a message (Node's `message`).
    pub fn on_message(mut self, hook: impl FnMut(&WorkerHandle, Message) + Send + 'static) -> Self {
        self.hooks.message = Some(Box::new(hook));
        self
    }

    /// A worker answered a request. Sent after the response, many in a datagram, at most 10 ms later: a notice a request costs a
    /// fraction of a system call.
    pub fn on_request(
        mut self,
        hook: impl FnMut(&WorkerHandle, RequestNotice) + Send + 'static,
    ) -> Self {
        self.hooks.request = Some(Box::new(hook));
        self
    }

    /// A worker's channel closed (Node's `disconnect`). Exactly once, after its last message.
    pub fn on_disconnect(mut self, mut hook: impl FnMut(&WorkerHandle) + Send + 'static) -> Self {
        self.hooks.disconnect = Some(Box::new(move |worker: &WorkerHandle, ()| hook(worker)));
        self
    }

    /// A worker's process ended (Node's `exit`). Exactly once, after `on_disconnect`.
    pub fn on_exit(mut self, hook: impl FnMut(&WorkerHandle, Exit) + Send + 'static) -> Self {
        self.hooks.exit = Some(Box::new(hook));
        self
    }

    /// Log files are to be opened anew: USR1, after they were renamed. Called in the primary and, unlike all other hooks, in every worker
    /// too.
    pub fn on_reopen(mut self, hook: impl FnMut() + Send + 'static) -> Self {
        self.hooks.reopen = Some(Box::new(hook));
        self
    }

    /// Another program is about to be executed in the place of this one (see [`Primary::upgrade`]). Called after every other hook, with
    /// everything that was received; what it returns the next program gets from
    /// [`cluster::inherited`](crate::cluster::inherited), before its own hooks are even built.
    ///
    /// Called again, with hooks in between, if this program had to go on after all. It holds up the execution, not the workers; past 5 s
    /// the upgrade is given up, as it is for more than 64 MiB.
    pub fn on_upgrade(mut self, hook: impl FnMut() -> Vec<u8> + Send + 'static) -> Self {
        self.hooks.upgrade = Some(Box::new(hook));
        self
    }

    /// Something went wrong that the cluster mends by itself: a worker could not be started, or sent what nobody understands.
    pub fn on_error(mut self, hook: impl FnMut(Error) + Send + 'static) -> Self {
        self.hooks.error = Some(Box::new(hook));
        self
    }
}
