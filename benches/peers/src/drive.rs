//! The rounds. In each, every job goes through all its contestants before the
//! next one, so that what disturbs the machine disturbs them alike.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::jobs::{CONTESTANTS, JOBS, Job, is_python};
use crate::report;

/// job → contestant → figure → one value per round.
pub type Results = BTreeMap<String, BTreeMap<String, BTreeMap<String, Vec<f64>>>>;

/// No measurement takes a quarter of that.
const LONGEST: Duration = Duration::from_secs(300);

pub struct Options {
    quick: bool,
    rounds: usize,
    only: Vec<String>,
    /// `None`: without Python.
    python: Option<PathBuf>,
    output: PathBuf,
}

const USAGE: &str = "usage: benches/peers/run [--quick] [--rounds N] [--only JOB]... [--no-python]";

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut options = Options {
            quick: false,
            rounds: 0,
            only: Vec::new(),
            python: Some(here.join("target/venv/bin/python")),
            output: here.join("target"),
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} what?\n{USAGE}"));
            match &argument[..] {
                "--quick" => options.quick = true,
                "--no-python" => options.python = None,
                "--rounds" => options.rounds = value()?.parse().map_err(|_| USAGE)?,
                "--only" => options.only.push(value()?.clone()),
                _ => return Err(USAGE.into()),
            }
        }
        for name in &options.only {
            if !JOBS.iter().any(|job| job.name == name) {
                let names: Vec<_> = JOBS.iter().map(|job| job.name).collect();
                return Err(format!("no job {name}; there are {}", names.join(", ")));
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 3 } else { 5 };
        }
        Ok(options)
    }

    fn jobs(&self) -> impl Iterator<Item = &'static Job> {
        JOBS.iter().filter(|job| self.only.is_empty() || self.only.iter().any(|o| o == job.name))
    }
}

pub fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let machine = report::machine(options.python.as_deref());
    let start = Instant::now();
    let mut results = Results::new();
    let mut failures = Vec::new();
    for round in 1..=options.rounds {
        for job in options.jobs() {
            eprintln!("{:4} s  round {round}  {}", start.elapsed().as_secs(), job.title);
            for who in CONTESTANTS {
                let Some(mut command) = command(&options, who) else { continue };
                command.arg(job.name).args(options.quick.then_some("--quick"));
                match measure(command) {
                    Ok(values) if values.is_empty() => {}
                    Ok(values) => {
                        let of_job = results.entry(job.name.into()).or_default();
                        let figures = of_job.entry(who.into()).or_default();
                        for (figure, value) in values {
                            figures.entry(figure).or_default().push(value);
                        }
                    }
                    Err(error) => failures.push(format!("{who}, {}: {error}", job.name)),
                }
            }
        }
    }
    let took = start.elapsed().as_secs();
    let settings = format!(
        "{} rounds{}, {took} s",
        options.rounds,
        if options.quick { " of a quick run" } else { "" }
    );
    let text = report::table(&results, &machine, &settings, &failures);
    fs::create_dir_all(&options.output)?;
    let all = json!({ "machine": machine, "settings": settings, "failures": failures,
        "results": results });
    fs::write(options.output.join("results.json"), serde_json::to_string_pretty(&all)?)?;
    fs::write(options.output.join("plot.svg"), report::plot(&results))?;
    println!("{text}");
    match failures.len() {
        0 => Ok(()),
        failed => Err(format!("{failed} measurements failed").into()),
    }
}

fn command(options: &Options, who: &str) -> Option<Command> {
    let mut command = if is_python(who) {
        let mut command = Command::new(options.python.as_ref()?);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/peers.py"));
        command
    } else {
        let mut command = Command::new("/proc/self/exe");
        command.arg("measure");
        command
    };
    command.arg(who);
    Some(command)
}

/// Runs one measurement, and ends all that is left of it.
fn measure(mut command: Command) -> Result<BTreeMap<String, f64>, Box<dyn Error>> {
    let mut child = command.stdout(Stdio::piped()).process_group(0).spawn()?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let group = Pid::from_raw(child.id() as i32);
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + LONGEST;
    let exit = loop {
        match child.try_wait()? {
            Some(exit) => break Some(exit),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    // Its workers are of its group and hold its standard output. Often there are
    // none left.
    let _ = killpg(group, Signal::SIGKILL);
    let Some(exit) = exit else {
        child.wait()?;
        return Err(format!("took longer than {} s", LONGEST.as_secs()).into());
    };
    if !exit.success() {
        return Err(exit.to_string().into());
    }
    let text = reader.join().expect("no panic")?;
    Ok(serde_json::from_str(text.lines().last().ok_or("it printed nothing")?)?)
}
