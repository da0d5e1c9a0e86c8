//! What all handles of queues do, whatever is in the queue. Called by the public
//! types of this folder.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::{GetError, PutErrorKind, QueueFault};
use super::store::{Ends, Got, Inlet, Letter, Outlet, Put, Store, Taking, new_draft};
use super::wait::{try_now, wait, wait_blocking};
use crate::error::{DecodeError, EncodeError, Side};
use crate::limits::{QUEUE_BYTES_MAX_DEFAULT, QUEUE_BYTES_MAX_LEAST, QUEUE_BYTES_MAX_MOST};
use crate::proto::codec::{self, EncodeFailure};
use crate::proto::draft::{Draft, Whole};
use crate::queue_state::{HEADER_BYTES, Kind, RING_PAGE_BYTES, Terms};
use crate::sys::cast::Sharing;

/// A queue, and the ends of it that somebody has.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) store: Arc<Store>,
    /// Who puts has one.
    pub(super) inlet: Option<Arc<Inlet>>,
    /// Who gets has one.
    pub(super) outlet: Option<Arc<Outlet>>,
}

/// What a builder was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// 0 for no limit.
    pub(super) maxsize: usize,
    pub(super) bytes_max: u64,
    pub(super) kind: Kind,
}

impl Settings {
    pub(super) fn new(kind: Kind) -> Self {
        Settings { maxsize: 0, bytes_max: QUEUE_BYTES_MAX_DEFAULT, kind }
    }

    pub(super) fn build(self) -> io::Result<Handle> {
        let allowed = QUEUE_BYTES_MAX_LEAST..=QUEUE_BYTES_MAX_MOST;
        if !allowed.contains(&self.bytes_max) {
            let (least, most) = allowed.into_inner();
            let text = format!("bytes_max is {}, not {least} to {most}", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let items_max = if self.maxsize == 0 { u64::MAX } else { self.maxsize as u64 };
        let ring_bytes = self.bytes_max.next_multiple_of(RING_PAGE_BYTES);
        let terms = Terms { ring_bytes, items_max, kind: self.kind };
        let (store, inlet, outlet) = Store::create(terms)?;
        Ok(Handle {
            store: Arc::new(store),
            inlet: Some(Arc::new(inlet)),
            outlet: Some(Arc::new(outlet)),
        })
    }
}

/// How long a blocking call waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    None,
    After(Duration),
}

impl Limit {
    /// `None` as well if it lies beyond all that can be told.
    fn deadline(self) -> Option<Instant> {
        match self {
            Limit::None => None,
            Limit::After(most) => Instant::now().checked_add(most),
        }
    }
}

impl Handle {
    pub(super) fn ends(&self) -> Ends<'_> {
        Ends { inlet: self.inlet.as_deref(), outlet: self.outlet.as_deref() }
    }

    fn inlet(&self) -> &Inlet {
        self.inlet.as_ref().expect("only producers put")
    }

    fn outlet(&self) -> &Outlet {
        self.outlet.as_ref().expect("only consumers get")
    }

