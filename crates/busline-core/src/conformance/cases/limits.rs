//! Cases of limits: a clear error before anything is sent.

use bytes::Bytes;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, group, message};
use crate::error::ErrorKind;
use crate::headers::HeaderValue;
use crate::limits::Limits;
use crate::message::Message;
use crate::name::Topic;
use crate::transport::{GroupSpec, Session, Subscribe};

registry! {
    Limits a_payload_over_its_bound_is_refused
        "A payload above the bound is an error that names the bound, and nothing of its batch is sent.";
    Limits a_payload_at_its_bound_arrives
        "The largest payload allowed is delivered unchanged.";
    Limits headers_over_their_bounds_are_refused
        "Too many, too large, too deep or badly named headers are errors, and nothing is sent.";
    Limits a_property_over_its_bound_is_refused
        "A property or ordering key above 255 bytes is an error, and nothing is sent.";
    Limits a_bound_of_nothing_is_refused
        "A subscription that could never get anything is an error.";
}

/// Larger payloads are not tried.
const TRIED_BYTES_MAX: usize = 64 << 20;

/// A batch with something wrong in its middle: nothing of it may be sent.
async fn refused(world: &World, session: &dyn Session, bad: Message, bound: &str) -> Outcome {
    let topic = bad.topic.clone();
    let batch = vec![message(&topic, "before"), bad, message(&topic, "behind")];
    let sent = world.within("an answer", session.send(batch.into())).await?;
    let Err(error) = sent else {
        return Err(Failure::new(format!("a message over the bound {bound} was accepted")));
    };
    check_eq!(error.kind(), ErrorKind::Limit, "the error of the bound {bound}");
    check!(error.to_string().contains(bound), "the error does not name {bound}: {error}");
    Ok(())
}

/// Nothing of the refused batches may have come.
async fn nothing_came(world: &World, session: &dyn Session, topic: &Topic) -> Outcome {
    world.publish_texts(session, topic, &["end"]).await?;
    let mut stream = world.join(session, topic, "g").await?;
    stream.expect(&["end"]).await?;
    stream.nothing().await
}

async fn a_payload_over_its_bound_is_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let max = world.profile.limits.payload_bytes_max;
    if max > TRIED_BYTES_MAX {
        return Err(Failure::skip(format!("limits: {max} bytes are too many to try")));
    }
    let payload = Bytes::from(vec![7; max + 1]);
    let bad = Message { payload, ..message(&topic, "") };
    refused(&world, &*session, bad, &max.to_string()).await?;
    nothing_came(&world, &*session, &topic).await
}

async fn a_payload_at_its_bound_arrives(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let max = world.profile.limits.payload_bytes_max;
    if max > TRIED_BYTES_MAX {
        return Err(Failure::skip(format!("limits: {max} bytes are too many to try")));
    }
    let payload: Bytes = (0..max).map(|index| (index % 251) as u8).collect::<Vec<_>>().into();
    let sent = Message { payload: payload.clone(), ..message(&topic, "") };
    world.publish(&*session, vec![sent]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let delivery = stream.next().await?;
    check!(delivery.message.payload == payload, "{max} bytes did not arrive as they were sent");
    stream.ack(delivery).await
}

async fn headers_over_their_bounds_are_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let Limits { headers_max, header_name_bytes_max, headers_bytes_max, header_depth_max, .. } =
        world.profile.limits;
    let plain = || message(&topic, "over");
    let many = (0..=headers_max).fold(plain(), |message, _| message.header("n", 1));
    refused(&world, &*session, many, &headers_max.to_string()).await?;
    let name = "n".repeat(header_name_bytes_max + 1);
    let named = plain().header(name, 1);
    refused(&world, &*session, named, &header_name_bytes_max.to_string()).await?;
    let large = plain().header("n", "v".repeat(headers_bytes_max));
    refused(&world, &*session, large, &headers_bytes_max.to_string()).await?;
    let deep =
        (0..header_depth_max).fold(HeaderValue::Null, |value, _| HeaderValue::List(vec![value]));
    refused(&world, &*session, plain().header("n", deep), &header_depth_max.to_string()).await?;
    nothing_came(&world, &*session, &topic).await
}

async fn a_property_over_its_bound_is_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let long = || Some("p".repeat(256).into());
    let set: [fn(&mut Message, Option<bytestring::ByteString>); 4] = [
        |message, long| message.properties.message_id = long,
        |message, long| message.properties.content_type = long,
        |message, long| message.properties.reply_to = long,
        |message, long| message.ordering_key = long,
    ];
    for set in set {
        let mut bad = message(&topic, "over");
        set(&mut bad, long());
        refused(&world, &*session, bad, "255").await?;
    }
    nothing_came(&world, &*session, &topic).await
}

async fn a_bound_of_nothing_is_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let tune: [fn(&mut Subscribe); 2] =
        [|subscribe| subscribe.max_in_flight = 0, |subscribe| subscribe.max_in_flight_bytes = 0];
    for tune in tune {
        let joined = world.join_with(&*session, &topic, "g", tune).await;
        check!(joined.is_err(), "a subscription with max_in_flight 0 was opened");
    }
    let never = GroupSpec { attempts_max: Some(0), ..group(&topic, "never")? };
    let declared = world.declare_groups(&*session, &topic, vec![never]).await;
    check!(declared.is_err(), "a group with attempts_max 0 was declared");
    Ok(())
}
