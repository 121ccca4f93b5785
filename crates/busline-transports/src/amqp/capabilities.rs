//! What is promised: by the broker, by our code for it, and not at all.

use busline_core::transport::{Dialect, Spec};
use busline_core::{Capabilities, Capability, Durability, Lease, Limits, Support};

use super::config::{AmqpConfig, QueueKind};
use super::session::LOGS;

pub(super) const NO_LOGS: &str = "the convention has no logs: read where our own dialect is spoken";
pub(super) const NO_LOG: &str = "declare the topic with replay, or connect with ?replay=true";

/// The most that a session promises by itself, for documents: topics and groups may ask for more.
pub(super) fn upper(config: &AmqpConfig) -> Capabilities {
    if config.dialect == Some(Dialect::Eventail) {
        return shared(of(config.queue, false));
    }
    of(config.queue, config.replay)
}

/// What a session promises for this; `has_log` says whether its topic is known to have one.
pub(super) fn session(
    config: &AmqpConfig,
    dialect: Dialect,
    spec: &Spec,
    has_log: bool,
) -> Capabilities {
    let kind = config.queue_of(&spec.options).unwrap_or(config.queue);
    if dialect != Dialect::Eventail {
        let all = of(kind, config.replay || has_log);
        return match spec.topic {
            // Whether it will have a log is decided by how it is declared.
            Some(_) => all.set(Capability::Replay, Support::Native),
            None => all,
        };
    }
    let mut all = shared(of(kind, false));
    if spec.topic.as_ref().is_none_or(|topic| topic.as_str() != LOGS) {
        return all;
    }
    let way_out = "logs are neither kept nor confirmed in this dialect: publish an event";
    all.durability = Durability::Memory;
    all.set(Capability::Unroutable, Support::Refused(way_out))
}

fn of(kind: QueueKind, has_log: bool) -> Capabilities {
    use Capability as C;
    let profile = match (kind, has_log) {
        (QueueKind::Classic, false) => "amqp",
        (QueueKind::Quorum, false) => "amqp, quorum queues",
        (QueueKind::Classic, true) => "amqp, with logs",
        (QueueKind::Quorum, true) => "amqp, quorum queues with logs",
    };
    // A stream confirms what it has written and not synced.
    let durability = if has_log { Durability::Process } else { Durability::Power };
    let limits = Limits { headers_bytes_max: 32 << 10, ..Limits::default() };
    let all = Capabilities::all(profile, durability, limits);
    let mut all = all
        .set(C::DelayedRetry, Support::Emulated("a copy waits in a queue of that delay"))
        .set(
            C::DeadLetter,
            Support::Emulated("published and confirmed, then the original is acked"),
        )
        .set(C::Flow, Support::Emulated("count by prefetch; bytes are held back after they came"))
        .set(C::BlockingRetry, Support::Emulated("one active member, which holds later ones back"))
        .set(C::ConfirmGate, Support::Emulated("the ack waits for the confirms"))
        .set(C::Requests, Support::Emulated("a key of its own on the topic of replies"))
        .set(C::Admin, Support::Emulated("lists come from the management API"))
        .set(
            C::Deduplication,
            Support::Refused("make handlers idempotent by message id, or use file:"),
        )
        .set(C::Reset, Support::Refused("declare another group, or use file:"))
        .set(C::Counters, Support::Refused("look at the management console, or use file:"))
        .set(C::Peek, Support::Refused("a look counts as a delivery: read the log, or use file:"))
        .set(
            C::GiveBack,
            Support::Refused("what was fetched counts as delivered: keep max_in_flight small"),
        )
        .set(C::ReceiptOffset, Support::Refused("find it by reading, or use file:"))
        .set(C::GroupStart, Support::Refused("read the log first, or use file:"));
    if kind == QueueKind::Classic {
        all = all
            .set(
                C::Attempt,
                Support::Refused("use quorum queues: amqp.queue=quorum, or ?queue=quorum"),
            )
            .set(C::RetryLimit, Support::Emulated("a header counts retries; a death counts once"));
    } else {
        all = all
            .set(C::RetryLimit, Support::Emulated("the member that gets one too many rejects it"));
    }
    all = if has_log {
        all.set(C::Unroutable, Support::Refused("the log takes everything: declare without replay"))
    } else {
        all.set(C::Replay, Support::Refused(NO_LOG))
    };
    all.lease = Lease::None;
    all.set(C::Lease, Support::Refused("a delivery is held until its session ends: use file:"))
        .set(C::Reconnect, Support::Emulated("the link connects, declares and sends again"))
}

/// On queues that belong to a convention of others.
fn shared(mut all: Capabilities) -> Capabilities {
    use Capability as C;
    all.profile += ", eventail";
    // There it is a header.
    all.limits.conversation_id_bytes_max = 64 << 10;
    all.set(C::Replay, Support::Refused(NO_LOGS))
        .set(C::Attempt, Support::Refused("the convention has no counter: use our own dialect"))
        .set(
            C::RetryLimit,
            Support::Refused("the convention has no counter: declare without a limit"),
        )
        .set(C::DelayedRetry, Support::Emulated("held by its member, then given back"))
        .set(
            C::DeadLetter,
            Support::Refused("what is rejected goes where a policy of the broker says, as it was"),
        )
        .set(
            C::Differences,
            Support::Refused("nobody can tell what is bound to a queue: patterns are only added"),
        )
        .set(C::AllFields, Support::Refused("the convention has five properties and the headers"))
        .set(C::BlockingRetry, Support::Refused("the queue is shared: use our own dialect"))
}
