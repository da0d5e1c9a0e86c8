//! Many clients at once, and clients that go away.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Server, alone, image, within};

const REQUESTS: usize = 200;

/// How much quicker `/health` must be beside processes than beside threads.
/// It was 12 to 150 times as quick where this was written.
const RATIO: u32 = 4;

/// How late `/health` is, at the 99th percentile, while all the passwords of 200
/// clients are being hashed.
async fn health_under_load(server: &Server) -> Duration {
    let requests = (0..REQUESTS).map(|n| server.posting("/password", format!("password {n}")));
    let load = futures::future::join_all(requests.collect::<Vec<_>>());
    let mut load = std::pin::pin!(load);
    let mut waits = Vec::new();
    let probe = reqwest::Client::new();
    let responses = loop {
        let asked = Instant::now();
        let health = probe.get(server.url("/health")).send();
        tokio::select! {
            biased;
            responses = &mut load => break responses,
            health = health => assert_eq!(health.unwrap().status(), StatusCode::OK),
        }
        waits.push(asked.elapsed());
    };
    for response in responses {
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.text().await.unwrap().starts_with("$argon2id$"));
    }
    waits.sort();
    let last = waits.len() * 99 / 100;
    println!("{} answers, p50 {:?}, p99 {:?}", waits.len(), waits[waits.len() / 2], waits[last]);
    waits[last]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_stays_quick_beside_200_passwords() {
    let _alone = alone().await;
    let program = env!("CARGO_BIN_EXE_procession-service");
    let server = Server::start_alone(program, &["--deadline", "600"]).await;
    let control = Server::start_alone(env!("CARGO_BIN_EXE_on-threads"), &[]).await;
    // One good round of three is enough: other things happen on the machine.
    let mut rounds = Vec::new();
    let is_quick = within(async {
        while rounds.len() < 3 {
            let processes = health_under_load(&server).await;
            let threads = health_under_load(&control).await;
            rounds.push((processes, threads));
            if processes * RATIO < threads {
                return true;
            }
        }
        false
    })
    .await;
    assert!(is_quick, "p99 beside processes and beside threads: {rounds:?}");
    server.stop().await;
    control.stop().await;
}

const WAVES: u64 = 10;

/// In each wave, of each of four kinds.
const CLIENTS: u64 = 25;

#[tokio::test]
async fn a_thousand_clients_that_hang_up_leave_no_work() {
    let server = Server::start(&["--workers", "2"]).await;
    let image = image(3000);
    for wave in 1..=WAVES {
        let clients = (0..4 * CLIENTS).map(|n| begin(server.address(), n % 4, &image));
        let connections = within(futures::future::join_all(clients)).await;
        // Two kinds are calls by now.
        let calls = wave * 2 * CLIENTS;
        server.until("procession_pool_tasks_submitted_total", "requests", calls).await;
        drop(connections);
    }
    for pool in ["requests", "streams"] {
        server.until_idle(pool).await;
        let ended = server.metric("procession_pool_tasks_total", pool).await;
        let cancelled = server.cancelled(pool).await;
        assert!(cancelled > ended / 2, "only {cancelled} of {ended} were midway in {pool}");
    }
    assert_eq!(server.post("/password", "next").await.status(), StatusCode::OK);
    let streams = [server.get("/primes?limit=2").await, server.get("/primes?limit=2").await];
    assert_eq!(streams.map(|stream| stream.status()), [StatusCode::OK; 2]);
    server.stop().await;
}

/// A client that sends half of its request or all of it, or has read the
/// beginning of its answer.
async fn begin(address: &str, kind: u64, image: &[u8]) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let (request, length, body): (_, _, &[u8]) = match kind {
        0 => ("POST /thumbnail", image.len(), &image[..image.len() / 2]),
        1 => ("POST /thumbnail", image.len(), image),
        2 => ("POST /password", 6, b"secret"),
        _ => ("GET /primes?limit=100000000", 0, b""),
    };
    let head = format!("{request} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
    connection.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    if request.starts_with("GET") {
        connection.read_exact(&mut [0; 64]).await.unwrap();
    }
    connection
}
