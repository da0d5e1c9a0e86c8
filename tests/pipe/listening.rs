//! Named sockets: who is let in, and who is not.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use procession::{Connection, Listener, Peers, connect, connect_with};

use crate::support::{Scratch, checked};

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
        let peers =
            Peers::same_user().with_key("secret").handshake_timeout(Duration::from_secs(30));
        let mut listener = Listener::bind_with(&path, peers.clone()).unwrap();
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
        let peers =
            Peers::same_user().with_key("secret").handshake_timeout(Duration::from_secs(60));
        let mut listener = Listener::bind_with(&path, peers.clone()).unwrap();
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
