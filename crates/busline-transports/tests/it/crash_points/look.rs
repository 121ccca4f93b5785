//! Looks at a bus after its processes died or the power failed, through the transport, and uses it again.

use std::collections::BTreeMap;
use std::time::Duration;

use busline_core::transport::{Read, Session};
use busline_core::{ErrorKind, HeaderValue, Outcome, Position, Record, dead};

use super::known::{Found, Presence, Verdict, payload};
use super::stage::{Stage, group, number_of, topic};

/// How many messages are taken before it is said that there is no end to them.
const TAKES_MAX: usize = 10_000;

impl Stage {
    /// Compares what is there with what was promised; from then on that is what is known.
    pub(crate) async fn look(&mut self, power: bool) -> Verdict {
        let known = self.recorder.learn(|known| known.clone());
        let session = self.session(0).await.map_err(|wrong| format!("opening: {wrong}"))?;
        let admin = session.admin().ok_or("no admin")?;
        let all = admin.topics().await.map_err(|error| format!("listing: {error}"))?;
        for (name, topic) in &known.topics {
            let sizes = topic.messages.iter().map(|message| (message.number, message.bytes));
            let has_group = topic.presence == Presence::There && self.setting.has_group;
            let found = find(&*session, name, has_group, &sizes.collect()).await;
            let mut found = found.map_err(|wrong| format!("topic {name}: {wrong}"))?;
            let listed = all.iter().find(|info| info.topic.as_str() == *name);
            if listed.is_some() != found.is_some() {
                return Err(format!("topic {name}: listed is {listed:?}, there is {found:?}"));
            }
            if let (Some(info), Some(found)) = (listed, &mut found) {
                found.bytes_max = info.retention.bytes_max;
            }
            known.judge(name, found.as_ref(), power)?;
            self.recorder.learn(|known| known.accept(name, found.as_ref()));
        }
        Ok(())
    }

    /// Takes and acknowledges what is owed, and what is published now.
    pub(crate) async fn use_it(&mut self) -> Verdict {
        self.pass();
        let mut names: Vec<&'static str> =
            self.recorder.learn(|known| known.topics.keys().copied().collect());
        if names.is_empty() {
            names.push("orders");
        }
        for name in names {
            let bytes_max = self.recorder.learn(|known| known.topic(name).bytes_max[1]);
            let declared = match bytes_max {
                Some(bytes) => self.keep(0, name, bytes).await,
                None => self.declare(0, name, None).await,
            };
            declared.map_err(|wrong| format!("declaring: {wrong}"))?;
            self.publish(0, name, 1, 40).await?;
            if !self.setting.has_group {
                continue;
            }
            for _ in 0..TAKES_MAX {
                if !self.recorder.learn(|known| known.is_ready(name)) {
                    break;
                }
                self.take(0, name).await.map_err(|wrong| format!("taking: {wrong}"))?;
                self.settle(0, name, usize::MAX, &Outcome::Ack).await?;
            }
            self.bury(name).await?;
        }
        Ok(())
    }

    /// Lets what was tried too often become dead letters.
    async fn bury(&mut self, name: &'static str) -> Verdict {
        let session = self.session(0).await?;
        for _ in 0..TAKES_MAX {
            let left = unsettled(&*session, name).await?.unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            self.expect_deliveries(name);
            self.subscribe(0, name).await?;
            if let Some(chunk) = self.next_within(0, name, Duration::from_millis(5)).await? {
                return Err(format!("{} more came", chunk.len()));
            }
        }
        Err("what was tried too often is still there".to_owned())
    }
}

/// What is there of a topic; nothing when it does not exist.
async fn find(
    session: &dyn Session,
    name: &str,
    has_group: bool,
    sizes: &BTreeMap<u64, usize>,
) -> Verdict<Option<Found>> {
    let Some(records) = read(session, name).await? else { return Ok(None) };
    let mut found = Found::default();
    for record in records {
        let number = number_of(&record.message.payload)?;
        let bytes = *sizes.get(&number).ok_or(format!("message {number} came from nowhere"))?;
        let key = if number.is_multiple_of(2) { "even" } else { "odd" };
        if record.message.payload != payload(number, bytes) || record.message.key.as_str() != key {
            return Err(format!("message {number} is not what was sent"));
        }
        found.records.push(number);
    }
    match unsettled(session, name).await? {
        Some(unsettled) => found.unsettled = unsettled,
        None if has_group => return Err("its group is gone".to_owned()),
        None => found.unsettled = found.records.iter().map(|number| (*number, 0)).collect(),
    }
    let letters = dead::dead_topic(&group(), &topic(name)).map_err(|error| error.to_string())?;
    for letter in read(session, letters.as_str()).await?.unwrap_or_default() {
        let number = number_of(&letter.message.payload)?;
        let reason = letter.message.headers.get(dead::HEADER_REASON).and_then(HeaderValue::as_str);
        if reason.is_none() || dead::origin(&letter.message).is_none() {
            return Err(format!("the dead letter of message {number} says not where from and why"));
        }
        // The message itself may have been removed meanwhile.
        if sizes.get(&number).is_some_and(|bytes| letter.message.payload != payload(number, *bytes))
        {
            return Err(format!("the dead letter of message {number} is not what was sent"));
        }
        found.letters.push(number);
    }
    found.letters_held = held(session, letters.as_str()).await?;
    Ok(Some(found))
}

async fn read(session: &dyn Session, name: &str) -> Verdict<Option<Vec<Record>>> {
    let opened = session.read(Read::new(topic(name), Position::Earliest)).await;
    let mut reader = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| format!("reading {name}: {error}"))?,
    };
    let mut records = Vec::new();
    loop {
        let chunk = reader.next().await.map_err(|error| format!("reading {name}: {error}"))?;
        if chunk.is_empty() {
            return Ok(Some(records));
        }
        records.extend(chunk);
    }
}

/// What the group did not settle; nothing when there is no group.
async fn unsettled(session: &dyn Session, name: &str) -> Verdict<Option<Vec<(u64, u32)>>> {
    peek(session, name, &group()).await
}

async fn held(session: &dyn Session, letters: &str) -> Verdict<Vec<u64>> {
    let held = peek(session, letters, &dead::dead_group()).await?.unwrap_or_default();
    Ok(held.into_iter().map(|(number, _)| number).collect())
}

async fn peek(
    session: &dyn Session,
    name: &str,
    group: &busline_core::GroupName,
) -> Verdict<Option<Vec<(u64, u32)>>> {
    let admin = session.admin().ok_or("no admin")?;
    let peeked = match admin.peek(&topic(name), group, None, usize::MAX).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        peeked => peeked.map_err(|error| format!("looking into {name}: {error}"))?,
    };
    let number = |peeked: busline_core::transport::Peeked| {
        Ok((number_of(&peeked.record.message.payload)?, peeked.attempts))
    };
    peeked.into_iter().map(number).collect::<Verdict<_>>().map(Some)
}
