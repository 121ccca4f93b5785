//! Cases of replies: they reach the very instance that asked.

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, keyed};
use crate::transport::{Connect, ReplyAddress, Role};

registry! {
    Requests a_reply_reaches_the_instance_that_asked
        "Of two instances each gets the replies to its own address and no others.";
    Requests an_address_stays_with_its_session
        "A session gives the same reply address whenever it is asked.";
    Requests an_address_outlives_its_session
        "An instance that connects again has the reply address that it had, so that replies find it.";
}

async fn a_reply_reaches_the_instance_that_asked(world: World) -> Outcome {
    let (one, two, server) =
        (world.connect().await?, world.connect().await?, world.connect().await?);
    let first = one.reply_address().await?;
    let second = two.reply_address().await?;
    check!(first != second, "two instances have the same reply address {first:?}");
    let mut one_hears = world.broadcast(&*one, &first.topic, &[&first.reply_to]).await?;
    let mut two_hears = world.broadcast(&*two, &second.topic, &[&second.reply_to]).await?;
    let reply = |to: &ReplyAddress, text: &str| keyed(&to.topic, &to.reply_to, text);
    let batch = vec![reply(&first, "for one")?, reply(&second, "for two")?];
    world.publish(&*server, batch).await?;
    one_hears.expect(&["for one"]).await?;
    two_hears.expect(&["for two"]).await?;
    one_hears.nothing().await?;
    two_hears.nothing().await
}

async fn an_address_stays_with_its_session(world: World) -> Outcome {
    let session = world.connect().await?;
    let (first, second) = (session.reply_address().await?, session.reply_address().await?);
    check_eq!(first, second, "the address when asked again");
    Ok(())
}

async fn an_address_outlives_its_session(world: World) -> Outcome {
    let (transport, connect) = (world.transport(), Connect::new(Role::Consume));
    let session = transport.connect(connect.clone()).await?;
    let before = session.reply_address().await?;
    session.close(world.patience()).await?;
    let session = transport.connect(connect).await?;
    check_eq!(session.reply_address().await?, before, "the address after connecting again");
    Ok(())
}
