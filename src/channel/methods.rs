//! Methods that several of the public types have, written down once.

/// What every handle tells of its queue.
macro_rules! queue_methods {
    () => {
        /// How many items are in the queue. Python's `qsize`; it never fails.
        ///
        /// It may be another number by the time one looks.
        #[doc(alias = "qsize")]
        pub fn len(&self) -> usize {
            self.handle.len()
        }

        /// Whether nothing is in the queue, as of a moment ago.
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }

        /// Whether the queue has as many items, or bytes, as it may have, as of a
        /// moment ago. A long item may have to wait for room before that.
        pub fn is_full(&self) -> bool {
            self.handle.is_full()
        }

        /// How many items the queue may hold; 0 if only their bytes count.
        pub fn maxsize(&self) -> usize {
            self.handle.maxsize()
        }

        /// Whether the queue was closed. What is in it can still be taken.
        pub fn is_closed(&self) -> bool {
            self.handle.is_closed()
        }
    };
}

/// What producers do.
macro_rules! put_methods {
    () => {
        /// Puts an item, and waits while the queue is full. Once this has returned,
        /// whoever gets can have it.
        ///
        /// # Errors
        ///
        /// All give the item back: the queue was closed, nobody is left who could
        /// take anything out of it, the item cannot be encoded or is longer than
        /// half of [`bytes_max`](crate::QueueBuilder::bytes_max), or the queue
        /// cannot be used.
        ///
        /// # Panics
        ///
        /// If it has to wait outside of a tokio runtime, or in one without I/O and
        /// time.
        ///
        /// # Cancel safety
        ///
        /// Dropping the future before it is ready puts nothing, and the item is
        /// dropped.
        pub async fn put(&self, item: T) -> Result<(), PutError<T>>
        where
            T: Serialize,
        {
            match self.handle.encode(&item) {
                Ok(draft) => self.handle.put(draft).await,
                Err(error) => Err(error),
            }
            .map_err(|kind| PutError::new(item, kind))
        }

        /// As [`put`](Self::put), and gives up after so long:
        /// [`PutError::is_full`].
        pub async fn put_timeout(&self, item: T, after: Duration) -> Result<(), PutError<T>>
        where
            T: Serialize,
        {
            match self.handle.encode(&item) {
                Ok(draft) => self.handle.put_timeout(draft, after).await,
                Err(error) => Err(error),
            }
            .map_err(|kind| PutError::new(item, kind))
        }

        /// As [`put`](Self::put), without waiting: a full queue is an error.
        ///
        /// A queue that somebody else has been at for a tenth of a second, because
        /// it was stopped in the middle of an operation, counts as full.
        #[doc(alias = "put_nowait")]
        pub fn try_put(&self, item: T) -> Result<(), PutError<T>>
        where
            T: Serialize,
        {
            self.handle
                .encode(&item)
                .and_then(|draft| self.handle.try_put(draft))
                .map_err(|kind| PutError::new(item, kind))
        }

        /// As [`put`](Self::put), for code that is not async: the inside of a task,
        /// or a thread. Takes no runtime. Blocks the thread.
        pub fn blocking_put(&self, item: T) -> Result<(), PutError<T>>
        where
            T: Serialize,
        {
            self.handle
                .encode(&item)
                .and_then(|draft| self.handle.blocking_put(draft, Limit::None))
                .map_err(|kind| PutError::new(item, kind))
        }

        /// As [`blocking_put`](Self::blocking_put), and gives up after so long:
        /// [`PutError::is_full`].
        pub fn blocking_put_timeout(&self, item: T, after: Duration) -> Result<(), PutError<T>>
        where
            T: Serialize,
        {
            self.handle
                .encode(&item)
                .and_then(|draft| self.handle.blocking_put(draft, Limit::After(after)))
                .map_err(|kind| PutError::new(item, kind))
        }

        /// Refuses everything that is put from now on, by whomever. What is in the
        /// queue can still be taken; then all who get are told that it is closed.
        ///
        /// Producers that wait for room hear of it at once, or with the next item
        /// that is taken. In a copy of this process that was started with
        /// [`StartMethod::Fork`](crate::StartMethod::Fork), a queue that was not sent
        /// to it, as in a `static`, is nobody's, and this does nothing.
        pub fn close(&self) {
            self.handle.close();
        }
    };
}

/// What consumers do.
macro_rules! get_methods {
    () => {
        /// Takes out all that is in the queue, and drops it. Returns how many items
        /// that were. Of a joinable queue they count as done.
        ///
        /// What is put meanwhile may stay: close the queue before, for Python's
        /// `shutdown(immediate=True)`.
        ///
        /// # Errors
        ///
        /// If the queue cannot be used.
        pub fn clear(&self) -> Result<usize, QueueFault> {
            self.handle.clear()
        }

        /// Takes the next item, and waits while there is none.
        ///
        /// # Errors
        ///
        /// [`GetError::Closed`] once the queue is empty and will stay so: it was
        /// closed, or nobody is left who could put anything. An item of another
        /// type is [`GetError::Decode`], and gone.
        ///
        /// # Panics
        ///
        /// If it has to wait outside of a tokio runtime, or in one without I/O and
        /// time.
        ///
        /// # Cancel safety
        ///
        /// Dropping the future before it is ready takes nothing.
        pub async fn get(&self) -> Result<T, GetError>
        where
            T: DeserializeOwned,
        {
            self.handle.get(Taking::ForGood).await?.decode()
        }

        /// As [`get`](Self::get), and gives up after so long:
        /// [`GetError::is_empty`].
        pub async fn get_timeout(&self, after: Duration) -> Result<T, GetError>
        where
            T: DeserializeOwned,
        {
            self.handle.get_timeout(Taking::ForGood, after).await?.decode()
        }

        /// As [`get`](Self::get), without waiting: an empty queue is an error.
        ///
        /// A queue that somebody else has been at for a tenth of a second, because
        /// it was stopped in the middle of an operation, counts as empty.
        #[doc(alias = "get_nowait")]
        pub fn try_get(&self) -> Result<T, GetError>
        where
            T: DeserializeOwned,
        {
            self.handle.try_get(Taking::ForGood)?.decode()
        }

        /// As [`get`](Self::get), for code that is not async: the inside of a task,
        /// or a thread. Takes no runtime. Blocks the thread.
        pub fn blocking_get(&self) -> Result<T, GetError>
        where
            T: DeserializeOwned,
        {
            self.handle.blocking_get(Taking::ForGood, Limit::None)?.decode()
        }

        /// As [`blocking_get`](Self::blocking_get), and gives up after so long:
        /// [`GetError::is_empty`].
        pub fn blocking_get_timeout(&self, after: Duration) -> Result<T, GetError>
        where
            T: DeserializeOwned,
        {
            self.handle.blocking_get(Taking::ForGood, Limit::After(after))?.decode()
        }
    };
}
