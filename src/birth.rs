//! What this process is: found out once, at the first call into the crate.
//!
//! A worker is started with the variable [`VARIABLE`] and, on descriptor 0, its channel. The variable and an AF_UNIX SEQPACKET socket
//! there mean: worker or nothing. A process whose primary is gone must not become a primary itself, or a crash at the wrong moment
//! would leave a second cluster behind. A process without such a socket ignores the variable: it is a grandchild that inherited it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, OnceLock},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketType, sockopt},
};
use serde::{Deserialize, Serialize};

use crate::{
    frame::{Frame, WIRE_VERSION},
    id::{Generation, Slot, WorkerId},
    ipc::channel,
    settings::Settings,
};

/// `<id>.<slot>` of a worker. Holds no secret and no descriptor.
pub(crate) const VARIABLE: &str = "AXUM_CLUSTER_WORKER";

/// What a process is.
#[derive(Debug)]
pub(crate) enum Birth {
    /// Started by somebody else: a primary, once it serves.
    Plain,
    Worker(Born),
    /// Started as a worker, without a primary to work for.
    Orphan(&'static str),
}

/// What a worker knows before its primary has said a word.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) id: WorkerId,
    pub(crate) slot: Slot,
    channel: Mutex<Option<OwnedFd>>,
}

impl Born {
    /// The channel; once.
    pub(crate) fn take_channel(&self) -> Option<OwnedFd> {
        self.channel.lock().ok()?.take()
    }
}

/// The first thing a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) wire: u32,
    pub(crate) pid: u32,
}

/// What a worker learns about itself when it has said hello; the intake and the scoreboard page come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) generation: Generation,
    pub(crate) settings: Settings,
    pub(crate) secret: Vec<u8>,
}

/// What this process is. The first call moves a worker's channel away from descriptor 0 and says hello to the primary.
pub(crate) fn birth() -> &'static Birth {
    static BIRTH: OnceLock<Birth> = OnceLock::new();
    BIRTH.get_or_init(|| match std::env::var_os(VARIABLE) {
        None => Birth::Plain,
        Some(value) => find_out(value.to_str().unwrap_or_default()),
    })
}

fn find_out(value: &str) -> Birth {
    let stdin = std::io::stdin();
    let is_channel = sockopt::socket_domain(&stdin)
        .is_ok_and(|domain| domain == AddressFamily::UNIX)
        && sockopt::socket_type(&stdin).is_ok_and(|kind| kind == SocketType::SEQPACKET);
    if !is_channel {
        tracing::debug!(
            "{VARIABLE} is set but descriptor 0 is no channel of a primary: ignored, this process is no worker"
        );
        return Birth::Plain;
    }
    let Some((id, slot)) = value
        .split_once('.')
        .and_then(|(id, slot)| Some((id.parse().ok()?, slot.parse().ok()?)))
    else {
        return Birth::Orphan("its number in AXUM_CLUSTER_WORKER is unreadable");
    };
    let creator = getsockopt(&stdin, PeerCredentials)
        .map(|credentials| credentials.pid())
        .unwrap_or(0);
    if creator == 0 || creator != nix::unistd::getppid().as_raw() {
        return Birth::Orphan("its primary is gone, or another program stands between the two");
    }
    match adopt_channel() {
        Ok(channel) => {
            name_process(slot);
            Birth::Worker(Born {
                id: WorkerId::new(id),
                slot: Slot::new(slot),
                channel: Mutex::new(Some(channel)),
            })
        }
        Err(_) => Birth::Orphan("its channel cannot be used"),
    }
}

/// Moves the channel off descriptor 0, so that no child of the program inherits it, and says hello on it.
fn adopt_channel() -> std::io::Result<OwnedFd> {
    let channel = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    let hello = serde_json::to_vec(&Hello {
        wire: WIRE_VERSION,
        pid: std::process::id(),
    })?;
    let mut datagram = Vec::new();
    Frame::Hello(&hello).encode(&mut datagram);
    channel::send_now(&channel, &datagram)?;
    Ok(channel)
}

/// A process executed through a descriptor is called by its number in `ps`; a worker is called `program:slot`.
fn name_process(slot: u32) {
    let program = program_name();
    let suffix = format!(":{slot}");
    // The kernel keeps 15 bytes.
    let room = 15_usize.saturating_sub(suffix.len());
    let end = (0..=room.min(program.len()))
        .rev()
        .find(|&end| program.is_char_boundary(end))
        .unwrap_or(0);
    // Only a name: a system without /proc shows another.
    let _ = std::fs::write("/proc/self/comm", format!("{}{suffix}", &program[..end]));
}

/// The program's file name as it was called.
fn program_name() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
