//! The programs that are servers, and how to start them.

use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

use crate::installed::{PEERS, Place};
use crate::{Result, peers};

/// What is there to be started.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The folder with the built examples.
    pub(crate) examples: PathBuf,
    /// What runs in place of `hello`.
    pub(crate) hello: Option<PathBuf>,
    /// Another build of `hello`, measured beside it.
    pub(crate) other: Option<PathBuf>,
    /// Is there a `node` on PATH?
    pub(crate) node: bool,
    /// The program in `benches/actix`, if it could be built.
    pub(crate) actix: Option<PathBuf>,
    /// Where others were installed that are not on PATH.
    pub(crate) installed: Option<PathBuf>,
    /// For their files, removed at the end.
    pub(crate) scratch: PathBuf,
}

impl Programs {
    pub(crate) fn has(&self, program: &Program) -> bool {
        match program {
            Program::Example { name: OTHER, .. } => self.other.is_some(),
            Program::Example { name, .. } => self.example(name).exists(),
            Program::Peer(_) | Program::Cluster(_) => true,
            Program::Actix => self.actix.is_some(),
            Program::Installed(name) => self.version(name).is_some(),
            Program::Nginx { .. } => self.version("nginx").is_some(),
            Program::Node { .. } => self.node,
        }
    }

    /// Of a server of the bench `peers`; `None`: it is not there.
    pub(crate) fn version(&self, name: &str) -> Option<String> {
        let peer = PEERS.iter().find(|peer| peer.name.starts_with(name))?;
        peer.version(&self.place(0))
    }

    fn place(&self, port: u16) -> Place {
        Place {
            sources: concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers").into(),
            installed: self.installed.clone(),
            scratch: self.scratch.clone(),
            hello: self.example("hello"),
            port,
        }
    }

    fn example(&self, name: &str) -> PathBuf {
        match &self.hello {
            Some(program) if name == "hello" => program.clone(),
            _ if name == OTHER => self.other.clone().unwrap_or_default(),
            _ => self.examples.join(name),
        }
    }
}

/// What stands for another build of `hello`.
pub(crate) const OTHER: &str = "hello, the other build";

/// How to start a server, and what it looks like once it stands.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// How many processes it has.
    pub(crate) processes: usize,
    /// Connections that are open and idle, beside those of the workload.
    pub(crate) idle: usize,
    /// Connections of the client at the same time, if not as many as for the others.
    pub(crate) connections: Option<usize>,
    pub(crate) program: Program,
}

