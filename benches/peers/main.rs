//! How many requests a reload costs here and elsewhere, seen by one outside client that never retries.
//!
//! ```sh
//! cargo bench --bench peers                                   # what is installed; about half a minute a server
//! cargo bench --bench peers -- --installed DIR --seconds 10   # with peers that are in DIR
//! ```
//!
//! Installs nothing: what is missing is named, with the way to get it, and left out. For the whole table:
//! `pip install --target DIR gunicorn granian` and `npm install --prefix DIR pm2`, beside nginx and Node.
//!
//! Every server has two workers and answers `hello world`. Sixteen clients with 0 to 5 ms between two requests, once over connections
//! that they keep for as long as the server lets them, once over a new connection a request; a reload every 1.5 s. A server none of
//! whose workers was replaced is left out. The client is that of the tests (`tests/it/client`).

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

#[allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    reason = "the tests' own: they use more of it, and may panic"
)]
#[path = "../../tests/it/client/mod.rs"]
mod client;
mod servers;

use std::{
    collections::BTreeSet,
    error::Error,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    client::{Load, Mode, Tally, Wire},
    servers::{PEERS, Peer, Place, Reload},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CLIENTS: usize = 16;
const THINK: Duration = Duration::from_millis(5);
const EVERY: Duration = Duration::from_millis(1_500);
const BOOT: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line.
struct Options {
    seconds: u64,
    installed: Option<PathBuf>,
    only: Option<String>,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            seconds: 10,
            installed: None,
            only: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--seconds" => options.seconds = value()?.parse()?,
                "--installed" => options.installed = Some(fs::canonicalize(value()?)?),
                "--only" => options.only = Some(value()?),
                "--bench" => {} // cargo's
                _ => {
                    return Err(format!(
                        "{argument}? expected --installed DIR, --seconds N, --only PART-OF-A-NAME"
                    )
                    .into());
                }
            }
        }
        Ok(options)
    }
}

fn run() -> Result<()> {
    let options = Options::parse()?;
    let hello = hello()?;
    println!(
        "{CLIENTS} clients with 0 to {THINK:?} between two requests for {} s, a reload every {EVERY:?}, no retries:\n",
        options.seconds
    );
    let mut rows = Vec::new();
    let wanted = |peer: &&Peer| {
        let only = options.only.as_deref().unwrap_or_default();
        peer.name.contains(only)
    };
    for peer in PEERS.iter().filter(wanted) {
        let scratch = scratch()?;
        let mut place = Place {
            sources: Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers"),
            installed: options.installed.clone(),
            scratch: scratch.0.clone(),
            hello: hello.clone(),
            port: 0,
        };
        let Some(version) = peer.version(&place) else {
            eprintln!("left out: {} ({})", peer.name, peer.hint);
            continue;
        };
        eprintln!("{}: {version}", peer.name);
        let time = Duration::from_secs(options.seconds);
        let keep = Mode::KeepAlive { think: THINK };
        let both = measure(peer, &mut place, |load| load.mode(keep).time(time)).and_then(|kept| {
            let fresh = measure(peer, &mut place, |load| load.pause(THINK).time(time))?;
            Ok((kept, fresh))
        });
        let (kept, fresh) = match both {
            Ok(both) => both,
            Err(error) => {
                eprintln!("left out: {error}");
                continue;
            }
        };
        rows.push(format!(
            "| {} | {version} | {} of {} | {} | {} of {} |",
            peer.name,
            kept.failed(),
            kept.sent(),
            kept.connections(),
            fresh.failed(),
            fresh.sent()
        ));
    }
    println!(
        "| server, reload | version | keep-alive: failed of all | connections the {CLIENTS} clients needed | new connection per request: failed of all |"
    );
    println!("|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{row}"));
    Ok(())
}

