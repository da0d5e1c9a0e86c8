//! What one end sends the other receives, in order, of any size and type.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use futures::{SinkExt, StreamExt};
use procession::{Connection, Fd, RecvError, SendErrorKind, SharedBytes, channel, pipe};
use serde::{Deserialize, Serialize};

use crate::support::{checked, checked_current_thread};

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Word {
    Nothing,
    Number(i64),
    Text { text: String, more: Vec<Option<u8>> },
    Keyed(BTreeMap<String, (f64, bool)>),
}

fn words() -> Vec<Word> {
    vec![
        Word::Nothing,
        Word::Number(i64::MIN),
        Word::Text { text: "é".repeat(1000), more: vec![None, Some(7)] },
        Word::Keyed([("a".to_string(), (0.5, true))].into()),
    ]
}

#[test]
fn both_ends_talk() {
    let talk = || async {
        let (mut a, mut b) = pipe::<Word>().unwrap();
        for word in words() {
            a.send(word.clone()).await.unwrap();
            assert_eq!(b.recv().await.unwrap(), Some(word.clone()));
            b.send(word.clone()).await.unwrap();
            assert_eq!(a.recv().await.unwrap(), Some(word));
        }
        // Many on their way at once stay in order.
        for n in 0..100 {
            a.send(Word::Number(n)).await.unwrap();
        }
        for n in 0..100 {
            assert_eq!(b.recv().await.unwrap(), Some(Word::Number(n)));
        }
        drop(a);
        assert_eq!(b.recv().await.unwrap(), None);
        assert_eq!(b.recv().await.unwrap(), None);
    };
    checked(talk());
    checked_current_thread(talk());
}

#[test]
fn each_way_may_have_its_type() {
    checked(async {
        let (mut a, mut b) = Connection::<u32, String>::pair().unwrap();
        a.send(7).await.unwrap();
        let n = b.recv().await.unwrap().unwrap();
        b.send(n.to_string()).await.unwrap();
        assert_eq!(a.recv().await.unwrap(), Some("7".to_string()));
    });
}

#[test]
fn messages_of_any_size() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        let sizes = [0, 1, 100, 4095, 65_536, 1 << 20, 9 << 20];
        let sending = tokio::spawn(async move {
            for size in sizes {
                sender.send(vec![size as u8; size]).await.unwrap();
            }
        });
        for size in sizes {
            let message = receiver.recv().await.unwrap().unwrap();
            assert!(message == vec![size as u8; size], "{size}");
        }
        sending.await.unwrap();
        assert_eq!(receiver.recv().await.unwrap(), None);
    });
}

#[test]
fn descriptors_and_memory_travel_in_messages() {
    checked(async {
        let (mut a, mut b) = pipe::<(SharedBytes, Vec<Fd<UnixStream>>)>().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let memory = SharedBytes::copy_from_slice(&[7; 10_000]).unwrap();
        a.send((memory.clone(), vec![theirs.into()])).await.unwrap();
        let (seen, mut streams) = b.recv().await.unwrap().unwrap();
        assert!(seen == memory);
        (&*streams.remove(0)).write_all(b"there").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut &ours, &mut text).unwrap();
        assert_eq!(text, "there", "nobody else has it");
    });
}

#[test]
fn messages_of_many_descriptors_follow_each_other() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<Fd<UnixStream>>>().unwrap();
        let sending = tokio::spawn(async move {
            for n in 0..20 {
                let some = (0..n).map(|_| UnixStream::pair().unwrap().0.into()).collect();
                sender.send(some).await.unwrap();
            }
        });
        for n in 0..20 {
            assert_eq!(receiver.recv().await.unwrap().unwrap().len(), n);
        }
        sending.await.unwrap();
    });
}

#[test]
fn ends_are_streams_and_sinks() {
    checked(async {
        let (mut sender, receiver) = channel::<u32>().unwrap();
        let sending = tokio::spawn(async move {
            let mut numbers = futures::stream::iter(0..10_000).map(Ok);
            sender.send_all(&mut numbers).await.unwrap();
            sender.close().await.unwrap();
            let error = sender.send(1).await.unwrap_err();
            assert!(error.is_closed());
            assert_eq!(error.into_inner(), Some(1));
        });
        let numbers: Vec<u32> = receiver.map(Result::unwrap).collect().await;
        assert_eq!(numbers, Vec::from_iter(0..10_000));
        sending.await.unwrap();
    });
}

#[test]
fn both_directions_at_once() {
    checked(async {
        let (a, b) = pipe::<Vec<u8>>().unwrap();
        let talk = |end: Connection<Vec<u8>>| async move {
            let (mut sender, mut receiver) = end.into_split();
            let sending = tokio::spawn(async move {
                for n in 0..50_u8 {
                    sender.send(vec![n; 100_000]).await.unwrap();
                }
                sender
            });
            for n in 0..50_u8 {
                assert!(receiver.recv().await.unwrap() == Some(vec![n; 100_000]));
            }
            Connection::reunite(sending.await.unwrap(), receiver).unwrap()
        };
        let (mut a, mut b) = tokio::join!(talk(a), talk(b));
        let (sender, receiver) = a.halves();
        let (sent, came) = tokio::join!(sender.send(vec![1]), async {
            b.send(vec![2]).await.unwrap();
            receiver.recv().await
        });
        sent.unwrap();
        assert_eq!(came.unwrap(), Some(vec![2]));
        let (others, _) = pipe::<Vec<u8>>().unwrap();
        let (sender, _) = others.into_split();
        let (_, receiver) = a.into_split();
        assert!(Connection::reunite(sender, receiver).is_err());
    });
}

#[test]
fn limits_and_values_that_cannot_travel() {
    checked(async {
        let (mut sender, mut receiver) = channel::<Vec<u8>>().unwrap();
        sender.set_message_limit(100);
        let error = sender.send(vec![0; 200]).await.unwrap_err();
        assert!(matches!(error.kind(), SendErrorKind::TooLarge { size: 202, limit: 100 }));
        assert_eq!(error.into_inner().unwrap().len(), 200);
        sender.send(vec![0; 50]).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().unwrap().len(), 50);
        sender.set_message_limit(1000);
        receiver.set_message_limit(100);
        sender.send(vec![0; 200]).await.unwrap();
        let error = receiver.recv().await.unwrap_err();
        assert!(matches!(&error, RecvError::Malformed(what) if what.contains("limit")), "{error}");
        assert_eq!(receiver.recv().await.unwrap(), None);

        let (mut sender, mut receiver) = channel::<Option<Picky>>().unwrap();
        let error = sender.send(Some(Picky(true))).await.unwrap_err();
        assert!(matches!(error.kind(), SendErrorKind::Encode(_)), "{error}");
        sender.send(Some(Picky(false))).await.unwrap();
        sender.send(None).await.unwrap();
        let error = receiver.recv().await.unwrap_err();
        assert!(matches!(error, RecvError::Decode(_)), "{error}");
        assert!(receiver.recv().await.unwrap().unwrap().is_none(), "the next is not affected");
    });
}

#[derive(Debug)]
struct Picky(bool);

impl Serialize for Picky {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            true => Err(serde::ser::Error::custom("I would rather not")),
            false => serializer.serialize_u8(1),
        }
    }
}

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer)?;
        Err(serde::de::Error::custom("nor this"))
    }
}
