//! What this process is: found out once, at the first call into the crate.
//!
//! A worker is started with the variable [`VARIABLE`] and, on descriptor 0, its channel. The variable and an AF_UNIX SEQPACKET socket
//! there mean: worker or nothing. A process whose primary is gone must not become a primary itself, or a crash at the wrong moment
//! would leave a second cluster behind. A process without such a socket ignores the variable: it is a grandchild that inherited it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, OnceLock},
};

use bytes::Bytes;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketType, sockopt},
};
use serde::{Deserialize, Serialize};

use crate::{
    frame::{Frame, WIRE_VERSION},
    id::{Generation, Slot, WorkerId},
    ipc::{
        channel,
        parcel::{self, PARCEL_VERSION, Parcel},
    },
    settings::Settings,
};

/// `<id>.<slot>` of a worker. Holds no secret and no descriptor.
pub(crate) const VARIABLE: &str = "AXUM_CLUSTER_WORKER";

/// Set for a program that a primary executes in its own place.
pub(crate) const SUCCESSOR: &str = "AXUM_CLUSTER_SUCCESSOR";

/// What a process is.
#[derive(Debug)]
pub(crate) enum Birth {
    /// Started by somebody else: a primary, once it serves.
    Plain,
    Worker(Born),
    /// Started as a worker, without a primary to work for.
    Orphan(&'static str),
    /// Executed by a primary in its own place: goes on with what that one left.
    Successor(Left),
}

/// What a primary left to the program that is executed in its place.
#[derive(Debug)]
pub(crate) struct Left {
    parcel: Mutex<Option<io::Result<Parcel>>>,
    inheritance: Bytes,
}

impl Left {
    /// Everything; once.
    pub(crate) fn take(&self) -> Option<io::Result<Parcel>> {
        self.parcel.lock().ok()?.take()
    }

    /// What `on_upgrade` returned.
    pub(crate) fn inheritance(&self) -> &Bytes {
        &self.inheritance
    }
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
    /// Which version of a parcel its program reads; 0: none.
    #[serde(default)]
    pub(crate) parcel: u32,
}

/// What a worker learns about itself when it has said hello; the intake and the scoreboard page come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) generation: Generation,
    pub(crate) settings: Settings,
    pub(crate) secret: Vec<u8>,
    /// It is the first of its generation: `prepare` is its to run.
    pub(crate) prepare: bool,
}

/// What this process is. The first call moves a worker's channel away from descriptor 0 and says hello to the primary.
pub(crate) fn birth() -> &'static Birth {
    static BIRTH: OnceLock<Birth> = OnceLock::new();
    BIRTH.get_or_init(|| match std::env::var_os(VARIABLE) {
        None if std::env::var_os(SUCCESSOR).is_some() => succeed(),
        None => Birth::Plain,
        Some(value) => find_out(value.to_str().unwrap_or_default()),
    })
}

/// The pid of whoever made the SEQPACKET socket on descriptor 0, if there is one; 0 when that process is gone.
fn creator_of_stdin() -> Option<i32> {
    let stdin = std::io::stdin();
    let is_channel = sockopt::socket_domain(&stdin)
        .is_ok_and(|domain| domain == AddressFamily::UNIX)
        && sockopt::socket_type(&stdin).is_ok_and(|kind| kind == SocketType::SEQPACKET);
    is_channel.then(|| getsockopt(&stdin, PeerCredentials).map_or(0, |peer| peer.pid()))
}

/// Takes over from the program that this process was before. Any other process that has the variable inherited it.
fn succeed() -> Birth {
    if creator_of_stdin() != Some(std::process::id().cast_signed()) {
        return Birth::Plain;
    }
    name_process(None);
    let parcel = parcel::unpack(std::io::stdin()).and_then(|parcel| {
        rustix::stdio::dup2_stdin(&parcel.stdin)?;
        Ok(parcel)
    });
    let inheritance = parcel
        .as_ref()
        .map(|parcel| parcel.inheritance.clone())
        .unwrap_or_default();
    Birth::Successor(Left {
        parcel: Mutex::new(Some(parcel)),
        inheritance,
    })
}

fn find_out(value: &str) -> Birth {
    let Some(creator) = creator_of_stdin() else {
        tracing::debug!(
            "{VARIABLE} is set but descriptor 0 is no channel of a primary: ignored, this process is no worker"
        );
        return Birth::Plain;
    };
    let Some((id, slot)) = value
        .split_once('.')
        .and_then(|(id, slot)| Some((id.parse().ok()?, slot.parse().ok()?)))
    else {
        return Birth::Orphan("its number in AXUM_CLUSTER_WORKER is unreadable");
    };
    if creator == 0 || creator != nix::unistd::getppid().as_raw() {
        return Birth::Orphan("its primary is gone, or another program stands between the two");
    }
    match adopt_channel() {
        Ok(channel) => {
            name_process(Some(slot));
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
fn adopt_channel() -> io::Result<OwnedFd> {
    let channel = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    let hello = serde_json::to_vec(&Hello {
        wire: WIRE_VERSION,
        pid: std::process::id(),
        parcel: PARCEL_VERSION,
    })?;
    let mut datagram = Vec::new();
    Frame::Hello(&hello).encode(&mut datagram);
    channel::send_now(&channel, &datagram)?;
    Ok(channel)
}

/// A process executed through a descriptor is called by its number in `ps`; a worker is called `program:slot`.
fn name_process(slot: Option<u32>) {
    let program = program_name();
    let suffix = slot.map_or_else(String::new, |slot| format!(":{slot}"));
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
