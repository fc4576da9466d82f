//! Responses that last: both end when the worker drains.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, close_code},
    response::{
        Response,
        sse::{Event, Sse},
    },
};
use axum_cluster::Worker;
use futures_util::{Stream, StreamExt};
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;

pub(crate) async fn events(worker: Worker) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_millis(100)));
    let numbered = ticks
        .enumerate()
        .map(|(n, _)| Ok(Event::default().data(n.to_string())));
    Sse::new(numbered.take_until(worker.draining()))
}

pub(crate) async fn web_socket(worker: Worker, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| echo(worker, socket))
}

async fn echo(worker: Worker, mut socket: WebSocket) {
    let mut draining = worker.draining();
    loop {
        tokio::select! {
            () = &mut draining => {
                let away = CloseFrame { code: close_code::AWAY, reason: "draining".into() };
                // A client that has gone needs no farewell.
                let _ = socket.send(Frame::Close(Some(away))).await;
                return;
            }
            frame = socket.recv() => match frame {
                Some(Ok(frame @ (Frame::Text(_) | Frame::Binary(_)))) => {
                    if socket.send(frame).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
    }
}
