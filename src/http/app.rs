//! The user's service as hyper's.

use std::{
    cell::RefCell,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use http_body::Body;
use hyper::{Request, Response, body::Incoming};
use tower_service::Service;

use super::{
    BoxError,
    answer::{Answer, Reply},
    body::RequestBody,
    exchange::{Exchange, Writers},
    link::Link,
    phase::Phase,
};

/// What serves requests with a body `Q`: a tower service.
pub(crate) trait Serves<Q, B>:
    Service<Request<Q>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S, Q, B> Serves<Q, B> for S where
    S: Service<Request<Q>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// What a request can be given to a service with.
pub(crate) trait Taken: From<RequestBody> + 'static {}

impl<Q> Taken for Q where Q: From<RequestBody> + 'static {}

/// What a response can consist of.
pub(crate) trait Content: Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}

impl<B> Content for B where B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static {}

/// Calls the service for each request of a connection, and counts what comes of it. `R` is the response body hyper gets.
pub(super) struct App<S, Q, R> {
    /// Called when it is ready at once. When it is not, it goes with the request that waits for it, and a clone takes its
    /// place: so a service is only ever called that said it was ready, and one that always is is never cloned.
    service: RefCell<S>,
    link: Arc<Link>,
    bodies: PhantomData<fn(Q) -> R>,
}

impl<S, Q, R> App<S, Q, R> {
    pub(super) fn new(service: S, link: Arc<Link>) -> Self {
        Self {
            service: RefCell::new(service),
            link,
            bodies: PhantomData,
        }
    }
}

impl<S, Q, B, R> hyper::service::Service<Request<Incoming>> for App<S, Q, R>
where
    S: Service<Request<Q>, Response = Response<B>, Error: Into<BoxError>> + Clone,
    Q: Taken,
    R: Reply<B>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Answer<S, Q, R>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let begun = Instant::now();
        self.link.wait_for(Phase::Busy);
        let exchange = Exchange::begin(&self.link, R::WRITERS, &request);
        let http1 = (R::WRITERS == Writers::One).then_some(&self.link);
        let mut service = self.service.borrow_mut();
        // The waker is of no use: who is not ready is asked again by the answer's first poll.
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                // From hyper's body to the program's in one step: each costs a copy of the request.
                let request = request.map(|body| Q::from(RequestBody::new(body, http1)));
                exchange.forget_route();
                Answer::running(service.call(request), exchange, begun)
            }
            Poll::Ready(Err(error)) => Answer::failed(error.into(), exchange, begun),
            Poll::Pending => {
                let fresh = service.clone();
                let request = request.map(|body| RequestBody::new(body, http1));
                Answer::waiting(mem::replace(&mut *service, fresh), request, exchange, begun)
            }
        }
    }
}
