//! A partition of a member: what it fetched of it, what it told the broker, and what waits for that.

use std::collections::VecDeque;
use std::sync::Arc;

use busline_core::delivery::{SettledSender, lost};
use futures_util::FutureExt;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::error::KafkaResult;

use super::consuming::answer;
use super::hands::{Held, Share};
use super::ledger::{Entry, Known, Ledger};
use super::mapping::Came;
use super::member::Told;
use crate::ended::{Ended, gone};

/// A message that came and is not handed out.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    pub(super) came: Arc<Came>,
    /// Whether it is the first of its ordering key, which the others wait for.
    pub(super) is_first: bool,
}

/// A partition, for as long as it is this member's.
pub(super) struct Part {
    pub(super) share: Arc<Share>,
    /// The topic at the broker.
    pub(super) name: String,
    pub(super) partition: i32,
    /// Whether copies wait here for their retry.
    pub(super) is_retry: bool,
    pub(super) ledger: Ledger,
    queue: Option<StreamPartitionQueue<Told>>,
    /// Came, is wanted, and is not handed out.
    pub(super) fetched: VecDeque<Fetched>,
    fetched_bytes: u64,
    /// How many wait in this process until they are due.
    pub(super) timed: usize,
    /// To be handed out as soon as the broker knows the attempt.
    marking: VecDeque<(u64, Held)>,
    /// Those, and those of a commit on its way.
    marked_count: usize,
    marked_bytes: u64,
    /// How many are handed out, ready, or on their way elsewhere.
    pub(super) open: usize,
    /// Who waits until the broker knows a settle.
    answers: Vec<(u64, SettledSender)>,
    /// What a commit on its way is for.
    sent: Option<Sent>,
    is_dirty: bool,
    /// It goes to another member as soon as nothing of it is open.
    pub(super) is_leaving: bool,
}

struct Sent {
    marking: Vec<(u64, Held)>,
    answers: Vec<SettledSender>,
}

/// The most places behind the first unsettled one: each takes memory.
const SPAN_MAX: u64 = 1 << 20;

/// Taken in at once, before anything else is looked at.
const TAKE_MAX: usize = 512;

impl Part {
    pub(super) fn new(
        number: u64,
        name: &str,
        partition: i32,
        is_retry: bool,
        ledger: Ledger,
        queue: Option<StreamPartitionQueue<Told>>,
    ) -> Self {
        Self {
            share: Arc::new(Share { number, lost: Ended::new() }),
            name: name.to_owned(),
            partition,
            is_retry,
            ledger,
            queue,
            fetched: VecDeque::new(),
            fetched_bytes: 0,
            timed: 0,
            marking: VecDeque::new(),
            marked_count: 0,
            marked_bytes: 0,
            open: 0,
            answers: Vec::new(),
            sent: None,
            is_dirty: false,
            is_leaving: false,
        }
    }

    /// The next records, without waiting for more than one. Cancel safe.
    pub(super) async fn fetch(&self) -> KafkaResult<Vec<Came>> {
        let Some(queue) = &self.queue else { return std::future::pending().await };
        let mut came = vec![Came::of(&queue.recv().await?)];
        while came.len() < TAKE_MAX {
            match queue.recv().now_or_never() {
                Some(Ok(next)) => came.push(Came::of(&next)),
                // An error comes again, when nothing stands before it.
                Some(Err(_)) | None => break,
            }
        }
        Ok(came)
    }

    /// Whether there is room to fetch more.
    pub(super) fn has_room(&self, count_max: usize, bytes_max: u64) -> bool {
        let waits = self.fetched.len() + self.timed;
        !self.is_leaving
            && waits < count_max
            && self.fetched_bytes < bytes_max
            && self.ledger.span() < SPAN_MAX
    }

    /// A record came; whether anybody wants it is to be seen.
    pub(super) fn comes(&mut self, place: u64) -> bool {
        matches!(self.ledger.comes(place), Known::Delivered(_))
    }

