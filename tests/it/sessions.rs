//! A secret that all workers share: a session holds, whoever answers. DESIGN 1, `worker.secret()`.

use std::collections::BTreeSet;

use crate::support::{Server, Signal, request};

// L-16: TLS ends before this crate; a key derived from the secret is the same in all workers, replacements too.
#[test]
fn a_signed_cookie_holds_on_every_worker() {
    let server = Server::run("sessions").workers(4).start();
    let login = server.get("/login?user=ada");
    assert_eq!(login.body, "hello ada");
    let cookie = login
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();

    let ask =
        |cookie: &str| request(server.addr(), "GET", "/whoami", &[("cookie", cookie)], "").unwrap();
    let mut workers = BTreeSet::new();
    for _ in 0..100 {
        let answer = ask(&cookie);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ada"));
        workers.insert(answer.worker());
    }
    assert_eq!(workers, BTreeSet::from([1, 2, 3, 4]));

    // The replacement of a dead worker has the same secret too.
    server.signal_to(server.worker_pids()[0], Signal::SIGKILL);
    server.wait_until("an answer of worker 5", |_| {
        let answer = ask(&cookie);
        assert_eq!(answer.body, "ada");
        answer.worker() == 5
    });

    assert_eq!(server.get("/whoami").status, 401, "without a cookie");
    let forged = cookie.replace("ada", "eve");
    assert_ne!(forged, cookie);
    assert_eq!(ask(&forged).status, 401, "with a forged one");
}

#[test]
fn a_secret_is_the_clusters_own() {
    let (one, other) = (
        Server::run("sessions").workers(1).start(),
        Server::run("sessions").workers(1).start(),
    );
    let login = one.get("/login?user=ada");
    let cookie = login
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    let answer = request(other.addr(), "GET", "/whoami", &[("cookie", cookie)], "").unwrap();
    assert_eq!(answer.status, 401);
}
