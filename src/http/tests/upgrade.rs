use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

use super::support::{PATIENT, Server, named};
use crate::http::End;

const UPGRADE: &str =
    "GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: test\r\n\r\n";

#[tokio::test]
async fn an_upgraded_stream_belongs_to_the_handler_and_still_counts() {
    let mut server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.send(format!("{UPGRADE}early")).await;
    assert_eq!(client.try_head().await.unwrap().status, 101);
    assert!(matches!(task.await.unwrap(), End::Upgraded));
    let mut stream = TokioIo::new(server.upgraded.recv().await.unwrap());
    assert_eq!((server.connections.open(), server.in_flight()), (1, 0));
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"early");
    stream.write_all(b"late").await.unwrap();
    client.stream.read_exact(&mut bytes[..4]).await.unwrap();
    assert_eq!(&bytes[..4], b"late");
    drop(stream);
    assert_eq!((server.connections.open(), server.closed()), (0, 1));
    server.connections.all_closed().await;
}

#[tokio::test]
async fn an_upgraded_stream_is_cut_wherever_it_is() {
    let mut server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.send(UPGRADE).await;
    client.try_head().await.unwrap();
    task.await.unwrap();
    let (mut reader, mut writer) = split(TokioIo::new(server.upgraded.recv().await.unwrap()));
    let reading = tokio::spawn(async move { reader.read(&mut [0; 10]).await });
    let writing = tokio::spawn(async move {
        loop {
            if let Err(error) = writer.write_all(&[0; 100_000]).await {
                return error; // the client does not read: it was pending for certain, or is refused
            }
        }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let (connections, requests) = server.connections.cut();
    assert_eq!(connections, 1);
    assert_eq!(named(&requests), ["GET /upgrade"]);
    assert_eq!(reading.await.unwrap().unwrap(), 0);
    assert_eq!(
        writing.await.unwrap().kind(),
        std::io::ErrorKind::ConnectionAborted
    );
    server.connections.all_closed().await;
    assert_eq!(server.closed(), 1);
    assert_eq!(server.connections.cut().0, 0);
}

#[tokio::test]
async fn an_upgrade_that_is_not_taken_up_changes_nothing() {
    let server = Server::new(PATIENT);
    let (mut client, task) = server.tcp().await;
    client.send(UPGRADE.replace("/upgrade", "/")).await;
    assert_eq!(client.reply().await.body, "hello");
    assert_eq!(client.get("/n/2").await.body, "2");
    server.connections.leave(crate::http::Leave::Release);
    assert!(matches!(task.await.unwrap(), End::Released(..)));
    assert_eq!(Arc::strong_count(&server.row), 2);
}
