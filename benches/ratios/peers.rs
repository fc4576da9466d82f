//! The peers that are this binary, started again with a hidden argument.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;

use axum::Router;
use axum::routing::get;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::{Result, canned};

/// What makes this binary a peer.
pub(crate) const ARGUMENT: &str = "--peer";
/// The peer that becomes another program, which ends when the bench does.
pub(crate) const BECOME: &str = "become";

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let [name, rest @ ..] = arguments else {
        return Err("which peer?".into());
    };
    match name.to_str() {
        Some(BECOME) => match r#become(rest)? {},
        Some("axum-multi-thread") => serve(
            &Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?,
        ),
        Some("axum-current-thread") => serve(&Builder::new_current_thread().enable_all().build()?),
        Some("epoll") => canned::serve(),
        _ => Err(format!("no such peer: {}", name.display()).into()),
    }
}

/// `axum::serve` as its documentation has it.
fn serve(runtime: &Runtime) -> Result<()> {
    runtime.block_on(async {
        let app = Router::new().route("/", get(|| async { "hello world" }));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        announce(listener.local_addr()?)?;
        Ok(axum::serve(listener, app).await?)
    })
}

/// Says where a peer listens, as the examples do.
pub(crate) fn announce(address: SocketAddr) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()
}

fn r#become(arguments: &[OsString]) -> Result<Infallible> {
    let [program, rest @ ..] = arguments else {
        return Err("become what?".into());
    };
    let error = Command::new(program).args(rest).exec();
    Err(format!("{}: {error}", program.display()).into())
}
