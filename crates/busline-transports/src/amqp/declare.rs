//! Declaring topics and groups: exchanges, queues, bindings and logs.

use std::sync::Arc;
use std::time::Duration;

use busline_core::clock::Clock;
use busline_core::dead;
use busline_core::transport::{
    Dialect, GroupSpec, OnDifference, TopicSpec, Topology, TopologyMode,
};
use busline_core::{Capability, Error, ErrorKind, GroupName, Patterns, Position, Result, Topic};
use lapin::options::{
    ChannelFlowOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind, Queue};

use super::capabilities::NO_LOGS;
use super::config::QueueKind;
use super::names;
use super::session::Core;
use super::settings::{self, Settings};

/// A durable exchange.
const DURABLE: ExchangeDeclareOptions = ExchangeDeclareOptions {
    passive: false,
    durable: true,
    auto_delete: false,
    internal: false,
    nowait: false,
};

/// A look at a queue that changes nothing.
const LOOK: QueueDeclareOptions = QueueDeclareOptions {
    passive: true,
    durable: true,
    exclusive: false,
    auto_delete: false,
    nowait: false,
};

/// No answer that counts takes this long at the broker itself.
const UNANSWERED: Duration = Duration::from_millis(200);

/// So often is asked how much there is: ten seconds and more.
const COUNTS_MAX: u32 = 40;

pub(super) async fn declare(core: &Core, topology: &Topology) -> Result<()> {
    if topology.mode == TopologyMode::Assume {
        return Ok(());
    }
    for spec in &topology.groups {
        check(core, spec)?;
    }
    for spec in &topology.topics {
        topic(core, spec, topology.mode).await?;
    }
    for spec in &topology.groups {
        let declared = group(core, spec, topology.mode).await;
        declared
            .map_err(|error| error.context("group", &spec.group).context("topic", &spec.topic))?;
    }
    Ok(())
}

/// Whether the exchange of a topic is there; `NotFound` names the topic.
pub(super) async fn check_topic(core: &Core, topic: &Topic) -> Result<()> {
    if core.knows(topic) || names::is_default(topic) {
        return Ok(());
    }
    let exchange = names::exchange(topic)?;
    let passive = ExchangeDeclareOptions { passive: true, ..DURABLE };
    let declared = core
        .control(|channel: Channel| {
            let (exchange, none) = (exchange.clone(), FieldTable::default());
            async move { channel.exchange_declare(exchange, ExchangeKind::Topic, passive, none).await }
        })
        .await;
    match declared {
        Ok(()) => {
            core.learn(topic);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NotFound, format!("there is no topic '{topic}'"))
                .hint("declare it first"))
        }
        Err(error) => Err(error.context("topic", topic)),
    }
}

/// What a passive look at a queue shows; `None` when there is none. For its counts ask [`count`].
pub(super) async fn look(core: &Core, queue: &ShortString) -> Result<Option<Queue>> {
    let looked = core
        .control(|channel: Channel| {
            let queue = queue.clone();
            async move { channel.queue_declare(queue, LOOK, FieldTable::default()).await }
        })
        .await;
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.context("queue", queue)),
    }
}

/// The messages and consumers of a queue; `None` when there is no such queue.
pub(super) async fn count(core: &Core, queue: &ShortString) -> Result<Option<Queue>> {
    let counted = core
        .control(|channel: Channel| {
            let (clock, queue) = (Arc::clone(&core.clock), queue.clone());
            async move { count_on(&channel, clock.as_ref(), &queue).await }
        })
        .await;
    match counted {
        Ok(Some(found)) => Ok(Some(found)),
        Ok(None) => Err(uncounted(queue)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.context("queue", queue)),
    }
}

