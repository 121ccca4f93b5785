//! What a store does for the works: publish, read, settle, each as its own manual says to do it best.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::measure::{Latencies, now_ns};
use crate::payload::{Count, Payload, number_of};

/// Between two messages to a consumer that is to fall asleep.
pub(crate) const PAUSE: Duration = Duration::from_micros(500);

/// How long ago it was that a body was published which begins with the time.
pub(crate) fn since(body: &[u8]) -> Result<Duration> {
    let sent = number_of(body).ok_or("a body is too short")?;
    Ok(Duration::from_nanos(now_ns().saturating_sub(sent)))
}

/// When what was committed is on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// When the system writes it: it survives a crash of the process.
    Process,
    /// The same, until [`Store::sync`] returns.
    End,
    /// When the commit returns.
    Power,
}

impl Sync {
    /// By its name on the command line.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text {
            "process" => Ok(Self::Process),
            "end" => Ok(Self::End),
            "power" => Ok(Self::Power),
            other => Err(format!("'{other}' is no way to sync")),
        }
    }
}

/// Where a store is, and how durable.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// An empty folder, or one that the same store has filled.
    pub(crate) dir: PathBuf,
    /// When commits are on the medium.
    pub(crate) sync: Sync,
    /// A server is reached through the network stack, not through a Unix socket.
    pub(crate) tcp: bool,
}

/// A store with one queue of messages in it.
pub(crate) trait Store: Sized {
    /// Opens or creates it.
    fn open(target: &Target) -> Result<Self>;

    /// Publishes messages in commits of so many; visible to every reader when it returns.
    fn publish(
        &mut self,
        payload: &mut Payload,
        numbers: Range<u64>,
        commit_len: u64,
    ) -> Result<()>;

    /// Puts on the medium what was committed.
    fn sync(&mut self) -> Result<()> {
        Err(unable("sync by itself"))
    }

    /// Reads everything from the start, a message at a time, as cheaply as the store can lend it.
    fn read(&mut self) -> Result<Count>;

    /// Claims, reads and removes everything, in commits of so many.
    fn settle(&mut self, _commit_len: u64) -> Result<Count> {
        Err(unable("settle"))
    }

    /// How many messages there are, told without reading them.
    fn last(&mut self) -> Result<u64> {
        Err(unable("say where it ends"))
    }

    /// Publishers at once, each of so many messages, one durable commit each.
    fn publish_from_many(&mut self, _publishers: u64, _each: u64) -> Result<()> {
        Err(unable("publish from many"))
    }

    /// From publishing to a consumer that slept.
    fn wake(&mut self, _messages: u64) -> Result<Latencies> {
        Err(unable("wake a consumer"))
    }

    /// Publishes this many messages, the last one in a category of its own, and finds that. Returns
    /// the seconds that finding took.
    fn find(&mut self, _messages: u64) -> Result<f64> {
        Err(unable("find a category"))
    }
}

fn unable(what: &str) -> String {
    format!("this peer is not asked to {what}")
}

/// Runs a publisher of each number on a thread of its own.
pub(crate) fn on_threads<P>(
    publishers: u64,
    each: u64,
    publisher: impl Fn() -> Result<P>,
) -> Result<()>
where
    P: FnMut(u64, &mut Payload) -> Result<()> + Send,
{
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..publishers {
            let mut publish = publisher()?;
            threads.push(scope.spawn(move || {
                let mut payload = Payload::new(100);
                (number * each..(number + 1) * each)
                    .try_for_each(|number| publish(number, &mut payload))
            }));
        }
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err("a publisher panicked".to_owned()))
        })
    })
}
