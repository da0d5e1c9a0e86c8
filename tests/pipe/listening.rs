//! Named sockets: who is let in, and who is not.

use std::io::ErrorKind;
#[cfg(feature = "authkey")]
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use procession::{Connection, Listener, Peers, blocking_connect, connect};
#[cfg(feature = "authkey")]
use procession::{blocking_connect_with, connect_with};

#[cfg(feature = "authkey")]
use crate::support::{LIMIT, within};
use crate::support::{Scratch, alone, checked};

/// A listener for those who know the key, and who they are. All may take their time.
#[cfg(feature = "authkey")]
fn with_key(path: &str) -> (Listener, Peers) {
    let peers = Peers::same_user().with_key("secret").handshake_timeout(LIMIT);
    (Listener::bind_with(path, peers.clone()).unwrap(), peers)
}

#[test]
fn strangers_talk() {
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let mut listener = Listener::bind(&path).unwrap();
        let client = |n: u32| {
            let path = path.clone();
            async move {
                let mut server: Connection<u32, String> = connect(path).await.unwrap();
                server.send(n).await.unwrap();
                assert_eq!(server.recv().await.unwrap(), Some(n.to_string()));
            }
        };
        let clients: Vec<_> = (0..20).map(|n| tokio::spawn(client(n))).collect();
        for _ in 0..20 {
            let mut client: Connection<String, u32> = listener.accept().await.unwrap();
            let n = client.recv().await.unwrap().unwrap();
            client.send(n.to_string()).await.unwrap();
            assert_eq!(client.recv().await.unwrap(), None);
        }
        for client in clients {
            client.await.unwrap();
        }
    });
}

#[test]
fn a_worker_connects() {
    async fn greet(path: String) {
        let mut server: Connection<String> = connect(path).await.unwrap();
        server.send("from a worker".to_string()).await.unwrap();
    }
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let mut listener = Listener::bind(&path).unwrap();
        let pool = procession::Pool::builder().workers(1).build().unwrap();
        let greeting = pool.apply_async(greet, path);
        let mut client: Connection<String> = listener.accept().await.unwrap();
        assert_eq!(client.recv().await.unwrap().unwrap(), "from a worker");
        greeting.await.unwrap();
    });
}

#[test]
fn the_file_is_removed_if_it_is_ours() {
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let error = connect::<u8, u8>(&path).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(listener.path(), std::path::Path::new(&path));
        let error = Listener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        assert!(std::fs::exists(&path).unwrap(), "another's was not removed");
        drop(listener);
        assert!(!std::fs::exists(&path).unwrap());

        let listener = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another's");
    });
}

#[test]
fn accepting_may_be_given_up_and_begun_anew() {
    use futures::FutureExt;
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let mut listener = Listener::bind(&path).unwrap();
        assert!(listener.accept::<u8, u8>().now_or_never().is_none());
        let (_client, came) = tokio::join!(connect::<u8, u8>(&path), listener.accept::<u8, u8>());
        came.unwrap();
    });
}

/// Only root can be somebody else.
#[test]
fn processes_of_other_users_are_turned_away() {
    const NOBODY: u32 = 65_534;
    // SAFETY: returns a number.
    if unsafe { nix::libc::geteuid() } != 0 {
        eprintln!("NOT TESTED HERE: other users, as only root can be somebody else");
        return;
    }
    fn become_nobody_and_connect(path: String) -> bool {
        use std::io::Read;
        // SAFETY: takes a number.
        assert_eq!(unsafe { nix::libc::setuid(NOBODY) }, 0);
        let mut stream = UnixStream::connect(path).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).is_ok_and(|_| text.len() > 16)
    }
    checked(async {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        for allowed in [false, true] {
            let path = scratch.path(if allowed { "open" } else { "closed" });
            let peers = Peers::same_user();
            let peers = if allowed { peers.allow_uid(NOBODY) } else { peers };
            let mut listener = Listener::bind_with(&path, peers).unwrap();
            for path in [&path, &scratch.path("")] {
                let permissions = std::fs::Permissions::from_mode(0o777);
                std::fs::set_permissions(path, permissions).unwrap();
            }
            let pool = procession::Pool::builder().workers(1).build().unwrap();
            let connecting = pool.apply(become_nobody_and_connect, path);
            let serving = async {
                loop {
                    let mut client: Connection<String> = listener.accept().await.unwrap();
                    client.send("a text of some length".to_string()).await.unwrap();
                }
            };
            tokio::select! {
                was_served = connecting => assert_eq!(was_served.unwrap(), allowed),
                () = serving => {}
            }
        }
    });
}

