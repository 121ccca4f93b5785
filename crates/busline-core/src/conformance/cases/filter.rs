//! Cases of filters: the AMQP topic grammar, the same everywhere.

use super::super::case::{Outcome, check_eq, registry};
use super::super::world::{World, group, keyed, patterns, slices, text};
use crate::offset::Position;
use crate::transport::{GroupSpec, Read, Session};

registry! {
    Filter the_grammar_in_groups
        "Groups get exactly the keys that the grammar table gives to their patterns.";
    Filter the_grammar_in_readers
        "Readers see exactly the keys that the grammar table gives to their patterns." also Replay;
    Filter patterns_belong_to_the_group
        "A member gets what the group's patterns select without naming them, also after a reopen."
        also Resume;
    Filter a_key_that_matches_twice_comes_once
        "A message that several patterns of a group select is delivered once.";
    Filter rare_keys_in_groups
        "Among many others a group gets each message of the few keys that it selects, in order.";
    Filter rare_keys_in_readers
        "Among many others a reader sees each message of the few keys that it selects, in order." also Replay;
    Filter keys_arrive_as_they_were_sent
        "A key arrives byte for byte, whatever is in it.";
}

/// Keys that are published, in this order.
const KEYS: &[&str] = &[
    "", "a", "b", "a.b", "b.a", "a.b.c", "a.c", "a.x.y.c", ".", "a.", ".a", "a..c", "A", "ä.b",
    "aa",
];

/// Patterns, and which of the keys they select.
const TABLE: &[(&[&str], &[&str])] = &[
    (&["#"], KEYS),
    (&[], KEYS),
    (&[""], &[""]),
    (&["*"], &["a", "b", "A", "aa"]),
    (&["a"], &["a"]),
    (&["a.*"], &["a.b", "a.c", "a."]),
    (&["*.b"], &["a.b", "ä.b"]),
    (&["*.*"], &["a.b", "b.a", "a.c", ".", "a.", ".a", "ä.b"]),
    (&["a.#"], &["a", "a.b", "a.b.c", "a.c", "a.x.y.c", "a.", "a..c"]),
    (&["#.a"], &["a", "b.a", ".a"]),
    (&["a.#.c"], &["a.b.c", "a.c", "a.x.y.c", "a..c"]),
    (&["a.*.c"], &["a.b.c", "a..c"]),
    (&["#.b.#"], &["b", "a.b", "b.a", "a.b.c", "ä.b"]),
    (
        &["*.#"],
        &[
            "a", "b", "a.b", "b.a", "a.b.c", "a.c", "a.x.y.c", ".", "a.", ".a", "a..c", "A", "ä.b",
            "aa",
        ],
    ),
    (&["a", "b.*", "ä.#"], &["a", "b.a", "ä.b"]),
];

/// Ends every row; no key of the table is like it.
const END: &str = "end.of.the.table";

async fn publish_table(world: &World, session: &dyn Session, topic: &crate::Topic) -> Outcome {
    let batch: Result<Vec<_>, _> =
        KEYS.iter().chain([&END]).map(|key| keyed(topic, key, key)).collect();
    world.publish(session, batch?).await.map(drop)
}

/// The patterns of a row and the end; without any, every key.
fn row(row: &[&str]) -> Result<crate::Patterns, super::super::Failure> {
    if row.is_empty() { patterns(&[]) } else { patterns(&[row, &[END]].concat()) }
}

async fn the_grammar_in_groups(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let mut groups = Vec::new();
    for (index, (given, _)) in TABLE.iter().enumerate() {
        let patterns = row(given)?;
        groups.push(GroupSpec { patterns, ..group(&topic, &format!("row-{index}"))? });
    }
    world.declare_groups(&*session, &topic, groups).await?;
    publish_table(&world, &*session, &topic).await?;
    for (index, (given, wanted)) in TABLE.iter().enumerate() {
        let mut stream = world.join(&*session, &topic, &format!("row-{index}")).await?;
        let mut found = Vec::new();
        loop {
            let delivery = stream.next().await?;
            let key = delivery.message.key.as_str().to_owned();
            stream.ack(delivery).await?;
            if key == END {
                break;
            }
            found.push(key);
        }
        check_eq!(found, *wanted, "the keys that {given:?} selects");
    }
    Ok(())
}

