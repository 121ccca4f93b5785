//! Things that are deleted, moved and shared while they are used.

use busline::transport::DeleteIf;
use busline::{ErrorKind, GroupName, Position, Topic};

use super::*;

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

#[tokio::test]
async fn two_buses_of_one_process_share_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (open(directory.path(), "").await, open(directory.path(), "").await);
    let publishers = [one.publisher("t").await.unwrap(), other.publisher("t").await.unwrap()];
    let builder =
        |bus: &Bus| bus.group("t", "g").unwrap().start(Position::Earliest).max_in_flight(3);
    let mut members =
        [builder(&one).subscribe().await.unwrap(), builder(&other).subscribe().await.unwrap()];
    for round in 0..50 {
        publish(&publishers[round % 2], "k", round.to_string()).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    let [first, second] = &mut members;
    while seen.len() < 50 {
        let delivery = tokio::select! {
            delivery = next(first) => delivery,
            delivery = next(second) => delivery,
        };
        assert!(seen.insert(text(&delivery).to_owned()), "{delivery:?}");
        delivery.ack().await.unwrap();
    }
    // Closing one leaves the other alone.
    one.close(Duration::from_secs(10)).await.unwrap();
    drop(one);
    publish(&publishers[1], "k", "more").await;
    assert_eq!(text(&next(second).await), "more");
}

#[tokio::test]
async fn a_topic_that_another_program_uses_is_not_deleted_and_goes_on_working() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (open(directory.path(), "").await, open(directory.path(), "").await);
    let mine = one.publisher("t").await.unwrap();
    let mut member =
        one.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    let theirs = other.publisher("t").await.unwrap();
    publish(&mine, "k", "before").await;
    let held = next(&mut member).await;
    let error =
        one.admin().await.unwrap().delete_topic(&topic(), DeleteIf::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.way_out().is_some(), "{error}");
    // Nothing happened, to nobody.
    publish(&theirs, "k", "theirs").await;
    publish(&mine, "k", "mine").await;
    held.ack().await.unwrap();
    for expected in ["theirs", "mine"] {
        let delivery = next(&mut member).await;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await.unwrap();
    }
    drop((other, theirs));
    drop((mine, member));
    let admin = one.admin().await.unwrap();
    let give_up = now() + DEADLINE;
    // The thread of the other bus lets go when it sees that nobody is left.
    while let Err(error) = admin.delete_topic(&topic(), DeleteIf::default()).await {
        assert!(error.kind() == ErrorKind::Conflict && now() < give_up, "{error}");
    }
    assert!(admin.topics().await.unwrap().is_empty());
    let publisher = one.publisher("t").await.unwrap();
    assert_eq!(publish(&publisher, "k", "a new topic").await, 0);
}

#[tokio::test]
async fn a_group_that_is_deleted_ends_its_members_and_loses_what_they_hold() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (open(directory.path(), "").await, open(directory.path(), "").await);
    let publisher = one.publisher("t").await.unwrap();
    let mut member =
        one.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish(&publisher, "k", "held").await;
    let held = next(&mut member).await;
    let admin = other.admin().await.unwrap();
    let unused = DeleteIf { unused: true, ..DeleteIf::default() };
    let error = admin.delete_group(&topic(), &group(), unused).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let empty = DeleteIf { empty: true, ..DeleteIf::default() };
    let error = admin.delete_group(&topic(), &group(), empty).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // It waits for more, and is told.
    let waiting = tokio::join!(member.next(), async {
        admin.delete_group(&topic(), &group(), DeleteIf::default()).await.unwrap();
    });
    assert_eq!(waiting.0.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(held.ack().await.unwrap_err().kind(), ErrorKind::Lost);
    // The name is free for a group that knows nothing of the one before.
    let mut member =
        one.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    let delivery = next(&mut member).await;
    assert_eq!((text(&delivery), delivery.attempt.number), ("held", 1));
}

