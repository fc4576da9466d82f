//! The servers: `axum::serve` as its documentation has it, workers as users run them, and an epoll loop with no HTTP.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::Router;
use axum::routing::get;
use axum_cluster::{ClusteredServer, Worker, cluster};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{Result, canned};

/// What makes this binary a server.
pub(crate) const ARGUMENT: &str = "--serve";

/// Those whose names end in `many` are asked over many connections at once.
pub(crate) const NAMES: [&str; 10] = [
    "axum",
    "axum-connect-info",
    "axum-routes",
    "axum-many",
    "worker",
    "worker-routes",
    "worker-many",
    "worker-notices-many",
    "worker-messages-many",
    "epoll",
];

pub(crate) fn run(name: &str) -> Result<()> {
    let routes = if name.contains("routes") { 200 } else { 1 };
    let app = router(routes, name.contains("messages"));
    if name == "epoll" {
        return canned::serve();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if name.starts_with("worker") {
            worker(name, app).await
        } else {
            by_axum(name, app).await
        }
    })
}

async fn by_axum(name: &str, app: Router) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    announce(listener.local_addr()?)?;
    if name.contains("connect-info") {
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        return Ok(axum::serve(listener, app).await?);
    }
    Ok(axum::serve(listener, app).await?)
}

/// In one process, since valgrind does not know the system calls with which the primary looks after others. A request goes the same
/// way in it as in any worker; a message does not go through a socket.
async fn worker(name: &str, app: Router) -> Result<()> {
    let mut server = ClusteredServer::bind("127.0.0.1:0")
        .workers(0)
        .on_ready(|primary| {
            let address = primary.local_addrs()[0].socket_addr();
            announce(address.expect("bound to TCP")).expect("standard output");
        });
    let told = Arc::new(AtomicU64::new(0));
    let count = told.clone();
    if name.contains("notices") {
        server = server.on_request(move |_, notice| {
            let known = notice.route.as_deref() == Some("/");
            count.fetch_add(u64::from(known), Relaxed);
        });
    } else if name.contains("messages") {
        server = server.on_message(move |_, message| {
            let notify = message.json::<Notify<'_>>();
            let known = notify.is_ok_and(|notify| notify.cmd == "notifyRequest");
            count.fetch_add(u64::from(known), Relaxed);
        });
    }
    server.serve(app).await?;
    // Here the primary goes on; it has been told of every request, or this would not measure what it says.
    match (cluster::primary(), told.load(Relaxed)) {
        (Some(primary), told) if told > 0 && told != primary.requests() => {
            Err(format!("{told} of {} requests were told", primary.requests()).into())
        }
        _ => Ok(()),
    }
}

/// Node's documented message.
#[derive(Serialize, Deserialize)]
struct Notify<'a> {
    cmd: &'a str,
}

fn router(routes: usize, messages: bool) -> Router {
    let mut router = Router::new();
    for number in 1..routes {
        router = router.route(&format!("/items/{number}/{{id}}"), get(|| async { "item" }));
    }
    if messages {
        router.route("/", get(notify))
    } else {
        router.route("/", get(|| async { "hello world" }))
    }
}

async fn notify(worker: Worker) -> axum_cluster::Result<&'static str> {
    worker.send(&Notify {
        cmd: "notifyRequest",
    })?;
    Ok("hello world")
}

/// Says where a server listens.
pub(crate) fn announce(address: SocketAddr) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()
}
