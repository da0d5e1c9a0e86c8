//! `/primes`: what is streamed, and how it follows its reader.

use futures::StreamExt;
use nix::sys::signal::Signal;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Server, lines, processor_time, within};

/// Far more than any test waits for.
pub const ENDLESS: &str = "/primes?limit=100000000";

pub async fn ndjson(server: &Server, path: &str) -> Response {
    let request = server.client.get(server.url(path)).header(ACCEPT, "application/x-ndjson");
    within(request.send()).await.unwrap()
}

/// The primes of a line; none if it is the last.
fn primes_in(line: &str) -> Vec<usize> {
    let line: Value = serde_json::from_str(line).unwrap();
    let primes = line["primes"].as_array().into_iter().flatten();
    primes.map(|prime| prime.as_u64().unwrap() as usize).collect()
}

#[tokio::test]
async fn primes_come_as_events_or_as_ndjson() {
    let server = Server::start(&[]).await;
    let events = server.get("/primes?limit=10").await;
    assert_eq!(events.headers()[CONTENT_TYPE], "text/event-stream");
    let text = within(events.text()).await.unwrap();
    let events = text.strip_suffix("\n\n").unwrap().split("\n\n");
    let events: Vec<_> = events.map(|event| event.strip_prefix("data: ").unwrap()).collect();

    let response = ndjson(&server, "/primes?limit=10").await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/x-ndjson");
    let text = within(response.text()).await.unwrap();

    for mut lines in [events, text.lines().collect()] {
        assert_eq!(lines.pop(), Some("{\"done\":{\"primes\":4}}"));
        assert_eq!(lines.into_iter().flat_map(primes_in).collect::<Vec<_>>(), [2, 3, 5, 7]);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused() {
    let server = Server::start(&[]).await;
    for path in ["/primes", "/primes?limit=many", "/primes?limit=100000001"] {
        assert_eq!(server.get(path).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_makes_the_worker_wait() {
    let server = Server::start(&["--workers", "1"]).await;
    let mut lines = reader_with_small_buffers(&server, ENDLESS).await;
    let pid = server.first_worker("streams", |worker| worker.task.is_some()).await.pid.unwrap();
    let still = within(async {
        let (mut before, mut looks) = (processor_time(pid), 0);
        while looks < 20 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            let now = processor_time(pid);
            looks = if now == before && now.1 { looks + 1 } else { 0 };
            before = now;
        }
        before.0
    })
    .await;
    let waiting = server.workers("streams").await.swap_remove(0);
    assert_eq!(waiting.task.as_deref(), Some("primes up to 100000000"), "it is not done");

    // What comes when it is read on is the whole sequence, without a gap.
    let mut found = Vec::new();
    within(async {
        while processor_time(pid).0 == still {
            let line = lines.next_line().await.unwrap().unwrap();
            found.extend(primes_in(&line));
        }
    })
    .await;
    assert_eq!(found, primes_up_to(*found.last().unwrap()));
    drop(lines);
    server.until_idle("streams").await;
    server.stop().await;
}

/// The lines of a body. With large buffers the kernel takes megabytes before
/// anybody notices that they are not read; with HTTP/1.0 a body is nothing but
/// itself.
async fn reader_with_small_buffers(server: &Server, path: &str) -> Lines<BufReader<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut connection = socket.connect(server.address().parse().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\naccept: application/x-ndjson\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::with_capacity(1024, connection).lines();
    while within(lines.next_line()).await.unwrap().as_deref() != Some("") {}
    lines
}

/// By Eratosthenes.
fn primes_up_to(limit: usize) -> Vec<usize> {
    let mut is_prime = vec![true; limit + 1];
    is_prime[..2].fill(false);
    for n in 2..=limit.isqrt() {
        if is_prime[n] {
            (n * n..=limit).step_by(n).for_each(|multiple| is_prime[multiple] = false);
        }
    }
    (2..=limit).filter(|n| is_prime[*n]).collect()
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_the_stream_and_gives_its_place_back() {
    let server = Server::start(&["--workers", "1"]).await;
    let first = server.get(ENDLESS).await;
    assert_eq!(first.status(), StatusCode::OK);
    let second = server.get(ENDLESS).await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.headers()[RETRY_AFTER], "1");

    server.first_worker("streams", |worker| worker.task.is_some()).await;
    drop(first);
    server.until_idle("streams").await;
    let third = server.get("/primes?limit=2").await;
    let text = within(third.text()).await.unwrap();
    assert!(text.ends_with("data: {\"done\":{\"primes\":1}}\n\n"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_whose_worker_dies_says_so_in_its_last_line() {
    let server = Server::start(&["--workers", "1"]).await;
    let mut lines = std::pin::pin!(lines(ndjson(&server, ENDLESS).await));
    within(lines.next()).await.expect("a prime");
    server.workers("streams").await[0].signal(Signal::SIGKILL);
    let last = within(lines.fold(String::new(), async |_, line| line)).await;
    assert!(last.starts_with("{\"error\":\""), "{last}");
    assert!(last.contains("killed by signal 9 (SIGKILL)"), "{last}");
    server.stop().await;
}
