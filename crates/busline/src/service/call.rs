//! Commands that are awaited: the result comes back to the instance that sent the command.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::{Error, KeyPattern, Patterns, Receipt, Result, new_message_id};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::core::{Core, within};
use super::wire::{self, Incoming, Kind, Status};
use crate::consume::Consumer;

/// Between two attempts to receive results again.
const AGAIN: Duration = Duration::from_millis(200);

/// Why a call has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The service answered with an error; [`Answer::payload`] has what it said.
    Fault(Answer),
    /// No service takes this command.
    Unroutable,
    /// It did not answer in time: whether the command is done nobody knows.
    Elapsed(Duration),
    /// It could not be sent, or the answer is not of the expected shape.
    Failed(Error),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(answer) => {
                let status = answer.0.status.as_deref().unwrap_or_default();
                write!(f, "the command is answered with the status {status}")
            }
            Self::Unroutable => f.write_str("no service takes this command"),
            Self::Elapsed(limit) => write!(f, "the command is not answered within {limit:?}"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a service said instead of a success.
#[derive(Debug)]
pub struct Answer(Box<Incoming>);

impl Answer {
    /// Its payload as a value of this type.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        self.0.payload()
    }
}

/// Sends a command and waits for its result.
pub(super) async fn call<Req, Resp>(
    context: &Context,
    key: &str,
    payload: &Req,
    timeout: Duration,
) -> Result<Resp, CallError>
where
    Req: Serialize + Sync + ?Sized,
    Resp: DeserializeOwned,
{
    let core = context.core();
    let return_key = core.calls.return_key.get_or_try_init(|| listen(core)).await?;
    let id = new_message_id();
    let (result, _waiting) = core.calls.wait(id.clone());
    let message = context.command_message(key, payload, return_key, &id)?;
    let answered = async {
        let receipt = context.send_untracked(message, true).await?;
        tokio::pin!(result);
        tokio::select! {
            biased;
            answer = &mut result => return answer.map_err(|_| closed().into()),
            published = receipt => match published {
                Ok(Receipt::Unroutable) => return Err(CallError::Unroutable),
                Ok(_) => {}
                Err(error) => return Err(CallError::Failed(error.into())),
            },
        }
        result.await.map_err(|_| closed().into())
    };
    let answer = within(&**core.clock(), timeout, "the result", answered)
        .await
        .map_err(|_| CallError::Elapsed(timeout))??;
    match answer.status.as_deref() {
        Some(status) if status == Status::Success.as_str() => Ok(answer.payload()?),
        _ => Err(CallError::Fault(Answer(Box::new(answer)))),
    }
}

/// Subscribes to the return key of this instance; the key.
async fn listen(core: &Arc<Core>) -> Result<String> {
    let key = format!("reply.{}.{}", core.service(), new_message_id());
    let mut consumer = subscribe(core, &key).await?;
    let (core, return_key) = (Arc::clone(core), key.clone());
    let running = tokio::spawn(async move {
        while let Err(error) = take_results(&core, &mut consumer).await {
            tracing::error!(%error, "results of calls are not received");
            let Some(again) = subscribe_again(&core, &return_key).await else { return };
            consumer = again;
        }
    });
    // It ends with the service: nobody waits for it.
    drop(running);
    Ok(key)
}

async fn subscribe(core: &Core, key: &str) -> Result<Consumer> {
    let patterns = Patterns::new(vec![KeyPattern::try_from(key)?]);
    core.bus.broadcast(wire::topic(Kind::Command))?.patterns(patterns).subscribe().await
}

/// Somebody deleted the queue: what is answered meanwhile is lost, what is called later is not.
async fn subscribe_again(core: &Core, key: &str) -> Option<Consumer> {
    loop {
        tokio::select! {
            biased;
            () = core.stopper.finished() => return None,
            () = core.clock().sleep(AGAIN) => {}
        }
        match subscribe(core, key).await {
            Ok(consumer) => return Some(consumer),
            Err(error) => tracing::error!(%error, "results of calls are still not received"),
        }
    }
}

/// Hands results to those who wait, until nothing is waited for any more.
async fn take_results(core: &Core, consumer: &mut Consumer) -> Result<()> {
    loop {
        let delivery = tokio::select! {
            biased;
            () = core.stopper.finished() => return Ok(()),
            next = consumer.next() => match next? {
                Some(delivery) => delivery,
                None => return Ok(()),
            },
        };
        // What is no result, or nobody's any more, is of no use to anybody.
        if let Ok(result) = wire::decode(Kind::Result, &delivery.message)
            && let Some(id) = result.correlation_id.clone()
        {
            core.calls.resolve(&id, result);
        }
        delivery.settle_quietly(busline_core::Outcome::Ack);
    }
}

fn closed() -> Error {
    Error::new(busline_core::ErrorKind::Closed, "the service has stopped")
}