/// A server anew, a load, and reloads for as long as it lasts.
fn measure(peer: &Peer, place: &mut Place, load: impl FnOnce(Load) -> Load) -> Result<Tally> {
    place.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
    let server = Server {
        child: peer.command(place)?.spawn()?,
        peer: *peer,
        place,
    };
    server.wait_for_answer(addr)?;
    let before = server.processes();
    let running = load(Load::new(addr).clients(CLIENTS)).start();
    let mut next = Instant::now() + EVERY;
    let mut reloads = 0;
    let until = running.time();
    while next < Instant::now() + until.saturating_sub(running.clock()) {
        sleep(next.saturating_duration_since(Instant::now()));
        server.reload()?;
        reloads += 1;
        // One that takes longer than that is followed by the next at once.
        next = Instant::now().max(next + EVERY);
    }
    let tally = running.wait();
    eprint!("{reloads} reloads; {tally}");
    let kept = before.intersection(&server.processes()).count();
    let replaced = before.len() - kept;
    eprintln!(
        "of {} processes {replaced} were replaced, of {} workers\n",
        before.len(),
        servers::WORKERS
    );
    if replaced == 0 {
        let problem = format!("{}: no worker was replaced", peer.name);
        let log = fs::read_to_string(server.place.scratch.join("log")).unwrap_or_default();
        return Err(format!("{problem}; it printed:\n{log}").into());
    }
    Ok(tally)
}

/// A running server, ended with all its processes.
struct Server<'a> {
    child: Child,
    peer: Peer,
    place: &'a Place,
}

impl Server<'_> {
    fn wait_for_answer(&self, addr: SocketAddr) -> Result<()> {
        let begun = Instant::now();
        let answers = || {
            let answer = Wire::to(addr).and_then(|mut wire| wire.get("/"));
            answer.is_ok_and(|answer| answer.status == 200)
        };
        while !answers() || self.processes().len() <= servers::WORKERS {
            if begun.elapsed() > BOOT {
                let log = fs::read_to_string(self.place.scratch.join("log")).unwrap_or_default();
                return Err(format!("{} does not answer:\n{log}", self.peer.name).into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn reload(&self) -> Result<()> {
        match self.peer.reload {
            Reload::Hup => kill_process(self.pid(), Signal::HUP)?,
            Reload::Pm2 => {
                let mut command = self.place.program("pm2");
                let status = command.args(["reload", "hello"]).stdout(Stdio::null());
                if !status.status()?.success() {
                    return Err("`pm2 reload` failed".into());
                }
            }
        }
        Ok(())
    }

    /// All that run of its group, or with its mark in the environment: pm2's daemon leaves the group, nginx writes over its environment.
    fn processes(&self) -> BTreeSet<u32> {
        let group = self.child.id().to_string();
        let Ok(entries) = fs::read_dir("/proc") else {
            return BTreeSet::new();
        };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let of_group = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // State, parent, group; the name before them is in brackets and may hold anything.
            let rest = stat.rsplit_once(") ").map(|(_, rest)| rest);
            let mut fields = rest.unwrap_or_default().split(' ');
            let lives = fields.next() != Some("Z");
            lives && (fields.nth(1) == Some(&group) || self.has_mark(*pid))
        };
        pids.filter(of_group).collect()
    }

    fn has_mark(&self, pid: u32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mark = self.place.scratch.as_os_str().as_encoded_bytes();
        let mut variables = environment.split(|&byte| byte == 0);
        variables.any(|variable| variable.strip_prefix(b"PEERS_SCRATCH=") == Some(mark))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.peer.reload == Reload::Pm2 {
            // Its own way to end; what that leaves is killed below.
            let mut command = self.place.program("pm2");
            let _ = command.arg("kill").stdout(Stdio::null()).status();
        }
        // What has ended already takes no signal.
        let _ = kill_process(self.pid(), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < END && !self.processes().is_empty() {
            let _ = self.child.try_wait();
            sleep(Duration::from_millis(20));
        }
        for pid in self.processes() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

fn scratch() -> Result<Scratch> {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "axum-cluster-peers-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Relaxed)
    );
    let path = std::env::temp_dir().join(name);
    fs::create_dir(&path)?;
    Ok(Scratch(path))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in the system's temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The example, built as this bench was: with optimizations.
fn hello() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--example", "hello"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !status.success() {
        return Err("the example `hello` does not build".into());
    }
    let myself = std::env::current_exe()?;
    let release = myself.ancestors().nth(2).ok_or("not built by cargo")?;
    Ok(release.join("examples/hello"))
}
