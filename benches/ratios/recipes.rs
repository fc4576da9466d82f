//! The servers of the workloads.

use crate::program::{OTHER, Program, Recipe};

/// Workers, or threads, of every server that has several.
pub(crate) const WORKERS: usize = 2;

pub(crate) fn hello(workers: usize) -> Recipe {
    let name = if workers == 1 {
        ONE_WORKER
    } else {
        ROUND_ROBIN
    };
    Recipe::new(name, workers + 1, example("hello", workers, None))
}

pub(crate) fn hello_shared() -> Recipe {
    Recipe::new(
        SHARED,
        WORKERS + 1,
        example("hello", WORKERS, Some("shared")),
    )
}

pub(crate) fn other(workers: usize) -> Recipe {
    Recipe::new(
        "axum-cluster, the other build",
        workers + 1,
        example(OTHER, workers, None),
    )
}

pub(crate) fn playground() -> Recipe {
    Recipe::new(
        "axum-cluster (playground), 1 worker",
        2,
        example("playground", 1, None),
    )
}

pub(crate) fn request_count() -> Recipe {
    Recipe::new(
        "axum-cluster, a message a request",
        WORKERS + 1,
        example("request_count", WORKERS, None),
    )
}

fn example(name: &'static str, workers: usize, scheduling: Option<&'static str>) -> Program {
    Program::Example {
        name,
        workers,
        scheduling,
    }
}

/// Two workers behind four listeners.
pub(crate) fn four_listeners() -> Recipe {
    Recipe {
        name: "2 workers, 4 listeners",
        program: Program::Cluster("cluster-4-listeners"),
        ..cluster()
    }
}

/// One of the workers' numbers that are compared.
pub(crate) fn crowd(name: &'static str, workers: usize) -> Recipe {
    Recipe {
        name,
        ..hello(workers)
    }
}

pub(crate) fn crowd_shared(workers: usize) -> Recipe {
    let name = if workers == 2 {
        "2 workers, shared"
    } else {
        "64 workers, shared"
    };
    let program = example("hello", workers, Some("shared"));
    Recipe::new(name, workers + 1, program)
}

pub(crate) fn crowd_nginx(workers: usize) -> Recipe {
    let name = if workers == 2 {
        "nginx, 2 workers, one listener"
    } else {
        "nginx, 64 workers, one listener"
    };
    Recipe::new(name, workers + 1, Program::Nginx { workers })
}

pub(crate) fn crowd_node(workers: usize) -> Recipe {
    let name = if workers == 2 {
        NODE
    } else {
        "Node, round robin, 64 workers"
    };
    node(name, workers, "rr", "")
}

/// This crate with the same app as `axum::serve`.
pub(crate) fn cluster() -> Recipe {
    Recipe::new(ROUND_ROBIN, WORKERS + 1, Program::Cluster("cluster"))
}

pub(crate) fn cluster_many_routes() -> Recipe {
    Recipe {
        program: Program::Cluster("cluster-many-routes"),
        ..cluster()
    }
}

pub(crate) fn cluster_notices() -> Recipe {
    Recipe {
        name: "axum-cluster, a notice a request",
        program: Program::Cluster("cluster-notices"),
        ..cluster()
    }
}

pub(crate) fn axum_multi() -> Recipe {
    peer(AXUM, "axum-multi-thread")
}

pub(crate) fn axum_many_routes() -> Recipe {
    peer(AXUM, "axum-many-routes")
}

pub(crate) fn axum_http2() -> Recipe {
    peer(AXUM, "axum-http2")
}

pub(crate) fn axum_current() -> Recipe {
    peer("axum::serve, current-thread", "axum-current-thread")
}

/// Hands over and does nothing else.
pub(crate) fn bare() -> Recipe {
    Recipe::new(
        "bare hand-over, 2 workers",
        WORKERS + 1,
        Program::Peer("bare"),
    )
}

pub(crate) fn epoll() -> Recipe {
    peer("epoll loop, canned response", "epoll")
}

fn peer(name: &'static str, peer: &'static str) -> Recipe {
    Recipe::new(name, 1, Program::Peer(peer))
}

pub(crate) fn actix() -> Recipe {
    Recipe::new(ACTIX, 1, Program::Actix)
}

pub(crate) fn nginx() -> Recipe {
    installed("nginx, `return 200`", "nginx", 3)
}

pub(crate) fn granian() -> Recipe {
    installed("granian, ASGI", "granian", 3)
}

pub(crate) fn gunicorn() -> Recipe {
    installed("gunicorn, gthread", "gunicorn", 3)
}

fn installed(name: &'static str, program: &'static str, processes: usize) -> Recipe {
    Recipe::new(name, processes, Program::Installed(program))
}

pub(crate) fn node_round_robin() -> Recipe {
    node(NODE, 2, "rr", "")
}

pub(crate) fn node_one_worker() -> Recipe {
    node("Node, round robin, 1 worker", 1, "rr", "")
}

pub(crate) fn node_shared() -> Recipe {
    node("Node, SCHED_NONE, 2 workers", 2, "none", "")
}

pub(crate) fn node_notify() -> Recipe {
    node("Node, notifyRequest, 2 workers", 2, "rr", "NOTIFY")
}

pub(crate) fn node_http2() -> Recipe {
    node(NODE, 2, "rr", "HTTP2")
}

fn node(name: &'static str, workers: usize, policy: &'static str, switch: &'static str) -> Recipe {
    Recipe::new(
        name,
        workers + 1,
        Program::Node {
            workers,
            policy,
            switch,
        },
    )
}

pub(crate) const ONE_WORKER: &str = "axum-cluster, 1 worker";
pub(crate) const ROUND_ROBIN: &str = "axum-cluster, 2 workers";
pub(crate) const SHARED: &str = "axum-cluster, shared";
pub(crate) const AXUM: &str = "axum::serve, multi-thread";
pub(crate) const ACTIX: &str = "actix-web";
pub(crate) const NODE: &str = "Node, round robin, 2 workers";
