//! The file of a unix socket: how it comes to be where another one may be, and goes again.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

/// Holds the directory's lock while a socket in it is examined and replaced, so that of two programs that start at once one sees the
/// other's. The lock is on the directory itself: no lock file stays behind.
pub(super) async fn lock_directory_of(path: &Path) -> io::Result<OwnedFd> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let directory = rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for _ in 0..50 {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "another program holds the lock of the directory",
    ))
}

/// What leads to a path of which the system takes no more than some hundred bytes; `directory` is the one that it is in.
pub(super) fn short(path: &Path, directory: &OwnedFd) -> PathBuf {
    match path.file_name() {
        Some(name) if SockAddr::unix(path).is_err() => Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name),
        _ => path.to_owned(),
    }
}

/// Removes a socket that nobody listens on. A live one is an error, and so is a file that is no socket: it is never touched.
pub(super) fn remove_stale(path: &Path, short: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(short)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        // Also when its backlog is full (EAGAIN): somebody listens.
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a unix socket; removed when dropped, unless something else stands there by then.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(&path)?;
        Ok(Self {
            path,
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode))
        {
            // Nobody is left to tell; the next start replaces a socket that stayed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
