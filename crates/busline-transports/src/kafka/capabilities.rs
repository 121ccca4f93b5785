//! What is promised: by the broker, by our code for it, and not at all.

use busline_core::transport::Dialect;
use busline_core::{Capabilities, Capability, Durability, Lease, Limits, OrderScope, Support};

use super::config::KafkaConfig;

/// What sessions promise.
pub(super) fn of(config: &KafkaConfig, dialect: Dialect) -> Capabilities {
    match dialect {
        Dialect::Hermes => hermes(config),
        _ => own(config),
    }
}

fn limits(config: &KafkaConfig) -> Limits {
    Limits { payload_bytes_max: config.message_max, ..Limits::default() }
}

fn own(config: &KafkaConfig) -> Capabilities {
    use Capability as C;
    let several = config.partitions > 1;
    let profile = if several { "kafka, several partitions" } else { "kafka" };
    // Acknowledged by all replicas in sync, which write to their disks when they like.
    let mut all = Capabilities::all(profile, Durability::Process, limits(config));
    all.lease = Lease::None;
    if several {
        all.order_scope = OrderScope::Key;
    }
    let emulated: [(Capability, &'static str); 13] = [
        (C::Differences, "how groups were declared is kept in the topic busline.groups"),
        (C::Filter, "a member passes over what its group does not want"),
        (C::Settle, "what is settled behind a group's place is kept in the text of its commit"),
        (C::GiveBack, "a member commits what it did not hand out after all"),
        (
            C::DelayedRetry,
            "a copy waits in the topic of the group's retries until its member hands it out",
        ),
        (C::DeadLetter, "published and confirmed, then the original is settled"),
        (C::Attempt, "counted in the text of the commit before each chunk is handed out"),
        (C::RetryLimit, "the member that gets one too many rejects it"),
        (C::BlockingRetry, "its member holds later ones back"),
        (C::Flow, "by count and bytes of what was handed out; the client fetches as much ahead"),
        (C::ConfirmGate, "the settle waits for the receipts"),
        (
            C::Requests,
            "a key of its own on the topic of replies, of which every instance reads all",
        ),
        (C::Peek, "the log is read from the group's place on"),
    ];
    for (capability, how) in emulated {
        all = all.set(capability, Support::Emulated(how));
    }
    let refused: [(Capability, &'static str); 6] = [
        (C::Sharing, "members share by partitions: declare the topic with kafka.partitions"),
        (C::Lease, "a delivery is held until its session ends: use file:"),
        (C::Unroutable, "the log takes everything: look at the groups first"),
        (C::Deduplication, "make handlers idempotent by message id, or use file:"),
        (C::Counters, "look at lag and members, or use file:"),
        (C::Reconnect, "shown for publishers and consumers, not yet for readers: open those anew"),
    ];
    for (capability, way_out) in refused {
        all = all.set(capability, Support::Refused(way_out));
    }
    all.set(
        C::Reset,
        Support::Refused("a group is only moved while it has no members: stop them first"),
    )
}

/// For publishing and reading alone.
fn hermes(config: &KafkaConfig) -> Capabilities {
    use Capability as C;
    let mut none = Capabilities::none("kafka, hermes", Durability::Process, limits(config));
    none.lease = Lease::None;
    let way_out = "the dialect is a log and nothing else: read it, or use our own dialect";
    for capability in Capability::ALL {
        none = none.set(*capability, Support::Refused(way_out));
    }
    for capability in
        [C::DurableReceipt, C::Order, C::Replay, C::ReceiptOffset, C::Close, C::Limits]
    {
        none = none.set(capability, Support::Native);
    }
    none.set(C::Filter, Support::Emulated("a reader passes over what it does not want"))
}
