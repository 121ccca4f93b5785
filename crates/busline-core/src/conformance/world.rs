//! What a case works with: sessions on the bus under test, and waits with an end.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::case::{Case, Failure};
use super::harness::{Harness, Rig};
use crate::capability::{Capabilities, Capability};
use crate::clock::Clock;
use crate::delivery::{Delivery, Record};
use crate::error::ErrorKind;
use crate::key::{Key, KeyPattern, Patterns};
use crate::link::{Link, LinkOptions};
use crate::message::Message;
use crate::name::{GroupName, Topic};
use crate::receipt::Receipt;
use crate::transport::{
    Admin, Batch, Connect, GroupSpec, Membership, Read, Reader, Role, Session, Spec, Subscribe,
    Subscription, TopicSpec, Topology, Transport,
};

/// A case's world: one bus, and what the profile promises.
pub struct World {
    rig: Box<dyn Rig>,
    /// Asked for once: the monotonic times of two clocks cannot be compared.
    clock: Arc<dyn Clock>,
    /// What a session of this profile promises.
    pub profile: Capabilities,
    /// Sets the names of this case apart from those of others on the same broker.
    unique: String,
    given_back: GivenBack,
}

/// Whether something may have been given back that nobody saw, where that counts as an attempt.
#[derive(Debug, Clone)]
struct GivenBack {
    counts: bool,
    happened: Arc<AtomicBool>,
}

impl GivenBack {
    fn happens(&self) {
        self.happened.store(true, Ordering::Relaxed);
    }

    /// The first delivery that anybody sees.
    fn may_be_first(&self, number: u32) -> bool {
        number == 1 || self.counts && self.happened.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("profile", &self.profile.profile).finish_non_exhaustive()
    }
}

impl World {
    pub(super) async fn open(harness: &dyn Harness, case: &Case) -> Result<Self, Failure> {
        let rig = harness.rig().await?;
        let session = rig.transport().connect(Connect::new(Role::Consume)).await?;
        let profile = session.capabilities(&Spec::default());
        session.close(rig.patience()).await?;
        let short = uuid::Uuid::new_v4().as_u64_pair().0 >> 40;
        let clock = rig.clock();
        let unique = format!("{}-{short:x}", case.name);
        let counts = !profile.get(Capability::GiveBack).is_kept();
        let given_back = GivenBack { counts, happened: Arc::default() };
        Ok(Self { rig, clock, profile, unique, given_back })
    }

    /// Skips a case that the profile gives no promise for.
    pub(super) fn check_needs(&self, case: &Case) -> Result<(), Failure> {
        for capability in std::iter::once(&case.capability).chain(case.also) {
            self.need(*capability)?;
        }
        if self.profile.durability < case.durability_min {
            let (least, found) = (case.durability_min, self.profile.durability);
            let why = format!("durability {least} is refused: a receipt has durability {found}");
            return Err(Failure::skip(why));
        }
        Ok(())
    }

    fn need(&self, capability: Capability) -> Result<(), Failure> {
        let support = self.profile.get(capability);
        if support.is_kept() {
            return Ok(());
        }
        let note = support.note().unwrap_or("no reason is given");
        Err(Failure::skip(format!("{capability} is refused: {note}")))
    }

    /// Whether the profile keeps a promise.
    pub fn keeps(&self, capability: Capability) -> bool {
        self.profile.get(capability).is_kept()
    }

    /// A name that no other case has.
    pub fn topic(&self, name: &str) -> Result<Topic, Failure> {
        Ok(Topic::new(format!("{}-{name}", self.unique))?)
    }

