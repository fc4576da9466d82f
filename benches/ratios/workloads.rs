//! The workloads: which servers, which traffic, which ratios, and the targets of the project.

use crate::app;
use crate::exchange::{Traffic, Wire};
use crate::options::Options;
use crate::program::{Programs, Recipe};
use crate::recipes::{
    actix, axum_current, axum_http2, axum_many_routes, axum_multi, cluster, cluster_many_routes,
    cluster_notices, crowd, epoll, four_listeners, granian, gunicorn, hello, hello_shared, nginx,
    node_http2, node_notify, node_round_robin, node_shared, other, request_count,
};
use crate::table::{Comparison, Target};

pub(crate) const KEYS: [&str; 10] = [
    "keep-alive",
    "new-connection",
    "json",
    "body",
    "echo",
    "http2",
    "routes",
    "messages",
    "idle",
    "scale",
];

/// One kind of traffic, sent to several servers in turn.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) note: String,
    pub(crate) traffic: Traffic,
    pub(crate) servers: Vec<Recipe>,
    pub(crate) comparisons: Vec<Comparison>,
    /// Servers whose program is not there.
    pub(crate) skipped: Vec<&'static str>,
}

/// Every workload, without the servers whose program is not there.
pub(crate) fn all(programs: &Programs, options: &Options) -> Vec<Workload> {
    let mut all = vec![
        keep_alive(),
        new_connection(),
        json(),
        body(),
        echo(),
        http2(),
        routes(),
        messages(),
        idle(options.idle),
        scale(options.idle),
    ];
    let only = &options.servers;
    for workload in &mut all {
        let named = |recipe: &Recipe| only.iter().any(|text| recipe.name.contains(text.as_str()));
        if !only.is_empty() {
            workload.servers.retain(named);
        }
        let (there, missing): (Vec<_>, Vec<_>) = std::mem::take(&mut workload.servers)
            .into_iter()
            .partition(|recipe| programs.has(&recipe.program));
        workload.servers = there;
        workload.skipped = missing.iter().map(|recipe| recipe.name).collect();
    }
    all
}

fn workload(key: &'static str, title: &'static str, note: &str, traffic: Traffic) -> Workload {
    Workload {
        key,
        title,
        note: note.to_owned(),
        traffic,
        servers: Vec::new(),
        comparisons: Vec::new(),
        skipped: Vec::new(),
    }
}

impl Workload {
    fn servers(mut self, servers: impl IntoIterator<Item = Recipe>) -> Self {
        self.servers.extend(servers);
        self
    }

    /// Shows the cost of the one as a multiple of the other's.
    fn ratio(mut self, of: &Recipe, against: &Recipe, target: Option<Target>) -> Self {
        self.comparisons.push(Comparison {
            of: of.name,
            against: against.name,
            target,
        });
        self
    }

    /// Beside `axum::serve`, actix-web and Node, with the app that has a route for it.
    fn beside_others(self, axum: Recipe, node: Recipe) -> Self {
        self.ratio(&cluster(), &axum, None)
            .ratio(&cluster(), &actix(), None)
            .ratio(&node, &cluster(), None)
            .servers([cluster(), axum, actix(), node])
    }
}

fn keep_alive() -> Workload {
    workload(
        "keep-alive",
        "Keep-alive GET",
        "One request after the other on connections that stay open. axum-cluster counts every request.",
        Traffic::hello(Wire::KeepAlive),
    )
    .servers([hello(1), other(1), hello(2), axum_current(), axum_multi(), actix(), epoll()])
    .servers([nginx(), node_round_robin(), granian(), gunicorn()])
    .ratio(&hello(1), &axum_current(), Some(Target::AtMost(1.02)))
    .ratio(&hello(1), &other(1), None)
    .ratio(&hello(1), &epoll(), Some(Target::AtMost(1.20)))
    .ratio(&axum_current(), &epoll(), None)
    .ratio(&hello(2), &axum_multi(), None)
    .ratio(&hello(2), &actix(), None)
    .ratio(&node_round_robin(), &hello(2), Some(Target::AtLeast(2.0)))
}

