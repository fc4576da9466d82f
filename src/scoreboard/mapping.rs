//! Maps one page of shared memory as counters. The only `unsafe` of the crate.
//!
//! The page is a memfd that is fallocated in full and then sealed against shrinking, growing and further seals. So no access can
//! fault (SIGBUS needs a hole or a shrunken file), and no worker can add a seal that keeps its successor from mapping.

#![allow(unsafe_code)]

use std::{
    fmt, io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use super::rows::Counters;

/// The size of the shared page, in bytes; at least what [`Counters`] needs (checked at compile time).
const PAGE: u64 = 4096;

const _: () = assert!(size_of::<Counters>() as u64 <= PAGE && align_of::<Counters>() <= 4096);

/// A mapped page of counters. Dereferences to [`Counters`].
pub(super) struct Mapping {
    page: MmapRaw,
}

impl Mapping {
    /// Makes a new page, zeroed, and the descriptor to give to the worker.
    pub(super) fn create() -> io::Result<(Self, OwnedFd)> {
        let fd = rustix::fs::memfd_create(
            "axum-cluster",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, PAGE)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(fd.as_fd())?, fd))
    }

    /// Maps a page that was made by [`Mapping::create`] in another process.
    pub(super) fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let sealed = rustix::fs::fcntl_get_seals(fd)?.contains(SealFlags::SHRINK);
        let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        if !sealed || size < PAGE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a scoreboard page",
            ));
        }
        Self::map(fd)
    }

    fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let page = MmapOptions::new().len(PAGE as usize).map_raw(&fd)?;
        Ok(Self { page })
    }
}

impl Deref for Mapping {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        // SAFETY: the pointer is page-aligned and valid for PAGE bytes as long as `self` lives (the file cannot shrink: it is
        // sealed), `Counters` fits in it (checked above) and consists of atomics only, for which every bit pattern is valid and
        // which other processes may change at any time.
        unsafe { &*self.page.as_ptr().cast::<Counters>() }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").finish_non_exhaustive()
    }
}
