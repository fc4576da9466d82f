//! The routes of the bench `ratios`, served by actix-web with two workers.

use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use serde::Serialize;

static LARGE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

#[derive(Serialize)]
struct Order {
    id: u32,
    customer: &'static str,
    paid: bool,
    total: f64,
}

async fn orders() -> HttpResponse {
    let orders = (0..15).map(|id| Order {
        id: 1_000 + id,
        customer: "somebody somewhere",
        paid: id % 3 == 0,
        total: f64::from(id) + 0.25,
    });
    HttpResponse::Ok().json(orders.collect::<Vec<_>>())
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let app = || {
        App::new()
            .route("/", web::get().to(|| async { "hello world" }))
            .route("/json", web::get().to(orders))
            .route("/body", web::get().to(|| async { web::Bytes::from_static(&LARGE) }))
            .route("/echo", web::post().to(|body: web::Bytes| async { body }))
    };
    let server = HttpServer::new(app)
        .workers(2)
        .keep_alive(Duration::from_secs(75))
        .bind_auto_h2c(("127.0.0.1", 0))?;
    println!("listening on {}", server.addrs()[0]);
    server.run().await
}
