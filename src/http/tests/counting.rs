//! What is in flight may be counted too high for a moment, never too low.

use tokio::{io::duplex, net::TcpStream};

use super::support::{Client, PATIENT, Server, let_run, until};
use crate::http::{End, Start};

#[tokio::test]
async fn in_flight_until_the_last_byte_is_written() {
    let server = Server::new(PATIENT);
    let (near, far) = duplex(1000);
    let _task = server.serve(far, Start::Fresh);
    let mut client = Client::new(near);
    // hyper has all of the body at once; the stream takes a thousand bytes of it.
    client
        .send("GET /large/100000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let_run().await;
    assert_eq!(server.in_flight(), 1);
    client.reply().await;
    let_run().await;
    assert_eq!(server.in_flight(), 0);
}

#[tokio::test]
async fn pipelined_requests_settle_all() {
    let server = Server::new(PATIENT);
    let (mut client, _task) = server.memory();
    client
        .send("GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50))
        .await;
    for _ in 0..50 {
        client.reply().await;
    }
    let_run().await;
    assert_eq!(server.in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_goes_settles_what_it_had() {
    let server = Server::new(PATIENT);
    let (near, far) = duplex(1000);
    let task = server.serve(far, Start::Fresh);
    let mut client = Client::new(near);
    client
        .send("GET /large/100000 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let_run().await;
    drop(client);
    assert!(matches!(task.await.unwrap(), End::Closed));
    assert_eq!((server.in_flight(), server.closed()), (0, 1));
}

#[tokio::test]
async fn a_task_that_is_dropped_settles_too() {
    let server = Server::new(PATIENT);
    let (mut client, task): (Client<TcpStream>, _) = server.tcp().await;
    client.send("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| server.in_flight() == 1).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(
        (
            server.in_flight(),
            server.closed(),
            server.connections.open()
        ),
        (0, 1, 0)
    );
}
