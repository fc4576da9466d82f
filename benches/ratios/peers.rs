//! The peers that are this binary, started again with a hidden argument.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::Router;
use axum::serve::ListenerExt;
use axum_cluster::ClusteredServer;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::{Result, app, bare, canned, idle, recipes};

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
        Some(idle::HOLD) => idle::run(rest),
        Some(BECOME) => match r#become(rest)? {},
        Some("axum-multi-thread") => serve(&threads()?, app::few()),
        Some("axum-http2") => threads()?.block_on(serve_http2(app::few())),
        Some("axum-many-routes") => serve(&threads()?, app::many()),
        Some("axum-current-thread") => serve(&thread()?, app::few()),
        Some("cluster") => cluster(&["127.0.0.1:0"], |server| server, app::few()),
        Some("cluster-4-listeners") => cluster(&["127.0.0.1:0"; 4], |server| server, app::few()),
        Some("cluster-many-routes") => cluster(&["127.0.0.1:0"], |server| server, app::many()),
        Some("cluster-notices") => cluster(&["127.0.0.1:0"], noticed, app::few()),
        Some("epoll") => canned::serve(),
        Some("bare") => bare::serve(),
        Some(bare::WORKER) => bare::work(),
        _ => Err(format!("no such peer: {}", name.display()).into()),
    }
}

/// `axum::serve` as its documentation has it.
fn serve(runtime: &Runtime, app: Router) -> Result<()> {
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        announce(listener.local_addr()?)?;
        Ok(axum::serve(listener, app).await?)
    })
}

/// With TCP_NODELAY, which this crate sets: without it small frames wait for acknowledgements, and an eighth is answered.
async fn serve_http2(app: Router) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    announce(listener.local_addr()?)?;
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

fn threads() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(recipes::WORKERS)
        .enable_all()
        .build()
}

fn thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// This crate as its documentation has it.
fn cluster(at: &[&str], with: fn(ClusteredServer) -> ClusteredServer, app: Router) -> Result<()> {
    let server = ClusteredServer::bind(at)
        .program(std::env::current_exe()?) // named, because cargo builds a bench as it does a test
        .workers(recipes::WORKERS as u32)
        .on_ready(|primary| {
            let _ = announce(&primary.local_addrs()[0]);
        });
    let serve = with(server).serve(app);
    Ok(thread()?.block_on(async { serve.await })?)
}

fn noticed(server: ClusteredServer) -> ClusteredServer {
    let noticed = AtomicU64::new(0);
    server.on_request(move |_worker, _notice| {
        noticed.fetch_add(1, Relaxed);
    })
}

/// Says where a peer listens, as the examples do.
pub(crate) fn announce(address: impl Display) -> std::io::Result<()> {
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
