//! `publish`: one message, or one a line, pipelined; done when every receipt is in.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use busline::transport::Batch;
use busline::{
    Capability, Key, Limits, Message, Offset, PendingReceipt, Published, Publisher, Receipt, Topic,
    new_message_id,
};
use serde::Serialize;
use serde_json::Value;

use crate::app::{App, Missing};
use crate::args::PublishArgs;
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::input::{Chunk, Source, of_json};
use crate::progress::Progress;

/// The most messages sent and not receipted.
const WINDOW: usize = 8192;

/// Publishes what the arguments say.
pub(crate) async fn run(app: &mut App, args: PublishArgs) -> Outcome {
    let source = Source::of(args.file.as_deref());
    let limits = Limits::default();
    // Input that cannot be read is found out before the bus is touched.
    let input = match &args.data {
        Some(text) => Input::One(text.clone().into_bytes()),
        None if args.lines => Input::Lines(source.clone().lines(limits.payload_bytes_max)?),
        None => Input::One(source.read(limits.payload_bytes_max)?),
    };
    let bus = app.open(Missing::Create).await?;
    let capabilities = bus.capabilities().await?;
    if args.mandatory {
        capabilities.require(Capability::Unroutable)?;
    }
    if let Some(least) = args.durability {
        capabilities.require_durability(least)?;
    }
    let publisher = bus.publisher(args.topic.clone()).await?;
    let named = if args.data.is_none() && !args.lines { source.content_type() } else { None };
    let template = Template {
        publisher,
        limits: capabilities.limits,
        content_type: args.content_type.clone().or(named.map(str::to_owned)),
        args,
    };
    let mut run = Run { app, template, pending: VecDeque::new(), tally: Tally::default() };
    let outcome = match input {
        Input::One(payload) => run.one(payload).await,
        Input::Lines(lines) => run.lines(lines).await,
    };
    app.out.flush()?;
    let closed = app.close(&bus).await;
    outcome.and(closed)
}

enum Input {
    One(Vec<u8>),
    Lines(tokio::sync::mpsc::Receiver<Outcome<Chunk>>),
}

/// What all messages of a run share.
struct Template {
    publisher: Publisher,
    args: PublishArgs,
    content_type: Option<String>,
    limits: Limits,
}

impl Template {
    fn message(&self, payload: Vec<u8>) -> Outcome<Message> {
        let key = match (&self.args.key, &self.args.key_field) {
            (Some(key), _) => key.clone(),
            (None, Some(field)) => key_of(&payload, field)?,
            (None, None) => Key::empty(),
        };
        let mut message = self.publisher.message(key, payload)?.message_id(new_message_id());
        for (name, value) in &self.args.header {
            message = message.header(name.as_str(), value.as_str());
        }
        if let Some(content_type) = &self.content_type {
            message = message.content_type(content_type.as_str());
        }
        self.limits.check(&message)?;
        Ok(message)
    }

    async fn send(&self, messages: Vec<Message>) -> Outcome<Vec<PendingReceipt>> {
        let batch = Batch { messages, mandatory: self.args.mandatory };
        Ok(self.publisher.send(batch).await?)
    }
}

/// The key in a field of a JSON payload.
fn key_of(payload: &[u8], field: &str) -> Outcome<Key> {
    let value: Value = serde_json::from_slice(payload).map_err(|error| {
        let why = of_json(&error);
        Failure::usage(format!("the payload is no JSON, --key-field needs it: {why}"))
    })?;
    let found = field.split('.').try_fold(&value, |value, name| value.get(name));
    let text = match found {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
        Some(Value::Null) | None => {
            return Err(Failure::usage(format!("the payload has no field '{field}' for the key")));
        }
        Some(_) => {
            return Err(Failure::usage(format!("the field '{field}' is no text for a key")));
        }
    };
    Ok(Key::new(text)?)
}

/// A message on its way.
struct Sent {
    number: u64,
    key: Key,
    receipt: PendingReceipt,
}

/// A run, from the first message to the last receipt.
struct Run<'a> {
    app: &'a mut App,
    template: Template,
    pending: VecDeque<Sent>,
    tally: Tally,
}

