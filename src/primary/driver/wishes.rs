//! What the program wants of one worker, carried out.

use rustix::process::Signal as Raw;

use super::Driver;
use crate::{frame::Frame, id::WorkerId, primary::wishes::Wish, signal::Signal, supervisor::Input};

impl Driver {
    pub(super) fn grant(&mut self, id: WorkerId, wish: Wish) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        match wish {
            Wish::Disconnect => self.tell(Input::Disconnect(id)),
            Wish::Kill(signal) => {
                child.end_by = signal;
                self.tell(Input::DisconnectAndEnd(id));
            }
            Wish::Signal(signal @ (Signal::Term | Signal::Int | Signal::Hup)) => {
                child.end_by = signal;
                self.tell(Input::End(id));
            }
            Wish::Signal(signal) => {
                if let Some(signal) = Raw::from_named_raw(signal.number()) {
                    child.process.signal(signal);
                }
            }
        }
    }

    /// Has the worker end by the signal that the program named. It catches some; only it can undo that.
    pub(super) fn end_by_signal(&mut self, id: WorkerId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        tracing::info!(worker = %id, signal = %child.end_by, "is ended by a signal");
        match child.end_by {
            Signal::Kill => child.process.signal(Raw::KILL),
            signal => {
                let number = signal.number().unsigned_abs();
                child.handle.outbox().order(&Frame::EndBy(number));
            }
        }
    }
}