impl Recipe {
    pub(crate) fn new(name: &'static str, processes: usize, program: Program) -> Self {
        Self {
            name,
            processes,
            idle: 0,
            connections: None,
            program,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// An example of this crate.
    Example {
        name: &'static str,
        workers: usize,
        /// The policy, unless it is the default.
        scheduling: Option<&'static str>,
    },
    /// This binary again; see `peers`.
    Peer(&'static str),
    /// This crate in this binary, started again.
    Cluster(&'static str),
    /// `benches/actix`.
    Actix,
    /// One of those of the bench `peers`.
    Installed(&'static str),
    /// nginx with so many workers on one listener.
    Nginx { workers: usize },
    /// `node_cluster.js`.
    Node {
        workers: usize,
        policy: &'static str,
        /// A variable that is set.
        switch: &'static str,
    },
}

/// What ends a server when this process dies before it could stop it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guard {
    /// A signal from the kernel, arranged by `peers`, which then becomes the program.
    EndsWithThisProcess,
    /// Nothing.
    None,
}

impl Program {
    /// Node has either or, without TLS.
    pub(crate) fn speaks_http1(&self) -> bool {
        !matches!(
            self,
            Self::Node {
                switch: "HTTP2",
                ..
            }
        )
    }

    pub(crate) fn prints_address(&self) -> bool {
        !matches!(
            self,
            Self::Example {
                name: "hello" | OTHER,
                ..
            } | Self::Installed(_)
                | Self::Nginx { .. }
        )
    }
}

/// The command that starts a server.
pub(crate) fn command(
    program: &Program,
    programs: &Programs,
    address: SocketAddrV4,
    guard: Guard,
) -> Result<Command> {
    let myself = std::env::current_exe()?;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/ratios/node_cluster.js"
    );
    let argv: Vec<PathBuf> = match program {
        Program::Example { name, .. } => vec![programs.example(name)],
        Program::Peer(name) | Program::Cluster(name) => {
            vec![myself.clone(), peers::ARGUMENT.into(), name.into()]
        }
        Program::Actix => vec![programs.actix.clone().ok_or("actix-web was not built")?],
        Program::Node { .. } => vec!["node".into(), script.into()],
        Program::Installed(name) => return installed(name, programs, address),
        Program::Nginx { workers } => return nginx(*workers, programs, address),
    };
    let mut command = match guard {
        Guard::EndsWithThisProcess => {
            let mut command = Command::new(myself);
            command.args([peers::ARGUMENT, peers::BECOME]).args(&argv);
            command
        }
        Guard::None => {
            let mut command = Command::new(&argv[0]);
            command.args(&argv[1..]);
            command
        }
    };
    for name in [
        "RUST_LOG",
        "AXUM_CLUSTER_WORKER",
        "AXUM_CLUSTER_SCHEDULING",
        "NODE_OPTIONS",
        "NODE_CLUSTER_SCHED_POLICY",
    ] {
        command.env_remove(name);
    }
    match program {
        Program::Example {
            workers,
            scheduling,
            ..
        } => {
            let scheduling = scheduling.iter();
            command
                .envs(scheduling.map(|policy| ("AXUM_CLUSTER_SCHEDULING", policy)))
                .env("ADDR", address.to_string())
                .env("AXUM_CLUSTER_WORKERS", workers.to_string());
        }
        Program::Peer(_)
        | Program::Cluster(_)
        | Program::Actix
        | Program::Installed(_)
        | Program::Nginx { .. } => {}
        Program::Node {
            workers,
            policy,
            switch,
        } => {
            command
                .env("WORKERS", workers.to_string())
                .env("POLICY", policy);
            if !switch.is_empty() {
                command.env(switch, "1");
            }
        }
    }
    Ok(command)
}

/// A server of the bench `peers`, with the settings that it has there.
fn installed(name: &str, programs: &Programs, address: SocketAddrV4) -> Result<Command> {
    let peer = PEERS.iter().find(|peer| peer.name.starts_with(name));
    let peer = peer.ok_or("no such peer")?;
    end_with_this_process(&peer.command(&programs.place(address.port()))?)
}

/// nginx as the bench `peers` has it, but for the number of workers and that they share a listener.
fn nginx(workers: usize, programs: &Programs, address: SocketAddrV4) -> Result<Command> {
    let place = programs.place(address.port());
    // Several run at the same time.
    let files = place.scratch.join(address.port().to_string());
    fs::create_dir_all(&files)?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {what};\n"))
        .concat();
    let config = format!(
        "daemon off;\nworker_processes {workers};\npid pid;\nerror_log error.log;
events {{ worker_connections 4096; }}
http {{
access_log off;
keepalive_timeout 75s;
keepalive_requests 1000000;
{temporary}server {{
listen {address};
location / {{ return 200 'hello world'; }}
}}
}}\n"
    );
    fs::write(files.join("nginx.conf"), config)?;
    let mut command = place.program("nginx");
    command.arg("-c").arg("nginx.conf").arg("-p").arg(&files);
    end_with_this_process(&command)
}

fn end_with_this_process(inner: &Command) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([peers::ARGUMENT, peers::BECOME])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    if let Some(directory) = inner.get_current_dir() {
        command.current_dir(directory);
    }
    Ok(command)
}
