//! This crate beside `cluster.js`: this binary started again, with the same orders on standard input and the same lines on standard output.

use std::{env, io::BufRead, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::Query,
    http::{HeaderName, HeaderValue},
    routing::get,
};
use axum_cluster::{
    BoxError, Candidate, ClusteredServer, Scheduling, Signal, Worker, WorkerHandle, WorkerId,
    cluster::{Event, Primary, Role},
};
use tokio::{
    runtime::Builder,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::Result;

/// What makes this binary a server.
pub(crate) const ARGUMENT: &str = "--server";

pub(crate) fn run() -> Result<()> {
    Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            match configured()?.start().await? {
                Role::Primary(primary) => supervise(&primary).await,
                Role::Worker(worker) => work(worker).await,
            }
        })
}

fn configured() -> Result<ClusteredServer> {
    let number = |name| {
        env::var(name)
            .ok()
            .and_then(|value| value.parse::<u32>().ok())
    };
    let mut server = ClusteredServer::bind("127.0.0.1:0")
        .workers(number("WORKERS").ok_or("WORKERS?")?)
        .program(env::current_exe()?);
    server = match env::var("POLICY")?.as_str() {
        "rr" => server,
        "none" => server.scheduling(Scheduling::Shared),
        "least" => server.scheduling(Scheduling::LeastConnections),
        "hash" => server.scheduling(Scheduling::IpHash),
        "two" => server.schedule_with(two_choices()),
        other => return Err(format!("no such policy: {other}").into()),
    };
    if let Some(most) = number("MAX_CONNECTIONS") {
        server = server.max_connections(most as usize);
    }
    Ok(server)
}

/// The emptier one of two workers taken at random.
fn two_choices() -> impl FnMut(Option<SocketAddr>, &[Candidate]) -> Option<WorkerId> + Send {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    move |_, workers| {
        let mut roll = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            &workers[(seed % workers.len() as u64) as usize]
        };
        let (one, other) = (roll(), roll());
        Some(if other.connections < one.connections {
            other.id
        } else {
            one.id
        })
    }
}

fn is_early() -> bool {
    env::var_os("EARLY").is_some()
}

#[derive(Default)]
struct State {
    /// Those that listen, the oldest first.
    current: Vec<WorkerHandle>,
    replaces: bool,
    received: std::collections::BTreeMap<WorkerId, u64>,
    notices: u64,
    told_all: Option<JoinHandle<()>>,
}

async fn supervise(primary: &Primary) -> Result<()> {
    let (sender, mut orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines();
        lines
            .map_while(std::result::Result::ok)
            .all(|line| sender.send(line).is_ok())
    });
    let mut events = primary.events();
    let mut state = State::default();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => state.take(event)?,
                None => break,
            },
            order = orders.recv() => match order {
                Some(order) => state.obey(primary, &order)?,
                None => break,
            },
        }
    }
    primary.shutdown().await;
    if let Some(told) = state.told_all {
        told.await?;
    }
    Ok(())
}

