//! Cases of replay: reading a topic's log from any position.

use std::cmp::Ordering;
use std::time::Duration;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, group, numbered, slices, text};
use crate::delivery::Record;
use crate::error::ErrorKind;
use crate::name::Topic;
use crate::offset::{Offset, Position};
use crate::transport::{GroupSpec, Read, Reader, Session};

registry! {
    Replay a_reader_starts_anywhere
        "A reader starts at the earliest record, behind the newest, at an offset, or at a time.";
    Replay offsets_are_text_and_ordered
        "An offset read back from its text is the same place, and later records have greater ones.";
    Replay a_reader_follows
        "At the end a reader waits, and sees what is published then.";
    Replay a_wait_is_bounded_and_may_be_cancelled
        "A wait can be given up at any time, and nothing is missed by it.";
    Replay a_reader_seeks
        "A reader goes forth and back, and stays where it was when it cannot.";
    Replay an_offset_of_another_topic_is_refused
        "Reading, seeking or starting a group at an offset of another topic fails and names it.";
    Replay an_offset_beyond_the_end_is_refused
        "Reading, seeking or starting a group beyond the end fails and names the offset.";
    Replay reading_settles_nothing
        "What was read is delivered to groups as ever.";
    Replay chunks_are_bounded_and_a_position_goes_on
        "A chunk is no larger than asked, and another reader goes on at a reader's position.";
    Replay history_stays_after_a_reopen
        "Settled or not, records are read again after everything was reopened.";
    Replay several_readers_do_not_disturb_one_another
        "Each reader has its own place.";
}

async fn payloads(
    world: &World,
    session: &dyn Session,
    read: Read,
) -> Result<Vec<String>, Failure> {
    let mut reader = world.read(session, read).await?;
    let records = world.read_all(&mut *reader).await?;
    Ok(records.iter().map(|record| text(&record.message.payload)).collect())
}

/// A topic with ten records, as they are read.
async fn ten(world: &World, session: &dyn Session, topic: &Topic) -> Result<Vec<Record>, Failure> {
    world.declare(session, topic, &[]).await?;
    for text in numbered(10) {
        world.publish_texts(session, topic, &[&text]).await?;
        world.advance(Duration::from_secs(1));
    }
    let read = Read::new(topic.clone(), Position::Earliest);
    let mut reader = world.read(session, read).await?;
    let records = world.read_all(&mut *reader).await?;
    check_records(&records, 0..10)?;
    Ok(records)
}

fn check_records(records: &[Record], numbers: std::ops::Range<usize>) -> Outcome {
    let found: Vec<_> = records.iter().map(|record| text(&record.message.payload)).collect();
    let wanted: Vec<_> = numbers.map(|number| format!("text {number}")).collect();
    check_eq!(found, wanted, "the records");
    Ok(())
}

async fn a_reader_starts_anywhere(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let records = ten(&world, &*session, &topic).await?;
    let all = numbered(10);
    let from = async |position: Position| {
        payloads(&world, &*session, Read::new(topic.clone(), position)).await
    };
    check_eq!(from(Position::Earliest).await?, all, "from the earliest");
    check_eq!(from(Position::Latest).await?.len(), 0, "the count from the latest");
    for (index, record) in records.iter().enumerate() {
        let offset = record.offset.clone();
        let behind = from(Position::Offset(offset.next())).await?;
        check_eq!(behind, all[index + 1..], "behind offset {offset}");
        check_eq!(from(Position::Offset(offset.clone())).await?, all[index..], "from {offset}");
        // Several records may have the same time; the first of them is meant.
        let first = records.iter().position(|other| other.time >= record.time).unwrap_or(0);
        check_eq!(from(Position::Time(record.time)).await?, all[first..], "from {}", record.time);
    }
    let year = 365 * 24 * 3600 * 1_000_000;
    let before = crate::Timestamp::from_unix_us(records[0].time.unix_us() - year);
    check_eq!(from(Position::Time(before)).await?, all, "from a year before");
    let after = crate::Timestamp::from_unix_us(records[9].time.unix_us() + year);
    check_eq!(from(Position::Time(after)).await?.len(), 0, "the count from a year after");
    Ok(())
}

