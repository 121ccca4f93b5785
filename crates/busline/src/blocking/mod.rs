//! Publishing from code without async: threads that wait until a message is stored.
//!
//! ```
//! use busline::blocking::Publisher;
//!
//! let publisher = Publisher::open("memory:", "shop")?;
//! publisher.event("OrderPlaced", "conversation-1", &("order", 1), None)?;
//! publisher.close()?;
//! # Ok::<(), busline::Error>(())
//! ```

mod attempts;
pub(crate) mod worker;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Dialect, Transport};
use busline_core::{
    Clock, Error, ErrorKind, Message, PendingReceipt, PublishError, Result, SystemClock,
};
use busline_transports::Registry;
use serde::Serialize;

use self::attempts::Attempts;
use self::worker::Worker;
use crate::bus::Bus;
use crate::config::BusConfig;
use crate::service::wire::{self, Conversation, Format, LogLine};

/// How long one attempt to connect, or to get a receipt, may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// How long closing may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Publishes events, configurations and logs as the endpoint of the Python library does, and waits for each until it
/// is stored. Services understand them as those of a service; on RabbitMQ configurations and logs do not outlive a
/// restart of the broker.
///
/// Any number of threads may use it at once, and all clones share one connection, which is made by the
/// first call. What fails for a time is tried again: at once, after one second, after two, and so on
/// up to thirty. `attempts_max` bounds the attempts in all; with `None` there are as many as it takes, for
/// ever. An attempt ends with an error, a refusal of the broker, or after five seconds; a message that was
/// accepted but not answered is waited for, not sent again. Bad input is never tried again.
///
/// Nothing is mandatory: what nobody wants vanishes. In async code every call fails with `Refused`, as it
/// would hold up others; there is [`Bus`] for that. In a process that was forked every call fails with
/// `Closed`: open another one there.
#[derive(Clone)]
pub struct Publisher(Arc<Shared>);

struct Shared {
    service: String,
    format: Format,
    opener: Arc<Opener>,
    worker: Worker,
}

/// Opens the bus when it is needed first.
struct Opener {
    /// Those to open by, or transports that are there.
    transports: Vec<Arc<dyn Transport>>,
    config: BusConfig,
    clock: Arc<dyn Clock>,
    bus: tokio::sync::Mutex<Option<Bus>>,
}

impl Publisher {
    /// For the bus of a URL; several, separated by commas, are tried in turn. It does not connect yet.
    ///
    /// `Limit` for a malformed URL or option, `Refused` inside of async code.
    pub fn open(urls: &str, service: &str) -> Result<Self> {
        Self::with_config(BusConfig::new(urls), service)
    }

    /// As [`Publisher::open`], by a configuration.
    pub fn with_config(config: BusConfig, service: &str) -> Result<Self> {
        let transports = config.transports(&Registry::new())?;
        Self::over(transports, config, SystemClock::shared(), service)
    }

    /// As [`Publisher::open`], over transports of one's own and with the clock that waiting goes by; the
    /// URLs of the configuration are not looked at.
    pub fn over(
        transports: Vec<Arc<dyn Transport>>,
        mut config: BusConfig,
        clock: Arc<dyn Clock>,
        service: &str,
    ) -> Result<Self> {
        let worker = Worker::start("publisher")?;
        let attempt_ms_max = u64::try_from(ATTEMPT_MAX.as_millis()).unwrap_or(u64::MAX);
        config.dialect = Dialect::Eventail;
        config.first_connect_ms_max = config.first_connect_ms_max.min(attempt_ms_max);
        Ok(Self(Arc::new(Shared {
            service: service.to_owned(),
            format: Format::default(),
            opener: Arc::new(Opener {
                transports,
                config,
                clock,
                bus: tokio::sync::Mutex::default(),
            }),
            worker,
        })))
    }

    /// Publishes an event. See [`Publisher`] for what is tried again, and how often.
    pub fn event(
        &self,
        name: &str,
        conversation: &str,
        payload: &(impl Serialize + ?Sized),
        attempts_max: Option<u32>,
    ) -> Result<()> {
        let (format, conversation) = (self.0.format, Conversation::new(conversation));
        let body = wire::encode_ascii(format, payload)?;
        let event = wire::event(name, format, body, &conversation)?;
        self.publish(dressed(event, encoding(format)), attempts_max)
    }

    /// Publishes a configuration. As [`Publisher::event`].
    pub fn configuration(
        &self,
        name: &str,
        payload: &(impl Serialize + ?Sized),
        attempts_max: Option<u32>,
    ) -> Result<()> {
        let format = self.0.format;
        let body = wire::encode_ascii(format, payload)?;
        let mut configuration = wire::configuration(name, format, body)?;
        configuration.properties.conversation_id = None;
        self.publish(dressed(configuration, encoding(format)), attempts_max)
    }

