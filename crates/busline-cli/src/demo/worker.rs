//! One process of the demo. It ends when its standard input does: nobody is left to work for then.

use std::collections::VecDeque;
use std::io::BufRead;

use busline::{Bus, Consumer, Delivery, PendingReceipt, Receipt, Settled, new_message_id};
use tokio::sync::mpsc;

use super::data::{Quake, Records};
use super::event::{Event, GO};
use super::{ALERTS, HOLD, STATISTICS, TOPIC};
use crate::app::{App, Missing};
use crate::demo::args::{Role, WorkerArgs};
use crate::exit::{self, Failure, Outcome};

/// How many messages are sent at a time.
const BATCH: usize = 64;

/// The most messages sent and not receipted.
const WINDOW: usize = 1024;

/// Works until standard input ends.
pub(crate) async fn work(app: &mut App, args: WorkerArgs) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let mut worker = Worker { app, commands: commands()?, settled: 0, redelivered: 0 };
    match args.role {
        Role::Publisher => worker.publish(&bus, args.data.as_deref()).await?,
        Role::Alerts => worker.alerts(&bus).await?,
        Role::Statistics => {
            let consumer = bus.group(TOPIC, STATISTICS)?.join().await?;
            worker.tell(Event::Ready)?;
            worker.settle_all(consumer, Vec::new()).await?;
        }
        Role::Ticker => worker.tick(&bus).await?,
    }
    app.close(&bus).await
}

/// The lines of standard input; the channel ends with it.
fn commands() -> Outcome<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::Builder::new()
        .name("busline-input".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        })
        .map_err(|error| Failure::new(exit::PROBLEM, format!("a thread: {error}")))?;
    Ok(receiver)
}

struct Worker<'a> {
    app: &'a mut App,
    commands: mpsc::Receiver<String>,
    settled: u64,
    redelivered: u64,
}

impl Worker<'_> {
    fn tell(&mut self, event: Event) -> Outcome {
        self.app.out.line(&event)?;
        Ok(self.app.out.flush()?)
    }

    /// Turns every record into a message; done when every receipt is in.
    async fn publish(&mut self, bus: &Bus, data: Option<&std::path::Path>) -> Outcome {
        let publisher = bus.publisher(TOPIC).await?;
        let mut records = Records::open(data)?;
        let mut pending = VecDeque::new();
        let mut stored = 0;
        let mut ended = false;
        while !ended {
            let mut batch = Vec::with_capacity(BATCH);
            while batch.len() < BATCH && !ended {
                match records.next()? {
                    None => ended = true,
                    Some((quake, line)) => batch.push(
                        publisher
                            .message(quake.key()?, line)?
                            .content_type("application/json")
                            .message_id(new_message_id()),
                    ),
                }
            }
            pending.extend(publisher.send(batch).await?);
            while pending.len() > WINDOW {
                stored += receipted(pending.pop_front()).await?;
            }
            if matches!(self.commands.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)) {
                return Ok(());
            }
        }
        while !pending.is_empty() {
            stored += receipted(pending.pop_front()).await?;
        }
        self.tell(Event::Published { stored })
    }

    /// Holds what it gets until it is told to go on: somebody is going to be killed meanwhile.
    async fn alerts(&mut self, bus: &Bus) -> Outcome {
        let group = bus.group(TOPIC, ALERTS)?.max_in_flight(HOLD);
        let mut consumer = group.join().await?;
        self.tell(Event::Ready)?;
        let mut held = Vec::new();
        loop {
            tokio::select! {
                command = self.commands.recv() => match command.as_deref() {
                    Some(GO) => break,
                    Some(_) => {}
                    None => return Ok(consumer.stop().await?),
                },
                chunk = consumer.next_chunk() => {
                    held.extend(chunk?.unwrap_or_default());
                    self.tell(Event::Holding { deliveries: held.len() as u64 })?;
                }
            }
        }
        self.settle_all(consumer, held).await
    }

    /// Settles what it holds and whatever comes, until standard input ends.
    async fn settle_all(&mut self, mut consumer: Consumer, held: Vec<Delivery>) -> Outcome {
        self.settle(held).await?;
        loop {
            let chunk = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(_) => continue,
                    None => break,
                },
                chunk = consumer.next_chunk() => chunk?,
            };
            let Some(chunk) = chunk else { break };
            self.settle(chunk).await?;
        }
        Ok(consumer.stop().await?)
    }

    async fn settle(&mut self, deliveries: Vec<Delivery>) -> Outcome {
        if deliveries.is_empty() {
            return Ok(());
        }
        let redelivered = deliveries.iter().filter(|delivery| delivery.attempt.number > 1);
        self.redelivered += redelivered.count() as u64;
        let settling: Vec<_> = deliveries.into_iter().map(decide).collect();
        for settled in settling {
            settled.await?;
            self.settled += 1;
        }
        self.tell(Event::Settled { deliveries: self.settled, redelivered: self.redelivered })
    }

    /// A broadcast: it sees what all the others share.
    async fn tick(&mut self, bus: &Bus) -> Outcome {
        let mut consumer = bus.broadcast(TOPIC)?.subscribe().await?;
        self.tell(Event::Ready)?;
        let mut deliveries = 0;
        loop {
            let chunk = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(_) => continue,
                    None => break,
                },
                chunk = consumer.next_chunk() => chunk?,
            };
            let Some(chunk) = chunk else { break };
            deliveries += chunk.len() as u64;
            let settling: Vec<_> = chunk.into_iter().map(Delivery::ack).collect();
            for settled in settling {
                settled.await?;
            }
            self.tell(Event::Seen { deliveries })?;
        }
        Ok(consumer.stop().await?)
    }
}

async fn receipted(receipt: Option<PendingReceipt>) -> Outcome<u64> {
    match receipt {
        None => Ok(0),
        Some(receipt) => match receipt.await? {
            Receipt::Stored { .. } => Ok(1),
            _ => Err(Failure::new(exit::PROBLEM, "a message was not stored")),
        },
    }
}

/// An earthquake is done; anything else is rejected, with the reason.
fn decide(delivery: Delivery) -> Settled {
    match Quake::parse(&delivery.message.payload) {
        Ok(quake) => match quake.rejection() {
            None => delivery.ack(),
            Some(reason) => delivery.reject(reason),
        },
        Err(error) => delivery.reject(format!("no record of an earthquake: {error}")),
    }
}
