//! Cases of declaring: idempotent, and never changing what exists unasked.

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, group, keyed, patterns};
use crate::error::{ErrorKind, Result};
use crate::name::{GroupName, Topic};
use crate::transport::{
    GroupSpec, Membership, OnDifference, Session, Subscribe, TopicSpec, Topology, TopologyMode,
};

registry! {
    Group declaring_again_changes_nothing
        "Declaring what exists is no error and leaves a group where it is.";
    Differences a_different_group_is_a_conflict
        "A group that exists with other patterns is a Conflict that names what is and what was wanted.";
    Differences a_difference_is_replaced_or_added_when_asked
        "With Replace a group becomes as declared, with Add it keeps the patterns it has.";
    Group verify_creates_nothing
        "TopologyMode Verify fails on what is missing, and creates nothing.";
    Differences verify_sees_differences
        "TopologyMode Verify fails on what differs.";
    Group assume_looks_at_nothing
        "TopologyMode Assume succeeds whatever there is, and creates nothing.";
    Group a_group_needs_its_topic
        "Declaring a group of a topic that does not exist is NotFound and creates neither.";
    Group joining_what_is_not_declared_fails
        "Joining a group or topic that does not exist is NotFound, and names it.";
}

async fn declaring_again_changes_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2"]).await?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["1"]).await?;
    world.declare(&*world.connect().await?, &topic, &["g"]).await?;
    stream.expect(&["2"]).await?;
    stream.nothing().await
}

async fn a_different_group_is_a_conflict(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let with = |pattern: &str| -> std::result::Result<GroupSpec, super::super::Failure> {
        Ok(GroupSpec { patterns: patterns(&[pattern])?, ..group(&topic, "the-group")? })
    };
    world.declare_groups(&*session, &topic, vec![with("one.*")?]).await?;
    let error = declared(&*session, with("two.#")?, TopologyMode::Create).await.err();
    let Some(error) = error else {
        return Err(super::super::Failure::new("a group with other patterns was declared"));
    };
    check_eq!(error.kind(), ErrorKind::Conflict, "the kind of the error");
    let said = error.to_string();
    for word in ["the-group", "one.*", "two.#"] {
        check!(said.contains(word), "the conflict does not name '{word}': {said}");
    }
    // The group is what it was.
    let batch = vec![keyed(&topic, "two.x", "not for it")?, keyed(&topic, "one.x", "for it")?];
    world.publish(&*session, batch).await?;
    world.join(&*session, &topic, "the-group").await?.expect(&["for it"]).await
}

async fn a_difference_is_replaced_or_added_when_asked(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let with = |pattern: &str, on_difference| -> std::result::Result<_, super::super::Failure> {
        let patterns = patterns(&[pattern])?;
        Ok(GroupSpec { patterns, on_difference, ..group(&topic, "g")? })
    };
    let first = with("a", OnDifference::Refuse)?;
    world.declare_groups(&*session, &topic, vec![first]).await?;
    let added = with("b", OnDifference::Add)?;
    world.declare_groups(&*session, &topic, vec![added]).await?;
    let batch = || -> std::result::Result<_, super::super::Failure> {
        let one = |key: &str| keyed(&topic, key, key);
        Ok(vec![one("a")?, one("b")?, one("c")?])
    };
    world.publish(&*session, batch()?).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["a", "b"]).await?;
    stream.nothing().await?;
    let replaced = with("c", OnDifference::Replace)?;
    world.declare_groups(&*session, &topic, vec![replaced]).await?;
    world.publish(&*session, batch()?).await?;
    stream.expect(&["c"]).await?;
    stream.nothing().await
}

async fn verify_creates_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = group(&topic, "g")?;
    for _ in 0..2 {
        // The second time shows that the first one created nothing.
        let missing = declared(&*session, spec.clone(), TopologyMode::Verify).await;
        check_eq!(kind(missing), Some(ErrorKind::NotFound), "verifying what is missing");
    }
    world.declare(&*session, &topic, &["g"]).await?;
    declared(&*session, spec, TopologyMode::Verify).await?;
    Ok(())
}

async fn verify_sees_differences(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = group(&topic, "g")?;
    world.declare(&*session, &topic, &["g"]).await?;
    declared(&*session, spec.clone(), TopologyMode::Verify).await?;
    let other = GroupSpec { patterns: patterns(&["other"])?, ..spec };
    let differs = declared(&*session, other, TopologyMode::Verify).await;
    check_eq!(kind(differs), Some(ErrorKind::Conflict), "verifying what differs");
    Ok(())
}

async fn assume_looks_at_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = group(&topic, "g")?;
    declared(&*session, spec.clone(), TopologyMode::Assume).await?;
    let missing = declared(&*session, spec, TopologyMode::Verify).await;
    check_eq!(kind(missing), Some(ErrorKind::NotFound), "what was assumed and not created");
    Ok(())
}

async fn a_group_needs_its_topic(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let alone = Topology { groups: vec![group(&topic, "g")?], ..Topology::default() };
    let declared = session.declare(&alone).await;
    check_eq!(kind(declared), Some(ErrorKind::NotFound), "a group without its topic");
    let missing = declared_topic(&*session, &topic, TopologyMode::Verify).await;
    check_eq!(kind(missing), Some(ErrorKind::NotFound), "the topic after that");
    Ok(())
}

async fn declared_topic(session: &dyn Session, topic: &Topic, mode: TopologyMode) -> Result<()> {
    let topics = vec![TopicSpec::new(topic.clone())];
    session.declare(&Topology { mode, topics, ..Topology::default() }).await
}

async fn joining_what_is_not_declared_fails(world: World) -> Outcome {
    let session = world.connect().await?;
    let (topic, other) = (world.topic("t")?, world.topic("other")?);
    world.declare(&*session, &topic, &["g"]).await?;
    for (topic, name) in [(&topic, "absent"), (&other, "g")] {
        let membership = Membership::Group(GroupName::new(name)?);
        let joined = session.subscribe(Subscribe::new(topic.clone(), membership)).await;
        let Err(error) = joined else {
            return Err(super::super::Failure::new(format!("joined '{name}' of '{topic}'")));
        };
        check_eq!(error.kind(), ErrorKind::NotFound, "joining '{name}' of '{topic}'");
        let named = if name == "absent" { name } else { topic.as_str() };
        check!(error.to_string().contains(named), "the error does not name '{named}': {error}");
    }
    Ok(())
}

async fn declared(session: &dyn Session, group: GroupSpec, mode: TopologyMode) -> Result<()> {
    let topics = vec![TopicSpec::new(group.topic.clone())];
    session.declare(&Topology { mode, topics, groups: vec![group] }).await
}

fn kind(result: Result<()>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}
