//! Every operation, struck between any two of its steps, beside a plain list.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const RING: u64 = 8 << 20;

fn terms(items_max: u64, kind: Kind) -> Terms {
    Terms { ring_bytes: RING, items_max, kind }
}

const PLAIN: Kind = Kind::Plain;
const JOINABLE: Kind = Kind::Joinable { requeue: false };
const REQUEUEING: Kind = Kind::Joinable { requeue: true };

/// What the processes share: a state, two bells, records of leases, and a ring of
/// which only the headers and the pages are told apart.
#[derive(Debug)]
struct Shared {
    terms: Terms,
    state: State,
    items_ring: bool,
    space_ring: bool,
    leases: BTreeMap<usize, (u64, u64, u64)>,
    /// Where a record lies in the ring: its number and length.
    records: BTreeMap<u64, (u64, u64)>,
    /// Pages of the ring that take memory.
    pages: BTreeSet<u64>,
    /// Steps that are left before the process is killed.
    steps_left: u32,
}

struct Killed;

impl Shared {
    fn new(terms: Terms) -> Shared {
        Shared {
            terms,
            state: State::default().wait_for_items(),
            items_ring: false,
            space_ring: false,
            leases: BTreeMap::new(),
            records: BTreeMap::new(),
            pages: BTreeSet::new(),
            steps_left: u32::MAX,
        }
    }

    fn step(&mut self) -> Result<(), Killed> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(Killed)?;
        Ok(())
    }

    fn make(&mut self, next: State, wakes: Wakes) -> Result<(), Killed> {
        if wakes.items {
            self.step()?;
            self.items_ring = true;
        }
        if wakes.space {
            self.step()?;
            self.space_ring = true;
        }
        self.step()?;
        self.state = next;
        Ok(())
    }

    fn write(&mut self, at: u64, number: u64, record: u64) {
        for piece in pieces(&(at..at + record), RING) {
            self.records.retain(|start, _| !piece.contains(start));
            let first = piece.start / RING_PAGE_BYTES;
            self.pages.extend(first..piece.end.div_ceil(RING_PAGE_BYTES));
        }
        self.records.insert(at % RING, (number, record));
    }

    fn punch(&mut self, range: &Range<u64>) {
        for piece in pieces(range, RING) {
            assert!(piece.start % RING_PAGE_BYTES == 0 && piece.end % RING_PAGE_BYTES == 0);
            let pages = piece.start / RING_PAGE_BYTES..piece.end / RING_PAGE_BYTES;
            self.pages.retain(|page| !pages.contains(page));
            self.records.retain(|start, _| !piece.contains(start));
        }
    }

    /// Whether it was put. `None` if killed on the way.
    fn put(&mut self, record: u64) -> Result<bool, Killed> {
        self.step()?;
        match self.state.put(&self.terms, record) {
            Ok((next, place)) => {
                if let Some(reaching) = self.state.reaching(&next, false) {
                    self.make(reaching, Wakes::default())?;
                }
                self.write(place.at, place.number, record);
                self.step()?;
                self.make(next, Wakes { items: place.wakes, ..Wakes::default() })?;
                Ok(true)
            }
            Err(NotPut::Full) => {
                let (next, may_silence) = self.state.wait_for_space(&self.terms, record);
                self.make(next, Wakes::default())?;
                if may_silence {
                    self.step()?;
                    self.space_ring = false;
                }
                Ok(false)
            }
            Err(NotPut::Closed) => panic!("nobody has closed it"),
        }
    }

    /// The number and length of what was taken.
    fn take(&mut self, lease: Option<usize>) -> Result<Option<(u64, u64)>, Killed> {
        self.step()?;
        let leases = self.leases.clone();
        let front = self.state.front(&|lease| leases[&lease].1);
        let (next, wakes, taken) = match front {
            None => {
                self.make(self.state.wait_for_items(), Wakes::default())?;
                self.step()?;
                self.items_ring = false;
                return Ok(None);
            }
            Some(Front::Queued { at, number, most }) => {
                let (found, record) = self.records[&(at % RING)];
                assert_eq!(found, number);
                assert!(record <= most);
                if let Some(lease) = lease {
                    self.leases.insert(lease, (at, number, record));
                }
                let leases = self.leases.clone();
                let positions = move |lease| leases[&lease].0;
                let taken = self.state.take(&self.terms, record, lease, &positions).unwrap();
                (taken.0, taken.1, (number, record))
            }
            Some(Front::Returned { lease: old }) => {
                let (at, number, record) = self.leases[&old];
                assert_eq!(self.records[&(at % RING)], (number, record));
                let positions = |lease| leases[&lease].0;
                let is_held = lease.is_some();
                let taken = self.state.take_returned(&self.terms, old, is_held, &positions);
                let (next, wakes) = taken.unwrap();
                (next, wakes, (number, record))
            }
        };
        self.make(next, wakes)?;
        if let Some(spare) = self.state.spare() {
            self.step()?;
            self.punch(&spare);
            self.step()?;
            self.state = self.state.without(&spare);
        }
        Ok(Some(taken))
    }

    fn settle(&mut self, lease: usize, outcome: Outcome) -> Result<(), Killed> {
        self.step()?;
        let leases = self.leases.clone();
        let positions = |lease| leases[&lease].0;
        let settled = self.state.settle_lease(&self.terms, lease, outcome, &positions);
        let (next, wakes) = settled.unwrap();
        self.make(next, wakes)
    }

    /// What must hold at all times, whoever was killed.
    fn audit(&self, queued: &VecDeque<(u64, u64)>) {
        self.state.check(&self.terms).unwrap();
        assert_eq!(self.state.len(), queued.len() as u64);
        assert!(self.state.hungry || self.items_ring, "a bell is silent, and nobody rings it");
        for told in [self.state.wanted, self.state.called] {
            let is_due = self.state.fits(&self.terms, told);
            assert!(!is_due || self.space_ring, "there is room, and no bell rings");
        }
        assert!(queued.is_empty() || self.items_ring, "there are items, and no bell rings");
        let words = self.state.to_words();
        assert_eq!(State::from_words(&words), self.state);
    }

    fn audit_memory(&self) {
        let content = self.state.tail - self.state.base;
        let pages = content.div_ceil(RING_PAGE_BYTES) + 2 * QUEUE_SPARE_BYTES / RING_PAGE_BYTES + 4;
        assert!(self.pages.len() as u64 <= pages, "{} pages, not {pages}", self.pages.len());
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Put { len: u64 },
    Get,
    Take,
    Done(usize),
    Die(usize),
}