async fn offsets_are_text_and_ordered(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let records = ten(&world, &*session, &topic).await?;
    for pair in records.windows(2) {
        let [one, two] = pair else { continue };
        let order = one.offset.compare(&two.offset);
        check_eq!(order, Some(Ordering::Less), "{} and {}", one.offset, two.offset);
    }
    let written = records[4].offset.to_string();
    check!(written.len() <= 64, "an offset of one shard is long: {written}");
    let again: Offset = written.parse()?;
    let read = Read::new(topic.clone(), Position::Offset(again));
    check_eq!(payloads(&world, &*session, read).await?, numbered(10)[4..], "from {written}");
    Ok(())
}

async fn a_reader_follows(world: World) -> Outcome {
    let (session, publisher) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let read = Read::new(topic.clone(), Position::Latest);
    let mut reader = world.read(&*session, read).await?;
    check_eq!(world.read_all(&mut *reader).await?.len(), 0, "the count at the end");
    for number in 0..5 {
        let text = format!("text {number}");
        let follow = async {
            loop {
                let records = reader.next().await?;
                if !records.is_empty() {
                    return Ok::<_, Failure>(records);
                }
                reader.wait().await?;
            }
        };
        // The reader waits first, then something comes.
        let texts = [text.as_str()];
        let publish = world.publish_texts(&*publisher, &topic, &texts);
        let (records, published) = world
            .within("a reader to see more", futures_util::future::join(follow, publish))
            .await?;
        published?;
        check_records(&records?, number..number + 1)?;
    }
    Ok(())
}

async fn a_wait_is_bounded_and_may_be_cancelled(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let read = Read::new(topic.clone(), Position::Earliest);
    let mut reader = world.read(&*session, read).await?;
    for number in 0..3 {
        check_eq!(world.read_all(&mut *reader).await?.len(), 0, "the count at the end");
        let waited = tokio::time::timeout(world.grace(), reader.wait()).await;
        // Waking for nothing is allowed; something to read is not.
        drop(waited);
        check_eq!(world.read_all(&mut *reader).await?.len(), 0, "the count after a wait in vain");
        world.publish_texts(&*session, &topic, &[&format!("text {number}")]).await?;
        world.within("a wait to end", reader.wait()).await??;
        check_records(&world.read_all(&mut *reader).await?, number..number + 1)?;
    }
    Ok(())
}

async fn a_reader_seeks(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let records = ten(&world, &*session, &topic).await?;
    let read = Read::new(topic.clone(), Position::Latest);
    let mut reader = world.read(&*session, read).await?;
    for (to, first) in [
        (Position::Earliest, 0),
        (Position::Offset(records[7].offset.clone()), 7),
        (Position::Latest, 10),
        (Position::Offset(records[2].offset.clone()), 2),
    ] {
        world.within("a seek", reader.seek(to)).await??;
        check_records(&world.read_all(&mut *reader).await?, first..10)?;
    }
    world.within("a seek", reader.seek(Position::Offset(records[5].offset.clone()))).await??;
    let far = beyond(&records);
    let refused = world.within("a seek", reader.seek(Position::Offset(far))).await?;
    check!(refused.is_err(), "a seek beyond the end succeeded");
    check_records(&world.read_all(&mut *reader).await?, 5..10)
}

/// An offset far behind the last record.
fn beyond(records: &[Record]) -> Offset {
    let last = records.last().map(|record| record.offset.clone());
    let moved = last.map(|last| Offset::of(last.pairs().map(|(s, n)| (s, n + (1 << 40)))));
    moved.and_then(Result::ok).unwrap_or(Offset::new(0, u64::MAX))
}

