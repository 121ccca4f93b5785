//! Going through the letters of a queue once, as its consumer: what is chosen comes out in batches,
//! what is not is held and given back at the end.

use std::time::Duration;

use busline::{Consumer, Delivery, Outcome as Settlement};

use super::queue::Queue;
use crate::exit::Outcome;
use crate::filter::Filter;
use crate::line::Line;
use crate::signal::Stop;

/// Letters that do not come for this long are held by somebody else.
const QUIET: Duration = Duration::from_secs(5);

/// Between two looks at whether what was given back is there.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// One pass over the letters of a queue.
pub(super) struct Sweep<'a> {
    queue: &'a Queue,
    consumer: Consumer,
    stop: Stop,
    /// Letters that are not there to be seen yet, or were claimed by somebody else.
    unseen: u64,
    /// Without their payloads: what is not chosen costs little, however much it is.
    kept: Vec<Delivery>,
}

impl<'a> Sweep<'a> {
    /// Joins the group that holds the letters; `waiting` is how many there are.
    pub(super) async fn open(queue: &'a Queue, waiting: u64, stop: Stop) -> Outcome<Self> {
        let group = queue.bus.group(queue.topic.clone(), queue.group.clone())?;
        // What is not chosen stays in flight to the end: only chunks bound memory.
        let group = group.max_in_flight(u32::MAX).max_in_flight_bytes(u64::MAX);
        Ok(Self { queue, consumer: group.join().await?, stop, unseen: waiting, kept: Vec::new() })
    }

    /// The next chosen letters, at most `limit` unless a chunk brings more; empty at the end.
    pub(super) async fn next(
        &mut self,
        filter: Option<&Filter>,
        limit: usize,
    ) -> Outcome<Vec<Delivery>> {
        let mut batch = Vec::new();
        while batch.len() < limit && self.unseen > 0 && !self.stop.is_requested() {
            let next = tokio::select! {
                () = self.stop.requested() => break,
                next = tokio::time::timeout(QUIET, self.consumer.next()) => next,
            };
            let Ok(next) = next else { break };
            let Some(delivery) = next? else { break };
            self.unseen -= 1;
            let line = Line::letter(&delivery.message, delivery.offset.as_ref(), delivery.time);
            if self.queue.chooses(filter, &delivery.message, &line) {
                batch.push(delivery);
            } else {
                self.keep(delivery);
            }
        }
        Ok(batch)
    }

    /// Leaves a letter where it is.
    pub(super) fn keep(&mut self, mut delivery: Delivery) {
        delivery.message.payload = bytes::Bytes::new();
        delivery.message.headers = busline::Headers::new();
        self.kept.push(delivery);
    }

    /// Gives back what was not chosen, at once, and says how many letters wait then.
    pub(super) async fn finish(mut self) -> Outcome<u64> {
        self.consumer.stop().await?;
        // The consumer may hold what it fetched beyond the last batch.
        while let Some(delivery) = self.consumer.next().await? {
            self.kept.push(delivery);
        }
        let again = Settlement::Retry { after: None };
        let given: Vec<_> =
            self.kept.drain(..).map(|delivery| delivery.settle(again.clone())).collect();
        let mut back = 0;
        for settled in given {
            match settled.await {
                // Somebody else has it by now: it is where it should be.
                Err(error) if error.kind() == busline::ErrorKind::Lost => {}
                answer => {
                    answer?;
                    back += 1;
                }
            }
        }
        let since = tokio::time::Instant::now();
        loop {
            let waiting = self.queue.waiting().await?;
            // A replicated queue takes back later than it says so, and somebody else may have taken one again.
            if waiting >= back || since.elapsed() >= QUIET {
                return Ok(waiting);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}
