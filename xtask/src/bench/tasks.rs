//! Many asynchronous publishers of one session, each of which awaits the receipt of each message.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Batch, Session};

use crate::log::failed;
use crate::measure::Timer;
use crate::payload::Payload;
use crate::{Result, port};

/// Publishes from tasks, so many messages each, into a new bus in a folder; returns how long it took.
pub(crate) fn publish(dir: &Path, tasks: u64, each: u64) -> Result<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(async {
        let session = port::open(dir, "always").await?;
        let start = Timer::start();
        let publishers: Vec<_> = (0..tasks)
            .map(|task| tokio::spawn(publisher(Arc::clone(&session), task * each, each)))
            .collect();
        for publisher in publishers {
            publisher.await.map_err(failed)??;
        }
        let took = start.took();
        port::read(&*session, tasks * each).await?;
        session.close(Duration::from_secs(60)).await.map_err(failed)?;
        Ok(took)
    })
}

async fn publisher(session: Arc<dyn Session>, first: u64, count: u64) -> Result<()> {
    let topic = port::topic()?;
    let mut payload = Payload::new(100);
    for number in first..first + count {
        let message = port::message(&mut payload, &topic, number)?;
        let receipts = session.send(Batch::from(vec![message])).await.map_err(failed)?;
        port::settle(Some(receipts)).await?;
    }
    Ok(())
}