/// The messages and consumers of a queue; `None` when the broker does not say.
///
/// RabbitMQ gives the leader of a quorum queue a quarter of a second to answer and says "nothing, nobody"
/// when it does not (`rabbit_quorum_queue:stat/1`). What takes longer than the way there and back is
/// such an answer, and is asked for again.
pub(super) async fn count_on(
    channel: &Channel,
    clock: &dyn Clock,
    queue: &ShortString,
) -> lapin::Result<Option<Queue>> {
    for _ in 0..COUNTS_MAX {
        let asked = clock.monotonic();
        let found = channel.queue_declare(queue.clone(), LOOK, FieldTable::default()).await?;
        let took = clock.monotonic().saturating_sub(asked);
        let is_nothing = found.message_count() == 0 && found.consumer_count() == 0;
        if !is_nothing || took < UNANSWERED {
            return Ok(Some(found));
        }
        let asked = clock.monotonic();
        channel.channel_flow(ChannelFlowOptions { active: true }).await?;
        let way = clock.monotonic().saturating_sub(asked);
        if took < way + UNANSWERED {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

pub(super) fn uncounted(queue: &ShortString) -> Error {
    let why = "the broker is too busy to say what is in a queue";
    Error::new(ErrorKind::Elapsed, why).context("queue", queue).hint("try again later")
}

/// Whether a topic has a log. Only our own dialect has logs: elsewhere a queue of that name is somebody's.
pub(super) async fn has_log(core: &Core, topic: &Topic) -> Result<bool> {
    if core.dialect != Dialect::Busline {
        return Ok(false);
    }
    if let Some(known) = core.known_log(topic) {
        return Ok(known);
    }
    let found = look(core, &names::log(topic)?).await?.is_some();
    core.learn_log(topic, found);
    Ok(found)
}

/// The queue of an existing group; `NotFound` names the group or its topic.
pub(super) async fn queue_of(core: &Core, topic: &Topic, group: &GroupName) -> Result<ShortString> {
    let queue = names::queue(core.dialect, topic, group)?;
    if look(core, &queue).await?.is_some() {
        return Ok(queue);
    }
    core.forget_topic(topic);
    check_topic(core, topic).await?;
    let message = format!("there is no group '{group}' of topic '{topic}'");
    Err(Error::new(ErrorKind::NotFound, message).hint("declare it first"))
}

/// The settings that a group was declared with; none where it is not ours.
pub(super) async fn settings_of(core: &Core, queue: &ShortString) -> Result<Option<Settings>> {
    if core.dialect != Dialect::Busline {
        return Ok(None);
    }
    let (channel, clock) = (core.channel().await?, core.clock.as_ref());
    settings::read(channel, clock, queue).await.map_err(|error| core.why(error))
}

/// The topic of dead letters of a group, with the group that holds them; once in a session, or `again`.
///
/// Its exchange alone is not enough: what comes to it before the group is bound is gone. Whoever comes
/// while it is declared waits for the end of that.
pub(super) async fn dead_letters(
    core: &Core,
    group: &GroupName,
    of: &Topic,
    again: bool,
) -> Result<()> {
    let dead = dead::dead_topic(group, of)?;
    let mut declared = core.dead_letters.lock().await;
    if !again && declared.contains(&dead) && core.knows(&dead) {
        return Ok(());
    }
    let topic_spec = TopicSpec::new(dead.clone());
    topic(core, &topic_spec, TopologyMode::Create).await?;
    let spec = GroupSpec { attempts_max: None, ..GroupSpec::new(dead.clone(), dead::dead_group()) };
    self::group(core, &spec, TopologyMode::Create).await?;
    declared.insert(dead);
    Ok(())
}

/// What is wrong whatever there is at the broker.
fn check(core: &Core, spec: &GroupSpec) -> Result<()> {
    if spec.attempts_max == Some(0) {
        let why = "attempts_max is 0: nothing would ever be tried";
        return Err(Error::new(ErrorKind::Limit, why).context("group", &spec.group));
    }
    let kind = core.config.queue_of(&spec.options)?;
    if core.dialect == Dialect::Eventail && kind != QueueKind::Classic {
        let way_out = "its queues have no arguments: leave the option out";
        let refused = Error::refused("quorum queues", "amqp, eventail", way_out);
        return Err(refused.context("group", &spec.group));
    }
    if spec.start != Position::Latest {
        // A queue begins empty.
        let way_out = "read the log first, then consume from now";
        let refused = Error::refused("group start", "amqp", way_out);
        return Err(refused.context("start", &spec.start).context("group", &spec.group));
    }
    let queue = names::queue(core.dialect, &spec.topic, &spec.group)?;
    if core.dialect == Dialect::Busline {
        // Its dead letters need a name too; better now than at the first rejection.
        dead::dead_topic(&spec.group, &spec.topic)?;
        names::settings(&queue)?;
    }
    Ok(())
}

async fn topic(core: &Core, spec: &TopicSpec, mode: TopologyMode) -> Result<()> {
    if let Some(option) = spec.options.keys().find(|option| option.starts_with("amqp.")) {
        let why = format!("amqp: has no topic option '{option}'");
        return Err(Error::new(ErrorKind::Limit, why).context("topic", &spec.topic));
    }
    if names::is_default(&spec.topic) {
        return Ok(());
    }
    let own = core.dialect == Dialect::Busline;
    if spec.replay && !own {
        let refused = Error::refused(Capability::Replay.as_str(), "amqp, eventail", NO_LOGS);
        return Err(refused.context("topic", &spec.topic));
    }
    // That of the URL is for sessions in our own dialect.
    let with_log = own && (spec.replay || core.config.replay);
    if spec.retention.is_some_and(|keep| keep.ignore_groups) {
        let way_out = "let consumers keep up, or set a policy on their queues";
        return Err(Error::refused("retention that ignores groups", "amqp", way_out));
    }
    if mode == TopologyMode::Verify {
        core.forget_topic(&spec.topic);
        check_topic(core, &spec.topic).await?;
        if with_log && !has_log(core, &spec.topic).await? {
            let why = format!("the topic '{}' has no log", spec.topic);
            return Err(Error::new(ErrorKind::Conflict, why).hint("declare it with replay"));
        }
        return Ok(());
    }
    let exchange = names::exchange(&spec.topic)?;
    core.control(|channel: Channel| {
        let (exchange, none) = (exchange.clone(), FieldTable::default());
        async move { channel.exchange_declare(exchange, ExchangeKind::Topic, DURABLE, none).await }
    })
    .await
    .map_err(|error| error.context("topic", &spec.topic))?;
    if with_log {
        let queue = names::log(&spec.topic)?;
        make_queue(core, &queue, &log_arguments(spec)).await?;
        bind(core, &queue, &spec.topic, &Patterns::all()).await?;
        core.learn_log(&spec.topic, true);
    }
    core.learn(&spec.topic);
    Ok(())
}

fn log_arguments(spec: &TopicSpec) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), names::text("stream"));
    let Some(keep) = spec.retention else { return arguments };
    if let Some(age) = keep.age_max {
        arguments.insert("x-max-age".into(), names::text(&format!("{}s", age.as_secs().max(1))));
    }
    if let Some(bytes) = keep.bytes_max {
        let number = |bytes: u64| AMQPValue::LongLongInt(i64::try_from(bytes).unwrap_or(i64::MAX));
        arguments.insert("x-max-length-bytes".into(), number(bytes.max(1)));
        // Whole segments go: they must be smaller than what is kept.
        let segment = (bytes / 4).clamp(1 << 20, 500 << 20);
        arguments.insert("x-stream-max-segment-size-bytes".into(), number(segment));
    }
    arguments
}

