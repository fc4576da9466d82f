//! What is asked of the primary from outside: by signals, and by the program's own commands.

use super::{Driver, ending::SECOND_STOP};
use crate::{
    frame::Frame,
    primary::{Command, hooks::Event},
    signals::Order,
    supervisor::Input,
};

impl Driver {
    pub(super) fn obey(&mut self, order: Order) {
        tracing::info!(?order, "signal");
        match order {
            Order::Stop => match &self.ending {
                None => self.announce_end(),
                Some(ending) if ending.asked.elapsed() >= SECOND_STOP => self.close_now(),
                Some(_) => {}
            },
            Order::StopNow => self.close_now(),
            Order::Restart | Order::More | Order::Fewer if self.ending.is_some() => {
                tracing::info!(?order, "the cluster is ending: nothing changes");
            }
            Order::Restart => self.restart(None),
            Order::More => self.scale_by(1),
            Order::Fewer => self.scale_by(-1),
            Order::Upgrade => self.upgrade(None, None),
            Order::Reopen => {
                self.events.send(Event::Reopen);
                let workers = self.children.values();
                workers.for_each(|child| child.handle.outbox().order(&Frame::Reopen));
            }
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Shutdown if self.ending.is_none() => self.announce_end(),
            Command::Worker(id, wish) => self.grant(id, wish),
            // Tickets of what comes too late say `Gone`.
            _ if self.ending.is_some() => {}
            Command::Shutdown => {}
            Command::Fork(order) => {
                self.forking = Some(order);
                self.tell(Input::Fork);
            }
            Command::Restart(asked) => self.restart(Some(asked)),
            Command::Upgrade(program, asked) => self.upgrade(program, Some(asked)),
            Command::Scale(workers, asked) => {
                self.tell(Input::Scale(workers.max(1)));
                self.scaling.push(asked);
            }
        }
    }

    fn scale_by(&mut self, by: i32) {
        let target = u32::try_from(self.supervisor.target())
            .unwrap_or(u32::MAX)
            .saturating_add_signed(by);
        self.tell(Input::Scale(target.max(1)));
    }
}
