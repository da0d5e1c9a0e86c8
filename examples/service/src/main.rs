//! A web service whose handlers leave the heavy and the dangerous to a pool of
//! processes. The README beside says what to look at.

mod metrics;
mod page;
mod primes;
mod routes;
mod service;
mod tasks;
mod workers;

use std::error::Error;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::service::Service;

/// Thumbnails, passwords and primes, computed in worker processes.
#[derive(Parser)]
struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Workers of each of the two pools [default: one for each processor].
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,
    /// How many requests may wait for a worker before others get 503.
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    queue: usize,
    /// After how many seconds a request gets 504, and its work is stopped.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    deadline: Duration,
    /// How many seconds work may go on after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    grace: Duration,
    /// Memory of a worker, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// How long what was answered at the end may take to be sent. A client that does
/// not read is not waited for any longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    procession::init();
    let options = Options::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    tokio::runtime::Runtime::new()?.block_on(run(options))
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let recorded = metrics::listen()?;
    let service = Service::start(&options, recorded)?;
    service.ready().await?;
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let routes = routes::routes(service.clone(), options.deadline);
    let server = axum::serve(listener, routes).with_graceful_shutdown(service.stopped());
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        () = signals.next() => {}
        ended = &mut server => return Ok(ended??),
    }
    println!("stopping: no more requests, {:?} for those that are here", options.grace);
    let left = tokio::select! {
        left = service.shutdown(options.grace) => left,
        // Somebody is in a hurry.
        () = signals.next() => service.shutdown(Duration::ZERO).await,
    };
    let _ = tokio::time::timeout(LAST_WORDS, server).await;
    println!("stopped: {} running and {} waiting calls were cancelled", left.running, left.queued);
    Ok(())
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Signals { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
