//! Random pipelines of requests, cut into random pieces, moved at random between processes.

use std::collections::HashSet;

use tokio::{
    io::{AsyncWriteExt, duplex, split},
    task::yield_now,
};

use super::support::{Client, PATIENT, Server};
use crate::http::{End, Leave, Start};

/// xorshift: enough to be unpredictable for the code under test, and repeatable for us.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

struct Pipeline {
    bytes: Vec<u8>,
    /// What is to come, and whether the server may close after it: its body is not read.
    expected: Vec<(String, bool)>,
}

fn pipeline(random: &mut Random, may_close: bool) -> Pipeline {
    let mut pipeline = Pipeline {
        bytes: Vec::new(),
        expected: Vec::new(),
    };
    for n in 0..1 + random.below(20) {
        let kinds = if may_close { 5 } else { 3 };
        let size = [0, 30, 300, 20_000][random.below(4)];
        let body = "GET /n/smuggled HTTP/1.1\r\nhost: x\r\n\r\n".repeat(size / 30);
        let (path, expected, unread) = match random.below(kinds) {
            0 => (format!("/n/{n}"), format!("{n}"), true),
            1 => (format!("/echo/{n}"), format!("{n}:{}", body.len()), false),
            2 => (format!("/later/{n}"), format!("{n}:later"), false),
            3 => (format!("/ignore/{n}"), format!("{n}:ignored"), true),
            _ => (format!("/half/{n}"), format!("{n}:half"), true),
        };
        let unread = unread && may_close;
        let bare = path.starts_with("/n/") && !may_close;
        let request = if bare || body.is_empty() && random.below(2) == 0 {
            format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
        } else if random.below(2) == 0 {
            format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        } else {
            let mut request =
                format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
            for chunk in body.as_bytes().chunks(1 + random.below(5000)) {
                request += &format!(
                    "{:x}\r\n{}\r\n",
                    chunk.len(),
                    std::str::from_utf8(chunk).unwrap()
                );
            }
            request + "0\r\n\r\n"
        };
        pipeline.bytes.extend(request.bytes());
        pipeline.expected.push((expected, unread));
    }
    pipeline
}

/// One connection; says how often it moved.
async fn play(seed: u64, may_close: bool) -> usize {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let Pipeline { bytes, expected } = pipeline(&mut random, may_close);
    let (near, far) = duplex([50, 5000, 1 << 20][random.below(3)]);
    let (reader, mut writer) = split(near);
    let mut pieces = Random(random.0);
    let writing = tokio::spawn(async move {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [20, 300, 30_000][pieces.below(3)];
            let n = rest.len().min(1 + pieces.below(most));
            if writer.write_all(&rest[..n]).await.is_err() {
                break; // the server has closed
            }
            rest = &rest[n..];
            let turns = [1, 4, 40][pieces.below(3)];
            for _ in 0..pieces.below(turns) {
                yield_now().await;
            }
        }
        let _ = writer.shutdown().await;
    });
    let serving = tokio::spawn(async move {
        let (mut stream, mut start, mut calls, mut moved) = (far, Start::Fresh, Vec::new(), 0);
        loop {
            let server = Server::new(PATIENT);
            let task = server.serve(stream, start);
            // Every other time for balance, at whatever moment it looks idle.
            let balances = random.below(2) == 0;
            for _ in 0..random.below(20) {
                yield_now().await;
                server.connections.give_back(usize::from(balances));
            }
            server.connections.leave(Leave::Release);
            let end = task.await.unwrap();
            calls.extend(server.calls());
            assert_eq!((server.connections.open(), server.in_flight()), (0, 0));
            match end {
                End::Released(back, standing) => {
                    (stream, start, moved) = (back, Start::Moved(standing), moved + 1)
                }
                End::Closed => return (calls, moved),
                End::Upgraded => panic!(),
            }
        }
    });
    let mut client = Client::new(tokio::io::join(reader, tokio::io::sink()));
    let mut answers = Vec::new();
    while let Some(reply) = client.try_reply().await {
        answers.push(reply.body);
    }
    let (calls, moved) = serving.await.unwrap();
    drop(client);
    writing.await.unwrap();
    assert_eq!(
        calls.len(),
        answers.len(),
        "seed {seed}: {calls:?} {answers:?}"
    );
    assert_eq!(
        calls.iter().collect::<HashSet<_>>().len(),
        calls.len(),
        "seed {seed}: twice"
    );
    for (answer, (expected, _)) in answers.iter().zip(&expected) {
        assert_eq!(answer, expected, "seed {seed}");
    }
    let closed_well =
        answers.len() == expected.len() || answers.is_empty() || expected[answers.len() - 1].1;
    assert!(
        closed_well && !answers.is_empty(),
        "seed {seed}: {} of {}",
        answers.len(),
        expected.len()
    );
    moved
}

async fn play_all(games: u64, may_close: bool) {
    let mut moved = 0;
    for seed in 1..=games {
        moved += tokio::time::timeout(std::time::Duration::from_secs(10), play(seed, may_close))
            .await
            .unwrap_or_else(|_| panic!("seed {seed} hangs"));
    }
    assert!(
        moved as u64 > games / 2,
        "moved {moved} times in {games} games"
    );
}

#[tokio::test]
async fn every_request_is_answered_once_and_in_order() {
    play_all(200, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_once_and_in_order_by_several_threads() {
    play_all(200, false).await;
}

#[tokio::test]
async fn no_unread_body_is_ever_a_request() {
    play_all(200, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_unread_body_is_ever_a_request_with_several_threads() {
    play_all(200, true).await;
}
