//! The workloads: which servers, which traffic, which ratios, and the targets of the project.

use crate::app;
use crate::exchange::{Traffic, Wire};
use crate::options::Options;
use crate::program::{Programs, Recipe};
use crate::recipes::{
    actix, axum_current, axum_http2, axum_many_routes, axum_multi, cluster, cluster_many_routes,
    cluster_notices, crowd, crowd_nginx, crowd_node, crowd_shared, epoll, four_listeners, granian,
    gunicorn, hello, hello_shared, nginx, node_http2, node_notify, node_one_worker,
    node_round_robin, node_shared, other, request_count,
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
    /// In the overview, where a part has several.
    pub(crate) column: &'static str,
    pub(crate) title: &'static str,
    pub(crate) note: String,
    pub(crate) traffic: Traffic,
    pub(crate) servers: Vec<Recipe>,
    pub(crate) comparisons: Vec<Comparison>,
    /// Whose CPU time is the cost.
    pub(crate) of: Of,
    /// What the cost itself should be, by the name of the server.
    pub(crate) limits: Vec<(&'static str, Target)>,
    /// The client has a core of its own, and the servers have the others.
    pub(crate) apart: bool,
    /// Servers whose program is not there.
    pub(crate) skipped: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// All processes.
    Server,
    /// The first one.
    Primary,
}

/// Every workload, without the servers whose program is not there.
pub(crate) fn all(programs: &Programs, options: &Options) -> Vec<Workload> {
    let all = [
        keep_alive(),
        new_connection(),
        json(),
        body(),
        echo(),
        http2(),
        routes(),
        messages(),
        messages_on_all_cores(),
        idle(options.idle),
        scale(options.idle),
        scale_at_rate(),
        scale_keep_alive(),
    ];
    all.map(|workload| workload.of_what_is_there(programs, options))
        .into()
}

pub(crate) fn workload(
    key: &'static str,
    title: &'static str,
    note: &str,
    traffic: Traffic,
) -> Workload {
    Workload {
        key,
        column: key,
        title,
        note: note.to_owned(),
        traffic,
        servers: Vec::new(),
        comparisons: Vec::new(),
        of: Of::Server,
        limits: Vec::new(),
        apart: false,
        skipped: Vec::new(),
    }
}

impl Workload {
    /// Without the servers whose program is not there, and those that nobody asked for.
    pub(crate) fn of_what_is_there(mut self, programs: &Programs, options: &Options) -> Self {
        let only = &options.servers;
        let named = |recipe: &Recipe| only.iter().any(|text| recipe.name.contains(text.as_str()));
        if !only.is_empty() {
            self.servers.retain(named);
        }
        let (there, missing): (Vec<_>, Vec<_>) = std::mem::take(&mut self.servers)
            .into_iter()
            .partition(|recipe| programs.has(&recipe.program));
        self.servers = there;
        self.skipped = missing.iter().map(|recipe| recipe.name).collect();
        self
    }

    pub(crate) fn column(self, column: &'static str) -> Self {
        Self { column, ..self }
    }

    /// The cost is that of the primary alone.
    pub(crate) fn of_the_primary(self) -> Self {
        Self {
            of: Of::Primary,
            ..self
        }
    }

    /// Says what the cost of a server should be.
    pub(crate) fn limit(mut self, of: &Recipe, target: Target) -> Self {
        self.limits.push((of.name, target));
        self
    }

    pub(crate) fn servers(mut self, servers: impl IntoIterator<Item = Recipe>) -> Self {
        self.servers.extend(servers);
        self
    }

    /// Shows the cost of the one as a multiple of the other's.
    pub(crate) fn ratio(mut self, of: &Recipe, against: &Recipe, target: Option<Target>) -> Self {
        self.comparisons.push(Comparison {
            of: of.name,
            against: against.name,
            target,
        });
        self
    }

    fn apart(self) -> Self {
        Self {
            apart: true,
            ..self
        }
    }

    fn messages_of_ours(self) -> Self {
        self.servers([cluster(), other(2), request_count(), cluster_notices()])
            .ratio(&request_count(), &cluster(), Some(Target::AtMost(1.10)))
            .ratio(&cluster_notices(), &cluster(), Some(Target::AtMost(1.05)))
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
    .servers([nginx(), node_one_worker(), node_round_robin(), granian(), gunicorn()])
    .ratio(&hello(1), &axum_current(), Some(Target::AtMost(1.02)))
    .ratio(&hello(1), &other(1), None)
    .ratio(&hello(1), &epoll(), Some(Target::AtMost(1.20)))
    .ratio(&axum_current(), &epoll(), None)
    .ratio(&hello(2), &axum_multi(), None)
    .ratio(&hello(2), &actix(), None)
    .ratio(&node_one_worker(), &hello(1), Some(Target::AtLeast(2.0)))
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

/// What a message costs, and not what it costs to share a core: see the next one.
fn messages() -> Workload {
    workload(
        "messages",
        "A message to the primary with each request, or a notice",
        "Keep-alive GET as above; each request also sends the primary `notifyRequest`, as in Node's documentation, or the primary has a hook \
         `on_request`. The client has the last core for itself, all processes of a server have the others.",
        Traffic::hello(Wire::KeepAlive),
    )
    .apart()
    .column("messages, client apart")
    .messages_of_ours()
}

/// The primary then takes its turns from workers and client: that costs them more than what it does.
fn messages_on_all_cores() -> Workload {
    workload(
        "messages",
        "The same, with servers and client on all cores",
        "Where workers and client fill every core, each turn of the primary puts one of them off it.",
        Traffic::hello(Wire::KeepAlive),
    )
    .messages_of_ours()
    .servers([node_round_robin(), node_notify()])
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
    let shared = [2, 64].map(crowd_shared);
    let nginx = [2, 64].map(crowd_nginx);
    let node = [2, 64].map(crowd_node);
    let note = format!(
        "As above, as fast as the server can, with more workers, beside {connections} connections that were answered once and are idle, or \
         with listeners at which nobody comes. What of the ratio is due to processes, and what to lost batches, shows the next table: \
         here 2 workers find several connections each time that they wake up, and 64 find one, which costs a change of processes each."
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
    .ratio(&shared[1], &shared[0], None)
    .ratio(&nginx[1], &nginx[0], None)
    .ratio(&node[1], &node[0], None)
    .servers([two, eight, many, idle, listeners])
    .servers(shared.into_iter().chain(nginx).chain(node))
}

/// The same where no worker finds more than one connection at a time, however few there are.
fn scale_at_rate() -> Workload {
    let two = crowd("2 workers", 2);
    let many = crowd("64 workers", 64);
    let shared = [2, 64].map(crowd_shared);
    let nginx = [2, 64].map(crowd_nginx);
    let note = format!(
        "The same at a steady {RATE} connections a second, far from what the servers can: each connection wakes a worker for itself alone, \
         with 2 workers as with 64, as the switches show. What is left of the ratio comes with the number of processes, not with lost batches."
    );
    workload(
        "scale",
        "A new connection in a crowd, at a steady rate",
        &note,
        Traffic::hello(Wire::NewConnection).at_rate(RATE),
    )
    .column("scale, steady")
    .ratio(&many, &two, None)
    .ratio(&shared[1], &shared[0], None)
    .ratio(&nginx[1], &nginx[0], None)
    .servers([two, many])
    .servers(shared.into_iter().chain(nginx))
}

/// What workers cost that have nothing to do.
fn scale_keep_alive() -> Workload {
    let on_two_connections = |name, workers| Recipe {
        connections: Some(2),
        ..crowd(name, workers)
    };
    let two = on_two_connections("2 workers, 2 connections", 2);
    let idle = on_two_connections("64 workers, 2 connections", 64);
    let (busy, many) = (crowd("2 workers", 2), crowd("64 workers", 64));
    workload(
        "scale",
        "A request in a crowd",
        "Keep-alive GET. With 2 connections all but 2 workers are idle; with all connections each of 64 workers has some, and finds one request \
         when it wakes up, where each of 2 finds several.",
        Traffic::hello(Wire::KeepAlive),
    )
    .column("scale, keep-alive")
    .ratio(&idle, &two, Some(Target::AtMost(1.1)))
    .ratio(&many, &busy, None)
    .servers([two, idle, busy, many])
}

/// Connections a second.
const RATE: u32 = 2000;

/// Whose system calls are counted.
pub(crate) fn counted() -> Vec<Recipe> {
    vec![hello(2), hello_shared(), axum_multi(), axum_current()]
}
