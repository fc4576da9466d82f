//! Services that are not always ready, or fail.

use std::{
    future::{Future, Ready, ready},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use hyper::{Request, Response};
use tokio::{io::duplex, sync::OwnedSemaphorePermit, sync::Semaphore};
use tower_service::Service;

use super::support::{Client, PATIENT, Server, let_run};
use crate::http::{End, RequestBody, Start};

/// Ready when there is a permit, and only ever to be called then.
struct Limited {
    gate: Arc<Semaphore>,
    waiting: Option<std::pin::Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>>,
    permit: Option<OwnedSemaphorePermit>,
    clones: Arc<AtomicUsize>,
}

impl Limited {
    fn new(gate: &Arc<Semaphore>) -> Self {
        Self {
            gate: Arc::clone(gate),
            waiting: None,
            permit: None,
            clones: Arc::default(),
        }
    }
}

impl Clone for Limited {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Relaxed);
        Self {
            clones: Arc::clone(&self.clones),
            ..Self::new(&self.gate)
        }
    }
}

impl Service<Request<RequestBody>> for Limited {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Ready<io::Result<Response<Body>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gate.is_closed() {
            return Poll::Ready(Err(io::Error::other("closed")));
        }
        if self.permit.is_none() {
            let gate = Arc::clone(&self.gate);
            let waiting = self
                .waiting
                .get_or_insert_with(|| Box::pin(async { gate.acquire_owned().await.unwrap() }));
            self.permit = Some(std::task::ready!(waiting.as_mut().poll(cx)));
            self.waiting = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.permit
            .take()
            .expect("called without being ready")
            .forget();
        assert!(format!("{request:?}").len() < 2000);
        ready(match request.uri().path() {
            "/error" => Err(io::Error::other("as asked")),
            path => Ok(Response::new(Body::from(path.to_owned()))),
        })
    }
}

#[tokio::test]
async fn is_called_when_it_is_ready_and_not_before() {
    let server = Server::new(PATIENT);
    let gate = Arc::new(Semaphore::new(2));
    let service = Limited::new(&gate);
    let clones = Arc::clone(&service.clones);
    let (near, far) = duplex(1000);
    let _task = tokio::spawn(server.connections.serve(far, Start::Fresh, service));
    let mut client = Client::new(near);
    for path in ["/1", "/2"] {
        assert_eq!(client.get(path).await.body, path);
    }
    assert_eq!(clones.load(Relaxed), 0);
    client
        .send("GET /3 HTTP/1.1\r\nhost: x\r\n\r\nGET /4 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let_run().await;
    assert_eq!(server.in_flight(), 1);
    gate.add_permits(2);
    for path in ["/3", "/4"] {
        assert_eq!(client.reply().await.body, path);
    }
    assert_eq!(clones.load(Relaxed), 1);
    assert!(format!("{:?}", server.connections).len() < 5000);
}

#[tokio::test]
async fn an_error_closes_the_connection() {
    for (path, close) in [("/error", false), ("/", true)] {
        let server = Server::new(PATIENT);
        let gate = Arc::new(Semaphore::new(1));
        if close {
            gate.close();
        }
        let (near, far) = duplex(1000);
        let task = tokio::spawn(
            server
                .connections
                .serve(far, Start::Fresh, Limited::new(&gate)),
        );
        let mut client = Client::new(near);
        client
            .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        client.ends().await;
        assert!(matches!(task.await.unwrap(), End::Closed));
        assert_eq!((server.in_flight(), server.closed()), (0, 1));
    }
}
