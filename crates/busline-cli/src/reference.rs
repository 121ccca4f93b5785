//! The reference of the JSON lines: what `--help` and the man pages say, and what the tests check.

use std::fmt::Write as _;

use crate::exit;

/// A field of a JSON line and what it says.
type Field = (&'static str, &'static str);

/// The JSON line of a verb.
struct Entry {
    verb: &'static str,
    /// When such a line is printed.
    when: &'static str,
    fields: &'static [&'static [Field]],
    notes: &'static str,
}

const RECORD: &[Field] = &[
    ("topic", "the topic"),
    ("offset", "its place in the log, a string; null where there is no log"),
    ("time", "when the bus took it, RFC 3339"),
    ("key", "its key"),
    ("headers", "an object; a name that repeats has an array, bytes are {\"base64\": …}"),
    ("content_type", "the media type, or null"),
    ("message_id", "or null"),
    ("conversation_id", "or null"),
    ("correlation_id", "or null"),
    ("reply_to", "or null"),
    ("payload", "the value itself, or a string, as payload_encoding says"),
    ("payload_encoding", "json (valid, and the content type is JSON or absent), utf8 or base64"),
];

const DELIVERY: &[Field] = &[
    ("attempt", "which delivery of the message this is, counted from 1"),
    ("outcome", "how it is settled: ack, retry or reject"),
];

const LETTER: &[Field] = &[
    ("reason", "why it was rejected"),
    ("origin_topic", "the topic that it was published to"),
    ("origin_group", "the group that rejected it"),
    ("origin_offset", "its place in that topic"),
    ("attempt", "the delivery that was rejected, counted from 1"),
    ("redrives", "how often it was put back before"),
    ("rejected_at", "when it was rejected, RFC 3339"),
];

const GROUP: &[Field] = &[
    ("topic", "its topic"),
    ("group", "its name"),
    ("patterns", "which keys it gets; empty for every key"),
    ("lag", "records not looked at yet, also those that the patterns pass over"),
    ("in_flight", "delivered and not settled"),
    ("waiting", "waiting for a retry"),
    ("oldest_unsettled", "when the oldest unsettled message was stored, or null"),
    ("floor", "the offset from which on it keeps records from being removed, or null"),
    ("members", "living members"),
    ("delivered", "deliveries, redeliveries included"),
    ("redelivered", "deliveries beyond the first of their message"),
    ("acked", "settled as done"),
    ("rejected", "settled as rejected, or out of attempts"),
    ("broadcast", "whether it is temporary"),
    ("attempts_max", "the bound on attempts, or null"),
];

const CHANGE: &[Field] = &[
    ("topic", "the topic"),
    ("group", "the group, or null"),
    ("to", "the position it was moved to, or null"),
    ("messages", "how many unsettled messages (of a topic: records) it concerns"),
    ("status", "reset or deleted; with --dry-run would_reset or would_delete"),
];

const DEAD_CHANGE: &[Field] = &[
    ("queue", "the dead-letter topic or queue; null when nothing was ever rejected"),
    ("status", "redriven or purged; with --dry-run would_redrive or would_purge"),
    ("matched", "letters that the filter chose"),
    ("done", "letters that were put back or dropped"),
    ("refused", "letters left: put back --max-redrives times already, or of unknown origin"),
    ("remaining", "letters that are still there"),
    ("reasons", "an object: how many of the chosen letters had which reason"),
];