#[cfg(feature = "authkey")]
#[test]
fn only_those_who_know_the_key() {
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let (mut listener, peers) = with_key(&path);
        // Those who say nothing, and nonsense, are in the way of nobody.
        let silent: Vec<_> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let mut noisy = UnixStream::connect(&path).unwrap();
        noisy.write_all(&[7; 64]).unwrap();
        let serving = tokio::spawn(async move {
            for _ in 0..3 {
                let mut client: Connection<u8> = listener.accept().await.unwrap();
                let n = client.recv().await.unwrap().unwrap();
                client.send(n + 1).await.unwrap();
            }
            listener
        });
        for _ in 0..3 {
            for wrong in ["", "secre", "Secret"] {
                let peers = Peers::anybody_with_key(wrong);
                let error = connect_with::<u8, u8>(&path, peers).await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
            }
            let mut server: Connection<u8> = connect_with(&path, peers.clone()).await.unwrap();
            server.send(7).await.unwrap();
            assert_eq!(server.recv().await.unwrap(), Some(8));
        }
        drop(serving.await.unwrap());
        drop(silent);

        // A listener that does not know it either.
        let mut listener = Listener::bind(&path).unwrap();
        let peers = peers.handshake_timeout(Duration::from_millis(50));
        let (connected, accepted) =
            tokio::join!(connect_with::<u8, u8>(&path, peers), listener.accept::<u8, u8>());
        assert!(connected.is_err() && accepted.is_ok());
    });
}

#[cfg(feature = "authkey")]
#[test]
fn more_silent_clients_than_there_may_be() {
    checked(async {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let (mut listener, peers) = with_key(&path);
        let accepting = tokio::spawn(async move { listener.accept::<u8, u8>().await.unwrap() });
        let mut silent = Vec::new();
        for _ in 0..3 {
            for _ in 0..50 {
                silent.push(UnixStream::connect(&path).unwrap());
                tokio::task::yield_now().await;
            }
        }
        let connected: Connection<u8> = connect_with(&path, peers).await.unwrap();
        accepting.await.unwrap();
        drop(connected);
    });
}

#[test]
fn an_abstract_name_is_no_file() {
    checked(async {
        let name = format!("\0procession-{}", std::process::id());
        let error = connect::<u8, u8>(&name).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        let mut listener = Listener::bind(&name).unwrap();
        assert_eq!(listener.path(), std::path::Path::new(&name));
        let error = Listener::bind(&name).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let (client, server) = tokio::join!(connect::<u8, u8>(&name), listener.accept::<u8, u8>());
        client.unwrap().send(7).await.unwrap();
        assert_eq!(server.unwrap().recv().await.unwrap(), Some(7));
        drop(listener);
        assert!(connect::<u8, u8>(&name).await.is_err());
        Listener::bind(&name).unwrap();
    });
}

