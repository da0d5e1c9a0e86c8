//! `init` as the first line of a plain `main`, of a program with large thread-locals.
//!
//! No test harness, which would have another; so it answers nextest's questions itself.

use std::cell::Cell;

use procession::{Process, StartMethod};

const NAME: &str = "init_in_a_plain_main";

const LARGE: usize = 5 << 20;

thread_local! {
    /// More than the stack of a thread has room for, on which glibc puts it.
    static TABLE: [Cell<u8>; LARGE] = const { [const { Cell::new(0) }; LARGE] };
}

fn fill(n: u8) -> u8 {
    TABLE.with(|table| {
        table[LARGE - 1].set(n);
        table.iter().fold(0, |sum, byte| sum | byte.get())
    })
}

fn main() {
    procession::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        if !args.iter().any(|arg| arg == "--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(checked());
    println!("test {NAME} ... ok");
}

async fn checked() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let builder = || Process::builder().start_method(method);
        assert_eq!(builder().spawn(fill, 9).unwrap().await.unwrap(), 9);
    }
}