    /// Publishes a log line; the conversation may be empty. As [`Publisher::event`].
    pub fn log(&self, line: &LogLine, conversation: &str, attempts_max: Option<u32>) -> Result<()> {
        let now = self.0.opener.clock.now();
        let line = line.message(&self.0.service, conversation, now)?;
        self.publish(dressed(line.content_type("application/data"), BINARY), attempts_max)
    }

    /// Publishes a message of any topic. As [`Publisher::event`].
    pub fn publish(&self, message: Message, attempts_max: Option<u32>) -> Result<()> {
        let mut attempts = Attempts::new(attempts_max)?;
        let opener = Arc::clone(&self.0.opener);
        self.wait(async move {
            let clock = Arc::clone(&opener.clock);
            let mut sending = Sending { opener, message, receipt: None };
            loop {
                match sending.attempt().await {
                    Ok(()) => return Ok(()),
                    Err(error) => attempts.failed(&*clock, error).await?,
                }
            }
        })?
        .map_err(|error: Error| error.during("publish"))
    }

    /// Disconnects; calls of other threads that still wait fail, and every later one: `Closed`.
    ///
    /// A publisher that is dropped instead disconnects by itself, as every one of its calls has ended.
    pub fn close(&self) -> Result<()> {
        let opener = Arc::clone(&self.0.opener);
        let closed = self.wait(async move {
            match opener.bus.lock().await.take() {
                Some(bus) => bus.close(CLOSE_MAX).await,
                None => Ok(()),
            }
        });
        self.0.worker.stop()?;
        closed?
    }

    /// Runs something on the publisher's thread and waits for it.
    fn wait<T: Send + 'static>(&self, what: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.0.worker.wait(what)
    }
}

impl Publisher {
    /// Writes JSON instead of CBOR; for a publisher that nobody else has yet.
    #[must_use]
    pub fn json(mut self) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.format = Format::Json;
        }
        self
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("service", &self.0.service)
            .field("config", &self.0.opener.config)
            .finish_non_exhaustive()
    }
}

impl Opener {
    /// The bus, which is opened if it is not open: one attempt.
    async fn bus(&self) -> Result<Bus> {
        let mut bus = self.bus.lock().await;
        if let Some(bus) = &*bus {
            return Ok(bus.clone());
        }
        let (transports, config) = (self.transports.clone(), self.config.clone());
        let opened = Bus::over_once(transports, config, Arc::clone(&self.clock)).await?;
        Ok(bus.insert(opened).clone())
    }
}

/// A message on its way.
struct Sending {
    opener: Arc<Opener>,
    message: Message,
    /// The answer to a message that was accepted; it is kept and sent again by the bus itself.
    receipt: Option<PendingReceipt>,
}

impl Sending {
    async fn attempt(&mut self) -> Result<()> {
        let clock = Arc::clone(&self.opener.clock);
        let answer = async {
            if self.receipt.is_none() {
                let publisher =
                    self.opener.bus().await?.publisher(self.message.topic.clone()).await?;
                let receipts = publisher.send(vec![self.message.clone()]).await?;
                self.receipt = receipts.into_iter().next();
            }
            match &mut self.receipt {
                Some(receipt) => Ok(receipt.await),
                None => Err(Error::new(ErrorKind::Other, "the transport gave no receipt")),
            }
        };
        let answer = tokio::select! {
            biased;
            answer = answer => answer?,
            () = clock.sleep(ATTEMPT_MAX) => {
                return Err(Error::new(ErrorKind::Elapsed, "the broker does not answer")
                    .context("after", format!("{ATTEMPT_MAX:?}"))
                    .hint("the message may be stored nevertheless"));
            }
        };
        self.receipt = None;
        match answer {
            Ok(_) => Ok(()),
            // A broker that refuses a message may take it later, as a queue that is full.
            Err(PublishError::Nacked(error)) if !error.is_temporary() => {
                Err(Error::new(ErrorKind::Full, "the broker refuses the message").source(error))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// How kombu, which Python's blocking publisher stands on, calls what is no text.
const BINARY: &str = "binary";

fn encoding(format: Format) -> &'static str {
    match format {
        Format::Json => "utf-8",
        _ => BINARY,
    }
}

/// With the properties that kombu adds, by which others can tell it from what a service sends.
fn dressed(mut message: Message, encoding: &'static str) -> Message {
    message.properties.content_encoding = Some(encoding.into());
    message.properties.priority = Some(0);
    message
}

#[cfg(test)]
mod tests;
