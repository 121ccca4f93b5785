//! `dead redrive`: back to the origin, published before it is removed, with a loop guard.

use std::collections::{BTreeMap, BTreeSet};

use busline::transport::Batch;
use busline::{
    Admin, Bus, Capability, Delivery, ErrorKind, Message, PendingReceipt, Publisher, Receipt,
    Topic, dead,
};

use super::queue::Queue;
use super::sweep::Sweep;
use super::{Letters, Tally, line_of, reason_of};
use crate::app::{App, Missing};
use crate::args::RedriveArgs;
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::output;
use crate::progress::Progress;

/// What is wrong with one letter, and with no other.
const STAYS: [ErrorKind; 2] = [ErrorKind::Limit, ErrorKind::Full];

/// Puts letters back, or shows which would be.
pub(super) async fn run(app: &mut App, args: RedriveArgs) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let mut outcome = Ok(());
    match Queue::find(&bus, &args.which.queue).await? {
        None => {
            let status = if args.dry_run { "would_redrive" } else { "redriven" };
            Tally::default().print(app, None, status, "put back")?;
        }
        Some(queue) => {
            outcome = match args.dry_run {
                true => dry_run(app, &args, &queue).await,
                false => redrive(app, &args, &queue).await,
            };
            outcome = outcome.and(queue.close().await);
        }
    }
    let closed = app.close(&bus).await;
    outcome.and(closed)
}

