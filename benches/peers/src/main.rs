//! The same jobs through procession and its peers, interleaved in one run.
//! `run` is the command for it; `README.md` says what is measured, and how.
//!
//! One program in two roles. Without `measure`, it drives the rounds: for each
//! job it starts every contestant in turn as a fresh process, and gathers the
//! JSON line that each prints. With `measure CONTESTANT JOB`, it is such a
//! process; `python/peers.py` is the other kind, with the same arguments.

mod contestant;
mod drive;
mod growth;
mod ipc_channel;
mod jobs;
mod ours;
mod pipes;
mod procspawn_pool;
mod queues;
mod raw;
mod report;
mod starts;
mod tasks;
mod threads;

use std::error::Error;
use std::process::ExitCode;

use self::contestant::{Values, measure};

fn main() -> ExitCode {
    // Each starts its workers as this program again, and looks for its own mark
    // only: an `argv[0]`, an environment variable, an option.
    procession::init();
    procspawn::init();
    ipc_channel::init();

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    if let [role, who, job, rest @ ..] = arguments
        && role == "measure"
    {
        let quick = rest.iter().any(|option| option == "--quick");
        println!("{}", serde_json::to_string(&measure_one(who, job, quick)?)?);
        return Ok(());
    }
    drive::run(drive::Options::parse(arguments)?)
}

fn measure_one(who: &str, job: &str, quick: bool) -> Result<Values, String> {
    let sizes = jobs::Sizes::new(quick);
    Ok(match (who, job) {
        ("procession", "growth") => growth::measure(&sizes),
        ("procession", "pipe") => pipes::procession(&sizes),
        ("ipc-channel", "pipe") => pipes::ipc_channel(&sizes),
        ("procession", "queue") => queues::procession(&sizes),
        ("ipc-channel", "queue") => queues::ipc_channel(&sizes),
        ("procession", "start") => starts::procession(&sizes),
        ("std::process", "start") => starts::std_process(&sizes),
        ("std::process", _) => Values::new(),
        ("procspawn", "start") => starts::procspawn(&sizes),
        ("procession", _) => measure::<ours::Procession>(job, &sizes),
        ("by fork server", "first_result" | "cancel") => measure::<ours::ByForkServer>(job, &sizes),
        ("by fork server", _) => Values::new(),
        ("spawn_blocking", _) => measure::<threads::SpawnBlocking>(job, &sizes),
        ("rayon", _) => measure::<threads::Rayon>(job, &sizes),
        ("procspawn", _) => measure::<procspawn_pool::Procspawn>(job, &sizes),
        ("ipc-channel", _) => measure::<ipc_channel::IpcChannel>(job, &sizes),
        ("socketpair", _) => raw::socketpair(job, &sizes),
        ("memcpy", _) => raw::memcpy(job, &sizes),
        _ => return Err(format!("no contestant {who}")),
    })
}
