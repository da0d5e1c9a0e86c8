//! Runs a task again when its worker dies under it. This is never done unasked:
//! only the caller knows whether a task may run twice.
//!
//! ```text
//! $ cargo run --example retry
//! without: worker (pid …) exited with code 1 while it ran retry::flaky (task …)
//! with: it worked the 3rd time
//! ```

use std::path::PathBuf;

use procession::Pool;

/// Takes its process down the first two times. Processes share no memory, so
/// the count is kept in a file.
fn flaky(counter: PathBuf) -> String {
    let before: u32 = std::fs::read_to_string(&counter).map_or(0, |text| text.parse().unwrap());
    let now = before + 1;
    std::fs::write(&counter, now.to_string()).unwrap();
    if now < 3 {
        std::process::exit(1);
    }
    format!("it worked the {now}rd time")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let pool = Pool::builder().workers(1).build()?;
    let name = format!("procession-retry-{}", std::process::id());
    let counter = std::env::temp_dir().join(name);

    let error = pool.apply(flaky, counter.clone()).await.unwrap_err();
    println!("without: {error}");

    std::fs::remove_file(&counter)?;
    let answer = pool.apply(flaky, counter.clone()).retry(2).await;
    std::fs::remove_file(&counter)?;
    println!("with: {}", answer?);
    Ok(())
}
