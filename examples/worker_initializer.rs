//! Prepares every worker once, before its first task: here a table that each
//! worker keeps in a `static` of its own.
//!
//! ```text
//! $ cargo run --example worker_initializer
//! ["eins", "zwei", "drei"]
//! in the parent: no table
//! a worker could not start: the initializer failed: no words in xx
//! ```

use std::collections::HashMap;
use std::sync::OnceLock;

use procession::Pool;

/// One in each process; what workers put here, the parent never sees.
static WORDS: OnceLock<HashMap<u32, String>> = OnceLock::new();

fn load(language: String) -> Result<(), String> {
    let words = match language.as_str() {
        "de" => ["eins", "zwei", "drei"],
        _ => return Err(format!("no words in {language}")),
    };
    WORDS.get_or_init(|| (1..).zip(words.map(String::from)).collect());
    Ok(())
}

fn word(number: u32) -> String {
    WORDS.get().expect("the initializer ran before")[&number].clone()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(2).initializer(load, "de".to_string()).build()?;
    println!("{:?}", pool.map(word, 1..=3).await?);
    println!("in the parent: {}", if WORDS.get().is_none() { "no table" } else { "a table" });

    // Tried a few times, then every call gets the cause.
    let builder = Pool::builder().workers(1).restart_limit(2);
    let pool = builder.initializer(load, "xx".to_string()).build()?;
    println!("{}", pool.ready().await.unwrap_err());
    Ok(())
}