/// Why a letter stays where it is; `None` when it may be put back.
fn refusal(message: &Message, redrives_max: u32) -> Option<Refusal> {
    match dead::origin(message) {
        None => Some(Refusal::NoOrigin),
        Some(origin) if origin.redrives >= redrives_max => Some(Refusal::TooOften),
        Some(_) => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    TooOften,
    NoOrigin,
    NobodyTakes,
    CannotGo,
}

/// How many letters were refused why, for people.
#[derive(Debug, Default)]
struct Refused(BTreeMap<Refusal, u64>);

impl Refused {
    fn add(&mut self, refusal: Refusal) {
        *self.0.entry(refusal).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn outcome(&self, redrives_max: u32) -> Outcome {
        let mut parts = Vec::new();
        for (refusal, count) in &self.0 {
            let letters = human::plural(*count, "letter");
            parts.push(match refusal {
                Refusal::TooOften => format!(
                    "{letters} put back {redrives_max} times or more already (--max-redrives allows more)"
                ),
                Refusal::NoOrigin => format!("{letters} without a valid origin"),
                Refusal::NobodyTakes => {
                    format!("{letters} that no group or service takes any more")
                }
                Refusal::CannotGo => format!("{letters} that the broker or a bound did not let go"),
            });
        }
        if parts.is_empty() {
            return Ok(());
        }
        Err(Failure::new(exit::PROBLEM, format!("refused: {}", parts.join(", "))))
    }
}

async fn dry_run(app: &mut App, args: &RedriveArgs, queue: &Queue) -> Outcome {
    let mut tally = Tally::default();
    let mut refused = Refused::default();
    let mut letters = Letters::new(queue);
    let count = args.which.count.unwrap_or(u64::MAX);
    loop {
        let page = letters.next().await?;
        if page.is_empty() {
            break;
        }
        for letter in &page {
            let message = &letter.record.message;
            if tally.matched >= count
                || !queue.chooses(args.which.filter.as_ref(), message, &line_of(&letter.record))
            {
                continue;
            }
            tally.matched += 1;
            tally.reasons.add(reason_of(message));
            match refusal(message, args.max_redrives) {
                Some(refusal) => refused.add(refusal),
                None => tally.done += 1,
            }
        }
    }
    tally.refused = refused.total();
    tally.remaining = queue.waiting().await?;
    tally.print(app, Some(queue), "would_redrive", "would be put back")?;
    Ok(())
}

async fn redrive(app: &mut App, args: &RedriveArgs, queue: &Queue) -> Outcome {
    let waiting = queue.waiting().await?;
    let sweep = Sweep::open(queue, waiting, app.stop.clone()).await?;
    let mut run = Run {
        bus: &queue.bus,
        mandatory: queue.bus.capabilities().await?.require(Capability::Unroutable).is_ok(),
        admin: &queue.admin,
        known: None,
        publishers: BTreeMap::new(),
        sweep,
        tally: Tally::default(),
        refused: Refused::default(),
        redrives_max: args.max_redrives,
        said_of_users: false,
    };
    let outcome = run.batches(app, args).await;
    let Run { sweep, mut tally, refused, .. } = run;
    let finished = sweep.finish().await;
    tally.refused = refused.total();
    tally.remaining = match &finished {
        Ok(remaining) => *remaining,
        Err(_) => queue.waiting().await?,
    };
    tally.print(app, Some(queue), "redriven", "put back")?;
    outcome.and(finished.map(drop))?;
    refused.outcome(args.max_redrives)
}

/// The groups that exist: a letter is not put back where nobody would take it.
async fn known_groups(admin: &Admin) -> Outcome<BTreeSet<(String, String)>> {
    let groups = admin.groups(None).await?;
    let names = groups.iter().map(|info| (info.topic.to_string(), info.group.to_string()));
    Ok(names.collect())
}

struct Run<'a> {
    bus: &'a Bus,
    /// Whether the bus says when nobody takes a letter.
    mandatory: bool,
    admin: &'a Admin,
    /// Looked at when a letter is for one group alone.
    known: Option<BTreeSet<(String, String)>>,
    publishers: BTreeMap<Topic, Publisher>,
    sweep: Sweep<'a>,
    tally: Tally,
    refused: Refused,
    redrives_max: u32,
    said_of_users: bool,
}

impl Run<'_> {
    async fn batches(&mut self, app: &mut App, args: &RedriveArgs) -> Outcome {
        let mut progress = Progress::new(app, "put back", None);
        let count = args.which.count.unwrap_or(u64::MAX);
        while self.tally.matched < count {
            let limit = (count - self.tally.matched).min(args.batch_size.into());
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let batch = self.sweep.next(args.which.filter.as_ref(), limit).await?;
            if batch.is_empty() {
                break;
            }
            progress.advance(app, batch.len() as u64);
            self.batch(batch).await?;
        }
        Ok(())
    }

    /// Publishes what may be put back, by origin, and removes each after its receipt.
    async fn batch(&mut self, batch: Vec<Delivery>) -> Outcome {
        let mut by_origin: BTreeMap<Topic, (Vec<Delivery>, Vec<Message>)> = BTreeMap::new();
        for delivery in batch {
            self.tally.matched += 1;
            self.tally.reasons.add(reason_of(&delivery.message));
            let refusal = refusal(&delivery.message, self.redrives_max);
            let back = dead::redriven(delivery.message.clone());
            match (refusal, back) {
                (None, Some(message)) => {
                    let (deliveries, messages) =
                        by_origin.entry(message.topic.clone()).or_default();
                    deliveries.push(delivery);
                    messages.push(message);
                }
                (refusal, _) => {
                    self.refused.add(refusal.unwrap_or(Refusal::NoOrigin));
                    self.sweep.keep(delivery);
                }
            }
        }
        for (origin, (deliveries, messages)) in by_origin {
            self.put_back(&origin, deliveries, messages).await?;
        }
        Ok(())
    }

    async fn put_back(
        &mut self,
        origin: &Topic,
        deliveries: Vec<Delivery>,
        messages: Vec<Message>,
    ) -> Outcome {
        self.check_groups(&messages).await?;
        let publisher = match self.publishers.get(origin) {
            Some(publisher) => publisher.clone(),
            None => self.bus.publisher(origin.clone()).await?,
        };
        self.publishers.insert(origin.clone(), publisher.clone());
        if messages.iter().any(|message| message.headers.get("user_id").is_some()) {
            self.says_of_users();
        }
        let mut settling = Vec::with_capacity(deliveries.len());
        let mut failed = Ok(());
        let sent = self.send(&publisher, deliveries, messages).await?;
        for (delivery, receipt) in sent {
            match receipt.await {
                Ok(Receipt::Stored { .. }) => settling.push(delivery.ack()),
                Ok(_) => {
                    self.refused.add(Refusal::NobodyTakes);
                    self.sweep.keep(delivery);
                }
                Err(error) if STAYS.contains(&error.error().kind()) => {
                    self.stays(delivery, &error.to_string());
                }
                Err(error) => {
                    self.sweep.keep(delivery);
                    failed = failed.and(Err(error.into()));
                }
            }
        }
        for settled in settling {
            match settled.await {
                Ok(()) => self.tally.done += 1,
                Err(error) if error.kind() == ErrorKind::Lost => {
                    output::warning("a letter was put back, and is still there: it was taken over");
                }
                Err(error) => failed = failed.and(Err(error.into())),
            }
        }
        failed
    }

    /// Sends them together; where one of them cannot go, each alone, so that it holds no other up.
    async fn send(
        &mut self,
        publisher: &Publisher,
        deliveries: Vec<Delivery>,
        messages: Vec<Message>,
    ) -> Outcome<Vec<(Delivery, PendingReceipt)>> {
        let mandatory = self.mandatory;
        match publisher.send(Batch { mandatory, messages: messages.clone() }).await {
            Ok(receipts) => return Ok(deliveries.into_iter().zip(receipts).collect()),
            Err(error) if STAYS.contains(&error.kind()) => {}
            Err(error) => return Err(error.into()),
        }
        let mut sent = Vec::with_capacity(deliveries.len());
        for (delivery, message) in deliveries.into_iter().zip(messages) {
            match publisher.send(Batch { mandatory, messages: vec![message] }).await {
                Ok(mut receipts) => {
                    sent.extend(std::iter::once(delivery).zip(receipts.pop()));
                }
                Err(error) if STAYS.contains(&error.kind()) => {
                    self.stays(delivery, &error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }

    fn stays(&mut self, delivery: Delivery, why: &str) {
        output::warning(&format!("the letter '{}' stays: {why}", delivery.message.key));
        self.refused.add(Refusal::CannotGo);
        self.sweep.keep(delivery);
    }

    fn says_of_users(&mut self) {
        if !std::mem::replace(&mut self.said_of_users, true) {
            output::note(
                "letters bear a user_id: one that is not of this connection's user goes back as a header, the \
                 broker takes it as a property from nobody else",
            );
        }
    }

    async fn check_groups(&mut self, messages: &[Message]) -> Outcome {
        for message in messages {
            let group = message.headers.get(dead::HEADER_ONLY_GROUP);
            let Some(group) = group.and_then(busline::HeaderValue::as_str) else { continue };
            let known = match &self.known {
                Some(known) => known,
                None => self.known.insert(known_groups(self.admin).await?),
            };
            if !known.contains(&(message.topic.to_string(), group.to_owned())) {
                return Err(Failure::usage(format!(
                    "topic '{}' has no group '{group}' any more, nobody would take the letters; \
                     declare it, or drop them with 'busline dead purge'",
                    message.topic
                )));
            }
        }
        Ok(())
    }
}
