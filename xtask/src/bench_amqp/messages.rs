//! Publishing with confirms and consuming with acks: Busline beside the client that it stands on.

use std::collections::VecDeque;
use std::time::Duration;

use busline::{Bus, BusConfig, Message, Receipt};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::figures::{Figures, Meter};
use super::{Result, Setup, text};

const TOPIC: &str = "bench";
const GROUP: &str = "all";
const QUEUE: &str = "all.bench";
/// What is in flight at most, both ways.
const WINDOW: u16 = 1000;
const PAYLOAD: [u8; 100] = [b'x'; 100];
/// How many single messages are timed.
const SINGLE: usize = 500;
/// How many are acked together by the raw client, where it may.
const JOINED: usize = 100;

/// One repetition of every work.
pub(crate) async fn run(setup: &Setup, turned: bool, figures: &mut Figures) -> Result<()> {
    let mut config = BusConfig::new(&setup.url);
    config.window = usize::from(WINDOW);
    let bus = Bus::connect(config).await.map_err(text)?;
    let group = bus.group(TOPIC, GROUP).map_err(text)?;
    group.declare().await.map_err(text)?;
    let raw = Raw::connect(&setup.url).await?;
    let whos: [&'static str; 2] = if turned { ["busline", "lapin"] } else { ["lapin", "busline"] };
    for who in whos {
        let meter = Meter::start()?;
        match who {
            "lapin" => raw.publish(setup.messages).await?,
            _ => publish(&bus, setup.messages).await?,
        }
        let (rate, cpu) = meter.stop(setup.messages)?;
        figures.add("publish, confirmed, msg/s", who, rate);
        figures.add("publish CPU, us/msg", who, cpu);
    }
    raw.publish(setup.messages).await?;
    // Three times as many wait now as each of these takes.
    for who in whos {
        let meter = Meter::start()?;
        match who {
            "lapin" => raw.consume(setup.messages, JOINED).await?,
            _ => consume(&bus, setup.messages).await?,
        }
        let (rate, cpu) = meter.stop(setup.messages)?;
        figures.add("consume, multiple acks, msg/s", who, rate);
        figures.add("consume CPU, us/msg", who, cpu);
        if who == "busline" {
            figures.add("consume and settle, msg/s", who, rate);
        }
    }
    let meter = Meter::start()?;
    raw.consume(setup.messages, 1).await?;
    let (rate, _) = meter.stop(setup.messages)?;
    figures.add("consume and settle, msg/s", "lapin, each ack awaited", rate);
    single(&bus, &raw, figures).await?;
    delete(&raw.publishing, &[QUEUE]).await?;
    bus.close(Duration::from_secs(10)).await.map_err(text)
}

/// Removes queues, with what is left in them.
pub(crate) async fn delete(channel: &Channel, queues: &[&str]) -> Result<()> {
    for queue in queues {
        let deleted = channel.queue_delete((*queue).into(), QueueDeleteOptions::default());
        deleted.await.map_err(text)?;
    }
    Ok(())
}

/// The time of one message from being given away to its confirm.
async fn single(bus: &Bus, raw: &Raw, figures: &mut Figures) -> Result<()> {
    let publisher = bus.publisher(TOPIC).await.map_err(text)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..SINGLE {
        let meter = Meter::start()?;
        raw.publish(1).await?;
        theirs.push(meter.us());
        let message = publisher.message("key", &PAYLOAD[..]).map_err(text)?;
        let meter = Meter::start()?;
        publisher.publish(message).await.map_err(text)?;
        ours.push(meter.us());
    }
    for (who, mut times) in [("busline", ours), ("lapin", theirs)] {
        times.sort_by(f64::total_cmp);
        figures.add("publish one, p50 us", who, times[times.len() / 2]);
    }
    Ok(())
}

async fn publish(bus: &Bus, count: usize) -> Result<()> {
    let publisher = bus.publisher(TOPIC).await.map_err(text)?;
    let mut receipts = VecDeque::with_capacity(usize::from(WINDOW));
    for _ in 0..count {
        let message: Message = publisher.message("key", &PAYLOAD[..]).map_err(text)?;
        receipts.extend(publisher.send(vec![message]).await.map_err(text)?);
        if receipts.len() >= usize::from(WINDOW) {
            stored(receipts.pop_front()).await?;
        }
    }
    while !receipts.is_empty() {
        stored(receipts.pop_front()).await?;
    }
    Ok(())
}

async fn stored(receipt: Option<busline::PendingReceipt>) -> Result<()> {
    let Some(receipt) = receipt else { return Ok(()) };
    match receipt.await.map_err(text)? {
        Receipt::Stored { .. } => Ok(()),
        other => Err(format!("a message is not stored: {other:?}")),
    }
}

/// As a program does by default: it settles, and looks at what became of it when it is there.
async fn consume(bus: &Bus, count: usize) -> Result<()> {
    let group = bus.group(TOPIC, GROUP).map_err(text)?.max_in_flight(u32::from(WINDOW));
    let mut consumer = group.subscribe().await.map_err(text)?;
    let mut settled = VecDeque::new();
    for _ in 0..count {
        let delivery = consumer.next().await.map_err(text)?.ok_or("it ended")?;
        settled.push_back(delivery.ack());
        if settled.len() >= usize::from(WINDOW) / 2
            && let Some(oldest) = settled.pop_front()
        {
            oldest.await.map_err(text)?;
        }
    }
    for settled in settled {
        settled.await.map_err(text)?;
    }
    consumer.stop().await.map_err(text)
}

/// The client by itself, on a connection for each direction.
struct Raw {
    publishing: Channel,
    consuming: Connection,
    _connection: Connection,
}

impl Raw {
    async fn connect(url: &str) -> Result<Self> {
        let connect = || Connection::connect(url, ConnectionProperties::default());
        let (connection, consuming) =
            (connect().await.map_err(text)?, connect().await.map_err(text)?);
        let publishing = connection.create_channel().await.map_err(text)?;
        publishing.confirm_select(ConfirmSelectOptions::default()).await.map_err(text)?;
        Ok(Self { publishing, consuming, _connection: connection })
    }

    async fn publish(&self, count: usize) -> Result<()> {
        let mut confirms = VecDeque::with_capacity(usize::from(WINDOW));
        for _ in 0..count {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let published = self.publishing.basic_publish(
                TOPIC.into(),
                "key".into(),
                BasicPublishOptions::default(),
                &PAYLOAD,
                properties,
            );
            confirms.push_back(published.await.map_err(text)?);
            if confirms.len() >= usize::from(WINDOW)
                && let Some(oldest) = confirms.pop_front()
            {
                oldest.await.map_err(text)?;
            }
        }
        for confirm in confirms {
            confirm.await.map_err(text)?;
        }
        Ok(())
    }

    /// Acks so many together, and waits until the client has taken each ack.
    async fn consume(&self, count: usize, joined: usize) -> Result<()> {
        let channel = self.consuming.create_channel().await.map_err(text)?;
        channel.basic_qos(WINDOW, BasicQosOptions::default()).await.map_err(text)?;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(QUEUE.into(), "raw".into(), options, FieldTable::default());
        let mut consumer = consumer.await.map_err(text)?;
        for number in 1..=count {
            let delivery = consumer.next().await.ok_or("it ended")?.map_err(text)?;
            if number % joined == 0 || number == count {
                let options = BasicAckOptions { multiple: joined > 1 };
                channel.basic_ack(delivery.delivery_tag, options).await.map_err(text)?;
            }
        }
        channel.basic_cancel("raw".into(), BasicCancelOptions::default()).await.map_err(text)?;
        channel.close(200, "done".into()).await.map_err(text)
    }
}
