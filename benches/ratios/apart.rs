//! A core for the client and the others for the servers, so that neither takes the other's.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

#[derive(Clone, Debug)]
pub(crate) struct Apart {
    all: CpuSet,
    client: CpuSet,
    servers: CpuSet,
}

impl Apart {
    /// The last core is the client's.
    pub(crate) fn new() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rfind(|&core| all.is_set(core));
        let last = last.filter(|_| all.count() > 1).ok_or("one core only")?;
        let (mut client, mut servers) = (CpuSet::new(), all);
        client.set(last);
        servers.unset(last);
        Ok(Self {
            all,
            client,
            servers,
        })
    }

    /// This thread is the client meanwhile.
    pub(crate) fn client<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.on(&self.client, run)
    }

    /// What is started meanwhile inherits the servers' cores.
    pub(crate) fn servers<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        self.on(&self.servers, start)
    }

    fn on<T>(&self, cores: &CpuSet, run: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(None, cores)?;
        let done = run();
        sched_setaffinity(None, &self.all)?;
        done
    }
}
