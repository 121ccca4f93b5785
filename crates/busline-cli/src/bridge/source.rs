//! What a bridge copies from: a log by its places, or a queue by its deliveries.

use std::time::Duration;

use busline::{
    Bus, Capability, Consumer, Delivery, ErrorKind, LogReader, Message, Offset, Position, Settled,
    Timestamp,
};

use super::args::Plan;
use super::progress::Progress;
use crate::exit::{Failure, Outcome};

/// A queue that gives nothing for so long is empty.
const QUIET: Duration = Duration::from_secs(2);
/// The most that is taken at a time.
const CHUNK_MAX: usize = 256;
/// The most deliveries of a queue that are not copied yet.
pub(super) const IN_FLIGHT_MAX: u32 = 1024;

/// A message on its way to the target.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Message,
    /// When the source took it, where it tells.
    pub(super) time: Option<Timestamp>,
    /// Where it stands, for messages to people.
    pub(super) at: Option<Offset>,
    pub(super) done: Done,
}

/// What says to the source that a message was copied.
#[derive(Debug)]
pub(super) enum Done {
    /// The place behind it.
    Place(Option<Offset>),
    /// Its own acknowledgement.
    Delivery(Box<Delivery>),
}

/// Where messages come from, in order.
#[derive(Debug)]
pub(super) enum Source {
    Log { reader: LogReader, progress: Progress },
    Queue { consumer: Consumer, follow: bool, settling: Vec<Settled> },
}

impl Source {
    /// Opens it where the last run of this bridge has stopped; the place, if that is known.
    pub(super) async fn open(bus: &Bus, plan: &Plan) -> Outcome<(Self, Option<Offset>)> {
        // Before anything is kept for it: a topic that is not there is none to copy.
        let reader = bus.reader(plan.from.topic.clone(), Position::Earliest)?;
        let reader = match reader.patterns(plan.patterns.clone()).open().await {
            // Whether a topic has a log is its own matter on some brokers.
            Err(error) if error.kind() == ErrorKind::Refused && plan.state.is_none() => {
                return Ok((Self::queue(bus, plan).await?, None));
            }
            reader => reader?,
        };
        let capabilities = bus.capabilities().await?;
        let (progress, next) = Progress::open(bus, &capabilities, plan).await?;
        let mut source = Self::Log { reader, progress };
        if let (Some(next), Self::Log { reader, progress }) = (&next, &mut source) {
            reader.seek(Position::Offset(next.clone())).await.map_err(|error| {
                let is_gone = error.kind() == ErrorKind::NotFound;
                let failure = Failure::from(error);
                let way_out = match progress {
                    Progress::Group { group, .. } => {
                        format!("'busline group reset {} {group}' moves it", plan.from.topic)
                    }
                    Progress::File(_) => format!("without the {progress} it begins anew"),
                };
                let what = if is_gone { "some was removed before it was copied; " } else { "" };
                failure.and(&format!("{what}the bridge had come to {next}, {way_out}"))
            })?;
        }
        Ok((source, next))
    }

    /// A group of its own, whose messages from now on wait for the bridge.
    async fn queue(bus: &Bus, plan: &Plan) -> Outcome<Self> {
        let group = match &plan.group {
            Some(group) => group.clone(),
            None => plan.name().parse()?,
        };
        let builder = bus.group(plan.from.topic.clone(), group)?;
        let builder = builder.patterns(plan.patterns.clone()).max_in_flight(IN_FLIGHT_MAX);
        let limited = bus.capabilities().await?.get(Capability::RetryLimit).is_kept();
        // A message that a bridge was killed with must not be put aside for it.
        let builder = if limited { builder.attempts_max(None) } else { builder };
        let consumer = builder.subscribe().await?;
        Ok(Self::Queue { consumer, follow: plan.follow, settling: Vec::new() })
    }

    /// Where progress is kept, for people.
    pub(super) fn kept(&self, plan: &Plan) -> String {
        match (self, &plan.group) {
            (Self::Log { progress, .. }, _) => progress.to_string(),
            (Self::Queue { .. }, Some(group)) => format!("group {group}"),
            (Self::Queue { .. }, None) => format!("group {}", plan.name()),
        }
    }

    /// The next messages; none at the end, which whoever follows waits at. Cancel safe.
    pub(super) async fn next(&mut self, follow: bool) -> Outcome<Vec<Item>> {
        match self {
            Self::Log { reader, .. } => {
                let first = match follow {
                    true => Some(reader.follow().await?),
                    false => reader.next().await?,
                };
                let mut items = Vec::new();
                let mut next = first;
                while let Some(record) = next.take() {
                    let behind = reader.position().or_else(|| Some(record.offset.next()));
                    items.push(Item {
                        message: record.message,
                        time: Some(record.time),
                        at: Some(record.offset),
                        done: Done::Place(behind),
                    });
                    if items.len() < CHUNK_MAX {
                        next = crate::bridge::ready(reader.next()).transpose()?.flatten();
                    }
                }
                Ok(items)
            }
            Self::Queue { consumer, follow, .. } => {
                let chunk = match follow {
                    true => consumer.next_chunk().await?,
                    false => match tokio::time::timeout(QUIET, consumer.next_chunk()).await {
                        Ok(chunk) => chunk?,
                        Err(_) => None,
                    },
                };
                Ok(chunk.unwrap_or_default().into_iter().map(item).collect())
            }
        }
    }

    /// Takes note that a message was copied; the place behind it.
    pub(super) fn done(&mut self, done: Done) -> Option<Offset> {
        match (self, done) {
            (Self::Queue { settling, .. }, Done::Delivery(delivery)) => {
                settling.push(delivery.ack());
                None
            }
            (_, Done::Place(place)) => place,
            (Self::Log { .. }, Done::Delivery(delivery)) => {
                drop(delivery.ack());
                None
            }
        }
    }

    /// The place behind everything that it gave.
    pub(super) fn position(&self) -> Option<Offset> {
        match self {
            Self::Log { reader, .. } => reader.position(),
            Self::Queue { .. } => None,
        }
    }

    /// Makes durable how far it has come.
    pub(super) async fn save(&mut self, next: Option<&Offset>) -> Outcome {
        match (self, next) {
            (Self::Log { progress, .. }, Some(next)) => progress.save(next).await,
            (Self::Queue { settling, .. }, _) => {
                for settled in settling.drain(..) {
                    match settled.await {
                        // It comes again, and is copied once more.
                        Err(error) if error.kind() == ErrorKind::Lost => {}
                        settled => settled?,
                    }
                }
                Ok(())
            }
            (Self::Log { .. }, None) => Ok(()),
        }
    }

    /// Gives back what was fetched and not copied.
    pub(super) async fn stop(&mut self) -> Outcome {
        match self {
            Self::Queue { consumer, .. } => Ok(consumer.stop().await?),
            Self::Log { .. } => Ok(()),
        }
    }
}

fn item(delivery: Delivery) -> Item {
    Item {
        message: delivery.message.clone(),
        time: delivery.time,
        at: delivery.offset.clone(),
        done: Done::Delivery(Box::new(delivery)),
    }
}
