//! What users of a bus had been told at a moment, and what may therefore be found after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busline_core::Outcome;

/// What was found to be wrong.
pub(crate) type Verdict<T = ()> = Result<T, String>;

/// A message, told apart from all others by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) bytes: usize,
    /// Its receipt is there.
    pub(crate) is_stored: bool,
    /// How often the group was seen to get it, and how often it may have got it.
    pub(crate) deliveries: (u32, u32),
    /// Somebody acknowledged it; whether that arrived is another matter.
    pub(crate) is_acked: bool,
    /// How often somebody rejected it, or it was to be rejected for its attempts.
    pub(crate) rejections: u32,
    /// A settle that ends it was answered.
    pub(crate) is_settled: bool,
    /// A member can have it now.
    pub(crate) is_ready: bool,
    /// A member that lives has it.
    pub(crate) is_held: bool,
}

impl Message {
    pub(crate) fn new(number: u64, bytes: usize) -> Self {
        Self {
            number,
            bytes,
            is_stored: false,
            deliveries: (0, 0),
            is_acked: false,
            rejections: 0,
            is_settled: false,
            is_ready: false,
            is_held: false,
        }
    }

    fn may_be_done(&self) -> bool {
        self.is_acked || self.rejections > 0
    }
}

/// The payload of a message: no two sectors of any two are the same.
pub(crate) fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let words = (0u64..).map(|at| (number << 20 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut payload = number.to_le_bytes().to_vec();
    payload.extend(words.flat_map(u64::to_le_bytes).take(bytes.saturating_sub(8)));
    payload
}

/// Whether a topic exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    #[default]
    Absent,
    /// It is being declared, or deleted: nobody was told yet.
    Unsure,
    There,
}

/// What is known of a topic and of its only group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Topic {
    pub(crate) presence: Presence,
    /// What is done with may be removed.
    pub(crate) is_retained: bool,
    /// How many bytes it is to keep, and what that was before if somebody is changing it.
    pub(crate) bytes_max: [Option<u64>; 2],
    /// In the order in which they were sent.
    pub(crate) messages: Arc<Vec<Message>>,
    /// Dead letters by the number of the message: how many there are at least, and at most.
    pub(crate) letters: BTreeMap<u64, (u32, u32)>,
}

/// What users had been told at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Counts what was learned.
    pub(crate) version: u64,
    /// What was answered survives a loss of power.
    pub(crate) is_durable: bool,
    /// After so many deliveries a message is rejected by itself.
    pub(crate) attempts_max: Option<u32>,
    pub(crate) topics: BTreeMap<&'static str, Topic>,
    /// The number of the next message: none is given twice.
    pub(crate) next_number: u64,
    pub(crate) wall_us: i64,
    pub(crate) monotonic: Duration,
}

/// What is there of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) bytes_max: Option<u64>,
    /// Numbers in the log.
    pub(crate) records: Vec<u64>,
    /// Numbers that the group did not settle, with how often they were delivered.
    pub(crate) unsettled: Vec<(u64, u32)>,
    /// Numbers in the topic of dead letters.
    pub(crate) letters: Vec<u64>,
    /// Of them, those that the group of dead letters holds.
    pub(crate) letters_held: Vec<u64>,
}

impl Known {
    pub(crate) fn topic(&mut self, name: &'static str) -> &mut Topic {
        self.topics.entry(name).or_default()
    }

    /// A member got a message.
    pub(crate) fn deliver(
        &mut self,
        name: &'static str,
        number: u64,
        attempt: u32,
        bytes: &[u8],
    ) -> Verdict {
        let message = self.topic(name).message(number);
        let message = message.ok_or_else(|| format!("message {number} came from nowhere"))?;
        let (least, most) = message.deliveries;
        if bytes != payload(number, message.bytes) {
            return Err(format!("message {number} is not what was sent"));
        }
        if message.is_settled {
            return Err(format!("message {number} comes again though it was settled"));
        }
        if !(least + 1..=most).contains(&attempt) {
            return Err(format!(
                "message {number}: attempt {attempt}, not {} to {most}",
                least + 1
            ));
        }
        message.deliveries = (attempt, attempt);
        (message.is_ready, message.is_held) = (false, true);
        Ok(())
    }

