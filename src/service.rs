//! From what the program gives to `serve` to the apps that a worker runs.

use std::{
    marker::PhantomData,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    error::{BoxError, Result},
    http::RequestBody,
    layer::ClusterLayer,
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
    Box::new(move |worker| {
        let service = ClusterLayer::served(worker).layer(service);
        Box::pin(std::future::ready(Ok(counted(service))))
    })
}

/// An app from an axum router.
#[cfg(feature = "axum")]
pub(crate) fn from_router(router: axum::Router) -> AppMaker {
    Box::new(move |worker| Box::pin(std::future::ready(Ok(router_app(router, &worker)))))
}

/// The routes are made ready once: axum would rebuild their table for every connection.
#[cfg(feature = "axum")]
pub(crate) fn router_app(router: axum::Router, worker: &Worker) -> Arc<dyn App> {
    let layer = ClusterLayer::served(worker.clone());
    // Only from inside the router is the route known; from outside, counting costs no boxed service and no boxed future.
    let (router, outside) = if worker.wants_notices() {
        (router.layer(layer), ClusterLayer::off())
    } else {
        (router, layer)
    };
    counted::<_, axum::body::Body, _>(outside.layer(router.with_state(())))
}

fn counted<S, ReqBody, ResBody>(service: S) -> Arc<dyn App>
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
        Connected {
            service,
            peer,
            body: PhantomData,
        }
    })
}

/// A service on one connection: its requests know their peer and have the body type that the program wants.
struct Connected<S, ReqBody> {
    service: S,
    peer: Option<SocketAddr>,
    body: PhantomData<fn() -> ReqBody>,
}

impl<S: Clone, ReqBody> Clone for Connected<S, ReqBody> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            peer: self.peer,
            body: PhantomData,
        }
    }
}

impl<S, ReqBody> Service<Request<RequestBody>> for Connected<S, ReqBody>
where
    S: Service<Request<ReqBody>>,
    ReqBody: From<RequestBody>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> S::Future {
        #[allow(unused_mut, reason = "without axum nothing is put in")]
        let mut request = request.map(ReqBody::from);
        #[cfg(feature = "axum")]
        if let Some(peer) = self.peer {
            request
                .extensions_mut()
                .insert(axum::extract::ConnectInfo(peer));
        }
        self.service.call(request)
    }
}
