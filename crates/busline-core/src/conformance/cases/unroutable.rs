//! Cases of mandatory messages that no group wants.

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, group, keyed, message, patterns};
use crate::name::GroupName;
use crate::receipt::Receipt;
use crate::transport::{Batch, DeleteIf, GroupSpec};

registry! {
    Unroutable a_mandatory_message_without_a_group_comes_back
        "A mandatory message to a topic without groups is Unroutable.";
    Unroutable only_what_matches_no_group_comes_back
        "Of a mandatory batch exactly those that match no pattern are Unroutable, in their place."
        also Filter;
    Unroutable a_deleted_group_routes_nothing
        "When the last group is deleted, mandatory messages come back." also Admin;
    Unroutable what_is_not_mandatory_is_stored
        "Without mandatory a message that no group wants has a receipt like any other.";
    Unroutable a_broadcast_is_a_group
        "While a broadcast is there a mandatory message reaches somebody." also Broadcast;
}

async fn a_mandatory_message_without_a_group_comes_back(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let batch = || Batch { messages: vec![message(&topic, "x")], mandatory: true };
    let receipts = world.send(&*session, batch()).await?;
    check_eq!(receipts, [Receipt::Unroutable], "the receipt without a group");
    world.declare(&*session, &topic, &["g"]).await?;
    let receipts = world.send(&*session, batch()).await?;
    check!(matches!(receipts[..], [Receipt::Stored { .. }]), "with a group it is {receipts:?}");
    world.join(&*session, &topic, "g").await?.expect(&["x"]).await
}

async fn only_what_matches_no_group_comes_back(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { patterns: patterns(&["a.*"])?, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let keys = ["a.1", "b.1", "a.2", "", "a.3"];
    let messages: Result<Vec<_>, _> = keys.iter().map(|key| keyed(&topic, key, key)).collect();
    let receipts = world.send(&*session, Batch { messages: messages?, mandatory: true }).await?;
    let found: Vec<_> =
        receipts.iter().map(|receipt| matches!(receipt, Receipt::Unroutable)).collect();
    check_eq!(found, [false, true, false, true, false], "which are unroutable");
    world.join(&*session, &topic, "g").await?.expect(&["a.1", "a.2", "a.3"]).await
}

async fn a_deleted_group_routes_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let admin = world.admin(&*session)?;
    admin.delete_group(&topic, &GroupName::new("g")?, DeleteIf::default()).await?;
    let batch = Batch { messages: vec![message(&topic, "x")], mandatory: true };
    let receipts = world.send(&*session, batch).await?;
    check_eq!(receipts, [Receipt::Unroutable], "the receipt after the group was deleted");
    Ok(())
}

async fn what_is_not_mandatory_is_stored(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    // `publish` fails unless the receipt is Stored.
    world.publish_texts(&*session, &topic, &["x"]).await.map(drop)
}

async fn a_broadcast_is_a_group(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let mut stream = world.broadcast(&*session, &topic, &[]).await?;
    let batch = Batch { messages: vec![message(&topic, "x")], mandatory: true };
    let receipts = world.send(&*session, batch).await?;
    check!(matches!(receipts[..], [Receipt::Stored { .. }]), "with a broadcast it is {receipts:?}");
    stream.expect(&["x"]).await
}
