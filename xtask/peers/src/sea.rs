//! sea-streamer's file backend: one file of a stream; it never syncs.

use std::ops::Range;
use std::time::Duration;

use sea_streamer::{
    Buffer, Consumer, ConsumerMode, ConsumerOptions, Message, Producer, StreamKey, Streamer,
    StreamerUri,
};
use sea_streamer_file::{
    AutoStreamReset, FileConnectOptions, FileConsumerOptions, FileProducer, FileStreamer,
};
use tokio::runtime::Runtime;

use crate::payload::{Count, KEY_LEN, Payload};
use crate::store::{Store, Sync, Target};
use crate::{Result, failed};

/// A reader that gets nothing for this long gets nothing any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// A streamer, and the runtime that it lives on.
pub(crate) struct SeaStreamer {
    runtime: &'static Runtime,
    streamer: FileStreamer,
    producer: FileProducer,
    published: u64,
}

fn stream() -> Result<StreamKey> {
    StreamKey::new("log").map_err(failed)
}

impl Store for SeaStreamer {
    fn open(target: &Target) -> Result<Self> {
        if target.sync != Sync::Process {
            return Err("sea-streamer's file backend never syncs".to_owned());
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        // Not ended: its reading thread may wait for ever then, and the process ends anyway.
        let runtime: &'static Runtime = Box::leak(Box::new(runtime));
        let uri = format!("file://{}", target.dir.join("log.ss").display());
        let uri: StreamerUri = uri.parse().map_err(failed)?;
        let mut options = FileConnectOptions::default();
        options.set_create_if_not_exists(true);
        options.set_end_with_eos(true);
        options.set_file_size_limit(8 << 30);
        let (streamer, producer) = runtime.block_on(async {
            let streamer = FileStreamer::connect(uri, options).await.map_err(failed)?;
            let producer =
                streamer.create_producer(stream()?, Default::default()).await.map_err(failed)?;
            Ok::<_, String>((streamer, producer))
        })?;
        Ok(Self { runtime, streamer, producer, published: 0 })
    }

    /// Flushed once, at the end: there are no commits.
    fn publish(&mut self, payload: &mut Payload, numbers: Range<u64>, _: u64) -> Result<()> {
        self.runtime.block_on(async {
            let mut value = Vec::new();
            for number in numbers {
                let (key, body) = payload.message(number);
                value.clear();
                value.extend_from_slice(key);
                value.extend_from_slice(body);
                self.producer.send(value.as_slice()).map_err(failed)?;
                self.published += 1;
                if number % 4096 == 0 {
                    // Its writer is a task, and memory is not bounded.
                    tokio::task::yield_now().await;
                }
            }
            self.producer.flush().await.map_err(failed)
        })
    }

    fn read(&mut self) -> Result<Count> {
        self.runtime.block_on(async {
            let mut options = FileConsumerOptions::new(ConsumerMode::RealTime);
            options.set_auto_stream_reset(AutoStreamReset::Earliest);
            options.set_live_streaming(true);
            let consumer =
                self.streamer.create_consumer(&[stream()?], options).await.map_err(failed)?;
            let mut count = Count::default();
            while count.messages() < self.published {
                let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
                let next = next.map_err(|_| format!("nothing comes after {count:?}"))?;
                let message = next.map_err(failed)?;
                let message = message.message();
                // What is shorter is a mark of its own.
                if let Some(body) = message.as_bytes().get(KEY_LEN..).filter(|body| body.len() >= 8)
                {
                    count.add(body);
                }
            }
            Ok(count)
        })
    }
}