impl Run<'_> {
    async fn one(&mut self, payload: Vec<u8>) -> Outcome {
        let message = self.template.message(payload)?;
        self.send(1, vec![message]).await?;
        let mut last = None;
        while let Some(sent) = self.pending.front_mut() {
            let published = (&mut sent.receipt).await;
            last = self.settle(published)?;
        }
        self.tally.outcome()?;
        if let (false, Some(offset)) = (self.app.out.is_json(), last) {
            let topic = &self.template.args.topic;
            self.app.out.text(&format!("stored in {topic} at {offset}"))?;
        }
        Ok(())
    }

    async fn lines(&mut self, mut lines: tokio::sync::mpsc::Receiver<Outcome<Chunk>>) -> Outcome {
        let mut stop = self.app.stop.clone();
        let mut progress = Progress::new(self.app, "published", None);
        let mut open = true;
        let mut bad_line = Ok(());
        while open || !self.pending.is_empty() {
            tokio::select! {
                biased;
                () = stop.requested(), if open => open = false,
                published = front(&mut self.pending) => {
                    self.settle(published)?;
                    let more = self.settle_ready()?;
                    progress.advance(self.app, 1 + more);
                    // A message that was not stored ends it: what comes later must not overtake.
                    open &= self.tally.failure.is_none();
                }
                chunk = lines.recv(), if open && self.pending.len() < WINDOW => match chunk {
                    None => open = false,
                    Some(chunk) => {
                        if let Err(failure) = self.chunk(chunk).await {
                            bad_line = Err(failure);
                            open = false;
                        }
                    }
                },
            }
            if self.pending.is_empty() || !open {
                self.app.out.flush()?;
            }
        }
        drop(progress);
        let outcome = self.tally.outcome().and(bad_line);
        outcome.map_err(|failure| failure.and(&format!("stored: {}", self.tally.stored)))?;
        self.summary()
    }

    /// Sends what is good of a chunk; a bad line ends it, and what stands before it is sent.
    async fn chunk(&mut self, chunk: Outcome<Chunk>) -> Outcome {
        let Chunk { first, lines } = chunk?;
        let mut messages = Vec::with_capacity(lines.len());
        let mut bad_line = Ok(());
        for (number, line) in (first..).zip(lines) {
            match self.template.message(line) {
                Ok(message) => messages.push(message),
                Err(failure) => {
                    bad_line = Err(failure.prefixed(&format!("line {number}")));
                    break;
                }
            }
        }
        if !messages.is_empty() {
            self.send(first, messages).await?;
        }
        bad_line
    }

    async fn send(&mut self, first: u64, messages: Vec<Message>) -> Outcome {
        let keys: Vec<_> = messages.iter().map(|message| message.key.clone()).collect();
        let receipts = self.template.send(messages).await?;
        for (number, (key, receipt)) in (first..).zip(keys.into_iter().zip(receipts)) {
            self.pending.push_back(Sent { number, key, receipt });
        }
        Ok(())
    }

    /// Takes all receipts that are there already, in order.
    fn settle_ready(&mut self) -> Outcome<u64> {
        let mut context = Context::from_waker(Waker::noop());
        let mut settled = 0;
        while let Some(sent) = self.pending.front_mut() {
            match Future::poll(Pin::new(&mut sent.receipt), &mut context) {
                Poll::Ready(published) => self.settle(published)?,
                Poll::Pending => break,
            };
            settled += 1;
        }
        Ok(settled)
    }

    /// Takes note of the receipt of the oldest message on its way.
    fn settle(&mut self, published: Published) -> Outcome<Option<Offset>> {
        let Some(sent) = self.pending.pop_front() else { return Ok(None) };
        let (offset, status) = match published {
            Ok(Receipt::Stored { offset }) => {
                self.tally.stored.add(sent.number);
                (offset, "stored")
            }
            Ok(_) => {
                self.tally.unroutable += 1;
                (None, "unroutable")
            }
            Err(error) => {
                let number = sent.number;
                let line = self.template.args.lines;
                self.tally.failure.get_or_insert_with(|| {
                    let failure = Failure::from(error);
                    if line { failure.prefixed(&format!("line {number}")) } else { failure }
                });
                return Ok(None);
            }
        };
        if self.app.out.is_json() {
            let topic = &self.template.args.topic;
            self.app.out.line(&Line { topic, key: sent.key.as_str(), offset: &offset, status })?;
        }
        Ok(offset)
    }

    fn summary(&mut self) -> Outcome {
        let stored = human::plural(self.tally.stored.count, "message");
        let topic = &self.template.args.topic;
        if let Some(signal) = self.app.stop.signal() {
            let text = format!("stopped by {signal:?}: {stored} stored: {}", self.tally.stored);
            crate::output::note(&text);
        }
        if !self.app.out.is_json() {
            self.app.out.text(&format!("stored {stored} in {topic}"))?;
        }
        Ok(())
    }
}

/// The receipt of the oldest message on its way; never without one. Cancel safe.
async fn front(pending: &mut VecDeque<Sent>) -> Published {
    match pending.front_mut() {
        Some(sent) => (&mut sent.receipt).await,
        None => std::future::pending().await,
    }
}

/// The JSON line of a receipt.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a Topic,
    key: &'a str,
    offset: &'a Option<Offset>,
    status: &'static str,
}

/// What the receipts came to.
#[derive(Debug, Default)]
struct Tally {
    stored: Numbers,
    unroutable: u64,
    failure: Option<Failure>,
}

impl Tally {
    /// The first failure, else whether something came back.
    fn outcome(&mut self) -> Outcome {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        match self.unroutable {
            0 => Ok(()),
            back => Err(Failure::new(
                exit::UNROUTABLE,
                format!("{} matched no group and came back", human::plural(back, "message")),
            )),
        }
    }
}

/// Ascending numbers, kept as ranges: nearly always one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Numbers {
    count: u64,
    ranges: Vec<(u64, u64)>,
}

impl Numbers {
    fn add(&mut self, number: u64) {
        self.count += 1;
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.ranges.push((number, number)),
        }
    }
}

impl std::fmt::Display for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.ranges.is_empty() {
            return f.write_str("no line");
        }
        let several = self.count > 1;
        write!(f, "line{} ", if several { "s" } else { "" })?;
        for (index, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_lines_are_named_exactly() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.to_string(), "no line");
        [1, 2, 3, 7, 9, 10].into_iter().for_each(|number| numbers.add(number));
        assert_eq!(numbers.to_string(), "lines 1-3, 7, 9-10");
        assert_eq!(numbers.count, 6);
    }

    #[test]
    fn keys_come_from_fields() {
        let key = |payload: &str, field| key_of(payload.as_bytes(), field);
        assert_eq!(key(r#"{"a":{"b":"x.y"}}"#, "a.b").unwrap().as_str(), "x.y");
        assert_eq!(key(r#"{"n":7}"#, "n").unwrap().as_str(), "7");
        for (payload, field, words) in [
            ("{", "a", "no JSON"),
            ("{}", "a", "no field 'a'"),
            (r#"{"a":[]}"#, "a", "no text for a key"),
        ] {
            let failure = key(payload, field).unwrap_err();
            assert_eq!(failure.code(), exit::USAGE);
            assert!(format!("{failure:?}").contains(words), "{failure:?}");
        }
    }
}