/// Reading, seeking and starting a group there must all fail, and name the offset.
async fn refused_everywhere(
    world: &World,
    session: &dyn Session,
    topic: &Topic,
    offset: &Offset,
) -> Outcome {
    let position = Position::Offset(offset.clone());
    let read = session.read(Read::new(topic.clone(), position.clone())).await.map(drop);
    let mut reader: Box<dyn Reader> =
        session.read(Read::new(topic.clone(), Position::Earliest)).await?;
    let seek = reader.seek(position.clone()).await;
    let spec = GroupSpec { start: position, ..group(topic, "refused")? };
    let start = world.declare_groups(session, topic, vec![spec]).await;
    check!(start.is_err(), "a group was started at {offset}");
    for (what, result) in [("a read", read), ("a seek", seek)] {
        let Err(error) = result else {
            return Err(Failure::new(format!("{what} at {offset} succeeded")));
        };
        let kind = error.kind();
        let fits = matches!(kind, ErrorKind::Limit | ErrorKind::NotFound | ErrorKind::Conflict);
        check!(fits, "the error of {what} at {offset} is of kind {}", kind.as_str());
        let said = error.to_string();
        check!(said.contains(&offset.to_string()), "{what} does not name {offset}: {said}");
    }
    // Nothing was half done.
    let joined = world.join(session, topic, "refused").await;
    check!(joined.is_err(), "a group whose start was refused is there");
    Ok(())
}

async fn an_offset_of_another_topic_is_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let (topic, other) = (world.topic("t")?, world.topic("other")?);
    ten(&world, &*session, &topic).await?;
    let records = ten(&world, &*session, &other).await?;
    refused_everywhere(&world, &*session, &topic, &records[3].offset).await
}

async fn an_offset_beyond_the_end_is_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let records = ten(&world, &*session, &topic).await?;
    refused_everywhere(&world, &*session, &topic, &beyond(&records)).await
}

async fn reading_settles_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(5);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let read = || Read::new(topic.clone(), Position::Earliest);
    check_eq!(payloads(&world, &*session, read()).await?, texts, "what is read before");
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&slices(&texts)).await?;
    check_eq!(payloads(&world, &*session, read()).await?, texts, "what is read after");
    stream.nothing().await
}

async fn chunks_are_bounded_and_a_position_goes_on(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    ten(&world, &*session, &topic).await?;
    let mut from = Position::Earliest;
    let mut found = Vec::new();
    while found.len() < 10 {
        // A new reader each time, which goes on where the last one was.
        let read = Read { chunk_max: 3, ..Read::new(topic.clone(), from) };
        let mut reader = world.read(&*session, read).await?;
        let chunk = world.within("a chunk", reader.next()).await??;
        check!(!chunk.is_empty(), "a chunk before the end is empty");
        check!(chunk.len() <= 3, "a chunk has {} records, 3 were asked for", chunk.len());
        found.extend(chunk);
        let Some(position) = reader.position() else {
            return Err(Failure::new("a reader has no position after a record"));
        };
        from = Position::Offset(position);
    }
    check_records(&found, 0..10)
}

async fn history_stays_after_a_reopen(mut world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(5);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&slices(&texts)).await?;
    drop(stream);
    session.close(world.patience()).await?;
    drop(session);
    world.reopen().await?;
    let session = world.connect().await?;
    let read = Read::new(topic.clone(), Position::Earliest);
    check_eq!(payloads(&world, &*session, read).await?, texts, "what is read after a reopen");
    Ok(())
}

async fn several_readers_do_not_disturb_one_another(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    ten(&world, &*session, &topic).await?;
    let read = || Read { chunk_max: 4, ..Read::new(topic.clone(), Position::Earliest) };
    let mut one = world.read(&*session, read()).await?;
    let mut two = world.read(&*session, read()).await?;
    check_records(&world.read_all(&mut *one).await?, 0..10)?;
    check_records(&world.read_all(&mut *two).await?, 0..10)
}
