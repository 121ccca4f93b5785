//! Cases about the profile itself: what is promised, and what is refused.

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, message};
use crate::capability::{Capabilities, Capability};
use crate::error::{ErrorKind, Result};
use crate::offset::Position;
use crate::transport::{Batch, Connect, Read, Role, Spec};

registry! {
    Order the_session_promises_no_more_than_its_transport
        "What a transport documents is the upper bound of what its sessions promise.";
    Order what_is_refused_fails_when_it_is_bound
        "A read, mandatory publish, reply address or look that needs a refused promise fails as \
         Refused and names the way out.";
}

async fn the_session_promises_no_more_than_its_transport(world: World) -> Outcome {
    let transport = world.transport();
    let session = transport.connect(Connect::new(Role::Consume)).await?;
    let (upper, promised): (Capabilities, _) =
        (transport.capabilities(), session.capabilities(&Spec::default()));
    check!(promised.durability <= upper.durability, "its durability is above the transport's");
    for (capability, support) in promised.iter() {
        let documented = upper.get(capability).is_kept();
        check!(documented || !support.is_kept(), "'{capability}' is kept and not documented");
        let note = support.note();
        check!(note.is_none_or(|note| !note.is_empty()), "the note of '{capability}' is empty");
    }
    check!(!transport.to_string().is_empty(), "the transport has no name");
    Ok(())
}

async fn what_is_refused_fails_when_it_is_bound(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    if !world.keeps(Capability::Replay) {
        let opened = session.read(Read::new(topic.clone(), Position::Earliest)).await;
        refused("replay", opened.map(drop))?;
    }
    if !world.keeps(Capability::Unroutable) {
        let batch = Batch { messages: vec![message(&topic, "x")], mandatory: true };
        refused("a mandatory publish", session.send(batch).await.map(drop))?;
    }
    if !world.keeps(Capability::Requests) {
        refused("a reply address", session.reply_address().await.map(drop))?;
    }
    let has_admin = session.admin().is_some();
    check_eq!(has_admin, world.keeps(Capability::Admin), "whether there is an admin");
    Ok(())
}

fn refused(what: &str, result: Result<()>) -> Outcome {
    match result {
        Ok(()) => check!(false, "{what} is refused by the profile and works"),
        Err(error) => {
            check_eq!(error.kind(), ErrorKind::Refused, "the error of {what}");
            check!(error.way_out().is_some(), "the error of {what} names no way out");
        }
    }
    Ok(())
}
