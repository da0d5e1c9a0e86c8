//! A task in an ordinary worker gets hold of the worker's socket and status
//! page.

use std::time::Duration;

use procession::{Pool, TaskError};

use crate::support::{self, checked};
use crate::wire::{DONE, FAILED, HELLO, ITEM, READY, SKIPPED, frame};
use crate::{attack, trial::assert_protocol};

/// Runs an attack while a bystander works in the other worker, and checks what
/// is left of the pool. Returns the attack's own error.
async fn survive(attack: impl Fn(&Pool) -> procession::TaskHandle<()>) -> TaskError {
    let pool = Pool::builder()
        .workers(2)
        .frame_limit(1 << 20)
        .grace_period(Duration::from_millis(100))
        .build()
        .unwrap();
    pool.ready().await.unwrap();
    let bystander = pool.apply_async(attack::work_until_told, ());
    support::until("the bystander runs", || {
        matches!(bystander.status(), procession::TaskStatus::Running { .. })
    })
    .await;
    let error = attack(&pool).await.unwrap_err();
    // The other worker has seen nothing of it, and there are two again.
    for n in 0..100 {
        assert_eq!(pool.apply(attack::echo, n).await.unwrap(), n);
    }
    let told = bystander.cancel().await;
    assert!(told.started);
    assert_eq!(told.exit, None, "the bystander's worker was hurt");
    assert_eq!(pool.stats().workers_started, 3);
    pool.terminate().await;
    error
}

#[test]
fn bytes_that_are_no_frames() {
    checked(async {
        let error = survive(|pool| pool.apply_async(attack::send, vec![0xff; 4096])).await;
        assert_protocol(&error, "unknown kind 255");
    });
}

#[test]
fn descriptors_that_do_not_come() {
    checked(async {
        let mut bytes = frame(DONE, 0, 1, &[]);
        bytes[6] = 1;
        let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
        assert_protocol(&error, "descriptors that it announced did not come");
    });
}

#[test]
fn lengths_over_the_limit() {
    for (kind, length) in [(DONE, u32::MAX), (DONE, 4 << 20), (ITEM, u32::MAX), (FAILED, 1 << 17)] {
        checked(async {
            let mut bytes = frame(kind, 0, 1, &[]);
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
            assert_protocol(&error, "over the limit");
        });
    }
}

#[test]
fn messages_that_only_a_parent_sends() {
    for kind in [1, 2, 3] {
        checked(async {
            let bytes = frame(kind, 0, 0, &[0; 20]);
            let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
            assert_protocol(&error, "only a parent");
        });
    }
}

#[test]
fn a_second_hello_and_a_second_ready() {
    checked(async {
        // Version, fingerprint and pid, each one byte: none of them matters.
        let hello = frame(HELLO, 0, 0, &[1, 1, 1]);
        let error = survive(|pool| pool.apply_async(attack::send, hello.clone())).await;
        assert_protocol(&error, "hello after it was ready");
        let ready = frame(READY, 0, 0, &[]);
        let error = survive(|pool| pool.apply_async(attack::send, ready.clone())).await;
        assert_protocol(&error, "ready after it was ready");
    });
}

#[test]
fn answers_for_tasks_that_were_not_given() {
    for seq in [0, 2, 77, u64::MAX] {
        checked(async {
            let bytes = frame(DONE, 0, seq, &[0; 12]);
            let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
            assert_protocol(&error, &format!("answered task {seq}"));
        });
    }
}

#[test]
fn an_answer_while_the_task_still_runs() {
    checked(async {
        let mut body = vec![0; 12];
        body[8] = 1;
        let bytes = frame(DONE, 0, 1, &body);
        let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
        assert_protocol(&error, "status page");
    });
}

#[test]
fn skipping_a_task_that_was_not_taken_back() {
    checked(async {
        let bytes = frame(SKIPPED, 0, 1, &[]);
        let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
        assert_protocol(&error, "does not fit");
    });
}

#[test]
fn stream_items_from_a_task_that_is_no_stream() {
    checked(async {
        let bytes = frame(ITEM, 0, 1, &[1]);
        let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
        assert_protocol(&error, "does not fit");
    });
}

#[test]
fn malformed_reports() {
    for body in [&[][..], &[0xff; 30], &[0; 3]] {
        checked(async {
            let bytes = frame(FAILED, 0, 1, body);
            let error = survive(|pool| pool.apply_async(attack::send, bytes.clone())).await;
            assert_protocol(&error, "malformed");
        });
    }
}

#[test]
fn a_frame_cut_at_every_byte() {
    checked(async {
        let bytes = frame(DONE, 0, 9, &[0; 12]);
        let error = survive(|pool| pool.apply_async(attack::send_slowly, bytes.clone())).await;
        assert_protocol(&error, "answered task 9");
    });
}

#[test]
fn a_socket_that_closes_while_the_worker_lives_on() {
    checked(async {
        let error = survive(|pool| pool.apply_async(attack::shut_down_writing, ())).await;
        assert_protocol(&error, "did not end");
    });
}

#[test]
fn descriptors_that_nobody_asked_for() {
    checked(async {
        let error = survive(|pool| pool.apply_async(attack::send_descriptors, ())).await;
        assert_protocol(&error, "unknown kind");
    });
}

#[test]
fn a_status_page_full_of_noise() {
    for byte in [0x00, 0x01, 0x04, 0x06, 0xff] {
        checked(async {
            let error = survive(|pool| pool.apply_async(attack::scribble, byte)).await;
            // It may park itself on what it wrote, or answer against it; either
            // way it is stopped: by the protocol, or by the test's own timeout.
            assert!(
                matches!(error, TaskError::Protocol(_) | TaskError::WorkerLost { .. }),
                "{error:?}"
            );
        });
    }
}

#[test]
fn more_stream_items_than_were_asked_for() {
    use futures::StreamExt;
    checked(async {
        let pool = Pool::builder().workers(1).build().unwrap();
        let mut stream = pool.stream(attack::flood, ()).buffer(4);
        let mut last = None;
        while let Some(item) = stream.next().await {
            last = Some(item);
        }
        let error = last.unwrap().unwrap_err();
        assert_protocol(&error, "more stream items");
        assert_eq!(pool.apply(attack::echo, 1).await.unwrap(), 1);
    });
}
