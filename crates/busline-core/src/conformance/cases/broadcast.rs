//! Cases of broadcasts: alone in a temporary group, every instance gets every message.

use super::super::case::{Failure, Outcome, check_eq, registry};
use super::super::world::{World, keyed, numbered, slices};

registry! {
    Broadcast every_instance_gets_every_message
        "Broadcasts of several sessions, and two of one session, get every message each.";
    Broadcast a_broadcast_starts_now
        "A broadcast gets what is published after it was subscribed.";
    Broadcast a_broadcast_filters
        "A broadcast gets only the keys that its patterns select." also Filter;
    Broadcast a_broadcast_takes_nothing_from_groups
        "What a broadcast gets is not taken from any group.";
    Broadcast a_broadcast_leaves_nothing_behind
        "Stopped or killed, a broadcast leaves no group behind." also Admin;
}

async fn every_instance_gets_every_message(world: World) -> Outcome {
    let (one, two) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*one, &topic, &[]).await?;
    let mut streams = Vec::new();
    for session in [&one, &two, &two] {
        streams.push(world.broadcast(&**session, &topic, &[]).await?);
    }
    let texts = numbered(20);
    world.publish_texts(&*one, &topic, &slices(&texts)).await?;
    for stream in &mut streams {
        stream.expect(&slices(&texts)).await?;
        stream.nothing().await?;
    }
    Ok(())
}

async fn a_broadcast_starts_now(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["before"]).await?;
    let mut stream = world.broadcast(&*session, &topic, &[]).await?;
    world.publish_texts(&*session, &topic, &["after"]).await?;
    let first = stream.next().await?;
    super::super::world::check_text(&first, "after")?;
    check_eq!(first.group, None, "the group of a broadcast's delivery");
    stream.ack(first).await
}

async fn a_broadcast_filters(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let mut some = world.broadcast(&*session, &topic, &["a.*", "end"]).await?;
    let mut all = world.broadcast(&*session, &topic, &[]).await?;
    let keys = ["a.b", "b.a", "a", "a.c", "", "end"];
    let batch: Result<Vec<_>, _> = keys.iter().map(|key| keyed(&topic, key, key)).collect();
    world.publish(&*session, batch?).await?;
    some.expect(&["a.b", "a.c", "end"]).await?;
    all.expect(&keys).await
}

async fn a_broadcast_takes_nothing_from_groups(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut broadcast = world.broadcast(&*session, &topic, &[]).await?;
    world.publish_texts(&*session, &topic, &["1", "2"]).await?;
    broadcast.expect(&["1", "2"]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["1", "2"]).await
}

async fn a_broadcast_leaves_nothing_behind(world: World) -> Outcome {
    let (one, two) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*one, &topic, &["g"]).await?;
    let mut stopped = world.broadcast(&*one, &topic, &[]).await?;
    let killed = world.broadcast(&*two, &topic, &[]).await?;
    world.publish_texts(&*one, &topic, &["1"]).await?;
    stopped.expect(&["1"]).await?;
    stopped.stop().await?;
    world.kill(two).await?;
    drop(killed);
    let admin = world.admin(&*one)?;
    let gone = async {
        // Whoever cleans up after the dead may take a moment.
        while admin.groups(Some(&topic)).await?.iter().any(|group| group.broadcast) {
            tokio::task::yield_now().await;
        }
        Ok::<_, Failure>(())
    };
    world.within("the temporary groups to go", gone).await??;
    check_eq!(admin.groups(Some(&topic)).await?.len(), 1, "the groups that stay");
    Ok(())
}