    /// Of what might have been claimed, and was not handed out, nothing was.
    pub(crate) fn settle_expectations(&mut self, name: &'static str) {
        let attempts_max = self.attempts_max.unwrap_or(u32::MAX);
        for message in Arc::make_mut(&mut self.topic(name).messages) {
            let (least, most) = message.deliveries;
            if most <= attempts_max && message.is_ready {
                message.deliveries.1 = least;
            }
        }
    }

    /// A settle was answered.
    pub(crate) fn note_settled(&mut self, name: &'static str, number: u64, outcome: &Outcome) {
        let topic = self.topic(name);
        if matches!(outcome, Outcome::Reject { .. })
            && let Some(count) = topic.letters.get_mut(&number)
        {
            count.0 += 1;
        }
        if let Some(message) = topic.message(number) {
            match outcome {
                Outcome::Retry { after } => message.is_ready = after.is_none(),
                _ => message.is_settled = true,
            }
        }
    }

    /// Of these topics and numbers those are ready again that nobody tried to end.
    pub(crate) fn ready_all(&mut self, which: impl Fn(&'static str, u64) -> bool) {
        for (name, topic) in &mut self.topics {
            for message in Arc::make_mut(&mut topic.messages) {
                if which(name, message.number) {
                    message.is_ready = message.is_stored && !message.may_be_done();
                    message.is_held = false;
                }
            }
        }
    }

    /// Whether a member is sure to get something of a topic.
    pub(crate) fn is_ready(&self, name: &str) -> bool {
        let attempts_max = self.attempts_max.unwrap_or(u32::MAX);
        let Some(topic) = self.topics.get(name) else { return false };
        topic.messages.iter().any(|message| message.is_ready && message.deliveries.1 < attempts_max)
    }

    /// Says what is wrong with what was found after every process died, or the power failed.
    pub(crate) fn judge(&self, name: &str, found: Option<&Found>, power: bool) -> Verdict {
        let Some(topic) = self.topics.get(name) else { return Ok(()) };
        let wrong = match (topic.presence, found) {
            (Presence::Absent, Some(found)) => format!("it is there again, with {found:?}"),
            (Presence::There, None) => "it is gone".to_owned(),
            (_, None) => return Ok(()),
            (_, Some(found)) => {
                // Whatever may be lost with the power, what is lost is the end.
                let weak = power && !self.is_durable;
                let records = topic.judge_records(&found.records, weak);
                let rest = records.and_then(|()| topic.judge_group(found, weak, power));
                let rest = rest.and_then(|()| match topic.bytes_max.contains(&found.bytes_max) {
                    true => Ok(()),
                    false => Err("its retention is not what was set".to_owned()),
                });
                match rest.and_then(|()| topic.judge_letters(found, weak)) {
                    Ok(()) => return Ok(()),
                    Err(wrong) => format!("{wrong}\nfound: {found:?}\nknown: {topic:?}"),
                }
            }
        };
        Err(format!("topic {name}: {wrong}"))
    }

    /// From now on what was found is what is known.
    pub(crate) fn accept(&mut self, name: &'static str, found: Option<&Found>) {
        self.version += 1;
        let Some(topic) = self.topics.get_mut(name) else { return };
        let Some(found) = found else {
            topic.forget();
            return;
        };
        topic.presence = Presence::There;
        let messages = Arc::make_mut(&mut topic.messages);
        messages.retain(|message| found.records.contains(&message.number));
        for message in messages {
            let unsettled = found.unsettled.iter().find(|(number, _)| *number == message.number);
            message.is_stored = true;
            (message.is_ready, message.is_held) = (unsettled.is_some(), false);
            message.is_settled = unsettled.is_none();
            message.is_acked = unsettled.is_none();
            message.rejections = 0;
            let attempts = unsettled.map_or(0, |(_, attempts)| *attempts);
            message.deliveries = (attempts, attempts);
        }
        for (number, (least, most)) in &mut topic.letters {
            *most = found.letters.iter().filter(|of| *of == number).count() as u32;
            // One whose message is still owed may be lost: it is written again.
            let is_owed = found.unsettled.iter().any(|(of, _)| of == number);
            *least = (*least).max(u32::from(!is_owed)).min(*most);
        }
    }
}

impl Topic {
    pub(crate) fn message(&mut self, number: u64) -> Option<&mut Message> {
        Arc::make_mut(&mut self.messages).iter_mut().find(|message| message.number == number)
    }