    pub(super) fn push(&mut self, fetched: Fetched, at_front: bool) {
        self.fetched_bytes += fetched.came.bytes();
        if at_front {
            self.fetched.push_front(fetched);
        } else {
            self.fetched.push_back(fetched);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Fetched> {
        let fetched = self.fetched.pop_front()?;
        self.fetched_bytes -= fetched.came.bytes();
        Some(fetched)
    }

    /// It is handed out as soon as the broker knows.
    pub(super) fn mark(&mut self, tag: u64, fetched: Fetched) {
        let before = self.ledger.deliver(fetched.came.offset);
        let before = before.saturating_add(fetched.came.attempts());
        let (came, share) = (fetched.came, Arc::clone(&self.share));
        self.open += 1;
        self.marked_count += 1;
        self.marked_bytes += came.bytes();
        self.is_dirty = true;
        self.marking.push_back((tag, Held { came, before, share }));
    }

    /// How many wait for the broker to know, and their bytes.
    pub(super) fn marked(&self) -> (usize, u64) {
        (self.marked_count, self.marked_bytes)
    }

    /// How often it was delivered before.
    pub(super) fn delivered(&self, came: &Came) -> u32 {
        match self.ledger.known(came.offset) {
            Known::Delivered(count) => count.saturating_add(came.attempts()),
            Known::Settled => 0,
        }
    }

    /// It is settled; whoever asked hears of it when the broker knows.
    pub(super) fn settle(&mut self, place: u64, done: Option<SettledSender>) {
        self.ledger.settle(place);
        self.is_dirty = true;
        self.answers.extend(done.map(|done| (place, done)));
    }

    /// Nobody saw it after all.
    pub(super) fn take_back(&mut self, place: u64) {
        self.ledger.take_back(place);
        self.is_dirty = true;
    }

    /// Passed over: the broker hears of it with something else, or when much has come together.
    pub(super) fn pass_over(&mut self, place: u64) {
        let before = self.ledger.base();
        self.ledger.settle(place);
        self.is_dirty |= self.ledger.base() / PASSED_OVER != before / PASSED_OVER;
    }

    /// Whether the broker is to be told something.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Whether a commit is on its way.
    pub(super) fn is_telling(&self) -> bool {
        self.sent.is_some()
    }

    /// What to commit now, if something.
    pub(super) fn tell(&mut self) -> Option<Entry> {
        if !self.is_dirty || self.sent.is_some() {
            return None;
        }
        let entry = self.ledger.entry();
        self.is_dirty = false;
        let covers = |place: u64| place < entry.covered;
        let mut sent = Sent { marking: Vec::new(), answers: Vec::new() };
        while self.marking.front().is_some_and(|(_, held)| covers(held.place())) {
            sent.marking.extend(self.marking.pop_front());
        }
        let (covered, rest) =
            std::mem::take(&mut self.answers).into_iter().partition(|(place, _)| covers(*place));
        self.answers = rest;
        let covered: Vec<(u64, SettledSender)> = covered;
        sent.answers = covered.into_iter().map(|(_, done)| done).collect();
        self.sent = Some(sent);
        Some(entry)
    }

    /// The broker knows: what waited for that is handed out and answered.
    pub(super) fn told(&mut self) -> Vec<(u64, Held)> {
        let Some(sent) = self.sent.take() else { return Vec::new() };
        // What did not fit is told with the next settle, which makes room.
        self.marked_count -= sent.marking.len();
        self.marked_bytes -= bytes(&sent.marking);
        sent.answers.into_iter().for_each(|done| done.send(Ok(())));
        sent.marking
    }

    /// The broker does not know: it is told again.
    pub(super) fn not_told(&mut self) {
        let Some(sent) = self.sent.take() else { return };
        self.is_dirty = true;
        sent.marking.into_iter().rev().for_each(|one| self.marking.push_front(one));
        let base = self.ledger.base();
        self.answers.extend(sent.answers.into_iter().map(|done| (base, done)));
    }

    /// Nothing of it is handed out any more: what was not yet is given back, uncounted.
    pub(super) fn withdraw(&mut self, ready: Vec<Held>) {
        self.fetched.clear();
        self.fetched_bytes = 0;
        let marked: Vec<_> = std::mem::take(&mut self.marking).into();
        self.marked_count -= marked.len();
        self.marked_bytes -= bytes(&marked);
        let marked = marked.into_iter().map(|(_, held)| held);
        for held in ready.into_iter().chain(marked) {
            self.take_back(held.place());
            self.open -= 1;
        }
    }

    /// It is somebody else's.
    pub(super) fn lose(mut self) {
        self.share.lost.end(gone());
        let sent = self.sent.take().map(|sent| sent.answers).unwrap_or_default();
        let waiting = self.answers.drain(..).map(|(_, done)| done).chain(sent);
        waiting.for_each(|done| answer(Some(done), Err(lost("its partition is another's"))));
    }
}

fn bytes(marked: &[(u64, Held)]) -> u64 {
    marked.iter().map(|(_, held)| held.came.bytes()).sum()
}

/// So many records are passed over before the broker hears of it.
const PASSED_OVER: u64 = 1000;
