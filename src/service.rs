//! From what the program gives to `serve` to the apps that a worker runs.

#[cfg(feature = "axum")]
mod routes;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

#[cfg(feature = "axum")]
use self::routes::Routes;
use crate::{
    error::{BoxError, Result},
    http::RequestBody,
    worker::{App, Worker, app},
};

/// Builds one app in a worker, once the worker is known.
pub(crate) type AppMaker =
    Box<dyn FnOnce(Worker) -> Pin<Box<dyn Future<Output = Result<Arc<dyn App>>> + Send>> + Send>;

/// Completes when a worker whose app is built may be given connections.
pub(crate) type ReadyWhen =
    Box<dyn FnOnce(Worker) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send>;

/// An app from any service; the route of its requests is not known.
pub(crate) fn from_service<S, ReqBody, ResBody>(service: S) -> AppMaker
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    ReqBody: From<RequestBody> + 'static,
    ResBody: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    Box::new(move |_| {
        let app = on_connections(Connected::new(service));
        Box::pin(std::future::ready(Ok(app)))
    })
}

/// An app from an axum router.
#[cfg(feature = "axum")]
pub(crate) fn from_router(router: axum::Router) -> AppMaker {
    Box::new(move |worker| Box::pin(std::future::ready(Ok(router_app(router, &worker)))))
}

#[cfg(feature = "axum")]
pub(crate) fn router_app(router: axum::Router, worker: &Worker) -> Arc<dyn App> {
    let connected = Connected::routed(router, worker.wants_notices());
    on_connections::<_, axum::body::Body, _>(connected)
}

fn on_connections<S, ReqBody, ResBody>(service: Connected<S>) -> Arc<dyn App>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    ReqBody: From<RequestBody> + 'static,
    ResBody: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    // Services need not be `Sync`: the lock is held for one clone a connection.
    let service = Mutex::new(service);
    app(move |peer| {
        let service = service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Connected { peer, ..service }
    })
}

/// A service on one connection: its requests know their peer.
#[derive(Clone)]
struct Connected<S> {
    service: S,
    /// Where routes are wanted, and there are any.
    #[cfg(feature = "axum")]
    routes: Option<Routes<S>>,
    #[cfg_attr(
        not(feature = "axum"),
        allow(dead_code, reason = "without axum nobody asks for it")
    )]
    peer: Option<SocketAddr>,
}

impl<S> Connected<S> {
    fn new(service: S) -> Self {
        Self {
            service,
            #[cfg(feature = "axum")]
            routes: None,
            peer: None,
        }
    }
}

#[cfg(feature = "axum")]
impl Connected<axum::Router> {
    /// The routes are made ready once: axum would rebuild their table for every connection. And before the table is doubled to ask for
    /// routes: layers of the program are applied now, and one that limits or counts would do so in each of two tables by itself.
    fn routed(router: axum::Router, asks: bool) -> Self {
        let router = router.with_state(());
        Self {
            routes: asks.then(|| Routes::of(&router)),
            ..Self::new(router)
        }
    }
}

impl<S, ReqBody> Service<Request<ReqBody>> for Connected<S>
where
    S: Service<Request<ReqBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    #[cfg_attr(
        not(feature = "axum"),
        allow(unused_mut, reason = "without axum nothing is put in")
    )]
    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> S::Future {
        #[cfg(feature = "axum")]
        if let Some(peer) = self.peer {
            connect_info::insert(request.extensions_mut(), peer);
        }
        // The call in one place, or it would not be inlined: 100 instructions a request.
        #[cfg(feature = "axum")]
        let service = match &mut self.routes {
            Some(routes) => routes.whom(&mut self.service, request.uri().path()),
            None => &mut self.service,
        };
        #[cfg(not(feature = "axum"))]
        let service = &mut self.service;
        service.call(request)
    }
}

#[cfg(feature = "axum")]
mod connect_info {
    use std::{net::SocketAddr, sync::LazyLock};

    use axum::extract::ConnectInfo;
    use http::Extensions;

    /// Empty, with room for the four that axum's routers put in beside the peer. Without it each request's table grows once.
    static ROOMY: LazyLock<Extensions> = LazyLock::new(|| {
        let mut extensions = Extensions::new();
        extensions.insert(Room::<0>);
        extensions.insert(Room::<1>);
        extensions.insert(Room::<2>);
        extensions.insert(Room::<3>);
        extensions.clear();
        extensions
    });

    #[derive(Clone)]
    struct Room<const N: u8>;

    pub(super) fn insert(extensions: &mut Extensions, peer: SocketAddr) {
        if extensions.is_empty() {
            *extensions = ROOMY.clone();
        }
        extensions.insert(ConnectInfo(peer));
    }
}