    /// It does not exist; its dead letters, which have a topic of their own, do.
    pub(crate) fn forget(&mut self) {
        *self = Self { letters: std::mem::take(&mut self.letters), ..Self::default() };
    }

    /// Somebody is about to reject a message.
    pub(crate) fn reject(&mut self, number: u64) {
        self.letters.entry(number).or_default().1 += 1;
        if let Some(message) = self.message(number) {
            message.rejections += 1;
        }
    }

    /// Those that were sent, in their order, once each, from some place on: what is before it is done with.
    fn judge_records(&self, found: &[u64], weak: bool) -> Verdict {
        let mut sent = self.messages.iter();
        let mut places = Vec::new();
        for number in found {
            if !sent.any(|message| message.number == *number) {
                return Err(format!("message {number} came from nowhere, again or out of order"));
            }
            places.push(self.messages.len() - sent.len() - 1);
        }
        let first = places.first().copied().unwrap_or(self.messages.len());
        let last = places.last().copied();
        for (at, message) in self.messages.iter().enumerate() {
            if !message.is_stored || places.contains(&at) {
                continue;
            }
            let number = message.number;
            if last.is_some_and(|last| at < last) && at > first {
                return Err(format!("message {number} is missing in the middle"));
            }
            let may_be_removed = self.is_retained && message.may_be_done();
            let is_before = at < first;
            let may_be_lost = weak && last.is_none_or(|last| at > last);
            if !(may_be_lost || (is_before && may_be_removed)) {
                return Err(format!("message {number} was receipted and is lost"));
            }
        }
        Ok(())
    }

    /// What is not done with comes again, and what is done with does not.
    fn judge_group(&self, found: &Found, weak: bool, power: bool) -> Verdict {
        if let Some((number, _)) =
            found.unsettled.iter().find(|(number, _)| !found.records.contains(number))
        {
            return Err(format!("message {number} is owed and not there"));
        }
        let there = |message: &&Message| found.records.contains(&message.number);
        for message in self.messages.iter().filter(there) {
            let number = message.number;
            let owed = found.unsettled.iter().find(|(of, _)| *of == number);
            let letters = found.letters.iter().filter(|of| **of == number).count();
            match owed.map(|(_, attempts)| *attempts) {
                None if !message.may_be_done() => {
                    return Err(format!(
                        "message {number} was not settled and does not come again"
                    ));
                }
                None if !message.is_acked && letters == 0 && !weak => {
                    return Err(format!("message {number} was rejected and left no dead letter"));
                }
                None => {}
                Some(_) if message.is_settled && !weak => {
                    return Err(format!("message {number} was settled and comes again"));
                }
                Some(attempts) => {
                    let (least, most) = message.deliveries;
                    let least = if power { 0 } else { least };
                    if !(least..=most).contains(&attempts) {
                        return Err(format!(
                            "message {number} was delivered {attempts} times, not {least} to {most}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn judge_letters(&self, found: &Found, weak: bool) -> Verdict {
        let count = |number: &u64| found.letters.iter().filter(|of| *of == number).count() as u32;
        for (number, (least, most)) in &self.letters {
            let least = if weak { 0 } else { *least };
            let count = count(number);
            if !(least..=*most).contains(&count) {
                return Err(format!(
                    "message {number} has {count} dead letters, not {least} to {most}"
                ));
            }
        }
        if let Some(number) = found.letters.iter().find(|of| !self.letters.contains_key(of)) {
            return Err(format!("message {number} has a dead letter and was not rejected"));
        }
        if found.letters_held != found.letters {
            return Err("a dead letter is there that its group does not hold".to_owned());
        }
        Ok(())
    }
}