    /// A transport as one more process would open it.
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.rig.transport()
    }

    /// A session as one more process would open it.
    pub async fn connect(&self) -> Result<Arc<dyn Session>, Failure> {
        self.connect_as(Role::Consume).await
    }

    /// A session for this role, as one more process would open it.
    pub async fn connect_as(&self, role: Role) -> Result<Arc<dyn Session>, Failure> {
        Ok(self.rig.transport().connect(Connect::new(role)).await?)
    }

    /// A link that reconnects quickly.
    pub fn link(&self) -> Result<Link, Failure> {
        let mut options = LinkOptions { first_connect_max: self.patience(), ..Default::default() };
        options.backoff.first = Duration::from_millis(2);
        Ok(Link::new(vec![self.rig.transport()], options)?)
    }

    /// A topic with groups that start now and get every key.
    pub async fn declare(
        &self,
        session: &dyn Session,
        topic: &Topic,
        groups: &[&str],
    ) -> Result<(), Failure> {
        let specs: Result<Vec<_>, Failure> = groups.iter().map(|name| group(topic, name)).collect();
        self.declare_groups(session, topic, specs?).await
    }

    /// A topic with these groups.
    pub async fn declare_groups(
        &self,
        session: &dyn Session,
        topic: &Topic,
        mut groups: Vec<GroupSpec>,
    ) -> Result<(), Failure> {
        groups.iter_mut().for_each(|spec| self.without_limit(spec));
        if !groups.is_empty() {
            self.need(Capability::Group)?;
        }
        let topics = vec![TopicSpec::new(topic.clone())];
        session.declare(&Topology { topics, groups, ..Topology::default() }).await?;
        Ok(())
    }

    /// Takes the limit of attempts off where the profile keeps none.
    pub fn without_limit(&self, spec: &mut GroupSpec) {
        // No limit at all is a mistake everywhere.
        if !self.keeps(Capability::RetryLimit) && spec.attempts_max != Some(0) {
            spec.attempts_max = None;
        }
    }

    /// A member of a group.
    pub async fn join(
        &self,
        session: &dyn Session,
        topic: &Topic,
        group: &str,
    ) -> Result<Stream, Failure> {
        self.join_with(session, topic, group, |_| {}).await
    }

    /// A member of a group with other bounds.
    pub async fn join_with(
        &self,
        session: &dyn Session,
        topic: &Topic,
        group: &str,
        tune: impl FnOnce(&mut Subscribe),
    ) -> Result<Stream, Failure> {
        let membership = Membership::Group(GroupName::new(group.to_owned())?);
        let mut subscribe = Subscribe::new(topic.clone(), membership);
        tune(&mut subscribe);
        Ok(self.stream(session.subscribe(subscribe).await?))
    }

    /// A broadcast of the keys that match.
    pub async fn broadcast(
        &self,
        session: &dyn Session,
        topic: &Topic,
        patterns: &[&str],
    ) -> Result<Stream, Failure> {
        let membership = Membership::Broadcast(self::patterns(patterns)?);
        Ok(self.stream(session.subscribe(Subscribe::new(topic.clone(), membership)).await?))
    }

    /// A reader.
    pub async fn read(
        &self,
        session: &dyn Session,
        read: Read,
    ) -> Result<Box<dyn Reader>, Failure> {
        Ok(session.read(read).await?)
    }

    fn stream(&self, subscription: Box<dyn Subscription>) -> Stream {
        let (patience, grace) = (self.rig.patience(), self.rig.grace());
        let given_back = self.given_back.clone();
        Stream { subscription, fetched: VecDeque::new(), patience, grace, given_back }
    }

    /// Publishes and waits for the receipts, which must all say `Stored`.
    pub async fn publish(
        &self,
        session: &dyn Session,
        messages: Vec<Message>,
    ) -> Result<Vec<Receipt>, Failure> {
        let receipts = self.send(session, messages.into()).await?;
        for (index, receipt) in receipts.iter().enumerate() {
            if !matches!(receipt, Receipt::Stored { .. }) {
                return Err(Failure::new(format!("receipt {index} is {receipt:?}, not Stored")));
            }
        }
        Ok(receipts)
    }

    /// Sends a batch and waits for its receipts.
    pub async fn send(&self, session: &dyn Session, batch: Batch) -> Result<Vec<Receipt>, Failure> {
        let sent = batch.messages.len();
        let pending = self.within("a batch to be accepted", session.send(batch)).await??;
        if pending.len() != sent {
            let why = format!("{sent} messages were sent, {} receipts came", pending.len());
            return Err(Failure::new(why));
        }
        let mut receipts = Vec::with_capacity(sent);
        for receipt in pending {
            receipts.push(self.within("a receipt", receipt).await??);
        }
        Ok(receipts)
    }

    /// Publishes plain messages with empty keys.
    pub async fn publish_texts(
        &self,
        session: &dyn Session,
        topic: &Topic,
        texts: &[&str],
    ) -> Result<Vec<Receipt>, Failure> {
        self.publish(session, texts.iter().map(|text| message(topic, text)).collect()).await
    }

    /// Everything that a reader finds from here to the end of the log.
    pub async fn read_all(&self, reader: &mut dyn Reader) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        loop {
            let chunk = self.within("a reader's chunk", reader.next()).await??;
            if chunk.is_empty() {
                return Ok(records);
            }
            records.extend(chunk);
        }
    }

    /// The operator's view.
    pub fn admin<'a>(&self, session: &'a dyn Session) -> Result<&'a dyn Admin, Failure> {
        session.admin().ok_or_else(|| Failure::new("admin is promised and there is none"))
    }

    /// Waits for something that must come.
    pub async fn within<T>(
        &self,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        within(self.patience(), what, future).await
    }

    /// The longest wait for something that must come.
    pub fn patience(&self) -> Duration {
        self.rig.patience()
    }

    /// How long nothing must come before it counts as not coming.
    pub fn grace(&self) -> Duration {
        self.rig.grace()
    }

    /// The clock that the transport goes by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Lets time pass, where the clock can be moved.
    pub fn advance(&self, by: Duration) {
        self.rig.advance(by);
    }

    /// Restarts the broker, or skips the case.
    pub async fn restart_broker(&self) -> Result<(), Failure> {
        skip_refused(self.rig.restart_broker().await)
    }

    /// Stops the broker, or skips the case.
    pub async fn stop_broker(&self) -> Result<(), Failure> {
        skip_refused(self.rig.stop_broker().await)
    }

    /// Starts the broker again.
    pub async fn start_broker(&self) -> Result<(), Failure> {
        Ok(self.rig.start_broker().await?)
    }

    /// Ends a session as the death of its process would.
    pub async fn kill(&self, session: Arc<dyn Session>) -> Result<(), Failure> {
        self.given_back.happens();
        Ok(self.rig.kill_member(session).await?)
    }

    /// Opens the bus again after every process of it has stopped.
    pub async fn reopen(&mut self) -> Result<(), Failure> {
        Ok(self.rig.reopen().await?)
    }
}

