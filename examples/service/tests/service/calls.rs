//! Requests that are one call each, and what else can become of them.

use std::io::Cursor;

use image::{DynamicImage, GenericImageView, ImageFormat};
use nix::sys::signal::Signal;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};

use crate::support::{Server, image, large_image, within};

#[tokio::test]
async fn a_password_is_hashed_with_a_salt_of_its_own() {
    let server = Server::start(&[]).await;
    let mut hashes = Vec::new();
    for _ in 0..2 {
        let response = server.post("/password", "correct horse").await;
        assert_eq!(response.status(), StatusCode::OK);
        hashes.push(response.text().await.unwrap());
    }
    assert!(hashes.iter().all(|hash| hash.starts_with("$argon2id$v=19$")), "{hashes:?}");
    assert_ne!(hashes[0], hashes[1]);
    server.stop().await;
}

#[tokio::test]
async fn an_image_is_scaled_to_fit() {
    let server = Server::start(&[]).await;
    let photo = DynamicImage::new_rgb8(640, 480);
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let mut file = Cursor::new(Vec::new());
        photo.write_to(&mut file, format).unwrap();
        let response = server.post("/thumbnail?size=64", file.into_inner()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "image/png");
        let png = response.bytes().await.unwrap();
        let thumbnail = image::load_from_memory_with_format(&png, ImageFormat::Png).unwrap();
        assert_eq!(thumbnail.dimensions(), (64, 48));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_costs_no_worker() {
    let server = Server::start(&["--workers", "1"]).await;
    let response = server.post("/thumbnail", "no image").await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.workers("requests").await[0].restarts, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_decompression_bomb_ends_its_worker_and_nothing_else() {
    let server = Server::start(&["--workers", "1"]).await;
    let bomb = large_image();
    assert!(bomb.len() < 100_000, "{} bytes", bomb.len());
    let response = server.post("/thumbnail", bomb).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let said = response.text().await.unwrap();
    assert!(said.contains("was killed by signal 6 (SIGABRT)"), "{said}");
    assert!(said.contains("memory allocation of 400000000 bytes failed"), "{said}");

    let response = server.post("/thumbnail", image(100)).await;
    assert_eq!(response.status(), StatusCode::OK, "another worker serves the next");
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
    server.until("procession_pool_workers_lost_total", "requests", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn a_crash_is_a_500_with_its_reason_and_the_worker_is_replaced() {
    let server = Server::start(&["--workers", "1"]).await;
    let before = server.workers("requests").await.swap_remove(0);
    let response = server.post("/crash", "").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let said = response.text().await.unwrap();
    assert!(said.contains("killed by signal 6 (SIGABRT)"), "{said}");
    // What it printed is for the log.
    assert!(!said.contains("as I was told to"), "{said}");

    let after = server.first_worker("requests", |worker| worker.state == "idle").await;
    assert_eq!(after.restarts, 1);
    assert_ne!(after.pid, before.pid);
    assert!(after.memory_kib.unwrap() > 0);
    server.stop().await;
}

#[tokio::test]
async fn when_the_queue_is_full_requests_are_told_to_come_again() {
    let server = Server::start(&["--workers", "1", "--queue", "0"]).await;
    let worker = server.workers("requests").await.swap_remove(0);
    worker.signal(Signal::SIGSTOP);
    let first = server.posting("/password", "one");
    server.until("procession_pool_tasks_in_flight", "requests", 1).await;

    let second = server.post("/password", "two").await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.headers()[RETRY_AFTER], "1");
    assert_eq!(second.text().await.unwrap(), "the queue is full");

    worker.signal(Signal::SIGCONT);
    assert_eq!(within(first).await.unwrap().unwrap().status(), StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn past_the_deadline_work_is_stopped() {
    let server = Server::start(&["--workers", "1", "--memory", "4096", "--deadline", "0.2"]).await;
    let response = server.post("/thumbnail", large_image()).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(response.text().await.unwrap(), "not done after 200ms, and stopped");
    server.until_idle("requests").await;
    assert_eq!(server.cancelled("requests").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_its_work() {
    let server = Server::start(&["--workers", "1", "--memory", "4096"]).await;
    let request = server.posting("/thumbnail", large_image());
    let busy = server.first_worker("requests", |worker| worker.task.is_some()).await;
    assert_eq!(busy.task.as_deref(), Some("thumbnail"));
    request.abort();
    server.until_idle("requests").await;
    let after = server.first_worker("requests", |worker| worker.state == "idle").await;
    assert_eq!((after.restarts, after.tasks_done), (1, 0), "it was stopped, not finished");
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_in_the_format_of_prometheus() {
    let server = Server::start(&["--workers", "1"]).await;
    server.post("/password", "counts").await;
    server.post("/crash", "").await;
    // The last to be told of each, once its client has been answered.
    server.until("procession_pool_task_run_time_seconds_count", "requests", 1).await;
    server.until("procession_pool_workers_respawned_total", "requests", 1).await;
    let response = server.get("/metrics").await;
    assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; version=0.0.4");
    let text = response.text().await.unwrap();
    assert!(text.ends_with('\n'));
    let (mut declared, mut kind) = ("", "");
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(declaration) = line.strip_prefix("# TYPE ") {
            (declared, kind) = declaration.split_once(' ').unwrap();
            assert!(matches!(kind, "gauge" | "counter" | "histogram"), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap();
            let of = name.strip_prefix(declared).unwrap_or_else(|| panic!("{line}"));
            let parts: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(parts.contains(&of), "{line}");
            assert!(labels.starts_with("pool=\"") && labels.ends_with("\"}"), "{line}");
            value.parse::<f64>().unwrap();
        }
    }
    for sample in [
        "workers{pool=\"requests\",state=\"busy\"} 0",
        "tasks_pending{pool=\"streams\"} 0",
        "tasks_submitted_total{pool=\"requests\"} 2",
        "tasks_total{pool=\"requests\",outcome=\"completed\"} 1",
        "tasks_total{pool=\"requests\",outcome=\"lost\"} 1",
        "tasks_total{pool=\"streams\",outcome=\"timed_out\"} 0",
        "task_wait_time_seconds_bucket{pool=\"requests\",le=\"+Inf\"} 1",
        "workers_started_total{pool=\"requests\"} 2",
    ] {
        let line = format!("procession_pool_{sample}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    server.stop().await;
}