const ENTRIES: &[Entry] = &[
    Entry {
        verb: "publish",
        when: "one a message, in order, once it is on the bus",
        fields: &[&[
            ("topic", "the topic"),
            ("key", "the key"),
            ("offset", "its place in the log, a string; null where there is no log"),
            ("status", "stored or unroutable"),
        ]],
        notes: "Exits with 0 only when every receipt is in. With --lines a line that cannot be \
                published ends it: the error names the line and how many were stored before.",
    },
    Entry { verb: "read", when: "one a record", fields: &[RECORD], notes: "" },
    Entry {
        verb: "consume",
        when: "one a delivery, before it is settled",
        fields: &[RECORD, DELIVERY],
        notes: "A group that exists is joined as it is unless --pattern is given; then it must \
                have these patterns.",
    },
    Entry {
        verb: "topics",
        when: "one a topic",
        fields: &[&[
            ("topic", "its name"),
            ("messages", "records kept"),
            ("bytes", "bytes they take where they are stored"),
            ("earliest", "the offset of the oldest record kept, or null"),
            ("end", "the place behind the newest record, or null"),
            ("groups", "how many groups it has"),
            ("retention", "an object: age_ms_max, bytes_max (null: no bound), ignore_groups"),
        ]],
        notes: "",
    },
    Entry { verb: "groups", when: "one a group", fields: &[GROUP], notes: "" },
    Entry { verb: "group reset", when: "one", fields: &[CHANGE], notes: "" },
    Entry { verb: "group delete", when: "one", fields: &[CHANGE], notes: "" },
    Entry { verb: "topic delete", when: "one", fields: &[CHANGE], notes: "" },
    Entry {
        verb: "dead list",
        when: "one a letter, oldest first",
        fields: &[
            &[
                ("topic", "the dead-letter topic"),
                ("offset", "its place there"),
                ("time", "when it got there (or was rejected, where nobody keeps that), RFC 3339"),
                ("key", "its key, unchanged"),
                ("message_id", "its message id, unchanged, or null"),
                ("payload_bytes", "the length of the payload"),
            ],
            LETTER,
        ],
        notes: FILTER,
    },
    Entry {
        verb: "dead show",
        when: "one a letter, oldest first",
        fields: &[RECORD, LETTER],
        notes: FILTER,
    },
    Entry { verb: "dead redrive", when: "one", fields: &[DEAD_CHANGE], notes: REDRIVE },
    Entry { verb: "dead purge", when: "one", fields: &[DEAD_CHANGE], notes: FILTER },
    Entry {
        verb: "event publish",
        when: "one, once it is on the bus",
        fields: &[PUBLISHED],
        notes: "The bus is that of services: topics events, commands, configurations and logs.",
    },
    Entry {
        verb: "configuration publish",
        when: "one, once it is on the bus",
        fields: &[PUBLISHED],
        notes: "It reaches the services that run; those that start later ask for it.",
    },
    Entry {
        verb: "command send",
        when: "one, when the result is there",
        fields: &[&[
            ("status", "success or error"),
            ("payload", PAYLOAD),
            ("conversation_id", "the conversation, as the result has it"),
            ("correlation_id", "what ties the result to the command"),
        ]],
        notes: "Exit code 1 when the service answers with an error, 3 when it does not answer in time, \
                4 when no service takes the command.",
    },
    Entry {
        verb: "monitor",
        when: "one a message, as it passes",
        fields: &[MESSAGE],
        notes: "Nobody misses a message by it, and no queue is left behind. Results are shown of the \
                commands that are, whatever their keys. A filter is written as for `dead list`.",
    },
    Entry {
        verb: "logs",
        when: "one a line of the log",
        fields: &[&[
            ("key", "its key, SERVICE.LEVEL"),
            ("level", "from 0, the worst, to 7"),
            ("level_name", "EMERGENCY, ALERT, CRITICAL, ERROR, WARNING, NOTICE, INFO or DEBUG"),
            ("timestamp", "when it was logged, in seconds since 1970"),
            ("host", "service@machine"),
            ("service", "the service"),
            ("conversation_id", "the conversation, may be empty"),
            ("short_message", "what is said"),
            ("full_message", "more of it, may be empty"),
            ("fields", "an object: additional fields, without their underscores"),
        ]],
        notes: "What is no GELF is shown as it is, in short_message; fields that are missing are null.",
    },
    Entry {
        verb: "inspect",
        when: "one a message, from the head of the queue",
        fields: &[
            &[
                ("topic", "where it was published, as far as that is known"),
                ("offset", "its place in the queue or in the log"),
                ("delivered", "how often it was delivered before, at least"),
            ],
            MESSAGE,
        ],
        notes: "On RabbitMQ any queue can be looked into, by its name. There the messages are taken and \
                given back: they keep their places, and are marked as redelivered.",
    },
    Entry {
        verb: "log verify",
        when: "one a log",
        fields: &[VERIFIED],
        notes: "A tail that a killed process left unfinished is no damage: it is cut off when the \
                log is opened for writing, and never held a receipted message.",
    },
    Entry { verb: "log repair", when: "one a log", fields: &[REPAIRED], notes: "" },
    Entry { verb: "bridge", when: "one, at its end", fields: &[BRIDGED], notes: BRIDGE },
    Entry {
        verb: "doctor",
        when: "one",
        fields: &[&[
            ("bus", "its URL, secrets hidden"),
            ("reachable", "whether it could be opened"),
            ("version", "the version of this tool"),
            ("profile", "transport, broker and dialect, or null"),
            ("durability", "what a receipt survives: memory, process, power or replicated"),
            ("order_scope", "topic or key"),
            ("lease", "how long a member may hold a delivery"),
            ("limits", "an object: the bounds on messages"),
            ("capabilities", "an array of {\"promise\", \"support\", \"note\"}"),
            (
                "without_dead_letters",
                "an array: queues whose rejected messages vanish; null when unknown",
            ),
            ("checks", "an array of {\"check\", \"ok\", \"found\", \"do\"}"),
        ]],
        notes: "Exit code 1 when a check found a problem, that of the error when the bus cannot be \
                opened.",
    },
    Entry {
        verb: "bench",
        when: "one",
        fields: &[&[
            ("bus", "its URL"),
            ("durability", "what a receipt survives"),
            ("messages", "how many messages"),
            ("payload_bytes", "bytes of a payload"),
            ("batch_size", "messages sent at a time"),
            ("rows", "an array of {\"figure\", \"value\", \"unit\", \"of\"}; of is bus or machine"),
        ]],
        notes: "",
    },
    Entry {
        verb: "demo",
        when: "one",
        fields: &[&[
            ("bus", "its URL"),
            ("durability", "what a receipt survives"),
            ("published", "receipts of the publisher"),
            ("stored", "records read back from the topic"),
            ("groups", "an array, one object a group: see groups in the table"),
            ("killed", "{\"pid\", \"held\"}: the process killed; null when no record matched"),
            ("redelivered", "deliveries beyond the first of their message, all groups"),
            ("dead_lettered", "letters read from the dead-letter topics"),
            ("reasons", "an object: how many letters had which reason"),
            ("duplicates", "messages stored, or settled by a group, more than once"),
            ("lost", "messages receipted that are not in the log, or that a group did not settle"),
            ("broadcast", "what the ticker saw"),
            ("messages_per_second", "from the first record's time to the last settle"),
            ("bytes_on_disk", "bytes of all topics"),
            ("elapsed_ms", "from start to end"),
            ("takeover_ms", "from SIGKILL to the first redelivery, or null"),
            ("ok", "whether every figure adds up"),
        ]],
        notes: "Exit code 1 when a message was lost or a figure does not add up.",
    },
];