impl State {
    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Fork { worker } => {
                println!("worker {} pid {}", worker.id(), worker.pid());
                if is_early() {
                    (0..10).try_for_each(|_| worker.send(&"early"))?;
                }
            }
            Event::Listening { worker, bound, .. } => {
                println!("listening {} {bound}", worker.id());
                self.current.push(worker);
                if std::mem::take(&mut self.replaces) {
                    println!("replaced");
                }
            }
            Event::Message { worker, message } => match &**message.bytes() {
                br#""notifyRequest""# => self.notices += 1,
                _ => *self.received.entry(worker.id()).or_default() += 1,
            },
            Event::Disconnect { worker } => println!("disconnect {}", worker.id()),
            Event::Exit { worker, exit } => {
                let code = exit
                    .code()
                    .map_or("null".to_owned(), |code| code.to_string());
                let signal = exit
                    .signal()
                    .map_or("null".to_owned(), |signal| signal.to_string());
                let received = self.received.get(&worker.id()).copied().unwrap_or_default();
                println!("exit {} {code} {signal} {received}", worker.id());
                self.current.retain(|one| one.id() != worker.id());
            }
            _ => {}
        }
        Ok(())
    }

    fn obey(&mut self, primary: &Primary, order: &str) -> Result<()> {
        let mut words = order.splitn(3, ' ');
        let order = words.next().unwrap_or_default();
        let id = words.next().unwrap_or_default();
        let one = || {
            let mut workers = primary.workers().into_iter();
            workers
                .find(|worker| worker.id().to_string() == id)
                .ok_or("no such worker")
        };
        match order {
            // What has ended is replaced in any case.
            "fork" => {}
            // The new one is on its way while the old one leaves.
            "replace" => {
                self.replaces = true;
                drop(self.current.remove(0).disconnect());
            }
            "disconnect" | "disconnect-twice" => {
                drop(one()?.disconnect());
                if order == "disconnect-twice" {
                    drop(one()?.disconnect());
                }
                println!("told");
            }
            "disconnect-all" => {
                let all = primary.shutdown();
                self.told_all = Some(tokio::spawn(async move {
                    all.await;
                    println!("all disconnected");
                }));
            }
            "send-dead" => {
                let worker = one()?;
                worker.process().kill(Signal::Kill)?;
                tokio::spawn(async move {
                    worker.exited().await;
                    println!("sent {:?}", worker.send(&"anybody there?"));
                });
            }
            "tell" => one()?.send(&words.next().unwrap_or_default())?,
            "notices" => println!("notices {}", self.notices),
            other => return Err(format!("no such order: {other}").into()),
        }
        Ok(())
    }
}

type Hello = ([(HeaderName, HeaderValue); 1], &'static str);

#[derive(serde::Deserialize)]
struct Slow {
    ms: u64,
}

async fn work(worker: Worker) -> Result<()> {
    tokio::spawn(hear(worker.clone()));
    let id = HeaderValue::from(worker.id().get());
    let hello = move || -> Hello {
        (
            [(HeaderName::from_static("x-worker"), id.clone())],
            "hello world",
        )
    };
    let (slow, notify, sender) = (hello.clone(), hello.clone(), worker.clone());
    let app = Router::new()
        .route("/", get(async move || hello()))
        .route(
            "/slow",
            get(async move |Query(Slow { ms }): Query<Slow>| {
                sleep(Duration::from_millis(ms)).await;
                slow()
            }),
        )
        .route(
            "/notify",
            get(async move || sender.send(&"notifyRequest").map(|()| notify())),
        );
    Ok(worker.serve(app).await?)
}

/// What the primary has it do.
async fn hear(worker: Worker) -> std::result::Result<(), BoxError> {
    if is_early() {
        sleep(Duration::from_millis(200)).await;
        let mut messages = worker.messages();
        let mut heard = 0;
        while let Ok(Some(_)) = timeout(Duration::from_millis(300), messages.recv()).await {
            heard += 1;
        }
        println!("heard {heard}");
    }
    let mut messages = worker.messages();
    while let Some(message) = messages.recv().await {
        let text: String = message.json()?;
        match *text.split(' ').collect::<Vec<_>>() {
            ["block", blocked, free] => {
                let (blocked, free) = (blocked.parse()?, free.parse()?);
                tokio::spawn(async move {
                    loop {
                        std::thread::sleep(Duration::from_millis(blocked));
                        sleep(Duration::from_millis(free)).await;
                    }
                });
            }
            ["last-words", how] => {
                let large = "x".repeat(1 << 20);
                (0..3).try_for_each(|_| worker.send(&large))?;
                match how {
                    "exit" => std::process::exit(0),
                    _ => worker.disconnect().await,
                }
            }
            _ => {}
        }
    }
    Ok(())
}
