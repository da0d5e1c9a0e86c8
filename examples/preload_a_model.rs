//! Loads a model once, for all workers: a fork server has it in memory, and each
//! worker is a copy of the server, which shares that memory.
//!
//! ```text
//! $ cargo run --example preload_a_model
//! fork server: loading 1000000 numbers
//! [Some(0), Some(1), Some(4), Some(9)]
//! here: None
//! ```

use std::sync::OnceLock;

use procession::process::{current, fork_server};
use procession::{Pool, StartMethod};

static MODEL: OnceLock<Vec<u64>> = OnceLock::new();

fn load(numbers: u64) {
    println!("{}: loading {numbers} numbers", current().name());
    MODEL.get_or_init(|| (0..numbers).map(|n| n * n).collect());
}

fn look_up(n: usize) -> Option<u64> {
    MODEL.get().map(|model| model[n])
}

// Not `#[tokio::main]`: that has threads before `init` is called, and a process that
// has threads cannot be copied.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    tokio::runtime::Runtime::new()?.block_on(async {
        fork_server().preload(load, 1_000_000)?;
        let pool = Pool::builder().workers(4).start_method(StartMethod::ForkServer).build()?;
        println!("{:?}", pool.map(look_up, 0..4).await?);
        println!("here: {:?}", look_up(0));
        Ok(())
    })
}
