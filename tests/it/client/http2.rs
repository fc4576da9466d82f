//! A client that speaks HTTP/2 and does what it has to after GOAWAY.
//!
//! What the server says it never processed is sent again over a new connection, as the protocol has it: no request failed then.

use std::{cell::RefCell, io, time::Instant};

use futures_util::future::join_all;
use h2::client::SendRequest;
use http::Request;
use hyper::body::Bytes;
use tokio::{net::TcpStream, runtime::Builder, sync::Mutex, time::timeout_at};

use super::{Client, DEADLINE, Outcome, Record, Response, Target};

/// One client: one connection at a time, and its streams.
struct Streams {
    client: RefCell<Client>,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Bytes>,
    /// Counted, so that one which has gone is forgotten once.
    number: usize,
}

/// Why a request was not answered.
enum Failure {
    /// The server says that it will not process it, or it was never sent.
    Unprocessed,
    Lost(Outcome),
}

pub(super) fn run(client: Client, streams: usize) -> Vec<Record> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let all = Streams {
        client: RefCell::new(client),
        connection: Mutex::new(None),
    };
    runtime.block_on(join_all((0..streams).map(|_| all.ask_again_and_again())));
    all.client.into_inner().records
}

impl Streams {
    async fn ask_again_and_again(&self) {
        let goes_on = || self.client.borrow().goes_on() && self.client.borrow().claim(1) == 1;
        while goes_on() {
            let begun = Instant::now();
            let mut reused = true;
            let answer = timeout_at((begun + DEADLINE).into(), self.ask(&mut reused)).await;
            let answer = answer.unwrap_or(Err(Outcome::Timeout));
            self.client.borrow_mut().note(begun, reused, answer);
        }
    }

    /// One request, over as many connections as it takes until one processes it.
    async fn ask(&self, reused: &mut bool) -> Result<Response, Outcome> {
        loop {
            let Connection { sender, number } = self.connected(reused).await?;
            match exchange(sender, &self.path()).await {
                Ok(response) => return Ok(response),
                Err(failure) => {
                    let mut connection = self.connection.lock().await;
                    connection.take_if(|connection| connection.number == number);
                    if let Failure::Lost(outcome) = failure {
                        return Err(outcome);
                    }
                }
            }
        }
    }

    async fn connected(&self, reused: &mut bool) -> Result<Connection, Outcome> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let Target::Tcp(addr) = self.client.borrow().load.target else {
            panic!("HTTP/2 over TCP alone");
        };
        let number = self.client.borrow().records.len();
        let stream = TcpStream::connect(addr)
            .await
            .map_err(|error| outcome(&error))?;
        let (sender, connection) = h2::client::handshake(stream)
            .await
            .map_err(|error| lost(&error))?;
        // Its requests say how it ended.
        tokio::spawn(async move { drop(connection.await) });
        *reused = false;
        let connection = Connection { sender, number };
        *current = Some(connection.clone());
        Ok(connection)
    }

    fn path(&self) -> String {
        self.client.borrow().load.ask.path.clone()
    }
}

async fn exchange(sender: SendRequest<Bytes>, path: &str) -> Result<Response, Failure> {
    let request = Request::get(format!("http://test{path}")).body(()).unwrap();
    // What cannot be sent was not processed.
    let mut sender = sender.ready().await.map_err(|_| Failure::Unprocessed)?;
    let (answer, _) = sender
        .send_request(request, true)
        .map_err(|_| Failure::Unprocessed)?;
    let answer = answer.await.map_err(|error| {
        if is_beyond_goaway(&error) {
            Failure::Unprocessed
        } else {
            Failure::Lost(lost(&error))
        }
    })?;
    let (head, mut content) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = content.data().await {
        let data = data.map_err(|_| Failure::Lost(Outcome::Cut))?;
        // It counts for as long as the stream lives, which it does.
        let _ = content.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    Ok(Response::new(head.status.as_u16(), &head.headers, body))
}

/// The stream's number is above the last one that the server says it processes.
fn is_beyond_goaway(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

fn lost(error: &h2::Error) -> Outcome {
    error.get_io().map_or(Outcome::Reset, outcome)
}

fn outcome(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::TimedOut => Outcome::Timeout,
        _ => Outcome::Reset,
    }
}
