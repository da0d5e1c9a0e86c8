//! SIGTERM and Ctrl-C: what is running gets its time, the rest is cancelled,
//! nothing is left. That nothing is, `Server::ended` checks in every test.

use futures::StreamExt;
use nix::sys::signal::Signal;
use reqwest::StatusCode;

use crate::streams::{ENDLESS, ndjson};
use crate::support::{Server, image, lines, within};

const CLEAN: &str = "stopped: 0 running and 0 waiting calls were cancelled\n";

#[tokio::test]
async fn work_that_ends_in_time_is_answered() {
    let server = Server::start(&["--memory", "1024", "--deadline", "60", "--grace", "60"]).await;
    let request = server.posting("/thumbnail", image(10_000));
    server.until("procession_pool_tasks_in_flight", "requests", 1).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(within(request).await.unwrap().unwrap().status(), StatusCode::OK);
    let printed = server.ended().await;
    assert!(printed.ends_with(CLEAN), "{printed}");
}

#[tokio::test]
async fn work_that_does_not_end_in_time_is_cancelled() {
    let server = Server::start(&["--workers", "1", "--grace", "0.1"]).await;
    let mut read = std::pin::pin!(lines(ndjson(&server, ENDLESS).await));
    within(read.next()).await.expect("a prime");
    server.signal(Signal::SIGINT);
    let last = within(read.fold(String::new(), async |_, line| line)).await;
    assert_eq!(last, "{\"error\":\"the pool was terminated\"}");
    let printed = server.ended().await;
    assert!(printed.ends_with("stopped: 1 running and 0 waiting calls were cancelled\n"));
}

#[tokio::test]
async fn a_second_signal_cuts_the_time_short() {
    let server = Server::start(&["--workers", "1", "--grace", "600"]).await;
    let _unread = server.get(ENDLESS).await;
    server.first_worker("streams", |worker| worker.task.is_some()).await;
    server.signal(Signal::SIGINT);
    // The next one counts only once the first has been seen.
    within(async { while server.is_listening().await {} }).await;
    server.signal(Signal::SIGINT);
    let printed = server.ended().await;
    assert!(printed.ends_with("stopped: 1 running and 0 waiting calls were cancelled\n"));
}

#[tokio::test]
async fn an_open_page_and_a_client_that_does_not_read_keep_nobody_waiting() {
    let server = Server::start(&["--workers", "1", "--grace", "0.1"]).await;
    let _page = server.get("/workers").await;
    let _unread = server.get(ENDLESS).await;
    server.first_worker("streams", |worker| worker.task.is_some()).await;
    server.signal(Signal::SIGTERM);
    server.ended().await;
}
