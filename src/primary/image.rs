//! The program that a generation of workers runs, held open: what is executed cannot change under it, whatever happens to the path.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::{
    birth::{SUCCESSOR, VARIABLE},
    error::{Error, Result},
    id::Generation,
};

/// An executable file, open with O_PATH for as long as its generation lives. Executed through the descriptor, so it may be deleted,
/// renamed over or unreadable, and a crash replacement never runs another version than its neighbours.
#[derive(Debug)]
pub(crate) struct Image {
    file: OwnedFd,
    /// Where it was found, for people.
    path: PathBuf,
}

impl Image {
    /// The file that this process runs.
    pub(crate) fn running() -> Result<Self> {
        let path = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Self::open_at(Path::new("/proc/self/exe"), path)
    }

    /// The file at `path`, as it is now.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Program {
            program: path.to_owned(),
            source,
        };
        let path = std::path::absolute(path).map_err(failed)?;
        let mut start = [0; 2];
        // Executable without being readable is fine: then it cannot be told what it is, and the system refuses a script by itself.
        if std::fs::File::open(&path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok()
            && start == *b"#!"
        {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a script; name the program that the script runs (a worker must be the primary's own child)",
            )));
        }
        rustix::fs::access(&path, rustix::fs::Access::EXEC_OK)
            .map_err(|error| failed(error.into()))?;
        Self::open_at(&path.clone(), path)
    }

    fn open_at(at: &Path, path: PathBuf) -> Result<Self> {
        match rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(Error::Program {
                program: path,
                source: error.into(),
            }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path shows the same file still.
    pub(crate) fn is_current(&self, path: &Path) -> bool {
        rustix::fs::stat(path).is_ok_and(|there| self.is(&there))
    }

    /// Whether both are the same file.
    pub(crate) fn same(&self, other: &Self) -> bool {
        rustix::fs::fstat(&other.file).is_ok_and(|there| self.is(&there))
    }

    fn is(&self, there: &rustix::fs::Stat) -> bool {
        let identity = |stat: &rustix::fs::Stat| {
            (
                stat.st_dev,
                stat.st_ino,
                stat.st_size,
                stat.st_mtime,
                stat.st_mtime_nsec,
            )
        };
        rustix::fs::fstat(&self.file).is_ok_and(|open| identity(&open) == identity(there))
    }

    /// What to execute. The name works in the child too: its descriptors are the parent's until it executes.
    pub(crate) fn executable(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// The image of each generation that may still be spawned.
pub(crate) struct Images {
    pub(crate) program: PathBuf,
    /// What this process itself runs, if that is what its workers run.
    pub(crate) own: Option<Rc<Image>>,
    pub(crate) by_generation: BTreeMap<Generation, Rc<Image>>,
}

impl Images {
    /// What stands at the program's path when the generation's first worker is started, unless the generation has its image already.
    pub(crate) fn of(&mut self, generation: Generation) -> Result<Rc<Image>> {
        if let Some(image) = self.by_generation.get(&generation) {
            return Ok(image.clone());
        }
        let image = Rc::new(Image::open(&self.program)?);
        self.by_generation.insert(generation, image.clone());
        Ok(image)
    }

    /// Whether this generation runs another file than this process.
    pub(crate) fn is_new(&self, generation: Generation) -> bool {
        match (&self.own, self.by_generation.get(&generation)) {
            (Some(own), Some(image)) => !own.same(image),
            _ => false,
        }
    }

    /// Whether this generation runs what stands at this path.
    pub(crate) fn is_current(&self, generation: Generation, path: &Path) -> bool {
        self.by_generation
            .get(&generation)
            .is_some_and(|image| image.is_current(path))
    }
}

/// Where the running program was found when it was started: what a restart takes is what stands there then.
///
/// Not resolved: where a link leads to may change with a deploy.
pub(crate) fn program_path() -> PathBuf {
    let executed = PathBuf::from(OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()));
    // Started through a descriptor, as a worker is, it has no path of its own; what it was called is the next best.
    let called = || {
        std::env::args_os()
            .next()
            .map(PathBuf::from)
            .filter(|called| called.components().count() > 1)
    };
    let path = if executed.starts_with("/proc") {
        called().unwrap_or(executed)
    } else {
        executed
    };
    std::path::absolute(&path).unwrap_or(path)
}

/// What the program was started with, taken once: later the working directory may have moved and the environment may have been edited.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) arg0: OsString,
    pub(crate) args: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<OsString>,
}

impl Origin {
    pub(crate) fn capture() -> Self {
        let mut args = std::env::args_os();
        Self {
            arg0: args.next().unwrap_or_default(),
            args: args.collect(),
            environment: environment(),
            directory: std::env::current_dir().ok().map(Into::into),
        }
    }
}

/// The environment as the program was started with, less what is meant for this process alone.
fn environment() -> Vec<(OsString, OsString)> {
    let variables = match std::fs::read("/proc/self/environ") {
        Ok(bytes) => parse_environment(&bytes),
        Err(_) => std::env::vars_os().collect(),
    };
    variables
        .into_iter()
        .filter(|(name, _)| !is_for_this_process_alone(name))
        .collect()
}

fn parse_environment(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    bytes
        .split(|&byte| byte == 0)
        .filter_map(|entry| {
            let equals = entry.iter().position(|&byte| byte == b'=')?;
            Some((
                OsString::from_vec(entry[..equals].to_vec()),
                OsString::from_vec(entry[equals + 1..].to_vec()),
            ))
        })
        .collect()
}

fn is_for_this_process_alone(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == VARIABLE.as_bytes()
        || name == SUCCESSOR.as_bytes()
        || name == b"NOTIFY_SOCKET"
        || name.starts_with(b"LISTEN_")
        || name.starts_with(b"WATCHDOG_")
}

/// Whether this is a test or bench binary that cargo built: `…/deps/name-<16 hex digits>`. Each worker would run every test again.
pub(crate) fn is_test_binary(program: &Path) -> bool {
    let in_deps = program.parent().and_then(Path::file_name) == Some(OsStr::new("deps"));
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let hash = name
        .rsplit_once('-')
        .map(|(_, hash)| hash)
        .unwrap_or_default();
    in_deps && hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_is_a_test_binary_and_an_example_is_not() {
        assert!(is_test_binary(&std::env::current_exe().unwrap()));
        assert!(!is_test_binary(Path::new(
            "/srv/target/release/examples/hello"
        )));
        assert!(!is_test_binary(Path::new("/srv/deps/hello")));
    }

    #[test]
    fn a_script_is_refused_and_a_missing_program_is_named() {
        let script =
            std::env::temp_dir().join(format!("axum-cluster-script-{}", std::process::id()));
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(format!("{:?}", Image::open(&script).unwrap_err()).contains("script"));
        std::fs::remove_file(&script).unwrap();
        assert!(
            Image::open(&script)
                .unwrap_err()
                .to_string()
                .contains("axum-cluster-script")
        );
    }

    #[test]
    fn the_environment_leaves_out_what_is_for_one_process() {
        let parsed = parse_environment(b"A=1\0B=x=y\0broken\0LISTEN_FDS=3\0");
        assert_eq!(parsed.len(), 3);
        assert_eq!(parsed[1], ("B".into(), "x=y".into()));
        assert!(
            [
                "LISTEN_FDS",
                "LISTEN_PID",
                "NOTIFY_SOCKET",
                "WATCHDOG_USEC",
                VARIABLE
            ]
            .iter()
            .all(|name| is_for_this_process_alone(OsStr::new(name)))
        );
        assert!(!is_for_this_process_alone(OsStr::new("PATH")));
    }
}
