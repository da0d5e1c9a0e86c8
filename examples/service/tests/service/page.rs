//! The page, in a real browser.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Marked, Server, image, large_image, within};

/// Set to anything, it says that the page is not to be tested.
const SKIP: &str = "SERVICE_TEST_WITHOUT_BROWSER";

/// Chromium at the page of a server, until this is dropped.
struct Browser {
    client: Client,
    _driver: Child,
    /// All that the driver has started. It writes into the folder until it ends.
    _marked: Marked,
    _profile: TempDir,
}

impl Browser {
    /// `None` if there shall be none.
    async fn open(server: &Server) -> Option<Browser> {
        if std::env::var_os(SKIP).is_some() {
            eprintln!("NOT TESTED: the page, because {SKIP} is set");
            return None;
        }
        let marked = Marked::new();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .envs([marked.variable()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "no chromedriver ({error}): `apt-get install chromium chromium-driver`, \
                     or set {SKIP} to leave the page untested"
                )
            });
        let mut printed = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = within(async {
            loop {
                let line = printed.next_line().await.unwrap().expect("the driver's port");
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    return port.trim_end_matches('.').parse::<u16>().unwrap();
                }
            }
        })
        .await;
        let profile = TempDir::new().unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(profile.path()));
        let driver_url = format!("http://127.0.0.1:{port}");
        let client = within(builder.connect(&driver_url)).await.expect("a browser");
        within(client.goto(&server.url("/"))).await.unwrap();
        let browser = Browser { client, _driver: driver, _marked: marked, _profile: profile };
        browser.until("document.querySelectorAll('#workers tr').length > 0").await;
        Some(browser)
    }

    async fn close(self) {
        within(self.client.clone().close()).await.unwrap();
    }

    async fn find(&self, selector: &str) -> Element {
        self.client.find(Locator::Css(selector)).await.unwrap()
    }

    async fn click(&self, selector: &str) {
        self.find(selector).await.click().await.unwrap();
    }

    async fn evaluate(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        within(self.client.execute(&script, vec![])).await.unwrap()
    }

    async fn text(&self, selector: &str) -> String {
        let text = format!("document.querySelector('{selector}').textContent");
        self.evaluate(&text).await.as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true.
    async fn until(&self, expression: &str) {
        let deadline = Instant::now() + Duration::from_secs(300);
        while self.evaluate(expression).await != json!(true) {
            if Instant::now() > deadline {
                let page = self.evaluate("document.body.innerText").await;
                panic!("never: {expression}; the page: {page}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts a job up to `limit` by its form.
    async fn start(&self, limit: &str) {
        let field = self.find("#limit").await;
        field.clear().await.unwrap();
        field.send_keys(limit).await.unwrap();
        self.click("#start").await;
    }

    /// Waits until the job's first primes are there.
    async fn until_primes_arrive(&self) {
        self.until("document.querySelectorAll('#primes li').length > 0").await;
    }

    /// A cell of the table, by the worker's place and the column.
    async fn cell(&self, place: &str, column: usize) -> String {
        self.text(&format!("tr[data-place=\"{place}\"] td:nth-child({column})")).await
    }
}

fn capabilities(profile: &Path) -> serde_json::Map<String, Value> {
    let profile = format!("--user-data-dir={}", profile.display());
    let options = json!({
        "args": [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            profile,
        ],
    });
    [("goog:chromeOptions".to_owned(), options)].into_iter().collect()
}

#[tokio::test]
async fn the_bar_moves_and_primes_arrive() {
    let server = Server::start(&["--workers", "1"]).await;
    let Some(browser) = Browser::open(&server).await else { return server.stop().await };
    let watch = "(window.moves = 0, new MutationObserver(list => window.moves += list.length)
        .observe(document.getElementById('bar'), { attributes: true }), true)";
    browser.evaluate(watch).await;
    browser.start("2000000").await;
    browser.until_primes_arrive().await;
    browser.until("document.getElementById('outcome').textContent !== ''").await;
    assert_eq!(browser.text("#outcome").await, "Done: 148,933 primes.");
    assert_eq!(browser.text("#primes li").await, "1,999,993");
    assert_eq!(browser.evaluate("document.getElementById('bar').value").await, 1.0);
    let moves = browser.evaluate("window.moves").await.as_u64().unwrap();
    assert!(moves >= 10, "the bar moved {moves} times");
    browser.close().await;
    server.stop().await;
}

#[tokio::test]
async fn stop_ends_the_task() {
    let server = Server::start(&["--workers", "1"]).await;
    let Some(browser) = Browser::open(&server).await else { return server.stop().await };
    // It would take far longer than anybody waits for it here.
    browser.start("100000000").await;
    browser.until_primes_arrive().await;
    browser.until("document.querySelector('#workers').textContent.includes('primes up to')").await;
    browser.click("#stop").await;
    server.until_idle("streams").await;
    assert!(browser.text("#outcome").await.starts_with("Stopped. "));
    browser.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_reload_leaves_nothing_running() {
    let server = Server::start(&["--workers", "1"]).await;
    let Some(browser) = Browser::open(&server).await else { return server.stop().await };
    browser.start("100000000").await;
    browser.until_primes_arrive().await;
    within(browser.client.refresh()).await.unwrap();
    server.until_idle("streams").await;
    assert_eq!(server.cancelled("streams").await, 1);
    browser.close().await;
    server.stop().await;
}

#[tokio::test]
async fn lost_workers_are_seen_to_be_replaced() {
    let server = Server::start(&["--workers", "1"]).await;
    let Some(browser) = Browser::open(&server).await else { return server.stop().await };
    let replaced = async |place: &str, before: &str| {
        let row = format!("document.querySelector('tr[data-place=\"{place}\"]').cells");
        browser.until(&format!("{row}[6].textContent === '1'")).await;
        browser.until(&format!("{row}[2].textContent === 'idle'")).await;
        assert_ne!(browser.cell(place, 2).await, before, "the process");
        let event = format!("{place}: a new worker replaces process {before}");
        let events = browser.text("#events").await;
        assert!(events.contains(&event), "{events}");
    };
    let before = browser.cell("requests/0", 2).await;
    browser.click("#crash").await;
    replaced("requests/0", &before).await;
    browser.until("document.querySelector('#events').textContent.includes('SIGABRT')").await;

    let before = browser.cell("streams/0", 2).await;
    server.workers("streams").await[0].signal(Signal::SIGKILL);
    replaced("streams/0", &before).await;
    browser.close().await;
    server.stop().await;
}

#[tokio::test]
async fn the_keyboard_is_enough() {
    let server = Server::start(&["--workers", "1"]).await;
    let Some(browser) = Browser::open(&server).await else { return server.stop().await };
    let press = async |key: Key| {
        let focused = browser.client.active_element().await.unwrap();
        focused.send_keys(&key.to_string()).await.unwrap();
    };
    let focused = "document.activeElement.id";
    press(Key::Tab).await;
    assert_eq!(browser.evaluate(focused).await, "limit");
    press(Key::Enter).await;
    browser.until_primes_arrive().await;
    assert_eq!(browser.evaluate(focused).await, "stop", "what one wants next");
    press(Key::Enter).await;
    server.until_idle("streams").await;
    assert_eq!(browser.evaluate(focused).await, "start");
    browser.close().await;
    server.stop().await;
}

#[tokio::test]
async fn an_image_is_shown_and_a_bomb_is_explained() {
    let server = Server::start(&["--workers", "1"]).await;
    let Some(browser) = Browser::open(&server).await else { return server.stop().await };
    let folder = TempDir::new().unwrap();
    let send = async |name: &str, file: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, file).unwrap();
        browser.find("#file").await.send_keys(path.to_str().unwrap()).await.unwrap();
        browser.click("#image button").await;
    };
    send("good.png", image(1000)).await;
    browser.until("document.getElementById('thumbnail').naturalWidth === 320").await;
    send("bomb.png", large_image()).await;
    browser.until("document.getElementById('image-outcome').textContent.includes('SIGABRT')").await;
    assert!(browser.text("#image-outcome").await.starts_with("422: "));
    browser.close().await;
    server.stop().await;
}
