use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Batch, children_of, ended, is_alive, picture, until};

const IMAGES: usize = 60;

fn many() -> Batch {
    let batch = Batch::new();
    picture(&batch.source("00.png"), 900, 900);
    for n in 1..IMAGES {
        fs::copy(batch.source("00.png"), batch.source(&format!("{n:02}.png"))).unwrap();
    }
    batch
}

/// The program at a terminal of its own: what it shows, and its keyboard.
struct Terminal {
    keyboard: File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// As its shell would, in the foreground.
    fn run(batch: &Batch, arguments: &[&str]) -> (Terminal, Child) {
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let mut command = batch.command(arguments);
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(slave()).stdout(slave()).stderr(slave()).env("TERM", "xterm");
        // SAFETY: only system calls, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let master: OwnedFd = pty.master;
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO: nobody has the other end any more.
            while let Ok(len) = screen.read(&mut bytes) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        assert!(keyboard.as_raw_fd() >= 0);
        (Terminal { keyboard, shown }, child)
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Places at which the bar has been.
    fn places(&self) -> Vec<usize> {
        let shown = self.shown();
        let end = format!("/{IMAGES}  ");
        let before = shown.match_indices(&end).map(|(at, _)| &shown[..at]);
        let mut places: Vec<usize> = before
            .filter_map(|text| text.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect();
        places.dedup();
        places
    }
}

#[test]
fn ctrl_c_at_a_terminal_stops_it_and_a_second_run_does_the_rest() {
    let batch = many();
    let (mut terminal, mut child) = Terminal::run(&batch, &["--jobs", "1"]);
    until("the bar moves", || terminal.places().last().is_some_and(|place| *place >= 3));
    let workers = children_of(child.id());
    assert!(!workers.is_empty());
    terminal.keyboard.write_all(&[3]).unwrap();
    let code = child.wait().unwrap().code();
    until("all is shown", || terminal.shown().contains("the same command does the rest"));
    let shown = terminal.shown();
    assert_eq!(code, Some(130), "{shown}");
    assert!(shown.contains("ETA") && shown.contains("0 failed") && shown.contains("/s"), "{shown}");
    assert!(terminal.places().len() >= 3, "{:?}", terminal.places());
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "workers are left");
    batch.assert_whole();
    let made = batch.times();
    assert!((1..IMAGES).contains(&made.len()), "{}", made.len());
    // Of the last one made it may not have heard any more.
    let noted = fs::read_to_string(batch.target(".batch")).unwrap().lines().count() - 1;
    assert!(noted <= made.len() && noted + 1 >= made.len(), "{noted} of {}", made.len());

    let (terminal, mut child) = Terminal::run(&batch, &[]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let end = format!("{} thumbnails made, 0 failed, {noted} were there", IMAGES - noted);
    until("all is shown", || terminal.shown().contains(&end));
    assert_eq!(terminal.places().last(), Some(&IMAGES), "{}", terminal.shown());
    let times = batch.times();
    assert_eq!(times.len(), IMAGES);
    let touched = made.iter().filter(|it| !times.contains(it)).count();
    assert!(touched <= made.len() - noted, "{touched} were made twice");
    batch.assert_whole();
}

#[test]
fn so_does_sigterm_without_a_terminal() {
    let batch = many();
    let child = batch.start(&["--jobs", "2"]);
    until("some are made", || batch.times().len() > 3);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let first = ended(child);
    assert_eq!(first.code, 130, "{first:?}");
    assert!(first.errors.contains(" left; the same command does the rest"), "{first:?}");
    batch.assert_whole();
    let second = batch.run(&[]);
    assert_eq!(second.code, 0, "{second:?}");
    assert_eq!(batch.times().len(), IMAGES);
}

#[test]
fn a_run_that_was_killed_is_finished_by_the_next() {
    let batch = many();
    let mut child = batch.start(&["--jobs", "2"]);
    until("some are made", || batch.times().len() > 3);
    let workers = children_of(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    until("its workers are gone", || workers.iter().all(|pid| !is_alive(*pid)));
    let second = batch.run(&[]);
    assert_eq!((second.code, second.errors.as_str()), (0, ""), "{second:?}");
    assert!(!second.output.contains(" 0 were there"), "it made them all again: {second:?}");
    assert_eq!(batch.times().len(), IMAGES);
    batch.assert_whole();
}
