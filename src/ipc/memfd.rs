//! Bytes that do not fit a datagram travel in a sealed memfd: once received it can neither change nor shrink under its reader.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use bytes::Bytes;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};

/// Everything that makes the content final.
const FINAL: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE)
    .union(SealFlags::SEAL);

pub(crate) fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(
        "axum-cluster",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&fd, &bytes[written..], written as u64)?;
    }
    fcntl_add_seals(&fd, FINAL)?;
    Ok(fd)
}

fn bad<T>(what: &'static str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Whether this is a sealed memfd of that size, which then it stays.
pub(crate) fn check(fd: impl AsFd, size: u64) -> io::Result<()> {
    if !fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(FINAL)) {
        return bad("a descriptor that is no sealed memfd");
    }
    if u64::try_from(fstat(&fd)?.st_size) != Ok(size) {
        return bad("a memfd of another size than was said");
    }
    Ok(())
}

/// Reads a sealed memfd of at most `limit` bytes. The limit is checked before anything is allocated.
pub(crate) fn open(fd: impl AsFd, limit: usize) -> io::Result<Bytes> {
    if !fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(FINAL)) {
        return bad("a descriptor that is no sealed memfd");
    }
    let size = usize::try_from(fstat(&fd)?.st_size).unwrap_or(usize::MAX);
    if size > limit {
        return bad("a memfd that is too large");
    }
    let mut bytes = vec![0; size];
    let mut read = 0;
    while read < size {
        match rustix::io::pread(&fd, &mut bytes[read..], read as u64)? {
            0 => return bad("a memfd that ends early"),
            n => read += n,
        }
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_cannot_change() {
        let fd = seal(&[7; 100_000]).unwrap();
        assert_eq!(open(&fd, 100_000).unwrap(), [7; 100_000][..]);
        assert!(open(&fd, 99_999).is_err());
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
    }

    #[test]
    fn what_could_still_change_is_refused() {
        let fd = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(open(&fd, 10).is_err());
    }
}
