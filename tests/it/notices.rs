//! What `on_request` is told: every request once, with its own route, whatever else is answered at the same time.

use std::{collections::BTreeMap, future::poll_fn, thread, time::Duration};

use axum::{Router, extract::Path, http::StatusCode, routing::get};
use axum_cluster::ClusteredServer;

use crate::support::{Conn, Server, block_on, say};

/// A path, how it is answered, and the route that is told. Some are answered at once, some take turns.
const ASKED: [(&str, &str, u16, Option<&str>); 9] = [
    ("GET", "/", 200, Some("/")),
    ("GET", "/slow", 200, Some("/slow")),
    ("GET", "/users/me", 200, Some("/users/me")),
    ("GET", "/users/7", 200, Some("/users/{id}")),
    ("GET", "/users/7/late", 200, Some("/users/{id}/late")),
    ("GET", "/nested/here", 200, Some("/nested/here")),
    ("POST", "/", 405, Some("/")),
    ("GET", "/nowhere", 418, None),
    ("GET", "/service/deep", 200, None),
];

const ROUNDS: usize = 20;
const CLIENTS: usize = 4;

/// Each client asks all of it over one connection, beginning elsewhere than the others.
fn http1(addr: &str) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut conn = Conn::open(addr).unwrap();
            thread::spawn(move || {
                for nth in 0..ROUNDS * ASKED.len() {
                    let (method, path, status, _) = ASKED[(client + nth) % ASKED.len()];
                    conn.ask(method, path, &[], "").unwrap();
                    assert_eq!(conn.response().unwrap().status, status, "{path}");
                }
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
}

/// Many at once, over one connection.
fn http2(addr: &str) {
    block_on(async {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..ROUNDS {
            let mut answers = Vec::new();
            for (method, path, status, _) in [ASKED; CLIENTS].into_iter().flatten() {
                let request = http::Request::builder().method(method);
                let request = request.uri(format!("http://{addr}{path}")).body(());
                poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
                let (answer, _) = sender.send_request(request.unwrap(), true).unwrap();
                answers.push((answer, path, status));
            }
            for (answer, path, status) in answers {
                let (head, mut content) = answer.await.unwrap().into_parts();
                assert_eq!(head.status, status, "{path}");
                while content.data().await.is_some() {}
            }
        }
    });
}

fn expected(times: usize) -> BTreeMap<String, usize> {
    let line = |(method, _, status, route): (&str, &str, u16, Option<&str>)| {
        (format!("{method} {} {status}", route.unwrap_or("-")), times)
    };
    let mut expected = BTreeMap::new();
    for (line, times) in ASKED.map(line) {
        *expected.entry(line).or_default() += times;
    }
    expected
}

fn told(server: &Server) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for line in server.lines("told: ") {
        let line = line.strip_prefix("told: ").unwrap().to_owned();
        *told.entry(line).or_default() += 1;
    }
    told
}

#[test]
fn every_request_is_told_once_with_its_own_route() {
    let server = Server::fixture("notices::fixture").workers(2).start();
    let each = CLIENTS * ROUNDS;
    http1(server.addr());
    server.wait_until("all of HTTP/1 is told", |server| {
        told(server) == expected(each)
    });
    http2(server.addr());
    server.wait_until("all of HTTP/2 is told as well", |server| {
        told(server) == expected(2 * each)
    });
    // A request that is never answered is not told of, and what it left is nobody else's.
    let mut conn = Conn::open(server.addr()).unwrap();
    conn.ask("GET", "/users/7/panic", &[], "").unwrap();
    assert!(conn.response().is_err());
    for _ in 0..4 {
        assert_eq!(server.get("/nowhere").status, 418);
    }
    let mut expected = expected(2 * each);
    *expected.get_mut("GET - 418").unwrap() += 4;
    server.wait_until("what came after it", |server| told(server) == expected);
}

async fn turns() -> &'static str {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    "late"
}

async fn panics(_: Path<u64>) {
    panic!("as asked");
}

fn router() -> Router {
    let nested = Router::new().route("/here", get(async || "here"));
    let deep = Router::new().route("/deep", get(async || "deep"));
    Router::new()
        .route("/", get(async || "root"))
        .route("/slow", get(turns))
        .route("/users/me", get(async || "me"))
        .route("/users/{id}", get(async |Path(id): Path<String>| id))
        .route("/users/{id}/late", get(turns))
        .route("/users/{id}/panic", get(panics))
        .nest("/nested", nested)
        .nest_service("/service", deep)
        .fallback(async || StatusCode::IM_A_TEAPOT)
}

#[test]
#[ignore = "a fixture: other tests run it as a process of its own"]
fn fixture() {
    let Ok(addr) = std::env::var("ADDR") else {
        return;
    };
    let serve = ClusteredServer::bind(addr)
        .program(std::env::current_exe().unwrap())
        .on_ready(|primary| say!("listening on {}", primary.local_addrs()[0]))
        .on_request(|_, notice| {
            let route = notice.route.as_deref().unwrap_or("-");
            say!("told: {} {route} {}", notice.method, notice.status.as_u16());
        })
        .serve(router());
    block_on(async { serve.await.unwrap() });
}
