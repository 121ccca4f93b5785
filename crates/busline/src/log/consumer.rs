//! Reading a log from any place, with one's own offsets.

use std::sync::Arc;
use std::time::Duration;

use busline_core::{
    Clock, Error, ErrorKind, Key, KeyPattern, Offset, Patterns, Position, Record, Result,
    Timestamp, Topic,
};
use futures_util::{Stream, stream};

use super::hermes::Event;
use super::place;
use super::producer::CLOSE_MAX;
use crate::bus::Bus;
use crate::consume::LogReader;

/// How many records are fetched at once of a category that is asked for again and again.
const FOUND_MAX: usize = 64;
/// How often it is looked, after a wait is over, whether the bus is there at all.
const LOOK: Duration = Duration::from_millis(50);

/// What becomes of a message that cannot be read: decoded by who asked for it, or had from a damaged log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnreadable {
    /// The consumer stays before it and says so, again and again, until it is told to skip or seeks.
    #[default]
    Stop,
    /// It is reported once, as an error with its offset, and the next call goes on behind it.
    Skip,
}

/// A reader of a log that keeps its own place: it settles nothing, and nobody sees it.
///
/// It begins at the beginning unless it seeks. A lost connection is made again, and it goes on where it was.
#[derive(Debug)]
pub struct Consumer {
    bus: Bus,
    is_own_bus: bool,
    topic: Topic,
    timeout: Option<Duration>,
    on_unreadable: OnUnreadable,
    /// Of the next message that was not handed out.
    place: Position,
    /// Reads from there; opened when it is needed.
    open: Option<Open>,
    /// What stopped it, and the place behind that: it is said again until it is told what to do.
    stopped: Option<(Error, Option<Position>)>,
    /// Damage that was met and not told yet.
    damaged: Option<Error>,
    /// Where the last unreadable message is.
    unreadable: Option<Offset>,
    /// How many of them were passed over.
    skipped: u64,
}

#[derive(Debug)]
struct Open {
    category: Option<Key>,
    chunk_max: usize,
    /// Whether it has given anything.
    has_found: bool,
    reader: LogReader,
}

impl Consumer {
    /// Opens the bus of a URL for this consumer, which closes it.
    ///
    /// Errors: as [`Bus::open`]. Whether the topic has a log is seen when something is read.
    pub async fn open<T>(url: &str, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic: Topic = topic.try_into()?;
        Self::owning(&Bus::open(url).await?, topic)
    }

    /// On a bus that is closed with it.
    pub(super) fn owning(bus: &Bus, topic: Topic) -> Result<Self> {
        Ok(Self { is_own_bus: true, ..Self::on(bus, topic)? })
    }

    /// On a bus that is open, and stays so. Nothing is read yet.
    pub fn on<T>(bus: &Bus, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Ok(Self {
            bus: bus.clone(),
            is_own_bus: false,
            topic: topic.try_into()?,
            timeout: None,
            on_unreadable: OnUnreadable::default(),
            place: Position::Earliest,
            open: None,
            stopped: None,
            damaged: None,
            unreadable: None,
            skipped: 0,
        })
    }

