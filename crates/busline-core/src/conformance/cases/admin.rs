//! Cases of the operator's view: what it shows is so, and what it does takes effect at once.

use std::time::Duration;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, group, message, numbered, slices, text};
use crate::error::ErrorKind;
use crate::name::{GroupName, Topic};
use crate::offset::Position;
use crate::transport::{DeleteIf, GroupInfo, GroupSpec, Session};

registry! {
    Admin topics_are_listed
        "Topics are listed by name, with what they hold.";
    Admin groups_are_listed
        "Groups are listed with their patterns, lag and members.";
    Counters groups_count_what_they_do
        "A group tells what is in flight and waiting, and counts what was acked and rejected.";
    Reset a_reset_moves_running_members
        "After a reset a running member gets everything from there, and what it held is lost to it.";
    Admin a_peek_shows_what_waits
        "Looking at unsettled messages shows them, oldest first, and leaves them where they are.";
    Peek a_peek_leaves_everything
        "Looking at unsettled messages tells their attempts and changes nothing.";
    Admin a_purge_settles_everything
        "A purge says how many messages it settled, and none of them comes again.";
    Admin a_deleted_group_is_gone
        "A group is deleted under its conditions; its members end, and declared again it is new.";
    Admin a_deleted_topic_is_gone
        "A topic is deleted with its groups, and nothing can be published to it.";
    Admin an_idle_group_expires
        "A group declared to expire is gone when it had no member for that long, and not before.";
    Admin what_does_not_exist_is_not_found
        "Every operation on a topic or group that does not exist says NotFound and names it.";
}

async fn info(world: &World, session: &dyn Session, topic: &Topic) -> Result<GroupInfo, Failure> {
    let groups = world.admin(session)?.groups(Some(topic)).await?;
    let found = groups.into_iter().find(|info| info.group.as_str() == "g");
    found.ok_or_else(|| Failure::new("the group is not listed"))
}

async fn topics_are_listed(world: World) -> Outcome {
    let session = world.connect().await?;
    let (one, two) = (world.topic("one")?, world.topic("two")?);
    world.declare(&*session, &two, &["g", "h"]).await?;
    world.declare(&*session, &one, &[]).await?;
    world.publish_texts(&*session, &two, &["1", "2", "3"]).await?;
    let listed = world.admin(&*session)?.topics().await?;
    let mut names: Vec<_> = listed.iter().map(|info| info.topic.clone()).collect();
    check!(names.is_sorted(), "topics are not sorted: {names:?}");
    names.retain(|name| *name == one || *name == two);
    check_eq!(names, [one.clone(), two.clone()], "the topics");
    // A broker that does not tell the bytes of any topic tells none.
    let tells = listed.iter().any(|info| info.bytes > 0);
    for (topic, messages, groups) in [(&one, 0, 0), (&two, 3, 2)] {
        let Some(info) = listed.iter().find(|info| info.topic == *topic) else { continue };
        check_eq!((info.messages, info.groups), (messages, groups), "messages and groups");
        check_eq!(info.bytes > 0, tells && messages > 0 || info.bytes > 0, "the bytes");
    }
    Ok(())
}

async fn groups_are_listed(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g", "idle"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3", "4", "5"]).await?;
    let before = info(&world, &*session, &topic).await?;
    check_eq!((before.lag, before.in_flight, before.members), (5, 0, 0), "lag, in flight, members");
    check!(before.patterns.is_all() && !before.broadcast, "it is listed as {before:?}");
    let names: Vec<_> = world.admin(&*session)?.groups(Some(&topic)).await?;
    let names: Vec<_> = names.iter().map(|info| info.group.as_str()).collect();
    check_eq!(names, ["g", "idle"], "the groups");
    let mut stream = world.join(&*session, &topic, "g").await?;
    let held = stream.take(5).await?;
    let after = info(&world, &*session, &topic).await?;
    check_eq!((after.lag, after.members), (0, 1), "lag and members");
    drop(held);
    Ok(())
}

async fn groups_count_what_they_do(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3", "4", "5"]).await?;
    let before = info(&world, &*session, &topic).await?;
    check!(before.oldest_unsettled.is_some(), "something is unsettled and has no time");
    let four = |subscribe: &mut crate::transport::Subscribe| subscribe.max_in_flight = 4;
    let mut stream = world.join_with(&*session, &topic, "g", four).await?;
    let mut held = stream.take(4).await?;
    let hour = Duration::from_secs(3600);
    held.remove(0).retry(hour).await?;
    held.remove(0).reject("no").await?;
    let acked = held.remove(0);
    stream.ack(acked).await?;
    stream.stop().await?;
    let after = info(&world, &*session, &topic).await?;
    check_eq!((after.in_flight, after.waiting), (1, 1), "in flight and waiting");
    check_eq!((after.acked, after.rejected), (1, 1), "acked and rejected");
    check!(after.delivered >= 4, "{} deliveries are counted, there were 4", after.delivered);
    check_eq!(after.redelivered, 0, "redeliveries");
    drop(held);
    Ok(())
}