/// Neither in the listener's process nor in the client's is there a runtime.
#[test]
fn strangers_talk_without_a_runtime() {
    fn client(path: String, n: u32) -> String {
        let mut server: Connection<u32, String> = blocking_connect(path).unwrap();
        server.blocking_send(n).unwrap();
        server.blocking_recv().unwrap().unwrap()
    }
    alone(|| {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        assert!(blocking_connect::<u8, u8>(&path).is_err());
        let mut listener = Listener::bind(&path).unwrap();
        let nobody = listener.blocking_accept_timeout::<u8, u8>(Duration::from_millis(20));
        assert_eq!(nobody.unwrap_err().kind(), ErrorKind::TimedOut);
        let clients: Vec<_> = (0..10)
            .map(|n| {
                thread::spawn({
                    let path = path.clone();
                    move || client(path, n)
                })
            })
            .collect();
        for _ in 0..10 {
            let mut client: Connection<String, u32> = listener.blocking_accept().unwrap();
            let n = client.blocking_recv().unwrap().unwrap();
            client.blocking_send(n.to_string()).unwrap();
        }
        for (n, client) in clients.into_iter().enumerate() {
            assert_eq!(client.join().unwrap(), n.to_string());
        }
    });
}

/// And in a task of a pool.
#[test]
fn a_task_that_is_not_async_listens_and_another_connects() {
    fn listen(path: String) -> String {
        let mut listener = Listener::bind(path).unwrap();
        let mut client: Connection<String> = listener.blocking_accept().unwrap();
        client.blocking_recv().unwrap().unwrap()
    }
    fn greet(path: String) {
        let mut server: Connection<String> = loop {
            match blocking_connect(&path) {
                Ok(server) => break server,
                Err(_) => thread::yield_now(),
            }
        };
        server.blocking_send("hello".to_string()).unwrap();
    }
    checked(async {
        let scratch = Scratch::new();
        let pool = procession::Pool::builder().workers(2).build().unwrap();
        let listening = pool.apply_async(listen, scratch.path("socket"));
        pool.apply(greet, scratch.path("socket")).await.unwrap();
        assert_eq!(listening.await.unwrap(), "hello");
    });
}

#[cfg(feature = "authkey")]
#[test]
fn only_those_who_know_the_key_without_a_runtime() {
    alone(|| {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let (mut listener, peers) = with_key(&path);
        let silent: Vec<_> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
        let client = thread::spawn({
            let path = path.clone();
            move || {
                let wrong = Peers::anybody_with_key("wrong");
                let error = blocking_connect_with::<u8, u8>(&path, wrong).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                let mut server: Connection<u8> = blocking_connect_with(path, peers).unwrap();
                server.blocking_send(7).unwrap();
            }
        });
        let mut accepted: Connection<u8> = listener.blocking_accept().unwrap();
        assert_eq!(accepted.blocking_recv().unwrap(), Some(7));
        client.join().unwrap();
        let nobody = listener.blocking_accept_timeout::<u8, u8>(Duration::from_millis(20));
        assert_eq!(nobody.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(silent);
        // Nor does a listener that says nothing keep its client.
        let _mute = std::os::unix::net::UnixListener::bind(scratch.path("mute")).unwrap();
        let peers = Peers::anybody_with_key("key").handshake_timeout(Duration::from_millis(20));
        let error = blocking_connect_with::<u8, u8>(scratch.path("mute"), peers).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

/// There are clients that have yet to prove something.
#[cfg(feature = "authkey")]
#[test]
fn a_listener_goes_from_one_runtime_to_the_next() {
    alone(|| {
        let scratch = Scratch::new();
        let path = scratch.path("socket");
        let (mut listener, peers) = with_key(&path);
        let silent = UnixStream::connect(&path).unwrap();
        for _ in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (_client, accepted) = tokio::join!(
                    connect_with::<u8, u8>(&path, peers.clone()),
                    within(LIMIT, listener.accept::<u8, u8>()),
                );
                accepted.unwrap();
            });
            let client = thread::spawn({
                let (path, peers) = (path.clone(), peers.clone());
                move || blocking_connect_with::<u8, u8>(path, peers).unwrap()
            });
            listener.blocking_accept::<u8, u8>().unwrap();
            drop(client.join().unwrap());
        }
        drop(silent);
    });
}
