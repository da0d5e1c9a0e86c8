//! All but the streams and the timed waits work where there is no runtime.

use std::os::fd::AsFd;
use std::time::Duration;

use procession::process::blocking_wait;
use procession::{Process, Stdio};

use crate::alone;
use crate::tasks::square;

#[test]
fn start_ask_stop_join() {
    alone(|| {
        let process = Process::spawn(std::thread::park, ()).unwrap();
        assert!(process.is_alive());
        assert_eq!(process.exit(), None);
        assert_eq!(process.blocking_join_timeout(Duration::from_millis(5)), None);
        process.terminate();
        assert_eq!(process.blocking_join().exitcode(), Some(-15));
        assert!(!process.is_alive());

        let process = Process::spawn(std::thread::park, ()).unwrap();
        process.kill();
        assert_eq!(process.blocking_join().exitcode(), Some(-9));

        let process = Process::spawn(square, 9).unwrap();
        assert!(process.blocking_join().success());
        assert_eq!(futures::executor::block_on(process).unwrap(), 81);
    });
}

#[test]
fn the_first_of_many() {
    alone(|| {
        let moment = Duration::from_millis(5);
        let none: [&Process<()>; 0] = [];
        assert!(blocking_wait(&none, None).unwrap().is_empty());
        let start = |_| Process::spawn(std::thread::park, ()).unwrap();
        let processes: Vec<_> = (0..4).map(start).collect();
        assert!(blocking_wait(&processes, moment).unwrap().is_empty());
        assert!(blocking_wait(&processes, Duration::ZERO).unwrap().is_empty());
        processes[2].kill();
        assert_eq!(blocking_wait(&processes, None).unwrap(), [2]);
        processes[2].blocking_join();
        processes[0].terminate();
        processes[0].blocking_join();
        assert_eq!(blocking_wait(&processes, Duration::MAX).unwrap(), [0, 2]);
        // Of several types, and beside others.
        let other = Process::spawn(square, 3).unwrap();
        let (pipe, other_end) = std::os::unix::net::UnixStream::pair().unwrap();
        let all = [processes[1].sentinel(), other.sentinel(), pipe.as_fd()];
        assert_eq!(blocking_wait(&all, None).unwrap(), [1]);
        other.blocking_join();
        let closed = blocking_wait(&[processes[3].sentinel(), other_end.as_fd()], moment);
        assert!(closed.unwrap().is_empty());
        drop(pipe);
        assert_eq!(blocking_wait(&[other_end], None).unwrap(), [0]);
    });
}

#[test]
fn output_as_a_plain_descriptor() {
    alone(|| {
        let mut process =
            Process::builder().stdout(Stdio::piped()).spawn(|| println!("plain"), ()).unwrap();
        let output = process.stdout.take().unwrap().into_owned_fd().unwrap();
        let text = std::io::read_to_string(std::fs::File::from(output)).unwrap();
        assert_eq!(text, "plain\n");
        process.blocking_join();
    });
}