    /// As it was given.
    pub(super) fn maxsize(&self) -> usize {
        match self.store.terms().items_max {
            u64::MAX => 0,
            most => usize::try_from(most).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn len(&self) -> usize {
        usize::try_from(self.store.state().len()).unwrap_or(usize::MAX)
    }

    pub(super) fn is_full(&self) -> bool {
        self.store.state().is_full(self.store.terms())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.store.state().is_closed()
    }

    pub(super) fn close(&self) {
        let closed = try_now(|| self.store.try_close(self.ends()));
        // A copy of this process that has let go of the queue has its memory still, and
        // is not to close it for those who have it.
        if !matches!(closed, Ok(Some(()))) && self.store.is_ours() {
            self.store.close_unlocked(self.ends());
        }
    }

    /// Takes all out, and drops it undecoded: how many items that were.
    pub(super) fn clear(&self) -> Result<usize, QueueFault> {
        let taking = match self.store.terms().kind {
            Kind::Plain => Taking::ForGood,
            // Nobody has to say of it that it is done, and whoever is killed over
            // this loses one at most.
            Kind::Joinable { .. } => Taking::Held,
        };
        // Not for ever, while somebody puts.
        let most = self.len();
        let mut cleared = 0;
        while cleared < most {
            let got = try_now(|| self.store.try_get(self.ends(), taking, false))?;
            let Some(Got::Item(letter)) = got else { break };
            if let Some(taken) = letter.hold {
                self.store.finish(self.ends(), taken, false);
            }
            cleared += 1;
        }
        Ok(cleared)
    }

    /// An item as it will be put.
    pub(super) fn encode<T: Serialize>(&self, item: &T) -> Result<Draft, PutErrorKind> {
        let header = HEADER_BYTES as usize;
        let limit = usize::try_from(self.store.terms().record_bytes_max()).unwrap_or(usize::MAX);
        let mut draft = new_draft();
        let encoded = codec::draft::<Sharing, T>(item, &mut draft, limit - header);
        encoded.map_err(|failure| match failure {
            EncodeFailure::TooLarge { size, limit } => PutErrorKind::TooLarge { size, limit },
            failure => {
                let reason = failure.to_string();
                PutErrorKind::Encode(EncodeError { side: Side::Item, reason, index: None })
            }
        })?;
        Ok(draft)
    }

    pub(super) fn try_put(&self, mut draft: Draft) -> Result<(), PutErrorKind> {
        match try_now(|| self.store.try_put(self.ends(), &mut draft, false))? {
            Some(put) => outcome(put),
            None => Err(PutErrorKind::Full),
        }
    }

    pub(super) async fn put(&self, mut draft: Draft) -> Result<(), PutErrorKind> {
        let ear = &self.inlet().ear;
        let put = wait(ear, || self.store.try_put(self.ends(), &mut draft, true));
        outcome(put.await?)
    }

    pub(super) async fn put_timeout(
        &self,
        draft: Draft,
        after: Duration,
    ) -> Result<(), PutErrorKind> {
        let put = tokio::time::timeout(after, self.put(draft)).await;
        put.unwrap_or(Err(PutErrorKind::TimedOut { after }))
    }

    pub(super) fn blocking_put(&self, mut draft: Draft, limit: Limit) -> Result<(), PutErrorKind> {
        let attempt = || self.store.try_put(self.ends(), &mut draft, true);
        let put = wait_blocking(&self.inlet().ear, limit.deadline(), attempt)?;
        match (put, limit) {
            (Some(put), _) => outcome(put),
            (None, Limit::After(after)) => Err(PutErrorKind::TimedOut { after }),
            (None, Limit::None) => Err(PutErrorKind::Full),
        }
    }

    pub(super) fn try_get(&self, taking: Taking) -> Result<Letter, GetError> {
        match try_now(|| self.store.try_get(self.ends(), taking, false))? {
            Some(got) => letter(got),
            None => Err(GetError::Empty),
        }
    }

    pub(super) async fn get(&self, taking: Taking) -> Result<Letter, GetError> {
        let ear = &self.outlet().ear;
        letter(wait(ear, || self.store.try_get(self.ends(), taking, true)).await?)
    }

    pub(super) async fn get_timeout(
        &self,
        taking: Taking,
        after: Duration,
    ) -> Result<Letter, GetError> {
        let got = tokio::time::timeout(after, self.get(taking)).await;
        got.unwrap_or(Err(GetError::TimedOut { after }))
    }

    pub(super) fn blocking_get(&self, taking: Taking, limit: Limit) -> Result<Letter, GetError> {
        let attempt = || self.store.try_get(self.ends(), taking, true);
        let got = wait_blocking(&self.outlet().ear, limit.deadline(), attempt)?;
        match (got, limit) {
            (Some(got), _) => letter(got),
            (None, Limit::After(after)) => Err(GetError::TimedOut { after }),
            (None, Limit::None) => Err(GetError::Empty),
        }
    }

    /// Items that were put and are not done.
    pub(super) fn unfinished(&self) -> usize {
        usize::try_from(self.store.unfinished()).unwrap_or(usize::MAX)
    }

    /// Whether there was an item to say so of.
    pub(super) fn task_done(&self) -> Result<bool, QueueFault> {
        let attempt = || self.store.try_task_done(self.ends());
        let done = try_now(attempt)?;
        done.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut).into())
    }

    /// How many items were lost so far, once none is unfinished.
    pub(super) async fn join(&self) -> Result<u64, QueueFault> {
        wait(&self.store.joiners().ear, || self.store.try_join(self.ends(), true)).await
    }

    pub(super) fn blocking_join(&self, limit: Limit) -> Result<Option<u64>, QueueFault> {
        let attempt = || self.store.try_join(self.ends(), true);
        wait_blocking(&self.store.joiners().ear, limit.deadline(), attempt)
    }
}

fn outcome(put: Put) -> Result<(), PutErrorKind> {
    match put {
        Put::Done => Ok(()),
        Put::Closed => Err(PutErrorKind::Closed),
        Put::Abandoned => Err(PutErrorKind::Abandoned),
    }
}

fn letter(got: Got) -> Result<Letter, GetError> {
    match got {
        Got::Item(letter) => Ok(letter),
        Got::Ended => Err(GetError::Closed),
    }
}

impl Letter {
    /// What was put.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, GetError> {
        let whole = Whole { bytes: &self.bytes, arrived: &self.arrived };
        codec::decode_shared::<Sharing, T>(&self.bytes, whole).map_err(|failure| {
            let reason = failure.to_string();
            GetError::Decode(DecodeError { side: Side::Item, reason, index: None })
        })
    }
}
