//! A program that never calls `init`: it gets an error that names the fix, and
//! no second copy of itself. This binary has no `test_worker!()` for that
//! reason.

use procession::Pool;

fn children() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap()).collect()
}

#[tokio::test]
async fn a_missing_init_is_an_error_that_names_the_fix() {
    for built in [Pool::new(), Pool::builder().workers(4).build()] {
        let error = built.unwrap_err();
        assert!(error.is_not_initialised() && !error.is_setting(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "this process never called `procession::init()`, so it cannot start workers: make \
             it the first line of main, or in tests write `procession::test_worker!();` once in \
             the test binary"
        );
    }
    assert_eq!(children(), "", "nothing was started");
}
