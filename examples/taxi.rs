//! A taxi and its user talk over a pipe, each in a process of its own that prints its
//! side of it.
//!
//! ```text
//! $ cargo run --example taxi
//! taxi: where to?
//! user: to the station
//! taxi: that is 7 streets
//! user: thank you
//! taxi: 1 ride today
//! ```

use procession::{Connection, Process, pipe};

fn log(who: &str, text: &str) -> String {
    println!("{who}: {text}");
    text.to_string()
}

fn drive(mut user: Connection<String>) -> usize {
    user.blocking_send(log("taxi", "where to?")).unwrap();
    let mut rides = 0;
    // Ends when nobody has the other end any more.
    while let Some(place) = user.blocking_recv().unwrap() {
        rides += 1;
        let streets = place.len() / 2;
        user.blocking_send(log("taxi", &format!("that is {streets} streets"))).unwrap();
    }
    rides
}

fn ride(mut taxi: Connection<String>) {
    taxi.blocking_recv().unwrap();
    taxi.blocking_send(log("user", "to the station")).unwrap();
    taxi.blocking_recv().unwrap();
    log("user", "thank you");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    procession::init();
    let (one, other) = pipe::<String>()?;
    let taxi = Process::builder().name("taxi").spawn(drive, one)?;
    let user = Process::builder().name("user").spawn(ride, other)?;
    user.await?;
    println!("taxi: {} ride today", taxi.await?);
    Ok(())
}
