//! Connections that are open, have been answered once, and are idle. Processes of their own hold them: one has descriptors for some
//! thousands only.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::exchange::{Traffic, Wire};
use crate::{Result, peers};

/// What makes this binary a holder.
pub(crate) const HOLD: &str = "hold";

/// Connections of one holder.
const EACH: usize = 15_000;
/// Client addresses; those of the client that measures come before these.
const FIRST_SOURCE: usize = 10;
const SOURCES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(5);

/// The holders. Dropped, they and their connections end.
#[derive(Debug, Default)]
pub(crate) struct Idle(Vec<Child>);

impl Idle {
    /// Opens so many connections, each answered once.
    pub(crate) fn open(server: SocketAddrV4, count: usize) -> Result<Self> {
        let mut idle = Self::default();
        // All at the same time: one alone waits most of the time.
        for first in (0..count).step_by(EACH) {
            let holder = Command::new(std::env::current_exe()?)
                .args([peers::ARGUMENT, HOLD, &server.to_string()])
                .args([first, EACH.min(count - first)].map(|number| number.to_string()))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            idle.0.push(holder);
        }
        for holder in &mut idle.0 {
            let said = holder.stdout.take();
            let said = said.and_then(|said| BufReader::new(said).lines().next());
            said.ok_or("a holder of idle connections has failed")??;
        }
        Ok(idle)
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        for holder in &mut self.0 {
            // Fails where it has ended already.
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// The holder: opens its connections, says so, and holds them until it is killed.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let text = |at: usize| arguments.get(at).and_then(|text| text.to_str());
    let (Some(server), Some(first), Some(count)) = (text(0), text(1), text(2)) else {
        return Err("hold what?".into());
    };
    let (server, first, count): (SocketAddrV4, usize, usize) =
        (server.parse()?, first.parse()?, count.parse()?);
    let mut held = Vec::with_capacity(count);
    for number in first..first + count {
        let source = FIRST_SOURCE + number % SOURCES;
        held.push(
            hold(server, Ipv4Addr::new(127, 0, 0, source as u8))
                .map_err(|error| format!("idle connection {number}: {error}"))?,
        );
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "holding")?;
    stdout.flush()?;
    loop {
        std::thread::park();
    }
}

fn hold(server: SocketAddrV4, source: Ipv4Addr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    socket.connect(&server.into())?;
    let traffic = Traffic::hello(Wire::KeepAlive);
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&traffic.request())?;
    let (mut dialogue, mut buffer) = (traffic.dialogue(), [0; 1024]);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err("closed by the server".into());
        }
        if dialogue.received(&buffer[..n], &traffic)?.is_some() {
            return Ok(stream);
        }
    }
}