async fn a_reset_moves_running_members(world: World) -> Outcome {
    let (session, operator) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["1", "2"]).await?;
    let held = stream.next().await?;
    let group = GroupName::new("g")?;
    let admin = world.admin(&*operator)?;
    admin.reset_group(&topic, &group, &Position::Earliest).await?;
    world.within("the holder to be told", held.lost()).await?;
    let settled = world.within("the answer", held.ack()).await?;
    check_eq!(settled.err().map(|error| error.kind()), Some(ErrorKind::Lost), "the ack after it");
    stream.expect(&["1", "2", "3"]).await?;
    world.publish_texts(&*session, &topic, &["4", "5"]).await?;
    let skipped = stream.next().await?;
    check_text(&skipped, "4")?;
    stream.fetched().clear();
    admin.reset_group(&topic, &group, &Position::Latest).await?;
    drop(skipped);
    world.publish_texts(&*session, &topic, &["6"]).await?;
    stream.expect(&["6"]).await?;
    stream.nothing().await
}

async fn a_peek_shows_what_waits(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3"]).await?;
    let (group, admin) = (GroupName::new("g")?, world.admin(&*session)?);
    let shown = async |from: Option<&crate::Offset>, limit| {
        let peeked = admin.peek(&topic, &group, from, limit).await?;
        let text = |peeked: crate::transport::Peeked| {
            (text(&peeked.record.message.payload), peeked.record.offset)
        };
        Ok::<Vec<_>, Failure>(peeked.into_iter().map(text).collect())
    };
    let two: Vec<_> = shown(None, 2).await?;
    let texts: Vec<_> = two.iter().map(|(text, _)| text.as_str()).collect();
    check_eq!(texts, ["1", "2"], "what a peek at two shows");
    let rest: Vec<_> = shown(two.last().map(|(_, offset)| offset), 10).await?;
    let texts: Vec<_> = rest.iter().map(|(text, _)| text.as_str()).collect();
    check_eq!(texts, ["2", "3"], "what a peek from the second on shows");
    let mut stream = world.join(&*session, &topic, "g").await?;
    for wanted in ["1", "2", "3"] {
        let delivery = stream.next().await?;
        check_text(&delivery, wanted)?;
        stream.ack(delivery).await?;
    }
    Ok(())
}

async fn a_peek_leaves_everything(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3"]).await?;
    let one = |subscribe: &mut crate::transport::Subscribe| subscribe.max_in_flight = 1;
    let mut stream = world.join_with(&*session, &topic, "g", one).await?;
    let held = stream.next().await?;
    let group = GroupName::new("g")?;
    let admin = world.admin(&*session)?;
    for limit in [1, 2, 10] {
        let peeked = admin.peek(&topic, &group, None, limit).await?;
        let found: Vec<_> = peeked
            .iter()
            .map(|peeked| (peeked.record.message.payload.clone(), peeked.attempts))
            .collect();
        let wanted = [("1".into(), 1), ("2".into(), 0), ("3".into(), 0)];
        check_eq!(found, wanted[..limit.min(3)], "what a peek at {limit} shows");
    }
    let second =
        admin.peek(&topic, &group, None, 2).await?.pop().map(|peeked| peeked.record.offset);
    let page = admin.peek(&topic, &group, second.as_ref(), 10).await?;
    let page: Vec<_> = page.into_iter().map(|peeked| peeked.record.message.payload).collect();
    check_eq!(page, ["2", "3"], "what a peek from the second on shows");
    stream.ack(held).await?;
    stream.expect(&["2", "3"]).await?;
    check_eq!(admin.peek(&topic, &group, None, 10).await?.len(), 0, "what a peek at nothing shows");
    Ok(())
}

