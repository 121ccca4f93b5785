//! Letters that RabbitMQ itself put aside, where a policy or an argument of a queue says where to.
//!
//! Their headers are the broker's (<https://www.rabbitmq.com/docs/dlx#effects>): key and body are
//! unchanged, `x-first-death-…` say where it died first, `x-death` how often it died where.

use crate::headers::HeaderValue;
use crate::message::Message;
use crate::name::{GroupName, Topic};
use crate::time::Timestamp;

use super::Origin;

const EXCHANGE: &str = "x-first-death-exchange";
const QUEUE: &str = "x-first-death-queue";
const REASON: &str = "x-first-death-reason";
const DEATHS: &str = "x-death";

/// The exchange without a name, as the broker's own tools call it: it takes a message to the queue that
/// its key names.
pub const DEFAULT_EXCHANGE: &str = "amq.default";

/// What the broker says about a letter of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerLetter<'a> {
    /// The exchange that it was published to.
    pub exchange: &'a str,
    /// The queue where it died first.
    pub queue: &'a str,
    /// Why: rejected, expired, maxlen or `delivery_limit`.
    pub reason: &'a str,
    /// How often it died there for that reason; 0 when the broker does not say.
    pub deaths: u32,
    /// When it did for the first time.
    pub time: Option<Timestamp>,
}

impl<'a> BrokerLetter<'a> {
    /// Reads its headers; `None` when it is no letter of the broker's.
    pub fn of(message: &'a Message) -> Option<Self> {
        let text = |name| message.headers.get(name).and_then(HeaderValue::as_str);
        let (exchange, queue) = (text(EXCHANGE)?, text(QUEUE)?);
        let reason = text(REASON).unwrap_or("unknown");
        let mut letter = Self { exchange, queue, reason, deaths: 0, time: None };
        let Some(HeaderValue::List(deaths)) = message.headers.get(DEATHS) else {
            return Some(letter);
        };
        let is_it = |name: &str, value: &str, death: &HeaderValue| {
            field(death, name).and_then(HeaderValue::as_str) == Some(value)
        };
        let first = deaths
            .iter()
            .find(|death| is_it("queue", queue, death) && is_it("reason", reason, death));
        if let Some(first) = first {
            let count = field(first, "count").and_then(HeaderValue::as_int).unwrap_or(1);
            letter.deaths = u32::try_from(count).unwrap_or(1);
            if let Some(HeaderValue::Time(time)) = field(first, "time") {
                letter.time = Some(*time);
            }
        }
        Some(letter)
    }

    /// The group whose queue that was: queues are named `GROUP.EXCHANGE`, others are groups themselves.
    pub fn group(&self) -> &'a str {
        let of = self.queue.strip_suffix(self.exchange).and_then(|name| name.strip_suffix('.'));
        of.filter(|name| !name.is_empty()).unwrap_or(self.queue)
    }

    /// The topic that it was published to.
    pub fn topic(&self) -> &'a str {
        if self.exchange.is_empty() { DEFAULT_EXCHANGE } else { self.exchange }
    }

    /// Where it goes when it is put back. The broker counts: the death before the first time it was
    /// put back is the first.
    pub fn origin(&self) -> Option<Origin> {
        Some(Origin {
            topic: Topic::new(self.topic()).ok()?,
            group: GroupName::new(self.group()).ok()?,
            redrives: self.deaths.saturating_sub(1),
        })
    }
}

fn field<'a>(death: &'a HeaderValue, name: &str) -> Option<&'a HeaderValue> {
    let HeaderValue::Map(fields) = death else { return None };
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;
    use crate::dead::{origin, redriven};

    fn letter(exchange: &str, queue: &str) -> Message {
        let death = |queue: &str, reason: &str, count: i64| {
            HeaderValue::Map(vec![
                ("count".into(), count.into()),
                ("reason".into(), reason.to_owned().into()),
                ("queue".into(), queue.to_owned().into()),
                ("time".into(), Timestamp::from_unix_ms(7_000).into()),
            ])
        };
        let deaths = vec![death("other", "expired", 9), death(queue, "rejected", 3)];
        Message::new(Topic::new("dlq").unwrap(), Key::new("LabBoom").unwrap(), "body")
            .header(EXCHANGE, exchange.to_owned())
            .header(QUEUE, queue.to_owned())
            .header(REASON, "rejected")
            .header(DEATHS, HeaderValue::List(deaths))
    }

    #[test]
    fn a_letter_of_the_broker_finds_its_way_back_as_it_is() {
        let message = letter("events", "lab.events");
        let read = BrokerLetter::of(&message).unwrap();
        assert_eq!((read.group(), read.reason, read.deaths), ("lab", "rejected", 3));
        assert_eq!(read.time, Some(Timestamp::from_unix_ms(7_000)));
        let from = origin(&message).unwrap();
        assert_eq!((from.topic.as_str(), from.group.as_str()), ("events", "lab"));
        assert_eq!(from.redrives, 2);
        let back = redriven(message.clone()).unwrap();
        assert_eq!(back.topic.as_str(), "events");
        assert_eq!((&back.headers, &back.payload), (&message.headers, &message.payload));
    }

    #[test]
    fn what_went_straight_to_a_queue_goes_there_again() {
        let message = letter("", "jobs");
        let from = origin(&message).unwrap();
        assert_eq!((from.topic.as_str(), from.group.as_str()), (DEFAULT_EXCHANGE, "jobs"));
        let none = Message::new(Topic::new("t").unwrap(), Key::empty(), "");
        assert_eq!(BrokerLetter::of(&none), None);
        let odd = none.header(EXCHANGE, "e").header(QUEUE, "q").header(DEATHS, 1);
        assert_eq!(BrokerLetter::of(&odd).unwrap().deaths, 0);
    }
}
