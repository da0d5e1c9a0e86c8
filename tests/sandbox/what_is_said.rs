use procession::{Held, Pool, Sandbox};

use crate::support::{Scratch, checked};
use crate::{free_pool, is_possible, pool_in};

#[test]
fn what_is_in_force_is_reported_for_each_worker() {
    checked(async {
        if !is_possible().await {
            return;
        }
        let pool = Pool::builder().workers(2).sandbox(Sandbox::computing()).build().unwrap();
        pool.ready().await.unwrap();
        for worker in pool.workers() {
            let report = worker.sandbox.unwrap();
            assert!(report.is_complete() && report.landlock >= 6, "{report:?}");
            assert_eq!((report.files, report.syscalls), (Held::Fully, Held::Fully));
        }
        let pool = pool_in(Sandbox::computing().network().any_syscall());
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert_eq!((report.network, report.syscalls), (Held::Unwanted, Held::Unwanted));
        assert!(report.is_complete());
        let pool = free_pool();
        pool.ready().await.unwrap();
        assert_eq!(pool.workers()[0].sandbox, None);
    });
}

#[test]
fn a_path_that_is_not_there_breaks_the_pool_and_is_named() {
    checked(async {
        if is_possible().await {
            let scratch = Scratch::new();
            let pool = pool_in(Sandbox::computing().read(scratch.path("nowhere")));
            let error = pool.ready().await.unwrap_err().to_string();
            assert!(
                error.starts_with("a worker could not start: could not set sandbox: /"),
                "{error}"
            );
            assert!(error.contains("/nowhere"), "{error}");
        }
    });
}

#[test]
fn what_cannot_be_refused_is_not_asked_for_in_vain() {
    checked(async {
        let refused = Pool::builder().sandbox(Sandbox::computing().any_syscall()).build();
        let error = refused.map(drop).unwrap_err();
        assert!(
            error.is_setting() && error.to_string().starts_with("sandbox: only with"),
            "{error}"
        );
        let pool = pool_in(Sandbox::computing().any_syscall().best_effort());
        pool.ready().await.unwrap();
        let report = pool.workers()[0].sandbox.unwrap();
        assert!(!report.is_complete() && report.network != Held::Fully, "{report:?}");
    });
}