fn acts(kills: bool) -> impl Strategy<Value = Vec<(Act, u32)>> {
    let len = prop_oneof![4 => 0..200_u64, 2 => 1000..300_000_u64, 1 => 1_000_000..3_000_000_u64];
    let act = prop_oneof![
        6 => len.prop_map(|len| Act::Put { len }),
        4 => Just(Act::Get),
        3 => Just(Act::Take),
        3 => any::<usize>().prop_map(Act::Done),
        1 => any::<usize>().prop_map(Act::Die),
    ];
    let steps = if kills {
        prop_oneof![2 => Just(u32::MAX), 1 => 0..7_u32].boxed()
    } else {
        Just(u32::MAX).boxed()
    };
    prop::collection::vec((act, steps), 1..200)
}

/// Plays all acts beside a list.
fn play(terms: Terms, acts: &[(Act, u32)]) {
    let mut shared = Shared::new(terms);
    let mut queued: VecDeque<(u64, u64)> = VecDeque::new();
    let mut held: Vec<(usize, (u64, u64))> = Vec::new();
    let (mut got, mut lost) = (0, 0);
    for (act, steps) in acts {
        shared.steps_left = *steps;
        let before = shared.state;
        match *act {
            Act::Put { len } => {
                let record = len + HEADER_BYTES;
                let number = shared.state.next;
                let fits = queued.len() < terms.items_max as usize
                    && shared.state.tail - shared.state.base + record <= RING;
                let put = shared.put(record);
                assert!(put.is_err() || matches!(put, Ok(put) if put == fits));
                // Whoever was killed may have put it all the same.
                if shared.state.next > number {
                    assert!(fits);
                    queued.push_back((number, record));
                }
            }
            Act::Get | Act::Take => {
                let is_take = matches!(act, Act::Take) && terms.kind != Kind::Plain;
                let first = queued.front().copied();
                let leases = shared.leases.clone();
                let lease = match shared.state.front(&|lease| leases[&lease].1) {
                    Some(Front::Returned { lease }) => Some(lease),
                    _ => (0..QUEUE_LEASES).find(|lease| shared.state.is_free(*lease)),
                };
                let lease = lease.filter(|_| is_take);
                let taken = shared.take(lease);
                let is_gone = shared.state.len() < before.len();
                if let Ok(taken) = taken {
                    assert_eq!((taken, taken.is_some()), (first, is_gone));
                }
                if is_gone {
                    let item = queued.pop_front().unwrap();
                    match lease {
                        Some(lease) => held.push((lease, item)),
                        None => got += u64::from(terms.kind != Kind::Plain),
                    }
                }
            }
            Act::Done(which) | Act::Die(which) => {
                if held.is_empty() {
                    continue;
                }
                let at = which % held.len();
                let (lease, item) = held[at];
                let dies = matches!(act, Act::Die(_));
                let outcome = if dies { Outcome::PutBack } else { Outcome::Done };
                let _ = shared.settle(lease, outcome);
                if !shared.state.held.contains(lease) {
                    held.remove(at);
                    if shared.state.returned.contains(lease) {
                        assert!(dies && terms.requeues());
                        // Among those that were put back, the first comes first.
                        let at = queued.partition_point(|other| other.0 < item.0);
                        queued.insert(at, item);
                    } else {
                        assert!(!(dies && terms.requeues()));
                        lost += u64::from(dies);
                    }
                }
            }
        }
        shared.audit(&queued);
        let unfinished = match terms.kind {
            Kind::Plain => 0,
            _ => queued.len() as u64 + held.len() as u64 + got,
        };
        assert_eq!((shared.state.unfinished, shared.state.lost), (unfinished, lost));
    }
    // Whatever happened: those who live take all that is left, in order.
    shared.steps_left = u32::MAX;
    for item in queued {
        assert_eq!(shared.take(None).ok().flatten(), Some(item));
        if terms.kind != Kind::Plain {
            got += 1;
        }
    }
    for (lease, _) in held {
        assert!(shared.settle(lease, Outcome::Done).is_ok());
    }
    for _ in 0..got {
        shared.state = shared.state.task_done().unwrap().0;
    }
    assert_eq!(shared.state.task_done(), None);
    assert_eq!((shared.state.tail, shared.state.unfinished), (0, 0));
    // And the next one to take something gives back what is still kept.
    assert!(shared.put(100).is_ok() && shared.take(None).is_ok());
    assert!(shared.pages.len() as u64 <= QUEUE_SPARE_BYTES / RING_PAGE_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_is_a_list_whoever_is_killed(acts in acts(true), few in 1..6_u64, all in any::<bool>()) {
        let items_max = if all { u64::MAX } else { few };
        for kind in [PLAIN, JOINABLE, REQUEUEING] {
            play(terms(items_max, kind), &acts);
        }
    }

    /// A process that was taken over writes what it likes: whoever reads it says
    /// that it is corrupt, or goes on within the ring.
    #[test]
    fn no_state_makes_anybody_panic(
        words in prop::collection::vec(
            prop_oneof![
                3 => 0..100_u64,
                1 => Just(RING),
                1 => (0..64_u32).prop_map(|bit| 1 << bit),
                1 => any::<u64>(),
            ],
            STATE_WORDS,
        ),
        record in prop_oneof![HEADER_BYTES..1000, HEADER_BYTES..=RING / 2],
        answers in prop_oneof![0..1000_u64, any::<u64>()],
        lease in 0..QUEUE_LEASES,
    ) {
        let state = State::from_words(&words.try_into().unwrap());
        for kind in [PLAIN, JOINABLE, REQUEUEING] {
            let terms = terms(3, kind);
            // What is asked without a check.
            let _ = (state.len(), state.is_full(&terms), state.put_and_taken());
            any_operation(&state, &terms, record, answers, lease);
        }
    }

    /// And so does one that changes an honest state a little.
    #[test]
    fn no_change_of_a_state_makes_anybody_panic(
        acts in acts(false),
        word in 0..STATE_WORDS,
        to in prop_oneof![0..10_u64, any::<u64>(), Just(u64::MAX)],
        by in prop_oneof![Just(0), Just(1), Just(u64::MAX)],
    ) {
        for kind in [PLAIN, REQUEUEING] {
            let terms = terms(u64::MAX, kind);
            let mut shared = Shared::new(terms);
            for (act, _) in &acts {
                let _ = match act {
                    Act::Put { len } => shared.put(len + HEADER_BYTES).map(drop),
                    _ => shared.take(None).map(drop),
                };
            }
            let mut words = shared.state.to_words();
            words[word] = if by == 0 { to } else { words[word].wrapping_add(by) };
            any_operation(&State::from_words(&words), &terms, 1000, to, 0);
        }
    }

    #[test]
    fn memory_follows_what_is_queued(acts in acts(false)) {
        let mut shared = Shared::new(terms(u64::MAX, PLAIN));
        for (act, _) in acts {
            let done = match act {
                Act::Put { len } => shared.put(len + HEADER_BYTES).map(drop),
                _ => shared.take(None).map(drop),
            };
            prop_assert!(done.is_ok());
            shared.audit_memory();
        }
    }

    #[test]
    fn headers_come_back(len: u32, memory: u16, others: u16, number: u64, mark: u64) {
        let header = Header { len, memory, others, number, mark };
        prop_assert_eq!(Header::from_bytes(&header.to_bytes()), header);
    }

    #[test]
    fn pieces_are_within_the_ring(start in 0..1_u64 << 40, len in 0..RING) {
        let [first, second] = pieces(&(start..start + len), RING);
        prop_assert!(first.end <= RING && second.end <= first.start);
        prop_assert_eq!(first.end - first.start + second.end, len);
        prop_assert_eq!(first.start, start % RING);
    }
}

/// Runs what can be run on a state that passes its check.
fn any_operation(state: &State, terms: &Terms, record: u64, answers: u64, lease: usize) {
    if state.check(terms).is_err() {
        return;
    }
    let positions = |_| answers;
    let within = |range: Range<u64>| assert!(range.end - range.start <= RING, "{range:?}");
    let fine = |next: State| {
        if let Some(spare) = next.spare() {
            within(spare.clone());
            next.without(&spare);
        }
    };
    if let Ok((next, place)) = state.put(terms, record) {
        within(place.at..place.at + record);
        next.check(terms).unwrap();
        fine(next);
    }
    match state.front(&positions) {
        Some(Front::Queued { at, most, .. }) => {
            within(at..at + most);
            for lease in [None, Some(lease).filter(|lease| state.is_free(*lease))] {
                let lease = lease.filter(|_| terms.kind != Kind::Plain);
                if let Ok((next, _)) = state.take(terms, record, lease, &positions) {
                    fine(next);
                }
            }
        }
        Some(Front::Returned { lease }) => {
            let _ = state.most_at(answers).map(|most| within(answers..answers + most));
            for is_held in [false, true] {
                let _ = state
                    .take_returned(terms, lease, is_held, &positions)
                    .map(|taken| fine(taken.0));
            }
        }
        None => {}
    }
    for lease in state.held.iter() {
        for outcome in [Outcome::Done, Outcome::Lost, Outcome::PutBack] {
            let _ = state.settle_lease(terms, lease, outcome, &positions).map(|left| fine(left.0));
        }
    }
    let _ = (state.task_done(), state.write_off());
}

#[test]
fn terms_are_what_was_written_down() {
    for kind in [PLAIN, JOINABLE, REQUEUEING] {
        let terms = terms(3, kind);
        assert_eq!(Terms::from_words(terms.to_words()), Ok(terms));
    }
    let refused = [[RING, 3, 3], [RING, 0, 0], [0, 3, 0], [RING + 1, 3, 0], [1 << 63, 3, 0]];
    for words in refused {
        assert!(Terms::from_words(words).is_err(), "{words:?}");
    }
}

#[test]
fn a_closed_queue_takes_nothing_and_gives_what_it_has() {
    let terms = terms(u64::MAX, PLAIN);
    let state = State::default().put(&terms, 100).unwrap().0.closed_if(true);
    assert_eq!(state.put(&terms, 100), Err(NotPut::Closed));
    let front = Front::Queued { at: 0, number: 0, most: 100 };
    assert_eq!(state.front(&|_| 0), Some(front));
}

#[test]
fn whoever_waits_is_woken_once() {
    let terms = terms(2, JOINABLE);
    let mut state = State::default().wait_for_items();
    let put = |state: &mut State| {
        let (next, place) = state.put(&terms, 100).unwrap();
        *state = next;
        place.wakes
    };
    assert!(put(&mut state) && !put(&mut state));
    assert_eq!(state.put(&terms, 100), Err(NotPut::Full));
    let (waiting, may_silence) = state.wait_for_space(&terms, 100);
    assert!(may_silence);
    state = waiting.wait_for_end();
    let (next, wakes) = state.take(&terms, 100, Some(9), &|_| 0).unwrap();
    assert_eq!(wakes, Wakes { space: true, ..Wakes::default() });
    let (next, wakes) = next.take(&terms, 100, None, &|_| 0).unwrap();
    assert_eq!(wakes, Wakes::default());
    let (next, wakes) = next.settle_lease(&terms, 9, Outcome::Lost, &|_| 0).unwrap();
    assert_eq!((wakes, next.lost()), (Wakes::default(), 1));
    let (next, wakes) = next.task_done().unwrap();
    assert_eq!(wakes, Wakes { joiners: true, ..Wakes::default() });
    assert_eq!(next.task_done(), None);
}

#[test]
fn whoever_wants_much_leaves_the_bell_to_those_who_want_little() {
    let terms = terms(u64::MAX, PLAIN);
    let mut state = State::default();
    while let Ok((next, _)) = state.put(&terms, RING / 8) {
        state = next;
    }
    let take = |state: &State| state.take(&terms, RING / 8, None, &|_| 0).unwrap();
    // Both wait; there is room for the short one only.
    state = state.wait_for_space(&terms, RING / 2).0.wait_for_space(&terms, 1000).0;
    let (next, wakes) = take(&state);
    assert!(wakes.space);
    let (next, may_silence) = next.wait_for_space(&terms, RING / 2);
    assert!(!may_silence, "the short one has yet to come");
    let (next, _) = next.put(&terms, 1000).unwrap();
    // Nobody is told before there is room for the long one.
    let (next, first) = take(&next);
    let (next, second) = take(&next);
    let (next, third) = take(&next);
    assert!(!first.space && !second.space && !third.space);
    let (next, wakes) = take(&next);
    assert!(wakes.space && next.put(&terms, RING / 2).is_ok());
}

#[test]
fn an_item_that_lies_about_its_length_is_refused() {
    let terms = terms(u64::MAX, PLAIN);
    let mut state = State::default();
    for _ in 0..3 {
        state = state.put(&terms, 100).unwrap().0;
    }
    let take = |state: &State, record| state.take(&terms, record, None, &|_| 0);
    assert!(take(&state, 300 - 2 * HEADER_BYTES).is_ok());
    assert!(take(&state, 301 - 2 * HEADER_BYTES).is_err());
    state = take(&take(&state, 100).unwrap().0, 100).unwrap().0;
    assert!(take(&state, 99).is_err() && take(&state, 101).is_err());
    assert_eq!(take(&state, 100).unwrap().0, State { next: 3, extent: 300, ..State::default() });
}
