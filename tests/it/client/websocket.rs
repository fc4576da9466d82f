//! A client of `/ws`: each message is echoed, and the end is said before it comes.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, runtime::Builder, time::timeout_at};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message, handshake::client::Response as Handshake, protocol::frame::coding::CloseCode,
    },
};

use super::{Client, DEADLINE, Outcome, Record, Response, Target};

type Socket = WebSocketStream<TcpStream>;

/// What came of a message.
enum Echo {
    Right,
    /// A close with 1001 or 1012 instead, and the end after it.
    CleanEnd,
}

pub(super) fn run(mut client: Client, think: Duration) -> Vec<Record> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        while client.goes_on() {
            let begun = Instant::now();
            let connecting = timeout_at((begun + DEADLINE).into(), connect(&client.load.target));
            match connecting.await.unwrap_or(Err(Outcome::Timeout)) {
                Ok((socket, handshake)) => converse(&mut client, socket, &handshake, think).await,
                Err(outcome) => client.note(begun, false, Err(outcome)),
            }
        }
    });
    client.records
}

/// Messages until the server says goodbye, or the load ends.
async fn converse(client: &mut Client, mut socket: Socket, handshake: &Handshake, think: Duration) {
    let mut number = 0_u64;
    while client.goes_on() && client.claim(1) == 1 {
        let begun = Instant::now();
        let echoed = timeout_at((begun + DEADLINE).into(), echo(&mut socket, number)).await;
        let answer = match echoed.unwrap_or(Err(Outcome::Timeout)) {
            Ok(Echo::CleanEnd) => return,
            Ok(Echo::Right) => {
                let body = b"hello world".to_vec(); // what a load expects
                Ok(Response::new(200, handshake.headers(), body))
            }
            Err(outcome) => Err(outcome),
        };
        let failed = answer.is_err();
        client.note(begun, number > 0, answer);
        if failed {
            return;
        }
        number += 1;
        tokio::time::sleep(think.mul_f64(client.dice.roll())).await;
    }
    // The load is over: what the server says to that is nobody's concern.
    let _ = socket.close(None).await;
}

async fn connect(target: &Target) -> Result<(Socket, Handshake), Outcome> {
    let Target::Tcp(addr) = target else {
        panic!("WebSockets over TCP alone");
    };
    let stream = TcpStream::connect(addr)
        .await
        .map_err(|_| Outcome::Refused)?;
    client_async(format!("ws://{addr}/ws"), stream)
        .await
        .map_err(|_| Outcome::Reset)
}

async fn echo(socket: &mut Socket, number: u64) -> Result<Echo, Outcome> {
    let message = Message::text(format!("message {number}"));
    // Sent after the server has said goodbye: what comes next tells.
    let _ = socket.send(message.clone()).await;
    match socket.next().await {
        Some(Ok(answer)) if answer == message => Ok(Echo::Right),
        Some(Ok(Message::Close(Some(close))))
            if matches!(close.code, CloseCode::Away | CloseCode::Restart) =>
        {
            // The handshake of the close, to the end of the connection.
            while let Some(Ok(_)) = socket.next().await {}
            Ok(Echo::CleanEnd)
        }
        Some(Ok(_)) => Err(Outcome::BadBody),
        Some(Err(_)) | None => Err(Outcome::Cut),
    }
}
