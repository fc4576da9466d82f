//! Which route each request takes.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use axum::Router;
use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::{Route, found};

/// Only inside a router is the route known, and a layer there costs three boxes a request, 850 instructions of 12,500. So a path that
/// is its own route, without parameters, is asked for with its first request only: what route a path takes never changes.
#[derive(Clone, Debug)]
pub(super) struct Routes<S> {
    /// The same service, with the layer that asks.
    asking: S,
    known: Known,
}

/// The paths that are their own routes, as far as they were asked for: at most as many as the router has routes. Compared, not hashed, which
/// costs 150 instructions.
type Known = Arc<RwLock<BTreeMap<Box<str>, Route>>>;

impl Routes<Router> {
    /// Of a router that has its state.
    pub(super) fn of(router: &Router) -> Self {
        let known = Known::default();
        let asking = router.clone().layer(Ask(known.clone()));
        Self {
            asking: asking.with_state(()),
            known,
        }
    }
}

impl<S> Routes<S> {
    /// Who is to be called for this path, so that its route is found.
    pub(super) fn whom<'a>(&'a mut self, plain: &'a mut S, path: &str) -> &'a mut S {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(path) {
            Some(route) => {
                found(Some(route.clone()));
                plain
            }
            None => &mut self.asking,
        }
    }
}

/// Asks for the route, from inside the router.
#[derive(Clone)]
struct Ask(Known);

impl<S> Layer<S> for Ask {
    type Service = Asking<S>;

    fn layer(&self, inner: S) -> Asking<S> {
        Asking {
            inner,
            known: self.0.clone(),
        }
    }
}

#[derive(Clone)]
struct Asking<S> {
    inner: S,
    known: Known,
}

impl<S, B> Service<Request<B>> for Asking<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let route = request.extensions().get::<Route>().cloned();
        let path = request.uri().path();
        if let Some(route) = route.as_ref().filter(|route| route.as_str() == path) {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.insert(path.into(), route.clone());
        }
        found(route);
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        future::Future,
        pin::pin,
        sync::atomic::{AtomicU16, Ordering::Relaxed},
    };

    use axum::{
        body::Body,
        extract::Path,
        response::Response,
        routing::{self, get},
    };
    use http::StatusCode;
    use tower::ServiceExt;
    use tower_layer::layer_fn;

    use super::super::Connected;
    use super::*;
    use crate::http::take_route;

    fn connected(router: Router) -> Connected<Router> {
        Connected::routed(router, true)
    }

    /// What comes of a request, and the route that is told.
    async fn ask(service: &mut Connected<Router>, path: &str) -> (StatusCode, Option<String>) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        take_route();
        let mut response = pin!(service.call(request));
        let mut route = take_route();
        let Ok(response) = std::future::poll_fn(|cx| {
            take_route();
            let polled = response.as_mut().poll(cx);
            route = take_route().or(route.take());
            polled
        })
        .await;
        (
            response.status(),
            route.map(|route| route.as_str().to_owned()),
        )
    }

    fn known(service: &Connected<Router>) -> Vec<Box<str>> {
        let known = &service.routes.as_ref().unwrap().known;
        known.read().unwrap().keys().cloned().collect()
    }

    #[tokio::test]
    async fn each_request_has_its_route_and_only_paths_that_are_routes_are_kept() {
        let inner = Router::new().route("/here", get(async || "here"));
        let deep = Router::new().route("/deep", get(async || "deep"));
        let router = Router::new()
            .route("/", get(async || "root"))
            .route("/users/me", get(async || "me"))
            .route("/users/{id}", get(async |Path(id): Path<String>| id))
            .route(
                "/slow",
                get(async || tokio::time::sleep(std::time::Duration::from_millis(2)).await),
            )
            .nest("/nested", inner)
            .nest_service("/service", deep)
            .fallback(async || StatusCode::IM_A_TEAPOT);
        let mut service = connected(router);
        for _ in 0..2 {
            for (path, status, route) in [
                ("/", 200, Some("/")),
                ("/users/me", 200, Some("/users/me")),
                ("/users/you", 200, Some("/users/{id}")),
                ("/users/{id}", 200, Some("/users/{id}")),
                ("/slow", 200, Some("/slow")),
                ("/nested/here", 200, Some("/nested/here")),
                ("/service/deep", 200, None),
                ("/nowhere", 418, None),
                ("/?query=1", 200, Some("/")),
            ] {
                let told = ask(&mut service, path).await;
                assert_eq!(told.0, status, "{path}");
                assert_eq!(told.1.as_deref(), route, "{path}");
            }
        }
        assert_eq!(
            *known(&service),
            ["/", "/nested/here", "/slow", "/users/me", "/users/{id}"].map(Box::from)
        );
    }

    #[tokio::test]
    async fn a_handler_that_panics_leaves_its_route_to_nobody() {
        async fn panics(_: Path<u32>) {
            panic!("as told");
        }
        let mut service = connected(Router::new().route("/panics/{n}", get(panics)));
        let panicked = tokio::spawn({
            let mut service = service.clone();
            async move { ask(&mut service, "/panics/1").await }
        });
        assert!(panicked.await.unwrap_err().is_panic());
        assert_eq!(
            ask(&mut service, "/nowhere").await,
            (StatusCode::NOT_FOUND, None)
        );
    }

    /// Numbers the answers of what it is put around.
    fn numbering(
        inner: routing::Route,
    ) -> impl Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync {
        let answers = Arc::new(AtomicU16::new(0));
        ServiceExt::<Request<Body>>::map_response(inner, move |mut response: Response| {
            let number = answers.fetch_add(1, Relaxed);
            *response.status_mut() = StatusCode::from_u16(200 + number).unwrap();
            response
        })
    }

    #[tokio::test]
    async fn a_layer_with_a_memory_has_one_for_first_and_later_requests() {
        let router = Router::new()
            .route("/", get(async || "root"))
            .layer(layer_fn(numbering));
        let mut service = connected(router);
        for number in 0..3 {
            let told = ask(&mut service, "/").await;
            assert_eq!(
                told,
                (
                    StatusCode::from_u16(200 + number).unwrap(),
                    Some("/".into())
                )
            );
        }
    }
}