/// A subscription, one delivery at a time.
#[derive(Debug)]
pub struct Stream {
    subscription: Box<dyn Subscription>,
    fetched: VecDeque<Delivery>,
    patience: Duration,
    grace: Duration,
    given_back: GivenBack,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.given_back.happens();
    }
}

impl Stream {
    /// The next delivery, which must come.
    pub async fn next(&mut self) -> Result<Delivery, Failure> {
        within(self.patience, "a delivery", self.fetch()).await?
    }

    /// The next deliveries, which must come.
    pub async fn take(&mut self, count: usize) -> Result<Vec<Delivery>, Failure> {
        let mut taken = Vec::with_capacity(count);
        for number in 0..count {
            let next = self.next().await;
            taken.push(next.map_err(|failure| Failure {
                why: format!("{number} of {count} deliveries came: {}", failure.why),
                ..failure
            })?);
        }
        Ok(taken)
    }

    /// The next deliveries must be these, each for the first time; acks them.
    pub async fn expect(&mut self, texts: &[&str]) -> Result<(), Failure> {
        for wanted in texts {
            let delivery = self.next().await?;
            check_text(&delivery, wanted)?;
            if !self.given_back.may_be_first(delivery.attempt.number) {
                let why = format!("'{wanted}' came as attempt {}", delivery.attempt.number);
                return Err(Failure::new(why));
            }
            self.ack(delivery).await?;
        }
        Ok(())
    }

