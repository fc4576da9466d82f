//! The server as the variables want it.

use std::{env, net::SocketAddr, time::Duration};

use axum_cluster::{Candidate, ClusteredServer};

pub(crate) fn configured() -> Result<ClusteredServer, String> {
    refuse(&["CONTROL", "ADMIN", "TLS_CERT", "TLS_KEY"])?;
    let addr = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:8000".into());
    let addr = match addr.strip_prefix("file:") {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("{path}: {error}"))?
            .trim()
            .to_owned(),
        None => addr,
    };
    let mut server = ClusteredServer::bind(addr.split(',').collect::<Vec<_>>());
    if let Some(connections) = number("MAX_CONNECTIONS")? {
        server = server.max_connections(usize::try_from(connections).unwrap_or(usize::MAX));
    }
    if let Some(requests) = number("MAX_REQUESTS")? {
        server = server.max_requests(requests);
    }
    if let Some(bytes) = number("MEMORY_LIMIT")? {
        server = server.memory_limit(bytes);
    }
    if let Some(rebalance) = number("REBALANCE")? {
        server = server.rebalance(rebalance != 0);
    }
    match env::var("SCHEDULE").as_deref() {
        Err(_) => {}
        Ok("newest") => {
            server = server.schedule_with(|_: Option<SocketAddr>, workers: &[Candidate]| {
                workers.last().map(|worker| worker.id)
            });
        }
        Ok("panic") => {
            server = server.schedule_with(
                |_: Option<SocketAddr>, _: &[Candidate]| -> Option<axum_cluster::WorkerId> {
                    panic!("on purpose")
                },
            );
        }
        Ok(value) => {
            return Err(format!(
                "SCHEDULE is `{value}`; expected `newest` or `panic`"
            ));
        }
    }
    match env::var("HANDBACK").as_deref() {
        Err(_) | Ok("on") => {}
        Ok("off") => server = server.handback(false),
        Ok(value) => return Err(format!("HANDBACK is `{value}`; expected `on` or `off`")),
    }
    type Setter = fn(ClusteredServer, Duration) -> ClusteredServer;
    let times: [(&str, Setter); 10] = [
        ("DRAIN_DELAY_MS", ClusteredServer::drain_delay),
        ("DRAIN_MS", ClusteredServer::drain_deadline),
        ("EXIT_GRACE_MS", ClusteredServer::exit_grace),
        ("HANG_MS", ClusteredServer::hang_timeout),
        ("BOOT_MS", ClusteredServer::boot_timeout),
        ("LINGER_MS", ClusteredServer::linger),
        ("FIRST_BYTE_MS", ClusteredServer::first_byte_timeout),
        ("HEADER_MS", ClusteredServer::header_timeout),
        ("IDLE_MS", ClusteredServer::idle_timeout),
        ("MAX_LIFETIME_MS", ClusteredServer::max_lifetime),
    ];
    for (name, set) in times {
        if let Some(ms) = number(name)? {
            server = set(server, Duration::from_millis(ms));
        }
    }
    Ok(server)
}

pub(crate) fn number(name: &str) -> Result<Option<u64>, String> {
    let Ok(value) = env::var(name) else {
        return Ok(None);
    };
    value
        .parse()
        .map(Some)
        .map_err(|_| format!("{name} is `{value}`; expected a number"))
}

fn refuse(not_built: &[&str]) -> Result<(), String> {
    match not_built.iter().find(|name| env::var_os(name).is_some()) {
        Some(name) => Err(format!(
            "{name} is set, but this version has no such part yet; unset it"
        )),
        None => Ok(()),
    }
}
