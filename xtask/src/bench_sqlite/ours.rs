//! The works through Busline's port.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Connect, Read, Role, Session, TopicSpec, Topology};
use busline_core::{Key, Message, PendingReceipt, Position, Topic};

use super::figures::{Figures, Meter, Who};
use super::{ONE_BY_ONE, Place, Result, Setup, payload, text};

/// The most messages of one call.
const BATCH: usize = 256;
/// More than everybody needs.
const PATIENCE: Duration = Duration::from_secs(600);

async fn session(place: &Place, role: Role) -> Result<Arc<dyn Session>> {
    let transport = busline_transports::open(&place.url()).map_err(text)?;
    let session = transport.connect(Connect::new(role)).await.map_err(text)?;
    let topics = vec![TopicSpec::new(topic(place)?)];
    session.declare(&Topology { topics, ..Topology::default() }).await.map_err(text)?;
    Ok(session)
}

fn topic(place: &Place) -> Result<Topic> {
    Topic::new(place.layout.topic()).map_err(text)
}

async fn receipt(pending: PendingReceipt) -> Result<()> {
    pending.await.map(drop).map_err(text)
}

/// Makes the tables.
pub(crate) async fn prepare(place: &Place) -> Result<()> {
    session(place, Role::Publish).await?.close(PATIENCE).await.map_err(text)
}

/// Publishes as fast as the window allows; in how many transactions that was.
pub(crate) async fn publish(setup: &Setup, place: &Place, figures: &mut Figures) -> Result<usize> {
    let session = session(place, Role::Publish).await?;
    let (name, key) = (topic(place)?, Key::new("base").map_err(text)?);
    let message = |number| Message::new(name.clone(), key.clone(), payload(setup, number));
    let messages: Vec<Message> = (0..setup.messages).map(message).collect();
    let meter = Meter::start();
    let mut pending = Vec::with_capacity(setup.messages);
    for batch in messages.chunks(BATCH) {
        pending.extend(session.send(batch.to_vec().into()).await.map_err(text)?);
    }
    for pending in pending {
        receipt(pending).await?;
    }
    figures.add(place.layout, "publish, joined", Who::Ours, meter.rate(setup.messages));
    // A transaction has one time.
    let mut reader = session.read(Read::new(name, Position::Earliest)).await.map_err(text)?;
    let mut times = BTreeSet::new();
    loop {
        let records = reader.next().await.map_err(text)?;
        if records.is_empty() {
            break;
        }
        times.extend(records.iter().map(|record| record.time));
    }
    session.close(PATIENCE).await.map_err(text)?;
    figures.add_joined(place.layout, setup.messages as f64 / times.len() as f64);
    Ok(times.len())
}

/// Reads everything from the beginning.
pub(crate) async fn read(setup: &Setup, place: &Place, figures: &mut Figures) -> Result<()> {
    let session = session(place, Role::Consume).await?;
    let meter = Meter::start();
    let mut reader =
        session.read(Read::new(topic(place)?, Position::Earliest)).await.map_err(text)?;
    let (mut count, mut bytes) = (0, 0);
    loop {
        let records = reader.next().await.map_err(text)?;
        if records.is_empty() {
            break;
        }
        count += records.len();
        bytes += records.iter().map(|record| record.message.payload.len()).sum::<usize>();
    }
    figures.add(place.layout, "read, chunks of 1024", Who::Ours, meter.rate(count));
    if count != setup.messages || bytes < setup.messages {
        return Err(format!("{count} messages were read, {} are there", setup.messages));
    }
    session.close(PATIENCE).await.map_err(text)
}

/// Publishes one message at a time, and waits for each.
pub(crate) async fn one_by_one(place: &Place, figures: &mut Figures) -> Result<()> {
    let session = session(place, Role::Publish).await?;
    let (name, key) = (topic(place)?, Key::new("base").map_err(text)?);
    let meter = Meter::start();
    for _ in 0..ONE_BY_ONE {
        let message = Message::new(name.clone(), key.clone(), r#"{"evcategory": "base"}"#);
        for pending in session.send(vec![message].into()).await.map_err(text)? {
            receipt(pending).await?;
        }
    }
    figures.add(place.layout, "publish one, awaited", Who::Ours, meter.rate(ONE_BY_ONE));
    session.close(PATIENCE).await.map_err(text)
}