async fn group(core: &Core, spec: &GroupSpec, mode: TopologyMode) -> Result<()> {
    check_topic(core, &spec.topic).await?;
    let kind = core.config.queue_of(&spec.options)?;
    let queue = names::queue(core.dialect, &spec.topic, &spec.group)?;
    let wanted = Settings::of(spec, kind);
    if core.dialect == Dialect::Eventail
        && mode != TopologyMode::Verify
        && !names::is_default(&spec.topic)
    {
        // Nothing is kept about it: the same declaration finds it, or makes it.
        group_queue(core, spec, kind, &queue).await?;
        return bind(core, &queue, &spec.topic, &spec.patterns).await;
    }
    let exists = look(core, &queue).await?.is_some();
    if names::is_default(&spec.topic) {
        // Somebody else's: there is nothing to declare.
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no queue '{queue}'"));
        return if exists { Ok(()) } else { Err(missing()) };
    }
    if mode == TopologyMode::Verify {
        if !exists {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no group '{}'", spec.group),
            )
            .hint("declare it, or let it be created"));
        }
        let strict = GroupSpec { on_difference: OnDifference::Refuse, ..spec.clone() };
        return match settings_of(core, &queue).await? {
            Some(found) => found.reconcile(&wanted, &strict).map(drop),
            None => Ok(()),
        };
    }
    let found = if exists { settings_of(core, &queue).await? } else { None };
    let Some(found) = found else {
        group_queue(core, spec, kind, &queue).await?;
        if core.dialect == Dialect::Busline {
            keep(core, &queue, &wanted).await?;
        }
        return bind(core, &queue, &spec.topic, &spec.patterns).await;
    };
    let Some(changed) = found.reconcile(&wanted, spec)? else {
        // Bindings may be missing where somebody died in the middle of declaring.
        return bind(core, &queue, &spec.topic, &found.patterns()?).await;
    };
    let (before, after) = (found.patterns()?, changed.patterns()?);
    bind(core, &queue, &spec.topic, &after).await?;
    keep(core, &queue, &changed).await?;
    unbind(core, &queue, &spec.topic, &keys(&before), &keys(&after)).await
}

