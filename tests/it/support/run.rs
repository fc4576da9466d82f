//! How a server is started.

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use super::{
    server::{Server, TREE},
    unique,
};

/// A server that is being told how to run.
#[must_use = "it runs when it is started"]
pub struct Run {
    name: &'static str,
    environment: Vec<(String, String)>,
    args: Vec<String>,
    nofile: Option<u32>,
    user: Option<u32>,
    /// Instead of the example itself.
    program: Option<PathBuf>,
    stdin: Stdio,
    own_group: bool,
    before: Vec<String>,
}

impl Server {
    /// The example of this name.
    pub fn run(name: &'static str) -> Run {
        Run {
            name,
            environment: Vec::new(),
            args: Vec::new(),
            nofile: None,
            user: None,
            program: None,
            stdin: Stdio::null(),
            own_group: false,
            before: Vec::new(),
        }
    }
}

impl Server {
    /// A test of this binary that is a program of its own. It says where it listens as the examples do, on a new line.
    pub fn fixture(test: &'static str) -> Run {
        let mut run = Self::run(test);
        run.program = Some(std::env::current_exe().unwrap());
        run.args = [test, "--exact", "--ignored", "--nocapture"]
            .map(str::to_owned)
            .into();
        run
    }
}

impl Run {
    pub fn workers(self, workers: u32) -> Self {
        self.env("AXUM_CLUSTER_WORKERS", workers)
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "numbers and texts alike, without a borrow at each call"
    )]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// `ulimit -n`, soft and hard.
    pub fn nofile(mut self, limit: u32) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// Runs as this user if the tests run as root; otherwise as whoever runs them.
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// This file instead of the example itself: a copy of it, which may be replaced while it runs.
    pub fn program(mut self, path: &str) -> Self {
        self.program = Some(path.into());
        self
    }

    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// In a process group of its own, as a shell starts it.
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Started by another program that executes it, such as `nohup`.
    pub fn through(mut self, program: &str) -> Self {
        self.before.push(program.to_owned());
        self
    }

    /// Starts it, and returns when it listens.
    pub fn start(mut self) -> Server {
        let given = self
            .environment
            .iter()
            .find(|(name, _)| name == "ADDR")
            .map(|(_, addr)| addr.clone());
        let quiet = self.name == "hello";
        let addr = match given {
            Some(addr) => addr,
            None if quiet => free_address(),
            None => "127.0.0.1:0".into(),
        };
        self = self.env("ADDR", &addr);
        let copy = self.user.map(|_| Copy::of(&example(self.name)));
        self.program = copy.as_ref().map(|copy| copy.0.clone()).or(self.program);
        let mut server = self.spawn();
        if quiet {
            server.wait_for_answer(addr);
        } else {
            server.wait_for_listening();
        }
        server
    }

    /// Starts it and does not wait for anything.
    pub fn start_only(mut self) -> Server {
        if self.environment.iter().all(|(name, _)| name != "ADDR") {
            self = self.env("ADDR", "127.0.0.1:0");
        }
        self.spawn()
    }

    /// Starts it and waits until it has ended by itself; with what it printed.
    pub fn start_expecting_exit(self) -> (ExitStatus, String) {
        let server = self.start_only();
        let status = server.wait_exit();
        (status, server.output())
    }

    fn spawn(self) -> Server {
        let mark = (TREE, unique());
        let mut words = self.before.clone();
        if let Some(limit) = self.nofile {
            // A shell of its own, which becomes the server.
            words.extend([
                "sh".into(),
                "-c".into(),
                format!("ulimit -n {limit}; exec \"$0\" \"$@\""),
            ]);
        }
        let user = self.user.filter(|_| rustix::process::geteuid().is_root());
        let program = self.program.unwrap_or_else(|| example(self.name));
        words.push(program.to_str().unwrap().to_owned());
        words.extend(self.args);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in [
            "AXUM_CLUSTER_WORKER",
            "AXUM_CLUSTER_WORKERS",
            "AXUM_CLUSTER_SCHEDULING",
            "RUST_LOG",
            "ADDR",
        ] {
            command.env_remove(name);
        }
        // The promises hold whoever accepts: `TEST_SCHEDULING=shared cargo test --test it`.
        if let Some(scheduling) = std::env::var_os("TEST_SCHEDULING") {
            command.env("AXUM_CLUSTER_SCHEDULING", scheduling);
        }
        command
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "0")
            .env(mark.0, &mark.1)
            .envs(self.environment);
        if self.own_group {
            command.process_group(0);
        }
        if let Some(uid) = user {
            command.uid(uid).gid(uid);
        }
        Server::spawn(self.name, &mut command, format!("{}={}", mark.0, mark.1))
    }
}

/// A copy that any user can execute: the checkout may be readable to its owner alone. Removed again once it runs.
struct Copy(PathBuf);

impl Copy {
    fn of(program: &Path) -> Self {
        let directory = std::env::temp_dir().join(format!("axum-cluster-it-{}", unique()));
        std::fs::create_dir(&directory).unwrap();
        let copy = directory.join(program.file_name().unwrap());
        std::fs::copy(program, &copy).unwrap();
        for path in [&directory, &copy] {
            std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        Self(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.0.parent().unwrap()).unwrap();
    }
}

/// The real example, built by `cargo test` next to this test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not there: type `cargo test`, which builds the examples",
        path.display()
    );
    path
}

/// A port that nobody listens on, below those that the system gives to clients: nobody takes it meanwhile.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 97).unwrap() * 100;
    let mut candidates = std::iter::repeat_with(|| {
        format!(
            "127.0.0.1:{}",
            20_000 + offset + NEXT.fetch_add(1, Relaxed) % 100
        )
    });
    candidates
        .find(|addr| std::net::TcpListener::bind(addr).is_ok())
        .unwrap()
}