    /// As [`Consumer::set_timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.set_timeout(timeout);
        self
    }

    /// What becomes of a message that cannot be read; it stops there unless set.
    #[must_use]
    pub fn on_unreadable(mut self, on_unreadable: OnUnreadable) -> Self {
        self.set_on_unreadable(on_unreadable);
        self
    }

    /// As [`Consumer::on_unreadable`].
    pub fn set_on_unreadable(&mut self, on_unreadable: OnUnreadable) {
        self.on_unreadable = on_unreadable;
    }

    /// How long to wait for each next message, from the call on; `None`, as it is unless set, waits for ever.
    ///
    /// What is in the log already comes however short it is: with zero the log is read as it is now. While
    /// the bus cannot be reached a call ends with `Elapsed` after this long, and may be made again.
    pub fn set_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        self.timeout = timeout.into();
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The place of the next message, to keep and to go on from later; `None` before it is known, as nothing was
    /// read yet.
    pub fn position(&self) -> Option<Offset> {
        match &self.place {
            Position::Offset(offset) => Some(offset.clone()),
            _ => None,
        }
    }

    /// Where the last message is that could not be read.
    pub fn unreadable(&self) -> Option<&Offset> {
        self.unreadable.as_ref()
    }

    /// The oldest place that the log has; `NotFound` when there is no such topic.
    pub fn earliest(&self) -> impl Future<Output = Result<Option<Offset>>> + Send {
        place::earliest(&self.bus, &self.topic)
    }

    /// Goes to a place: the next message is the one there. After an error it stays where it was.
    ///
    /// `NotFound` names the earliest place when retention has removed this one, `Limit` the end when it is
    /// beyond it, or of another topic. The place behind the last message is one: there it waits.
    pub async fn seek(&mut self, offset: &Offset) -> Result<()> {
        self.seek_to(Position::Offset(offset.clone())).await
    }

    /// Goes to the oldest message that there is.
    pub async fn seek_to_beginning(&mut self) -> Result<()> {
        self.seek_to(Position::Earliest).await
    }

    /// Goes behind the newest message: only what comes from now on is read.
    pub async fn seek_to_end(&mut self) -> Result<()> {
        self.seek_to(Position::Latest).await
    }

    /// Goes to the first message that is not older than this.
    pub async fn seek_to_time(&mut self, time: Timestamp) -> Result<()> {
        self.seek_to(Position::Time(time)).await
    }

    async fn seek_to(&mut self, to: Position) -> Result<()> {
        let reader = place::open(&self.bus, &self.topic, &to, Patterns::all(), None).await?;
        self.place = match (to, reader.position()) {
            // Where that is was found out just now, and must not move when nothing is read.
            (Position::Latest | Position::Time(_), Some(offset)) => Position::Offset(offset),
            (to, _) => to,
        };
        self.open = Some(Open { category: None, chunk_max: 0, has_found: false, reader });
        (self.stopped, self.damaged) = (None, None);
        Ok(())
    }

    /// Goes behind the message that it stopped at; does nothing when it has not stopped, and where only the bus
    /// knows what comes next.
    pub fn skip_unreadable(&mut self) {
        if let Some((_, Some(behind))) = &self.stopped {
            self.place = behind.clone();
            self.stopped = None;
        }
    }

    /// The next message; `None` when none came in time. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        let got = self.get(None).await?;
        Ok(got.map(|got| self.go_behind(got)))
    }

    /// The next event of Hermes; `None` when none came in time. Cancel safe.
    pub async fn next_event(&mut self) -> Result<Option<Event>> {
        self.next_with(Event::from_record).await
    }

    /// The next message, decoded; `None` when none came in time. Cancel safe.
    ///
    /// One that is not decoded is unreadable: see [`OnUnreadable`].
    pub async fn next_with<T>(
        &mut self,
        decode: impl FnMut(&Record) -> Result<T>,
    ) -> Result<Option<T>> {
        let got = self.get(None).await?;
        got.map(|got| self.decoded(got, decode)).transpose()
    }

    /// The next message of a category, which is its key; `None` when none came in time. Cancel safe.
    ///
    /// The consumer goes behind what was found, and stays where it was when nothing was. Messages of other
    /// categories are passed over where they lie: they are not decoded, and on most buses not even read.
    pub async fn find_next<K>(&mut self, category: K) -> Result<Option<Record>>
    where
        K: TryInto<Key>,
        Error: From<K::Error>,
    {
        let got = self.get(Some(category.try_into()?)).await?;
        Ok(got.map(|got| self.go_behind(got)))
    }

    /// As [`Consumer::find_next`], decoded.
    pub async fn find_next_with<K, T>(
        &mut self,
        category: K,
        decode: impl FnMut(&Record) -> Result<T>,
    ) -> Result<Option<T>>
    where
        K: TryInto<Key>,
        Error: From<K::Error>,
    {
        let got = self.get(Some(category.try_into()?)).await?;
        got.map(|got| self.decoded(got, decode)).transpose()
    }

    /// The messages from here on, until none comes in time. It ends behind an error, unless that is of a
    /// message which is skipped.
    pub fn stream(&mut self) -> impl Stream<Item = Result<Record>> + Send + '_ {
        stream::unfold(Some(self), |consumer| async {
            let consumer = consumer?;
            let skipped = consumer.skipped;
            let item = consumer.next().await.transpose()?;
            let goes_on = item.is_ok() || consumer.skipped > skipped;
            Some((item, goes_on.then_some(consumer)))
        })
    }

    /// The events of Hermes from here on. As [`Consumer::stream`].
    pub fn events(&mut self) -> impl Stream<Item = Result<Event>> + Send + '_ {
        self.stream_with(Event::from_record)
    }

    /// The messages from here on, decoded. As [`Consumer::stream`].
    pub fn stream_with<'a, T: Send + 'a>(
        &'a mut self,
        decode: impl FnMut(&Record) -> Result<T> + Send + 'a,
    ) -> impl Stream<Item = Result<T>> + Send + 'a {
        let state = Some((self, decode));
        stream::unfold(state, |state| async {
            let (consumer, mut decode) = state?;
            let skipped = consumer.skipped;
            let item = consumer.next_with(&mut decode).await.transpose()?;
            let goes_on = item.is_ok() || consumer.skipped > skipped;
            Some((item, goes_on.then_some((consumer, decode))))
        })
    }

    /// How many unreadable messages were passed over.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Closes the bus if it was opened by [`Consumer::open`].
    pub async fn close(self) -> Result<()> {
        if self.is_own_bus { self.bus.close(CLOSE_MAX).await } else { Ok(()) }
    }

    /// The next record, and the place behind it.
    async fn get(&mut self, category: Option<Key>) -> Result<Option<(Record, Position)>> {
        if let Some((stopped, _)) = &self.stopped {
            return Err(stopped.clone());
        }
        let clock = Arc::clone(self.bus.clock());
        let deadline = self.timeout.map(|timeout| clock.monotonic().saturating_add(timeout));
        if self.damaged.is_none() {
            match self.fetch(category, &*clock, deadline).await {
                Err(error) if error.kind() == ErrorKind::Damaged => self.damaged = Some(error),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // Whether it says so once or always, from here on it is said until somebody seeks.
                    let reader = self.open.take().and_then(|open| open.reader.position());
                    let at = self.position().or(reader);
                    return Err(place::explain(&self.bus, &self.topic, at, error).await);
                }
                fetched => {
                    let fetched = fetched?;
                    return Ok(fetched.map(|record| self.with_place_behind(record)));
                }
            }
        }
        Err(self.tell_damage(&*clock, deadline).await)
    }

    fn with_place_behind(&mut self, record: Record) -> (Record, Position) {
        let Some(open) = &mut self.open else {
            let behind = Position::Offset(record.offset.next());
            return (record, behind);
        };
        open.has_found = true;
        let behind = place::behind(&record, &open.reader);
        (record, behind)
    }

    /// Finds out where the damage is that was met: some readers stay before it, others have gone behind it.
    async fn tell_damage(&mut self, clock: &dyn Clock, deadline: Option<Duration>) -> Error {
        let error = self.damaged.clone().expect("it is asked for when there is damage");
        let met = self.open.as_ref().and_then(|open| open.reader.position());
        let (Some(open), Some(met)) = (&mut self.open, met) else {
            self.damaged = None;
            return error;
        };
        let filled = in_time(&self.bus, clock, deadline, open.reader.fill()).await;
        let stays = open.reader.position().as_ref() == Some(&met);
        let (at, behind) = match filled {
            // The damage is kept in mind: it is found out by the next call.
            Err(away) if away.is_temporary() => return away,
            Err(again) if again.kind() == ErrorKind::Damaged && stays => {
                (self.damaged, self.open) = (None, None);
                let behind = place::step(&met, 1);
                (met, behind)
            }
            filled => {
                let next = filled.err();
                if next.as_ref().is_some_and(|next| next.kind() != ErrorKind::Damaged) {
                    self.open = None;
                }
                // What comes right behind it may be damaged too, and is told next.
                self.damaged = next.filter(|next| next.kind() == ErrorKind::Damaged);
                (place::step(&met, -1).unwrap_or_else(|| met.clone()), Some(met))
            }
        };
        self.unreadable_at(at, behind.map(Position::Offset), &error)
    }

    fn go_behind(&mut self, (record, behind): (Record, Position)) -> Record {
        self.place = behind;
        record
    }

    fn decoded<T>(
        &mut self,
        (record, behind): (Record, Position),
        mut decode: impl FnMut(&Record) -> Result<T>,
    ) -> Result<T> {
        match decode(&record) {
            Ok(decoded) => {
                self.place = behind;
                Ok(decoded)
            }
            Err(error) => Err(self.unreadable_at(record.offset, Some(behind), &error)),
        }
    }

    /// Takes note of a message that cannot be read; the error that says where it is. Without a place behind it
    /// nobody can go there.
    fn unreadable_at(&mut self, at: Offset, behind: Option<Position>, error: &Error) -> Error {
        let error = error.clone().context("topic", &self.topic).context("offset", &at);
        match (self.on_unreadable, behind) {
            (OnUnreadable::Skip, Some(behind)) => {
                self.skipped += 1;
                self.place = behind;
            }
            (_, behind) => {
                self.place = Position::Offset(at.clone());
                (self.open, self.damaged) = (None, None);
                self.stopped = Some((error.clone(), behind));
            }
        }
        self.unreadable = Some(at);
        error
    }

    /// The next record of the category from the place on; `None` when the time is over.
    async fn fetch(
        &mut self,
        category: Option<Key>,
        clock: &dyn Clock,
        deadline: Option<Duration>,
    ) -> Result<Option<Record>> {
        self.ensure(category, clock, deadline).await?;
        loop {
            let Some(Open { category, reader, .. }) = &mut self.open else { return Ok(None) };
            if let Some(record) = in_time(&self.bus, clock, deadline, reader.next()).await? {
                // A category that looks like a pattern selects more than itself.
                if category.as_ref().is_none_or(|wanted| record.message.key == *wanted) {
                    return Ok(Some(record));
                }
                continue;
            }
            let time_is_over = async {
                match deadline {
                    Some(deadline) if clock.monotonic() >= deadline => {}
                    Some(deadline) => clock.sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = time_is_over => return Ok(None),
                waited = reader.wait() => waited?,
            }
        }
    }

    /// Has a reader at the place that sees this category, or all.
    async fn ensure(
        &mut self,
        category: Option<Key>,
        clock: &dyn Clock,
        deadline: Option<Duration>,
    ) -> Result<()> {
        let is_same = |open: &Open| open.category == category;
        // The first one is to come as soon as it is found; who goes on asking wants many.
        let chunk_max = match (&category, &self.open) {
            (None, _) => 0,
            (Some(_), Some(open)) if is_same(open) && open.has_found => FOUND_MAX,
            (Some(_), _) => 1,
        };
        if self.open.as_ref().is_some_and(|open| is_same(open) && open.chunk_max >= chunk_max) {
            return Ok(());
        }
        let (patterns, chunk) = match &category {
            Some(category) => (only(category), Some(chunk_max)),
            None => (Patterns::all(), None),
        };
        let opening = place::open(&self.bus, &self.topic, &self.place, patterns, chunk);
        let reader = in_time(&self.bus, clock, deadline, opening).await?;
        self.open = Some(Open { category, chunk_max, has_found: false, reader });
        Ok(())
    }
}

/// The patterns that select a category, and as little else as can be said.
fn only(category: &Key) -> Patterns {
    // Whatever a pattern cannot say is compared afterwards.
    KeyPattern::new(category.as_str()).map_or(Patterns::all(), |pattern| Patterns::new([pattern]))
}

/// Awaits what is there already, however long that takes; but not a bus that is away, once the time is over.
async fn in_time<T>(
    bus: &Bus,
    clock: &dyn Clock,
    deadline: Option<Duration>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let away = async {
        let Some(deadline) = deadline else { return std::future::pending().await };
        clock.sleep_until(deadline).await;
        // Twice, as one look may meet somebody else who asks for the connection.
        let mut seen_away = 0;
        while seen_away < 2 {
            clock.sleep(LOOK).await;
            seen_away = if bus.is_connected() { 0 } else { seen_away + 1 };
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = away => Err(Error::new(ErrorKind::Elapsed, "the bus cannot be reached")
            .context("bus", bus)
            .hint("ask again: the consumer is where it was")),
    }
}
