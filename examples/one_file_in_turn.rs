//! Ten children write to one file, in turn: who has the baton writes. Each is a copy of
//! this process, and has the words from its memory; file and baton are arguments.
//!
//! ```text
//! $ cargo run --example one_file_in_turn
//! 10 children wrote 30 lines
//! nobody came between: true
//! 0: ready
//! 0: steady
//! 0: go
//! ```

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::OnceLock;

use futures::future::try_join_all;
use procession::{Fd, Process, Queue, StartMethod};

static WORDS: OnceLock<Vec<String>> = OnceLock::new();

fn write(number: u32, file: Fd<File>, baton: Queue<()>) {
    baton.blocking_get().expect("it goes round");
    for word in WORDS.get().expect("it was there before this process") {
        writeln!(&*file, "{number}: {word}").expect("there is room");
    }
    baton.blocking_put(()).expect("somebody waits for it");
}

// A process that has other threads cannot be copied.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    WORDS.get_or_init(|| ["ready", "steady", "go"].map(String::from).to_vec());
    let path = std::env::temp_dir().join(format!("in_turn-{}", std::process::id()));
    let file = Fd::from(File::options().read(true).write(true).create_new(true).open(&path)?);
    std::fs::remove_file(&path)?;
    let baton = Queue::new(1)?;
    let mut children = Vec::new();
    for number in 0..10 {
        let child = Process::builder().start_method(StartMethod::Fork);
        children.push(child.spawn(write, (number, file.clone(), baton.clone()))?);
    }
    baton.put(()).await?;
    let count = try_join_all(children).await?.len();
    let mut text = String::new();
    (&*file).rewind()?;
    (&*file).read_to_string(&mut text)?;
    let mut lines: Vec<&str> = text.lines().collect();
    println!("{count} children wrote {} lines", lines.len());
    let number = |line: &str| line.split(':').next().map(String::from);
    let is_one = |lines: &[&str]| lines.iter().all(|line| number(line) == number(lines[0]));
    println!("nobody came between: {}", lines.chunks(3).all(is_one));
    // The order is whose turn it was.
    lines.sort_by_key(|line| number(line));
    lines[..3].iter().for_each(|line| println!("{line}"));
    Ok(())
}
