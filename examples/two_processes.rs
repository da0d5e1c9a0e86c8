//! Two processes and their pids: who runs what, and who has started whom.
//!
//! ```text
//! $ cargo run --example two_processes
//! MainProcess: I have started Process-1 and helper
//! Process-1: hello bob, from a process whose parent is MainProcess
//! helper: hello eve, from a process whose parent is MainProcess
//! three pids: true
//! ```

use std::collections::BTreeSet;
use std::process;

use procession::Process;
use procession::process::{current, parent};

fn greet(name: String) -> (String, u32) {
    let (me, parent) = (current(), parent().expect("it was started by another"));
    let text =
        format!("{}: hello {name}, from a process whose parent is {}", me.name(), parent.name());
    (text, me.pid())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let first = Process::spawn(greet, "bob".into())?;
    let second = Process::builder().name("helper").spawn(greet, "eve".into())?;
    println!("{}: I have started {} and {}", current().name(), first.name(), second.name());
    let mut pids = BTreeSet::from([process::id()]);
    for process in [first, second] {
        let (text, pid) = process.await?;
        println!("{text}");
        pids.insert(pid);
    }
    println!("three pids: {}", pids.len() == 3);
    Ok(())
}