async fn group_queue(
    core: &Core,
    spec: &GroupSpec,
    kind: QueueKind,
    queue: &ShortString,
) -> Result<()> {
    make_queue(core, queue, &names::queue_arguments(spec, kind)).await
}

async fn make_queue(core: &Core, queue: &ShortString, arguments: &FieldTable) -> Result<()> {
    core.control(|channel: Channel| {
        let (queue, arguments) = (queue.clone(), arguments.clone());
        async move { channel.queue_declare(queue, QueueDeclareOptions::durable(), arguments).await }
    })
    .await
    .map(drop)
    .map_err(|error| error.context("queue", queue))
}

async fn keep(core: &Core, queue: &ShortString, settings: &Settings) -> Result<()> {
    let channel = core.channel().await?;
    let written = settings::write(&channel, queue, settings).await;
    drop(channel.close(200, "written".into()).await);
    written
}

/// Binds a queue to the exchange of a topic; idempotent.
pub(super) async fn bind(
    core: &Core,
    queue: &ShortString,
    topic: &Topic,
    patterns: &Patterns,
) -> Result<()> {
    let exchange = names::exchange(topic)?;
    for key in keys(patterns) {
        let key = names::short(&key)?;
        core.control(|channel: Channel| {
            let (queue, exchange, key) = (queue.clone(), exchange.clone(), key.clone());
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            async move { channel.queue_bind(queue, exchange, key, options, none).await }
        })
        .await?;
    }
    Ok(())
}

async fn unbind(
    core: &Core,
    queue: &ShortString,
    topic: &Topic,
    before: &[String],
    after: &[String],
) -> Result<()> {
    let exchange = names::exchange(topic)?;
    for key in before.iter().filter(|key| !after.contains(key)) {
        let key = names::short(key)?;
        core.control(|channel: Channel| {
            let (queue, exchange, key) = (queue.clone(), exchange.clone(), key.clone());
            async move { channel.queue_unbind(queue, exchange, key, FieldTable::default()).await }
        })
        .await?;
    }
    Ok(())
}

fn keys(patterns: &Patterns) -> Vec<String> {
    if patterns.is_all() {
        return vec!["#".to_owned()];
    }
    patterns.as_slice().iter().map(|pattern| pattern.as_str().to_owned()).collect()
}

/// A delay of this many milliseconds: what goes to its exchange with the name of a queue as its key comes
/// to that queue when the time is over. It goes away when nobody used it for a minute.
pub(super) async fn delay(core: &Core, ms: u64) -> Result<ShortString> {
    let name = names::short(&format!("{}{ms}", names::DELAY))?;
    if core.has_fresh_delay(ms) {
        return Ok(name);
    }
    let number = |ms: u64| AMQPValue::LongLongInt(i64::try_from(ms).unwrap_or(i64::MAX));
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), number(ms));
    arguments.insert("x-dead-letter-exchange".into(), names::text(""));
    arguments
        .insert("x-expires".into(), number(ms.saturating_add(2 * super::session::DELAY_FRESH_MS)));
    core.control(|channel: Channel| {
        let (name, arguments) = (name.clone(), arguments.clone());
        async move {
            let fleeting = ExchangeDeclareOptions { auto_delete: true, ..DURABLE };
            let (kind, none) = (ExchangeKind::Fanout, FieldTable::default());
            channel.exchange_declare(name.clone(), kind, fleeting, none.clone()).await?;
            channel.queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments).await?;
            let options = QueueBindOptions::default();
            channel.queue_bind(name.clone(), name, ShortString::default(), options, none).await
        }
    })
    .await?;
    core.freshen_delay(ms);
    Ok(name)
}