const MESSAGE: &[Field] = &[
    ("kind", "event, command, result or configuration; in a queue also log, or null"),
    ("time", "when it was seen, or got into the queue where that is known, RFC 3339"),
    ("key", "its key"),
    ("conversation_id", "or null"),
    ("correlation_id", "or null"),
    ("reply_to", "of a command: where its result goes; else null"),
    ("status", "of a result: success or error; else null"),
    ("content_type", "or null"),
    ("meta", "an object: its other headers and properties, as text or null"),
    ("payload", PAYLOAD),
    ("invalid", "why services would refuse it, or null"),
    ("saved", "the file that the payload was saved in, or null"),
];

const PUBLISHED: &[Field] = &[
    ("topic", "events or configurations"),
    ("key", "its name"),
    ("conversation_id", "the conversation; empty for a configuration"),
    ("status", "stored or unroutable"),
];

const PAYLOAD: &str = "as JSON; bytes are {\"base64\": …}, tags {\"tag\", \"value\"}";

const VERIFIED: &[Field] = &[
    ("directory", "the directory of the log: a topic's, or the state of one of its groups"),
    ("status", "sound, torn tail, damaged, poisoned or unusable"),
    ("segments", "segment files"),
    ("records", "records that are sound"),
    ("bytes", "the length of its files"),
    ("findings", "an array of {\"kind\", \"path\", \"bytes\", \"records\", \"cause\"}"),
];