fn new_connection() -> Workload {
    workload(
        "new-connection",
        "New connection a request",
        "Connect, GET with `Connection: close`, read to the end of the stream, close (no SO_LINGER: the server closes \
         first and keeps the TIME_WAIT). Client addresses 127.0.0.2 to 127.0.0.9.",
        Traffic::hello(Wire::NewConnection),
    )
    .servers([hello(2), other(2), hello_shared(), axum_multi(), axum_current()])
    .servers([actix(), epoll(), nginx(), node_round_robin(), node_shared()])
    .servers([granian(), gunicorn()])
    .ratio(&hello(2), &axum_multi(), Some(Target::AtMost(1.0)))
    .ratio(&hello_shared(), &axum_multi(), Some(Target::AtMost(0.85)))
    .ratio(&hello(2), &other(2), None)
    .ratio(&node_round_robin(), &hello(2), Some(Target::AtLeast(4.0)))
    .ratio(&node_shared(), &hello_shared(), Some(Target::AtLeast(2.0)))
    .ratio(&hello(2), &axum_current(), None)
    .ratio(&hello(2), &actix(), None)
    .ratio(&hello(2), &epoll(), None)
}

fn json() -> Workload {
    workload(
        "json",
        "1 KiB of JSON",
        "Keep-alive GET of fifteen objects, serialized for each request.",
        Traffic::get(Wire::KeepAlive, app::JSON, &app::json()),
    )
    .beside_others(axum_multi(), node_round_robin())
}

fn body() -> Workload {
    workload(
        "body",
        "64 KiB body",
        "Keep-alive GET of 64 KiB that stand in memory.",
        Traffic::get(Wire::KeepAlive, app::BODY, &app::LARGE),
    )
    .beside_others(axum_multi(), node_round_robin())
}

fn echo() -> Workload {
    workload(
        "echo",
        "POST, echoed",
        "Keep-alive POST of 4 KiB, which come back.",
        Traffic::echo(Wire::KeepAlive, app::ECHO, vec![b'e'; 4096]),
    )
    .beside_others(axum_multi(), node_round_robin())
}

fn http2() -> Workload {
    workload(
        "http2",
        "HTTP/2",
        "Without TLS, by prior knowledge; eight requests at once on each connection, then eight more. `axum::serve` with TCP_NODELAY.",
        Traffic::hello(Wire::Http2),
    )
    .beside_others(axum_http2(), node_http2())
}

fn routes() -> Workload {
    workload(
        "routes",
        "200 routes, new connection a request",
        "A router of 200 routes with two parameters each.",
        Traffic::get(Wire::NewConnection, app::DEEP, b"hello world"),
    )
    .servers([cluster_many_routes(), axum_many_routes()])
    .ratio(
        &cluster_many_routes(),
        &axum_many_routes(),
        Some(Target::AtMost(0.9)),
    )
}

fn messages() -> Workload {
    workload(
        "messages",
        "A message to the primary with each request, or a notice",
        "Keep-alive GET as above; each request also sends the primary `notifyRequest`, as in Node's documentation, or the \
         primary has a hook `on_request`.",
        Traffic::hello(Wire::KeepAlive),
    )
    .servers([cluster(), other(2), request_count(), cluster_notices()])
    .servers([node_round_robin(), node_notify()])
    .ratio(&request_count(), &cluster(), Some(Target::AtMost(1.10)))
    .ratio(&cluster_notices(), &cluster(), Some(Target::AtMost(1.05)))
    .ratio(&node_notify(), &node_round_robin(), None)
    .ratio(&node_notify(), &request_count(), None)
}

fn idle(connections: usize) -> Workload {
    let note = format!(
        "Keep-alive GET, beside {connections} more connections that were answered once and are idle."
    );
    workload(
        "idle",
        "Beside idle connections",
        &note,
        Traffic::hello(Wire::KeepAlive).beside_idle(connections),
    )
    .beside_others(axum_multi(), node_round_robin())
}

/// What an idle worker and an open connection add to the cost of a new one: nothing, it should be.
fn scale(connections: usize) -> Workload {
    let two = crowd("2 workers", 2);
    let (eight, many) = (crowd("8 workers", 8), crowd("64 workers", 64));
    let idle = Recipe {
        idle: connections,
        ..crowd("2 workers, idle connections too", 2)
    };
    let listeners = four_listeners();
    let note = format!(
        "As above, with more workers, beside {connections} connections that were answered once and are idle, or with listeners at \
         which nobody comes."
    );
    workload(
        "scale",
        "A new connection in a crowd",
        &note,
        Traffic::hello(Wire::NewConnection),
    )
    .ratio(&eight, &two, None)
    .ratio(&many, &two, Some(Target::AtMost(1.1)))
    .ratio(&idle, &two, Some(Target::AtMost(1.1)))
    .ratio(&listeners, &two, Some(Target::AtMost(1.1)))
    .servers([two, eight, many, idle, listeners])
}

/// Whose system calls are counted.
pub(crate) fn counted() -> Vec<Recipe> {
    vec![hello(2), hello_shared(), axum_multi(), axum_current()]
}
