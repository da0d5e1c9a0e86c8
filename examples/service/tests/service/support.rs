//! A service that runs, what can be seen of it, and what is sent to it.

use std::fs;
use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Response};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Far beyond anything a test waits for; only a hang takes this long.
const LIMIT: Duration = Duration::from_secs(300);

/// Who measures is alone.
static MACHINE: RwLock<()> = RwLock::const_new(());

pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// A variable in the environment of a process and of all that it starts, to find
/// them by. Whatever is left when this is dropped is killed.
pub struct Marked(String);

impl Marked {
    const NAME: &str = "PROCESSION_SERVICE_TEST";

    pub fn new() -> Marked {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Marked(format!("{}-{number}", std::process::id()))
    }

    pub fn variable(&self) -> (&str, &str) {
        (Marked::NAME, &self.0)
    }

    /// Ids and command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("{}={}", Marked::NAME, self.0);
        let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        all.filter_map(|path| {
            let pid = path.file_name()?.to_str()?.parse().ok()?;
            let environ = fs::read(path.join("environ")).ok()?;
            let is_marked = environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes());
            let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            is_marked.then_some((pid, command))
        })
        .collect()
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

pub struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    marked: Marked,
    url: String,
    pub client: Client,
    _among_others: Option<RwLockReadGuard<'static, ()>>,
}

impl Server {
    pub async fn start(options: &[&str]) -> Server {
        let among_others = MACHINE.read().await;
        let program = env!("CARGO_BIN_EXE_procession-service");
        let mut server = Server::start_alone(program, options).await;
        server._among_others = Some(among_others);
        server
    }

    /// For who has the machine alone.
    pub async fn start_alone(program: &str, options: &[&str]) -> Server {
        let marked = Marked::new();
        let mut child = Command::new(program)
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .envs([marked.variable()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        within(stdout.read_line(&mut line)).await.unwrap();
        let url = line.trim().strip_prefix("listening on ").expect("the first line").to_owned();
        let client = Client::new();
        Server { child, stdout, marked, url, client, _among_others: None }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Host and port, for clients that are no good at HTTP.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        within(self.client.get(self.url(path)).send()).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        within(self.client.post(self.url(path)).body(body).send()).await.unwrap()
    }

    /// What is sent while the test does something else.
    pub fn posting(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> tokio::task::JoinHandle<reqwest::Result<Response>> {
        tokio::spawn(self.client.post(self.url(path)).body(body).send())
    }

    /// The value of a metric of a pool, summed over its other labels.
    pub async fn metric(&self, name: &str, pool: &str) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let labels = format!("{name}{{pool=\"{pool}\"");
        let lines = text.lines().filter(|line| line.starts_with(&labels));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Waits until a metric has a value.
    pub async fn until(&self, name: &str, pool: &str, value: u64) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = self.metric(name, pool).await;
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} of {pool} is {now}, never {value}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until no call is left, and the books are in balance.
    pub async fn until_idle(&self, pool: &str) {
        self.until("procession_pool_tasks_pending", pool, 0).await;
        self.until("procession_pool_tasks_in_flight", pool, 0).await;
        let submitted = self.metric("procession_pool_tasks_submitted_total", pool).await;
        self.until("procession_pool_tasks_total", pool, submitted).await;
    }

    /// Calls of a pool that were cancelled.
    pub async fn cancelled(&self, pool: &str) -> u64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let name = "procession_pool_tasks_total";
        let sample = format!("{name}{{pool=\"{pool}\",outcome=\"cancelled\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
    }

    /// The table of workers as the page gets it, of one pool.
    pub async fn workers(&self, pool: &str) -> Vec<Worker> {
        let events = lines(self.get("/workers").await);
        let event = within(std::pin::pin!(events).next()).await.expect("a table");
        let all: Vec<Worker> = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        all.into_iter().filter(|worker| worker.pool == pool).collect()
    }

    /// Waits until the first worker of a pool is as it should be.
    pub async fn first_worker(&self, pool: &str, is: impl Fn(&Worker) -> bool) -> Worker {
        let deadline = Instant::now() + LIMIT;
        loop {
            let worker = self.workers(pool).await.swap_remove(0);
            if is(&worker) {
                return worker;
            }
            assert!(Instant::now() < deadline, "never: {worker:?}");
        }
    }

    /// Whether it takes connections.
    pub async fn is_listening(&self) -> bool {
        TcpStream::connect(self.address()).await.is_ok()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap() as i32), signal).unwrap();
    }

    /// Ends it as an administrator would.
    pub async fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.ended().await;
    }

    /// Waits for its end, which must be a good one. What it printed since it
    /// began to listen.
    pub async fn ended(mut self) -> String {
        let mut printed = String::new();
        within(self.stdout.read_to_string(&mut printed)).await.unwrap();
        let exit: ExitStatus = within(self.child.wait()).await.unwrap();
        assert_eq!(exit.code(), Some(0), "{exit}; it printed: {printed}");
        assert_eq!(self.marked.processes(), [], "left behind");
        printed
    }
}

/// A row of the table.
#[derive(Deserialize, Debug)]
pub struct Worker {
    pool: String,
    pub pid: Option<i32>,
    pub state: String,
    pub task: Option<String>,
    pub tasks_done: u64,
    pub restarts: u64,
    pub memory_kib: Option<u64>,
}

impl Worker {
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid.unwrap()), signal).unwrap();
    }
}

/// Awaits what must not take for ever.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("nothing happened for a minute")
}

/// A body's lines, without empty ones, as they come.
pub fn lines(response: Response) -> impl Stream<Item = String> {
    let pieces = Box::pin(response.bytes_stream());
    let state = (pieces, Vec::new());
    let batches = futures::stream::unfold(state, |(mut pieces, mut rest): (_, Vec<u8>)| async {
        let piece: bytes::Bytes = StreamExt::next(&mut pieces).await?.expect("the body goes on");
        rest.extend_from_slice(&piece);
        let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let whole = String::from_utf8(rest.drain(..end).collect()).unwrap();
        let lines: Vec<String> =
            whole.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Some((futures::stream::iter(lines), (pieces, rest)))
    });
    batches.flatten()
}

/// A file of some kilobytes that says it is a square image, white and `side`
/// pixels wide, and is.
pub fn image(side: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().unwrap();
    let mut rows = writer.stream_writer().unwrap();
    let row = vec![0xff; side.div_ceil(8) as usize];
    for _ in 0..side {
        std::io::Write::write_all(&mut rows, &row).unwrap();
    }
    rows.finish().unwrap();
    drop(writer);
    file
}

/// Takes a worker a second and more to scale down, if it may have the memory:
/// 400 MB.
pub fn large_image() -> Vec<u8> {
    image(20_000)
}

/// Processor time that a process has used, in ticks of the kernel; and whether
/// it sleeps.
pub fn processor_time(pid: i32) -> (u64, bool) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (ticks, fields[0] == "S")
}
