//! The tower layer: counts requests and tells the primary of them.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    cluster,
    http::Route,
    id::{Generation, Slot, WorkerId},
    ipc::{channel::Consumption, outbox::Outbox},
    scoreboard::Row,
    worker::{Hub, Messages, Parts, Worker},
};

/// Counts requests in the scoreboard and sends the notices of `on_request`.
///
/// [`serve`](crate::ClusteredServer::serve) puts it on by itself. By hand it is for apps that are served by other means inside a worker
/// (hyper, `axum::serve`): use it once, outermost; on an axum [`Router`](axum::Router) with `Router::layer`, so that the route is known.
/// Outside a cluster it lets requests pass.
///
/// ```
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use axum_cluster::{ClusterLayer, Worker};
/// use tower::ServiceExt;
///
/// // A unit test of a handler that sends messages: what it sends arrives in the second half.
/// async fn hit(worker: Worker) -> axum_cluster::Result<&'static str> {
///     worker.send(&"hit")?;
///     Ok("counted")
/// }
/// let (layer, mut messages) = ClusterLayer::pair();
/// let app = Router::new().route("/", get(hit)).layer(layer);
/// app.oneshot(Request::get("/").body(Body::empty())?).await?;
/// assert_eq!(messages.recv().await.unwrap().json::<String>()?, "hit");
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test()).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClusterLayer {
    means: Means,
}

/// What the layer works with.
#[derive(Clone, Debug, Default)]
enum Means {
    /// The worker that the process is, whenever it becomes one.
    #[default]
    OfProcess,
    /// This worker, put into the request for extractors: a test's.
    Paired(Worker),
}

impl ClusterLayer {
    /// A layer that counts for the worker that this process is.
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer with a worker of its own, for unit tests, and what handlers send to its primary.
    ///
    /// # Panics
    ///
    /// When the system gives no page of shared memory.
    pub fn pair() -> (Self, Messages) {
        let (row, _page) = Row::create().expect("a test machine has a page of memory");
        let sent = Arc::new(Outbox::default());
        let hub = Hub::new(Consumption::new(Arc::new(Outbox::default())));
        let primary = Hub::looped(&sent);
        let worker = Worker::new(Parts {
            id: WorkerId::new(1),
            slot: Slot::new(0),
            generation: Generation::new(0),
            workers: 1,
            secret: [0; 64],
            outbox: sent,
            hub,
            row: Arc::new(row),
            notices: false,
        });
        (
            Self {
                means: Means::Paired(worker),
            },
            primary,
        )
    }
}

impl<S> Layer<S> for ClusterLayer {
    type Service = ClusterService<S>;

    fn layer(&self, inner: S) -> ClusterService<S> {
        ClusterService {
            inner,
            means: self.means.clone(),
        }
    }
}

/// The service that [`ClusterLayer`] makes.
#[derive(Clone, Debug)]
pub struct ClusterService<S> {
    inner: S,
    means: Means,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ClusterService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let worker = match &self.means {
            Means::OfProcess => cluster::worker(),
            Means::Paired(worker) => {
                request.extensions_mut().insert(worker.clone());
                Some(worker.clone())
            }
        };
        let call = worker.map(|worker| Call::begin(worker, &request));
        ResponseFuture {
            inner: self.inner.call(request),
            call,
        }
    }
}

pin_project! {
    /// The future of [`ClusterService`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let (Some(call), Ok(response)) = (this.call.take(), &result) {
            call.answered(response.status());
        }
        Poll::Ready(result)
    }
}

/// A request between its arrival and its response's head.
#[derive(Debug)]
struct Call {
    worker: Worker,
    begun: Instant,
    /// Where the primary wants notices.
    notice: Option<(Method, Option<Route>)>,
}

impl Call {
    fn begin<B>(worker: Worker, request: &Request<B>) -> Self {
        worker.row().called();
        worker.row().began();
        let notice = worker.wants_notices().then(|| {
            (
                request.method().clone(),
                request.extensions().get::<Route>().cloned(),
            )
        });
        Self {
            worker,
            begun: Instant::now(),
            notice,
        }
    }

    fn answered(self, status: http::StatusCode) {
        let elapsed = self.begun.elapsed();
        self.worker.row().answered(status.as_u16(), elapsed);
        if let Some((method, route)) = &self.notice {
            let route = route.as_ref().map(Route::as_str);
            self.worker.outbox().notice(method, route, status, elapsed);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.worker.row().ended(1);
    }
}