async fn a_purge_settles_everything(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(7);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let one = |subscribe: &mut crate::transport::Subscribe| subscribe.max_in_flight = 1;
    let mut stream = world.join_with(&*session, &topic, "g", one).await?;
    stream.expect(&["text 0"]).await?;
    stream.stop().await?;
    let group = GroupName::new("g")?;
    let purged = world.admin(&*session)?.purge(&topic, &group).await?;
    check_eq!(purged, 6, "how many were purged");
    world.publish_texts(&*session, &topic, &["end"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["end"]).await?;
    stream.nothing().await
}

async fn a_deleted_group_is_gone(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let group = GroupName::new("g")?;
    let admin = world.admin(&*session)?;
    for condition in
        [DeleteIf { unused: true, empty: false }, DeleteIf { unused: false, empty: true }]
    {
        let refused = admin.delete_group(&topic, &group, condition).await;
        let kind = refused.err().map(|error| error.kind());
        check_eq!(kind, Some(ErrorKind::Conflict), "deleting it under {condition:?}");
    }
    let held = stream.next().await?;
    admin.delete_group(&topic, &group, DeleteIf::default()).await?;
    let settled = world.within("the answer", held.ack()).await?;
    check_eq!(settled.err().map(|error| error.kind()), Some(ErrorKind::Lost), "an ack after it");
    let next = world.within("its member to end", stream.subscription().next()).await?;
    let kind = next.err().map(|error| error.kind());
    check_eq!(kind, Some(ErrorKind::NotFound), "what its member is told");
    // A broker may take it for a member of the next queue of that name until it has gone.
    drop(stream);
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["2"]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["2"]).await
}

async fn a_deleted_topic_is_gone(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["old"]).await?;
    // A log that another process has open may be refused to go; this one is gone by then.
    let other = world.connect().await?;
    world.publish_texts(&*other, &topic, &["old"]).await?;
    world.kill(other).await?;
    let admin = world.admin(&*session)?;
    let empty = DeleteIf { unused: false, empty: true };
    let refused = admin.delete_topic(&topic, empty).await;
    check_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Conflict), "if empty");
    admin.delete_topic(&topic, DeleteIf::default()).await?;
    let listed = admin.topics().await?;
    check!(listed.iter().all(|info| info.topic != topic), "a deleted topic is listed");
    let joined = world.join(&*session, &topic, "g").await;
    check!(joined.is_err(), "a group of a deleted topic was joined");
    // Neither by one that had published to it before, nor by one that comes now.
    for session in [&session, &world.connect().await?] {
        let sent = world.send(&**session, vec![message(&topic, "lost")].into()).await;
        check!(sent.is_err(), "a message to a deleted topic has the receipt {sent:?}");
    }
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["new"]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["new"]).await
}

async fn an_idle_group_expires(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    // Long enough to join it, on a busy machine too.
    let idle = world.patience() / 8;
    let spec = GroupSpec { expires_after: Some(idle), ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    world.advance(3 * idle);
    world.publish_texts(&*session, &topic, &["kept"]).await?;
    stream.expect(&["kept"]).await?;
    let before = world.clock().monotonic();
    stream.stop().await?;
    world.advance(idle / 2);
    let admin = world.admin(&*session)?;
    let gone = async {
        while !admin.groups(Some(&topic)).await?.is_empty() {
            world.advance(idle / 4);
            tokio::task::yield_now().await;
        }
        Ok::<_, Failure>(())
    };
    world.within("an idle group to expire", gone).await??;
    let waited = world.clock().monotonic().saturating_sub(before);
    check!(waited >= idle, "it was gone after {waited:?}, {idle:?} were asked for");
    let joined = world.join(&*session, &topic, "g").await;
    check!(joined.is_err(), "an expired group was joined");
    Ok(())
}

async fn what_does_not_exist_is_not_found(world: World) -> Outcome {
    let session = world.connect().await?;
    let (topic, other) = (world.topic("t")?, world.topic("other")?);
    world.declare(&*session, &topic, &["g"]).await?;
    let group = GroupName::new("absent")?;
    let admin = world.admin(&*session)?;
    let any = DeleteIf::default();
    for topic in [&topic, &other] {
        let results = [
            admin.peek(topic, &group, None, 1).await.err(),
            admin.reset_group(topic, &group, &Position::Latest).await.err(),
            admin.purge(topic, &group).await.err(),
            admin.delete_group(topic, &group, any).await.err(),
        ];
        for error in results {
            let Some(error) = error else { return Err(Failure::new("it was found")) };
            check_eq!(error.kind(), ErrorKind::NotFound, "the error");
            let named = if *topic == other { other.as_str() } else { "absent" };
            check!(error.to_string().contains(named), "it does not name '{named}': {error}");
        }
    }
    let deleted = admin.delete_topic(&other, any).await;
    check_eq!(deleted.err().map(|error| error.kind()), Some(ErrorKind::NotFound), "its deletion");
    Ok(())
}
