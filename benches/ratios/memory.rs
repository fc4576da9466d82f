//! Proportional set size of a primary and two workers that have served a little and are idle.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use crate::program::Programs;
use crate::report::Report;
use crate::server::Server;
use crate::table::Table;
use crate::{Result, procfs, recipes, response};

pub(crate) const KEY: &str = "memory";

pub(crate) fn measure(programs: &Programs, report: &mut Report) -> Result<()> {
    report.say(format_args!(
        "\n## Memory\n\nProportional set size (`smaps_rollup`) of all processes, idle after {WARM_UP} requests on a connection each.\n"
    ));
    let mut table = Table::new(["server", "all, MiB", "primary", "workers", "target", ""]);
    for recipe in [recipes::hello(2), recipes::node_round_robin()] {
        if !programs.has(&recipe.program) {
            continue;
        }
        eprintln!("memory: {}", recipe.name);
        let server = Server::start(&recipe, programs)?;
        for _ in 0..WARM_UP {
            request(server.address())?;
        }
        std::thread::sleep(IDLE);
        let sizes = server
            .processes()
            .into_iter()
            .map(procfs::proportional_kib)
            .collect::<std::io::Result<Vec<_>>>()?;
        server.stop()?;

        let mib: Vec<f64> = sizes.iter().map(|&kib| kib as f64 / 1024.0).collect();
        let all: f64 = mib.iter().sum();
        let workers: Vec<String> = mib[1..].iter().map(|mib| format!("{mib:.1}")).collect();
        let (target, met) = match recipe.program {
            crate::program::Program::Example { .. } => (
                format!("≤ {TARGET_MIB}"),
                if all <= TARGET_MIB {
                    "met"
                } else {
                    "**missed**"
                },
            ),
            _ => (String::new(), ""),
        };
        table.row([
            recipe.name.to_owned(),
            format!("{all:.1}"),
            format!("{:.1}", mib[0]),
            workers.join(", "),
            target,
            met.to_owned(),
        ]);
    }
    report.say(&table);
    Ok(())
}

fn request(address: SocketAddrV4) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if response::is_complete(&answer, response::HELLO)? {
        Ok(())
    } else {
        Err("half an answer".into())
    }
}

const WARM_UP: usize = 200;
const IDLE: Duration = Duration::from_millis(500);
const TARGET_MIB: f64 = 12.0;
