//! `inspect`: what waits in a queue, in its order; nothing is consumed.

use std::collections::BTreeSet;

use busline::service::wire::{self, Kind};
use busline::transport::Peeked;
use busline::{Admin, Capability, ErrorKind, GroupName, Message, Offset, Topic, dead};
use serde_json::json;

use super::args::InspectArgs;
use super::{monitor, open};
use crate::app::{App, Missing};
use crate::exit::{Failure, Outcome};
use crate::output;

/// How many messages are looked at together, at first; each page is twice as long as the one before.
const PAGE: usize = 64;
const PAGE_MAX: usize = 4096;

/// Shows the messages that wait in a queue, from its head.
pub(crate) async fn run(app: &mut App, args: InspectArgs) -> Outcome {
    if let Some(directory) = &args.save {
        std::fs::create_dir_all(directory).map_err(|error| Failure::file(directory, &error))?;
    }
    let bus = open(app, Missing::Fail).await?;
    let admin = bus.admin().await?;
    let (topic, group) = find(&admin, &args.queue).await?;
    if bus.capabilities().await?.require(Capability::Peek).is_err() {
        output::note(
            "on this broker what was looked at is marked as redelivered: a service that retries once \
             gives up on it at its first failure",
        );
    }
    let (mut shown, mut from, mut page) = (0, None::<Offset>, PAGE);
    loop {
        // As with the tool of Python services, 0 is all.
        let left = args
            .count
            .filter(|count| *count > 0)
            .map_or(usize::MAX, |count| count.saturating_sub(shown));
        let limit = page.min(left);
        if limit == 0 {
            break;
        }
        let peeked = admin.peek(&topic, &group, from.as_ref(), limit).await?;
        for one in &peeked {
            show(app, &args, one)?;
        }
        shown += peeked.len();
        from = peeked.last().map(|last| last.record.offset.next());
        page = (page * 2).min(PAGE_MAX);
        app.out.flush()?;
        if peeked.len() < limit {
            break;
        }
    }
    if shown == 0 && !app.out.is_json() {
        output::note("the queue is empty");
    }
    app.close(&bus).await
}

/// A queue by the broker's name for it, `GROUP.TOPIC`, `TOPIC/GROUP`, or a topic of dead letters.
async fn find(admin: &Admin, name: &str) -> Outcome<(Topic, GroupName)> {
    let queues = Topic::new(dead::DEFAULT_EXCHANGE)?;
    if let Ok(group) = GroupName::new(name.to_owned()) {
        match admin.group(&queues, &group).await {
            Ok(_) => return Ok((queues, group)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut known = BTreeSet::new();
    match admin.groups(Some(&queues)).await {
        Ok(groups) => known.extend(groups.into_iter().map(|info| info.group.to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            let what = format!("there is no queue '{name}', and groups cannot be listed");
            return Err(Failure::from(error).prefixed(&what));
        }
    }
    for info in admin.groups(None).await? {
        let (topic, group) = (&info.topic, &info.group);
        let is_dead = group.as_str() == dead::DEAD_GROUP && topic.as_str() == name;
        if is_dead || name == format!("{topic}/{group}") || name == format!("{group}.{topic}") {
            return Ok((info.topic, info.group));
        }
        known.insert(format!("{group}.{topic}"));
    }
    let some: Vec<_> = known.iter().take(20).map(|name| format!("'{name}'")).collect();
    let hint = match some.is_empty() {
        true => "there are no queues on this bus".to_owned(),
        false => format!("there are {}", some.join(", ")),
    };
    Err(Failure::usage(format!("there is no queue '{name}'; {hint}")))
}

/// What a message is, by where it was published; `None` for what no service knows.
fn kind_of(message: &Message) -> Option<Kind> {
    let died = dead::BrokerLetter::of(message).map(|letter| letter.topic().to_owned());
    let own = message.headers.get(dead::HEADER_TOPIC).and_then(busline::HeaderValue::as_str);
    let topic = own.map(str::to_owned).or(died).unwrap_or_else(|| message.topic.to_string());
    let kinds = [Kind::Event, Kind::Command, Kind::Configuration, Kind::Log];
    kinds.into_iter().find(|kind| wire::topic(*kind).as_str() == topic)
}

fn show(app: &mut App, args: &InspectArgs, peeked: &Peeked) -> Outcome {
    let Peeked { record, attempts } = peeked;
    let message = &record.message;
    let kind = kind_of(message);
    // What is no event needs no conversation to be looked at.
    let decoded = wire::decode(
        kind.filter(|kind| *kind != Kind::Log).unwrap_or(Kind::Configuration),
        message,
    );
    let time = Some(record.time).filter(|time| *time != busline::Timestamp::default());
    let mut line = monitor::line(kind.unwrap_or(Kind::Configuration), message, decoded, "");
    line["time"] = json!(time);
    line["topic"] = message.topic.as_str().into();
    line["offset"] = json!(record.offset);
    line["delivered"] = (*attempts).into();
    if matches!(kind, None | Some(Kind::Log)) {
        line["kind"] = json!(kind.map(Kind::as_str));
    }
    if let Some(directory) = &args.save {
        let path = monitor::save(directory, &line, message)?;
        line["saved"] = path.display().to_string().into();
    }
    if app.out.is_json() {
        return Ok(app.out.line(&line)?);
    }
    let text = monitor::human(app, &line);
    Ok(app.out.text(&text)?)
}