async fn the_grammar_in_readers(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    publish_table(&world, &*session, &topic).await?;
    for (given, wanted) in TABLE {
        let patterns = row(given)?;
        let read = Read { patterns, ..Read::new(topic.clone(), Position::Earliest) };
        let mut reader = world.read(&*session, read).await?;
        let mut found = Vec::new();
        for record in world.read_all(&mut *reader).await? {
            let key = record.message.key.as_str().to_owned();
            if key != END {
                found.push(key);
            }
        }
        check_eq!(found, *wanted, "the keys that {given:?} selects");
    }
    Ok(())
}

async fn patterns_belong_to_the_group(mut world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { patterns: patterns(&["yes.#"])?, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let batch = |number: u32| -> Result<_, super::super::Failure> {
        let one = |key: &str| keyed(&topic, key, &format!("{key} {number}"));
        Ok(vec![one("no")?, one("yes")?, one("no.yes")?, one("yes.no")?])
    };
    world.publish(&*session, batch(1)?).await?;
    let other = world.connect().await?;
    let mut stream = world.join(&*other, &topic, "g").await?;
    stream.expect(&["yes 1", "yes.no 1"]).await?;
    stream.nothing().await?;
    drop(stream);
    for session in [session, other] {
        session.close(world.patience()).await?;
    }
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish(&*session, batch(2)?).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["yes 2", "yes.no 2"]).await?;
    stream.nothing().await
}

async fn a_key_that_matches_twice_comes_once(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let patterns = patterns(&["a.*", "*.b", "a.#"])?;
    let spec = GroupSpec { patterns, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let batch = vec![keyed(&topic, "a.b", "1")?, keyed(&topic, "x.b", "2")?];
    world.publish(&*session, batch).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["1", "2"]).await?;
    stream.nothing().await
}

/// Keys without wildcards, which a broker may look for in quicker ways than by reading everything.
const RARE: &[&str] = &["rare", "rarer.still", ""];

/// Publishes in batches large enough for such ways; the numbers of the messages with rare keys, in order.
async fn publish_rare(
    world: &World,
    session: &dyn Session,
    topic: &crate::Topic,
) -> Result<Vec<String>, super::super::Failure> {
    let places = [(3, "rare"), (150, ""), (599, "rare"), (600, "rarer.still"), (1799, "rare")];
    for first in [0, 600, 1200] {
        let mut batch = Vec::new();
        for number in first..first + 600 {
            let rare = places.iter().find(|(place, _)| *place == number);
            let common = format!("common.{}", number % 60);
            let key = rare.map_or(common.as_str(), |(_, key)| key);
            batch.push(keyed(topic, key, &format!("{number:<60}"))?);
        }
        world.publish(session, batch).await?;
    }
    Ok(places.iter().map(|(number, _)| format!("{number:<60}")).collect())
}

async fn rare_keys_in_groups(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { patterns: patterns(RARE)?, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let wanted = publish_rare(&world, &*session, &topic).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&slices(&wanted)).await?;
    stream.nothing().await
}

async fn rare_keys_in_readers(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let wanted = publish_rare(&world, &*session, &topic).await?;
    let read = Read { patterns: patterns(RARE)?, ..Read::new(topic.clone(), Position::Earliest) };
    let mut reader = world.read(&*session, read).await?;
    let records = world.read_all(&mut *reader).await?;
    let found: Vec<_> = records.iter().map(|record| text(&record.message.payload)).collect();
    check_eq!(found, wanted, "the messages of rare keys");
    Ok(())
}

async fn keys_arrive_as_they_were_sent(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let longest = "k".repeat(crate::key::KEY_BYTES_MAX);
    let keys = ["", " ", "with space.and/slash", "*", "#", "ünï.コード", "a\tb", &longest];
    for key in keys {
        world.publish(&*session, vec![keyed(&topic, key, "x")?]).await?;
    }
    let mut stream = world.join(&*session, &topic, "g").await?;
    for key in keys {
        let delivery = stream.next().await?;
        check_eq!(delivery.message.key.as_str(), key, "the key of '{}'", text(key.as_bytes()));
        stream.ack(delivery).await?;
    }
    Ok(())
}
