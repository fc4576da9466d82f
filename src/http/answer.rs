//! What becomes of a request: the service's future, then a response whose body carries the exchange to its end.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use http_body::Body;
use hyper::{
    Request, Response, StatusCode,
    header::{CONNECTION, HeaderValue},
};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    BoxError,
    app::Taken,
    body::RequestBody,
    exchange::{Exchange, Writers},
    orders::Orders,
};

/// A response body as hyper gets it: the service's, and the exchange that ends with it.
pub(super) trait Reply<B>: Body {
    const WRITERS: Writers;

    fn new(body: B, exchange: Option<Exchange>) -> Self;
}

pin_project! {
    /// The answer to one request. Fields are dropped in order: what the exchange stands for, then the exchange.
    pub(super) struct Answer<S, Q, R>
    where
        S: Service<Request<Q>>,
    {
        #[pin]
        state: State<S, Q>,
        exchange: Option<Exchange>,
        begun: Instant,
        bodies: PhantomData<fn(Q) -> R>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, Q>
    where
        S: Service<Request<Q>>,
    {
        // Boxed, for it is rare, and what is moved about for each request is the size of the largest.
        Waiting { request: Option<Box<(S, Request<RequestBody>)>> },
        Running { #[pin] future: S::Future },
        Failed { error: Option<BoxError> },
    }
}

impl<S, Q, R> Answer<S, Q, R>
where
    S: Service<Request<Q>>,
{
    #[inline]
    pub(super) fn running(future: S::Future, exchange: Exchange, begun: Instant) -> Self {
        exchange.learn_route();
        Self::new(State::Running { future }, exchange, begun)
    }

    pub(super) fn waiting(
        service: S,
        request: Request<RequestBody>,
        exchange: Exchange,
        begun: Instant,
    ) -> Self {
        Self::new(
            State::Waiting {
                request: Some(Box::new((service, request))),
            },
            exchange,
            begun,
        )
    }

    pub(super) fn failed(error: BoxError, exchange: Exchange, begun: Instant) -> Self {
        Self::new(State::Failed { error: Some(error) }, exchange, begun)
    }

    #[inline]
    fn new(state: State<S, Q>, exchange: Exchange, begun: Instant) -> Self {
        Self {
            state,
            exchange: Some(exchange),
            begun,
            bodies: PhantomData,
        }
    }
}

impl<S, Q> State<S, Q>
where
    S: Service<Request<Q>, Error: Into<BoxError>>,
    Q: Taken,
{
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, BoxError>> {
        loop {
            let next = match self.as_mut().project() {
                StateProjection::Running { future } => return future.poll(cx).map_err(Into::into),
                StateProjection::Failed { error } => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => return Poll::Pending, // polled after its end
                },
                StateProjection::Waiting { request: waiting } => {
                    let Some((service, _)) = waiting.as_deref_mut() else {
                        return Poll::Pending;
                    };
                    let ready = ready!(service.poll_ready(cx));
                    match (ready, waiting.take()) {
                        (Ok(()), Some(waiting)) => {
                            let (mut service, request) = *waiting;
                            Self::Running {
                                future: service.call(request.map(Q::from)),
                            }
                        }
                        (Err(error), _) => Self::Failed {
                            error: Some(error.into()),
                        },
                        (Ok(()), None) => return Poll::Pending,
                    }
                }
            };
            self.set(next);
        }
    }
}

impl<S, Q, B, R> Future for Answer<S, Q, R>
where
    S: Service<Request<Q>, Response = Response<B>, Error: Into<BoxError>>,
    Q: Taken,
    R: Reply<B>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        if let Some(exchange) = this.exchange {
            exchange.forget_route();
        }
        let answer = match state.as_mut().project() {
            StateProjection::Running { future } => future.poll(cx).map_err(Into::into),
            _ => state.poll(cx),
        };
        if let Some(exchange) = this.exchange {
            exchange.learn_route();
        }
        let mut response = ready!(answer)?;
        let mut exchange = this.exchange.take();
        if let Some(exchange) = &mut exchange {
            let link = exchange.link();
            let status = response.status();
            let elapsed = this.begun.elapsed();
            link.row().answered(status.as_u16(), elapsed);
            if let Some(told) = &link.hub().told {
                exchange.tell(told, status, elapsed);
            }
            let closes = link.orders.look().contains(Orders::CLOSE);
            if closes && R::WRITERS == Writers::One && !status.is_informational() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if status == StatusCode::SWITCHING_PROTOCOLS {
                exchange.upgrades();
            }
        }
        Poll::Ready(Ok(response.map(|body| R::new(body, exchange))))
    }
}