#[tokio::test]
async fn a_group_that_is_moved_takes_away_what_its_members_hold_and_tells_them() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (open(directory.path(), "").await, open(directory.path(), "").await);
    let publisher = one.publisher("t").await.unwrap();
    let mut member =
        one.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish_many(&publisher, (0..5).map(|index| index.to_string())).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut member).await);
    }
    held.remove(0).ack().await.unwrap();
    let admin = other.admin().await.unwrap();
    admin.reset_group(&topic(), &group(), &Position::Earliest).await.unwrap();
    soon("that it is lost", held[0].lost()).await;
    for delivery in held {
        assert_eq!(delivery.ack().await.unwrap_err().kind(), ErrorKind::Lost);
    }
    for expected in 0..5 {
        let delivery = next(&mut member).await;
        assert_eq!(text(&delivery), expected.to_string());
        delivery.ack().await.unwrap();
    }
    // Rejecting what was taken away leaves no dead letter: somebody else has the message.
    publish(&publisher, "k", "moved").await;
    let moved = next(&mut member).await;
    let place = moved.offset.clone().unwrap();
    admin.reset_group(&topic(), &group(), &Position::Offset(place)).await.unwrap();
    assert_eq!(moved.reject("too late").await.unwrap_err().kind(), ErrorKind::Lost);
    next(&mut member).await.ack().await.unwrap();
    let topics = admin.topics().await.unwrap();
    assert_eq!(topics.len(), 1, "{topics:?}");
    // To the end: what was published before does not come.
    publish(&publisher, "k", "skipped").await;
    let skipped = next(&mut member).await;
    admin.reset_group(&topic(), &group(), &Position::Latest).await.unwrap();
    assert_eq!(skipped.ack().await.unwrap_err().kind(), ErrorKind::Lost);
    publish(&publisher, "k", "after").await;
    assert_eq!(text(&next(&mut member).await), "after");
}

#[tokio::test]
async fn what_somebody_else_wrote_is_named_and_what_is_around_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "").await;
    let publisher = bus.publisher("t").await.unwrap();
    publish_many(&publisher, ["one", "two"].map(str::to_owned)).await;
    let fs = Arc::new(busline_log::storage::FsStorage::new());
    let path = directory.path().join("bus/topics/t/log");
    let log = busline_log::Log::open(fs, &path, &busline_log::Options::default(), 0).unwrap();
    // A newer version may write what this one does not understand.
    log.appender().append(0, b"key", b"\xff\xff no meta of ours", b"value").unwrap();
    publish_many(&publisher, ["three"].map(str::to_owned)).await;
    let mut reader = bus.reader("t", Position::Earliest).unwrap().open().await.unwrap();
    for expected in ["one", "two"] {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(record.message.payload.as_ref(), expected.as_bytes());
    }
    for _ in 0..2 {
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("record 2"), "{error}");
    }
    let behind = reader.position().unwrap().next();
    reader.seek(Position::Offset(behind)).await.unwrap();
    let record = reader.next().await.unwrap().unwrap();
    assert_eq!(record.message.payload.as_ref(), b"three");
}

/// The member leaves on the thread that settles, while the caller decides on what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_while_the_member_leaves_is_settled() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "sync=os").await;
    let publisher = bus.publisher("t").await.unwrap();
    for round in 0..400 {
        let group = bus.group("t", "g").unwrap().start(Position::Earliest);
        let mut consumer = group.subscribe().await.unwrap();
        publish(&publisher, "k", round.to_string()).await;
        let delivery = soon("the delivery", consumer.next()).await.unwrap().unwrap();
        assert_eq!(delivery.message.payload, round.to_string());
        let settling = std::thread::spawn(move || delivery.ack());
        consumer.stop().await.unwrap();
        let settled = settling.join().unwrap().await;
        assert!(settled.is_ok(), "round {round}: {settled:?}");
    }
}
