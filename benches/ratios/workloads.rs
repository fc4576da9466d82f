//! The workloads: which servers, which traffic, which ratios, and the targets of the project.

use crate::load::Traffic;
use crate::server::{OTHER, Program, Programs, Recipe};
use crate::table::{Comparison, Target};

pub(crate) const KEEP_ALIVE: &str = "keep-alive";
pub(crate) const NEW_CONNECTION: &str = "new-connection";
pub(crate) const MESSAGES: &str = "messages";

/// One kind of traffic, sent to several servers in turn.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) note: &'static str,
    pub(crate) traffic: Traffic,
    pub(crate) servers: Vec<Recipe>,
    pub(crate) comparisons: Vec<Comparison>,
    /// Servers whose program is not there.
    pub(crate) skipped: Vec<&'static str>,
}

/// Every workload, without the servers whose program is not there.
pub(crate) fn all(programs: &Programs, only: &[String]) -> Vec<Workload> {
    let mut all = vec![keep_alive(), new_connection(), messages()];
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

fn keep_alive() -> Workload {
    Workload {
        key: KEEP_ALIVE,
        title: "Keep-alive GET",
        note: "One request after the other on connections that stay open. axum-cluster counts every request.",
        traffic: Traffic::KeepAlive,
        servers: vec![
            hello(1),
            other(1),
            hello(2),
            axum_current(),
            axum_multi(),
            epoll(),
            node_round_robin(),
        ],
        comparisons: vec![
            Comparison::new(hello(1).name, axum_current().name).target(Target::AtMost(1.05)),
            Comparison::new(hello(1).name, other(1).name),
            Comparison::new(hello(2).name, axum_multi().name),
            Comparison::new(hello(1).name, epoll().name),
            Comparison::new(node_round_robin().name, hello(2).name),
        ],
        skipped: Vec::new(),
    }
}

fn new_connection() -> Workload {
    Workload {
        key: NEW_CONNECTION,
        title: "New connection a request",
        note: "Connect, GET with `Connection: close`, read to the end of the stream, close (no SO_LINGER: the server closes \
               first and keeps the TIME_WAIT). Client addresses 127.0.0.2 to 127.0.0.9.",
        traffic: Traffic::NewConnection,
        servers: vec![
            hello(2),
            other(2),
            hello_shared(2),
            axum_multi(),
            axum_current(),
            epoll(),
            node_round_robin(),
            node_shared(),
        ],
        comparisons: vec![
            Comparison::new(hello(2).name, axum_multi().name).target(Target::AtMost(1.15)),
            Comparison::new(hello_shared(2).name, axum_multi().name).target(Target::AtMost(0.85)),
            Comparison::new(hello(2).name, other(2).name),
            Comparison::new(node_round_robin().name, hello(2).name).target(Target::AtLeast(4.0)),
            Comparison::new(node_shared().name, hello(2).name),
            Comparison::new(node_shared().name, hello_shared(2).name).target(Target::AtLeast(2.0)),
            Comparison::new(hello(2).name, axum_current().name),
            Comparison::new(hello(2).name, epoll().name),
        ],
        skipped: Vec::new(),
    }
}

fn messages() -> Workload {
    Workload {
        key: MESSAGES,
        title: "A message to the primary with each request",
        note: "Keep-alive GET as above; each request also sends the primary `notifyRequest`, as in Node's documentation.",
        traffic: Traffic::KeepAlive,
        servers: vec![
            hello(2),
            other(2),
            request_count(2),
            node_round_robin(),
            node_notify(),
        ],
        comparisons: vec![
            Comparison::new(request_count(2).name, hello(2).name),
            Comparison::new(node_notify().name, node_round_robin().name),
            Comparison::new(node_notify().name, request_count(2).name),
        ],
        skipped: Vec::new(),
    }
}

pub(crate) fn hello(workers: usize) -> Recipe {
    let name = if workers == 1 {
        "axum-cluster, 1 worker"
    } else {
        "axum-cluster, 2 workers"
    };
    Recipe {
        name,
        processes: workers + 1,
        program: Program::Example {
            name: "hello",
            workers,
            scheduling: None,
        },
    }
}

fn hello_shared(workers: usize) -> Recipe {
    Recipe {
        name: "axum-cluster, shared",
        processes: workers + 1,
        program: Program::Example {
            name: "hello",
            workers,
            scheduling: Some("shared"),
        },
    }
}

fn other(workers: usize) -> Recipe {
    Recipe {
        name: "axum-cluster, the other build",
        processes: workers + 1,
        program: Program::Example {
            name: OTHER,
            workers,
            scheduling: None,
        },
    }
}

pub(crate) fn playground() -> Recipe {
    let program = Program::Example {
        name: "playground",
        workers: 1,
        scheduling: None,
    };
    Recipe {
        name: "axum-cluster (playground), 1 worker",
        processes: 2,
        program,
    }
}

fn request_count(workers: usize) -> Recipe {
    let program = Program::Example {
        name: "request_count",
        workers,
        scheduling: None,
    };
    Recipe {
        name: "axum-cluster, request_count",
        processes: workers + 1,
        program,
    }
}

fn axum_multi() -> Recipe {
    Recipe {
        name: "axum::serve, multi-thread",
        processes: 1,
        program: Program::Peer("axum-multi-thread"),
    }
}

fn axum_current() -> Recipe {
    Recipe {
        name: "axum::serve, current-thread",
        processes: 1,
        program: Program::Peer("axum-current-thread"),
    }
}

fn epoll() -> Recipe {
    Recipe {
        name: "epoll loop, canned response",
        processes: 1,
        program: Program::Peer("epoll"),
    }
}

pub(crate) fn node_round_robin() -> Recipe {
    let program = Program::Node {
        workers: 2,
        policy: "rr",
        notify: false,
    };
    Recipe {
        name: "Node, round robin, 2 workers",
        processes: 3,
        program,
    }
}

pub(crate) fn node_one_worker() -> Recipe {
    let program = Program::Node {
        workers: 1,
        policy: "rr",
        notify: false,
    };
    Recipe {
        name: "Node, round robin, 1 worker",
        processes: 2,
        program,
    }
}

fn node_shared() -> Recipe {
    let program = Program::Node {
        workers: 2,
        policy: "none",
        notify: false,
    };
    Recipe {
        name: "Node, SCHED_NONE, 2 workers",
        processes: 3,
        program,
    }
}

fn node_notify() -> Recipe {
    let program = Program::Node {
        workers: 2,
        policy: "rr",
        notify: true,
    };
    Recipe {
        name: "Node, notifyRequest, 2 workers",
        processes: 3,
        program,
    }
}