    /// Acks, and waits until that is committed.
    pub async fn ack(&mut self, delivery: Delivery) -> Result<(), Failure> {
        Ok(within(self.patience, "an ack to be committed", delivery.ack()).await??)
    }

    /// Nothing must come.
    pub async fn nothing(&mut self) -> Result<(), Failure> {
        let grace = self.grace;
        // The end of the time first: on a busy machine both may be there when somebody looks.
        let came = tokio::select! {
            biased;
            () = tokio::time::sleep(grace) => return Ok(()),
            came = self.fetch() => came?,
        };
        let (text, number) = (text(&came.message.payload), came.attempt.number);
        Err(Failure::new(format!("'{text}' came, attempt {number}, and must not have")))
    }

    /// Stops fetching.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        self.given_back.happens();
        Ok(within(self.patience, "a subscription to stop", self.subscription.stop()).await??)
    }

    /// What was fetched and not taken yet.
    pub fn fetched(&mut self) -> &mut VecDeque<Delivery> {
        &mut self.fetched
    }

    /// The subscription itself.
    pub fn subscription(&mut self) -> &mut dyn Subscription {
        &mut *self.subscription
    }

    async fn fetch(&mut self) -> Result<Delivery, Failure> {
        loop {
            if let Some(delivery) = self.fetched.pop_front() {
                return Ok(delivery);
            }
            match self.subscription.next().await? {
                Some(chunk) if chunk.is_empty() => {
                    return Err(Failure::new("a chunk is empty"));
                }
                Some(chunk) => self.fetched.extend(chunk),
                None => return Err(Failure::new("the subscription ended by itself")),
            }
        }
    }
}

async fn within<T>(
    patience: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, Failure> {
    let waited = tokio::time::timeout(patience, future).await;
    waited.map_err(|_| Failure::new(format!("waited {patience:?} for {what}, which did not come")))
}

/// What the harness cannot do is skipped, and says so.
fn skip_refused(done: crate::Result<()>) -> Result<(), Failure> {
    match done {
        Err(error) if error.kind() == ErrorKind::Refused => {
            Err(Failure::skip(format!("reconnect is not shown: {error}")))
        }
        result => Ok(result?),
    }
}

/// A message with an empty key.
pub(super) fn message(topic: &Topic, payload: &str) -> Message {
    Message::new(topic.clone(), Key::empty(), Bytes::from(payload.to_owned()))
}

/// A message with a key.
pub(super) fn keyed(topic: &Topic, key: &str, payload: &str) -> Result<Message, Failure> {
    Ok(Message { key: Key::new(key.to_owned())?, ..message(topic, payload) })
}

/// A group with the defaults.
pub(super) fn group(topic: &Topic, name: &str) -> Result<GroupSpec, Failure> {
    Ok(GroupSpec::new(topic.clone(), GroupName::new(name.to_owned())?))
}

/// The set of these patterns.
pub(super) fn patterns(patterns: &[&str]) -> Result<Patterns, Failure> {
    let parsed: Result<Vec<_>, _> =
        patterns.iter().map(|pattern| KeyPattern::new((*pattern).to_owned())).collect();
    Ok(Patterns::new(parsed?))
}

/// A payload, for people.
pub(super) fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload.get(..64).unwrap_or(payload)).into_owned()
}

/// Fails unless the payload is this text.
pub(super) fn check_text(delivery: &Delivery, wanted: &str) -> Result<(), Failure> {
    if delivery.message.payload == wanted {
        return Ok(());
    }
    let found = text(&delivery.message.payload);
    Err(Failure::new(format!("'{found}' came, '{wanted}' was due")))
}

/// `text 0` to `text n-1`.
pub(super) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}")).collect()
}

/// Slices of them.
pub(super) fn slices(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
