//! All but the streams and the timed waits work where there is no runtime.

use std::time::Duration;

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
