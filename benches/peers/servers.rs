//! How each server is started and reloaded, with the best settings that its documentation has.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// Workers of every server.
pub(crate) const WORKERS: usize = 2;

/// Where the programs are, and where a server may leave its files.
#[derive(Debug)]
pub(crate) struct Place {
    /// Files of this bench.
    pub(crate) sources: PathBuf,
    /// Where the peers were installed that are not on PATH.
    pub(crate) installed: Option<PathBuf>,
    /// For one server, removed after it.
    pub(crate) scratch: PathBuf,
    pub(crate) hello: PathBuf,
    pub(crate) port: u16,
}

/// How a server takes the order to reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    Hup,
    Pm2,
}

/// A server of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) reload: Reload,
    /// How to get it.
    pub(crate) hint: &'static str,
    /// Asked for the version; when that works it is there.
    version: &'static [&'static str],
    command: fn(&Place) -> Result<Command>,
}

pub(crate) const PEERS: [Peer; 6] = [
    Peer {
        name: "Node cluster (fork, wait for listening, disconnect the old)",
        reload: Reload::Hup,
        hint: "install Node",
        version: &["node", "--version"],
        command: node,
    },
    Peer {
        name: "pm2 `reload` (cluster mode, wait-ready)",
        reload: Reload::Pm2,
        hint: "npm install --prefix DIR pm2",
        version: &["pm2", "--version"],
        command: pm2,
    },
    Peer {
        name: "granian HUP",
        reload: Reload::Hup,
        hint: "pip install --target DIR granian",
        version: &["granian", "--version"],
        command: granian,
    },
    Peer {
        name: "nginx HUP (reuseport)",
        reload: Reload::Hup,
        hint: "install nginx",
        version: &["nginx", "-v"],
        command: nginx,
    },
    Peer {
        name: "gunicorn gthread HUP",
        reload: Reload::Hup,
        hint: "pip install --target DIR gunicorn",
        version: &["gunicorn", "--version"],
        command: gunicorn,
    },
    Peer {
        name: "**this crate**",
        reload: Reload::Hup,
        hint: "cargo build --release --example hello",
        version: &[],
        command: this_crate,
    },
];

impl Peer {
    /// Its version; `None` when it is not there.
    pub(crate) fn version(&self, place: &Place) -> Option<String> {
        let [program, argument] = self.version else {
            return place.hello.exists().then(|| "hello".into());
        };
        // Even asked for its version pm2 starts a daemon, which is not the one to be measured.
        let elsewhere = |argument: &str| {
            let mut command = place.program(program);
            command.env("PM2_HOME", place.scratch.join("asked"));
            command.arg(argument).output().ok()
        };
        let output = elsewhere(argument)?;
        if self.reload == Reload::Pm2 {
            elsewhere("kill")?;
        }
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        // pm2 greets whoever calls it first.
        let line = text.lines().rfind(|line| line.contains('.'))?;
        output.status.success().then(|| line.trim().to_owned())
    }

    /// In a process group of its own, with what it prints in a file.
    pub(crate) fn command(&self, place: &Place) -> Result<Command> {
        let mut command = (self.command)(place)?;
        let log = fs::File::create(place.scratch.join("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .env("PEERS_SCRATCH", &place.scratch)
            .process_group(0);
        Ok(command)
    }
}

impl Place {
    /// A program of those that were installed, or of PATH.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = self.found(name);
        command
            .env("PM2_HOME", self.scratch.join("pm2"))
            .env("PORT", self.port.to_string())
            .env("WORKERS", WORKERS.to_string());
        if let Some(directory) = &self.installed {
            command.env("PYTHONPATH", directory);
        }
        command
    }

    fn found(&self, name: &str) -> Command {
        let installed = self.installed.iter().flat_map(|directory| {
            ["bin", "node_modules/.bin"].map(|folder| directory.join(folder).join(name))
        });
        let system = ["/usr/sbin", "/usr/local/sbin"].map(|folder| Path::new(folder).join(name));
        let mut paths = installed.chain(system);
        let path = paths.find(|path| path.exists());
        Command::new(path.unwrap_or_else(|| name.into()))
    }

    fn source(&self, name: &str) -> PathBuf {
        self.sources.join(name)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.scratch.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as the others are")]
fn node(place: &Place) -> Result<Command> {
    let mut command = place.program("node");
    command.env_remove("PM2_HOME");
    command.arg(place.source("node_cluster.js"));
    Ok(command)
}

fn pm2(place: &Place) -> Result<Command> {
    let app = place.source("node_app.js");
    let config = format!(
        "module.exports = {{ apps: [{{ name: 'hello', script: {app:?}, instances: {WORKERS}, exec_mode: 'cluster',
           wait_ready: true, listen_timeout: 10000, kill_timeout: 10000 }}] }};"
    );
    let config = place.write("ecosystem.config.js", &config)?;
    let mut command = place.program("pm2");
    command.args(["start", "--no-daemon"]).arg(config);
    Ok(command)
}

fn granian(place: &Place) -> Result<Command> {
    let mut command = place.program("granian");
    command
        .args(["--interface", "asgi", "--host", "127.0.0.1", "--no-ws"])
        .args(["--workers", &WORKERS.to_string()])
        .args(["--port", &place.port.to_string(), "app:asgi"])
        .current_dir(&place.sources)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn gunicorn(place: &Place) -> Result<Command> {
    let mut command = place.program("gunicorn");
    command
        .args(["--worker-class", "gthread", "--threads", "16"])
        .args(["--keep-alive", "75", "--graceful-timeout", "30"])
        .args(["--workers", &WORKERS.to_string()])
        .args(["--bind", &format!("127.0.0.1:{}", place.port), "app:wsgi"])
        .current_dir(&place.sources)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn nginx(place: &Place) -> Result<Command> {
    let scratch = place.scratch.display();
    let port = place.port;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {scratch}/{what};\n"))
        .concat();
    let config = format!(
        "daemon off;\nworker_processes {WORKERS};\npid {scratch}/pid;\nerror_log {scratch}/error.log;
events {{ worker_connections 4096; }}
http {{
access_log off;
keepalive_timeout 75s;
keepalive_requests 1000000;
{temporary}server {{
listen 127.0.0.1:{port} reuseport;
location / {{ return 200 'hello world'; }}
}}
}}\n"
    );
    let config = place.write("nginx.conf", &config)?;
    let mut command = place.program("nginx");
    command.arg("-c").arg(config).arg("-p").arg(&place.scratch);
    Ok(command)
}

#[allow(clippy::unnecessary_wraps, reason = "as the others are")]
fn this_crate(place: &Place) -> Result<Command> {
    let mut command = Command::new(&place.hello);
    command
        .env("ADDR", format!("127.0.0.1:{}", place.port))
        .env("AXUM_CLUSTER_WORKERS", WORKERS.to_string());
    Ok(command)
}
