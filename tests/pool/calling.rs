//! One call at a time: what can be called, and what comes back.

use procession::Pool;

use crate::support::checked;

fn square(n: u64) -> u64 {
    n * n
}

#[test]
fn a_function_is_called_in_another_process() {
    checked(async {
        let pool = Pool::builder().workers(2).build().unwrap();
        assert_eq!(pool.apply(square, 12).await.unwrap(), 144);
        let theirs = pool.apply(std::process::id, ()).await.unwrap();
        assert_ne!(theirs, std::process::id());
    });
}