const REPAIRED: &[Field] = &[
    ("directory", "the directory of the log"),
    ("status", "sound (nothing to do) or repaired"),
    ("mended", "an array, as findings of log verify: what was cut or given up"),
    ("set_aside", "an array: files that could not be read at all and were renamed"),
];

const BRIDGED: &[Field] = &[
    ("from", "the bus that was copied from, secrets hidden"),
    ("from_topic", "its topic"),
    ("to", "the bus that was copied to, secrets hidden"),
    ("to_topic", "its topic"),
    ("progress", "where the progress is kept: a group of the source, or a file"),
    ("resumed_at", "the offset at which it went on, or null"),
    ("copied", "messages that the target has given its receipt for"),
    ("bytes", "their payloads"),
    ("next", "the offset of the next message to copy, or null"),
    ("lag", "records of the source from there on, also of other keys; null when unknown"),
    ("elapsed_ms", "from start to end"),
    ("status", "done, stopped (by a signal) or failed"),
];

const BRIDGE: &str = "\
Key, ordering key, headers, properties and payload are copied as far as the target keeps them; when the source took a \
message becomes its timestamp, unless it has one. A message counts as copied when the target has given its receipt, \
and only then is the progress saved: a bridge that is killed copies its last messages once more, in order, and loses none. \
The progress is kept in a group of the source (bridge-…, or --group), which also keeps records that are not copied yet from being removed; \
where a group cannot, as in RabbitMQ's streams, in a file (--state, or one in the user's state directory, which is \
printed). Without it everything is copied again; a target that was emptied is filled again once the group is deleted. A source without a \
log gives what it has queued since the bridge was first started, and it ends when that gives nothing for two seconds.";

const FILTER: &str = "\
A filter compares fields of the JSON line with ==, !=, <, <=, >, >= or ~ (a key pattern), joined by \
and, or, not and parentheses, as: key ~ 'quake.*.strong' and attempt > 2 and headers.source == 'a'. \
payload.a.b leads into a JSON payload; quote a name with other signs: headers.'x.y'.";

const REDRIVE: &str = "\
Each letter is published to its origin, for the group that had rejected it, and removed after that \
receipt: a crash between the two duplicates, it never loses. What RabbitMQ put aside by a policy goes \
back to its exchange as it is, for all whose keys match. Exit code 1 when letters were refused. \
A filter is written as for `dead list`.";

/// What stands below the options in the help of a verb.
pub(crate) fn text(verb: &str) -> String {
    let mut text = String::new();
    if let Some(entry) = ENTRIES.iter().find(|entry| entry.verb == verb) {
        let _ = writeln!(text, "JSON lines (--json): {}", entry.when);
        let fields = entry.fields.iter().flat_map(|part| part.iter());
        let width = fields.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, says) in fields {
            let _ = writeln!(text, "  {name:width$}  {says}");
        }
        text.push('\n');
        if !entry.notes.is_empty() {
            let _ = writeln!(text, "{}\n", entry.notes);
        }
    }
    text + exit::TABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_named_once_a_verb() {
        for entry in ENTRIES {
            let mut names: Vec<_> = entry.fields.iter().flat_map(|part| part.iter()).collect();
            let all = names.len();
            names.sort();
            names.dedup_by_key(|(name, _)| *name);
            assert_eq!(names.len(), all, "{}", entry.verb);
            // A line that wraps is hard to read, and to check.
            let longest =
                text(entry.verb).lines().filter(|line| line.starts_with("  ")).map(str::len).max();
            assert!(longest.is_none_or(|longest| longest <= 98), "{}: {longest:?}", entry.verb);
            assert!(text(entry.verb).contains(entry.when));
        }
    }
}
