//! An open bus directory: the topics that this process uses, each a log with its groups.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busline_core::transport::{Retention, TopicSpec, TopologyMode};
use busline_core::{Error, ErrorKind, GroupName, Limits, Offset, Position, Result, Topic};
use busline_log::storage::Storage;
use busline_log::{Group, GroupOptions, Log, Now, Options, RetainPolicy, SyncMode};

use super::config::{FileConfig, Sync};
use super::error::{of_io, of_log};
use super::layout::{SETTINGS, Settings, check_marker, escape, read_settings, write_settings};
use super::room::Room;
use super::time::Time;
use super::wait::Bells;

/// An open bus directory with the topics that this process uses.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) config: FileConfig,
    pub(super) time: Time,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) topics: Mutex<HashMap<Topic, Arc<TopicLog>>>,
    pub(super) bells: Arc<Bells>,
    room: Room,
    /// No topic could be opened for want of files, not even after idle ones were let go.
    is_out_of_files: AtomicBool,
}

/// An open topic.
#[derive(Debug)]
pub(super) struct TopicLog {
    pub(super) topic: Topic,
    pub(super) log: Log,
    time: Time,
    pub(super) directory: PathBuf,
    groups: Mutex<HashMap<GroupName, Group>>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the directory, or makes it where that is allowed.
    pub(super) fn open(config: FileConfig, storage: Arc<dyn Storage>, time: Time) -> Result<Self> {
        let root = config.path.clone();
        check_marker(&*storage, &config)?;
        if !config.allow_remote && storage.is_remote(&root).map_err(|e| of_io("open", &root, e))? {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{} is on a network file system, where locks may not work", root.display()),
            )
            .hint("use a local disk; allow_remote=true accepts the risk"));
        }
        let room = Room::default();
        room.look(&*storage, &root);
        Ok(Self {
            config,
            time,
            storage,
            topics: Mutex::default(),
            bells: Arc::default(),
            room,
            is_out_of_files: AtomicBool::new(false),
        })
    }

    pub(super) fn topics_directory(&self) -> PathBuf {
        self.config.path.join("topics")
    }

    fn directory(&self, topic: &Topic) -> PathBuf {
        self.topics_directory().join(escape(topic.as_str()))
    }

    fn options(&self) -> Options {
        Options {
            segment_bytes: self.config.segment_bytes,
            sync: match self.config.sync {
                Sync::Always => SyncMode::Always,
                Sync::Interval(every) => SyncMode::Interval(every),
                Sync::Os => SyncMode::Os,
            },
            allow_remote: self.config.allow_remote,
            // What the limits allow fits: a record holds key and properties beside the payload.
            record_bytes_max: Limits::default().payload_bytes_max + (1 << 20),
            ..Options::default()
        }
    }

    /// Says `Full` when publishers are to leave the little room that there is to the groups.
    pub(super) fn check_room(&self) -> Result<()> {
        self.room.check(&*self.storage, &self.config.path)
    }

    /// Remembers that there was no room for something published.
    pub(super) fn note_full(&self) {
        self.room.note_full();
    }

    /// Looks how much room there is.
    pub(super) fn look_for_room(&self) {
        self.room.look(&*self.storage, &self.config.path);
    }

    /// The names of all topics, sorted.
    pub(super) fn topic_names(&self) -> Result<Vec<Topic>> {
        let directory = self.topics_directory();
        let mut topics = Vec::new();
        for name in
            self.storage.list(&directory).map_err(|e| of_io("list topics", &directory, e))?
        {
            match read_settings(&*self.storage, &directory.join(&name)) {
                Ok(settings) => topics.push(settings.name),
                // Being created or deleted at this moment.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        topics.sort();
        // A copy of a topic's directory is no second topic.
        topics.dedup();
        Ok(topics)
    }

    /// A topic that this process has open already. Never waits: while another one is opened, which
    /// may take its time, this says nothing.
    pub(super) fn opened(&self, topic: &Topic) -> Option<Arc<TopicLog>> {
        self.topics.try_lock().ok()?.get(topic).cloned()
    }

    /// All topics that this process has open.
    pub(super) fn all_opened(&self) -> Vec<Arc<TopicLog>> {
        locked(&self.topics).values().cloned().collect()
    }

    /// An existing topic; `NotFound` names it.
    pub(super) fn topic(&self, topic: &Topic) -> Result<Arc<TopicLog>> {
        let mut topics = locked(&self.topics);
        if let Some(open) = topics.get(topic) {
            return Ok(Arc::clone(open));
        }
        let directory = self.directory(topic);
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("there is no topic '{topic}'"))
                .context("bus", self.config.path.display())
                .hint("declare it or publish to it first")
        };
        if !self.exists(&directory.join(SETTINGS))? {
            return Err(missing());
        }
        let open = || {
            let (storage, now_us) = (Arc::clone(&self.storage), self.time.wall_us());
            Log::open(storage, &directory.join("log"), &self.options(), now_us)
        };
        let mut log = open();
        if log.as_ref().is_err_and(busline_log::Error::is_out_of_files) {
            let_go_idle(&mut topics);
            log = open();
        }
        let log = log.map_err(|error| {
            self.is_out_of_files.fetch_or(error.is_out_of_files(), Ordering::Relaxed);
            of_log(error).context("topic", topic)
        })?;
        if log.label() != topic.as_str().as_bytes() {
            let found = String::from_utf8_lossy(log.label()).into_owned();
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the log of topic '{topic}' belongs to topic '{found}'"),
            )
            .context("directory", directory.display())
            .hint("somebody moved or copied directories of the bus: give them back their names"));
        }
        if log.next_seq() == 0 {
            self.sync_names(&directory)?;
        }
        let open = Arc::new(TopicLog {
            topic: topic.clone(),
            log,
            time: self.time.clone(),
            directory,
            groups: Mutex::default(),
        });
        topics.insert(topic.clone(), Arc::clone(&open));
        Ok(open)
    }

    /// Whether opening a topic failed for want of files, since this was asked.
    pub(super) fn take_out_of_files(&self) -> bool {
        self.is_out_of_files.swap(false, Ordering::Relaxed)
    }

    /// Creates a topic that is missing, and sets what the specification says about it.
    pub(super) fn declare_topic(
        &self,
        spec: &TopicSpec,
        mode: TopologyMode,
    ) -> Result<Arc<TopicLog>> {
        if let Some(option) = spec.options.keys().next() {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("file: has no topic option '{option}'"),
            )
            .context("topic", &spec.topic));
        }
        let directory = self.directory(&spec.topic);
        if mode == TopologyMode::Create && !self.exists(&directory.join(SETTINGS))? {
            self.create_topic(spec, &directory)?;
        }
        let topic = self.topic(&spec.topic)?;
        if let (TopologyMode::Create, Some(retention)) = (mode, spec.retention) {
            topic.set_retention(&*self.storage, retention)?;
        }
        Ok(topic)
    }

    /// The log first, the settings last: a topic without settings does not exist yet.
    fn create_topic(&self, spec: &TopicSpec, directory: &Path) -> Result<()> {
        let log = directory.join("log");
        let io = |e| of_io("create topic", directory, e);
        self.finish_deletion(&spec.topic, directory)?;
        self.storage.create_dir_all(directory).map_err(io)?;
        let create = || {
            let (storage, label) = (Arc::clone(&self.storage), spec.topic.as_str().as_bytes());
            Log::open_or_create(storage, &log, label, &self.options(), self.time.wall_us())
        };
        let mut created = create();
        if created.as_ref().is_err_and(busline_log::Error::is_out_of_files) {
            let_go_idle(&mut locked(&self.topics));
            created = create();
        }
        drop(created.map_err(|error| of_log(error).context("topic", &spec.topic))?);
        let settings = Settings::new(spec.topic.clone(), spec.retention.unwrap_or_default());
        // Its name is made durable by who opens it.
        write_settings(&*self.storage, directory, &settings)
    }

    /// Makes sure that a topic to which nothing was published yet is there after a loss of power: who created it may
    /// have died before he did. Whoever publishes to it first has opened it first.
    fn sync_names(&self, directory: &Path) -> Result<()> {
        let topics = self.topics_directory();
        let synced = self.storage.sync_dir(directory).and_then(|()| self.storage.sync_dir(&topics));
        synced.map_err(|e| of_io("open topic", directory, e))
    }

    /// How long records of a topic are kept.
    pub(super) fn retention(&self, topic: &TopicLog) -> Result<Retention> {
        Ok(read_settings(&*self.storage, &topic.directory)?.retention())
    }

    /// Lets records go that are beyond the retention of their topic.
    pub(super) fn retain(&self, topic: &TopicLog) -> Result<()> {
        let retention = self.retention(topic)?;
        let now = topic.now();
        topic.log.collect_groups(now).map_err(of_log)?;
        if retention.age_max.is_none() && retention.bytes_max.is_none() {
            return Ok(());
        }
        let policy = RetainPolicy {
            max_age: retention.age_max,
            max_bytes: retention.bytes_max,
            keep_from: None,
        };
        let removed = match retention.ignore_groups {
            true => topic.log.retain(&policy, now.wall_us),
            false => topic.log.retain_for_groups(&policy, now),
        };
        removed.map(drop).map_err(of_log)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.storage.exists(path).map_err(|e| of_io("open topic", path, e))
    }
}

impl TopicLog {
    /// The shard that offsets of this topic name: another topic, or a later one of the same name,
    /// has another.
    pub(super) fn shard(&self) -> u64 {
        shard_of(self.log.id())
    }

    pub(super) fn offset(&self, seq: u64) -> Offset {
        Offset::new(self.shard(), seq)
    }

    /// The place of a position; refuses what is not of this topic, not there yet, or gone.
    pub(super) fn seq_of(&self, position: &Position) -> Result<u64> {
        let (first, next) = (self.log.first_seq(), self.log.next_seq());
        match position {
            Position::Earliest => Ok(first),
            Position::Latest => Ok(next),
            Position::Time(time) => self.log.scanner().seek_time(time.unix_us()).map_err(of_log),
            Position::Offset(offset) => {
                let about = |error: Error| error.context("topic", &self.topic);
                let seq = offset.number(self.shard()).filter(|_| offset.pairs().count() == 1);
                let seq = seq.ok_or_else(|| {
                    about(Error::new(
                        ErrorKind::Limit,
                        format!("the offset {offset} is not of this topic"),
                    ))
                    .hint("offsets belong to the topic that gave them, and end with it")
                })?;
                if seq < first {
                    return Err(about(Error::new(
                        ErrorKind::NotFound,
                        format!("the offset {offset} was removed by retention"),
                    ))
                    .hint(format!("the earliest kept is {}", self.offset(first))));
                }
                if seq > next {
                    return Err(about(Error::new(
                        ErrorKind::Limit,
                        format!("the offset {offset} is beyond the end"),
                    ))
                    .hint(format!("the end is {}", self.offset(next))));
                }
                Ok(seq)
            }
        }
    }

    /// An existing group; `NotFound` names it.
    pub(super) fn group(&self, name: &GroupName) -> Result<Group> {
        let mut groups = locked(&self.groups);
        // One that was deleted may have been declared anew since.
        if let Some(group) = groups.get(name).filter(|group| !is_deleted(group)) {
            return Ok(group.clone());
        }
        match Group::open(&self.log, name.as_str(), &GroupOptions::default(), self.now()) {
            Ok(group) => {
                groups.insert(name.clone(), group.clone());
                Ok(group)
            }
            Err(error) => {
                // Naming the error forgets the group, which takes the lock.
                drop(groups);
                Err(self.group_error(name, error))
            }
        }
    }

    /// Keeps a group that was just declared.
    pub(super) fn keep_group(&self, name: &GroupName, group: Group) {
        locked(&self.groups).insert(name.clone(), group);
    }

    /// Forgets all groups: the topic is deleted.
    pub(super) fn forget_groups(&self) {
        locked(&self.groups).clear();
    }

    /// Forgets a group that was deleted.
    pub(super) fn forget_group(&self, name: &GroupName) {
        locked(&self.groups).remove(name);
    }

    pub(super) fn group_error(&self, name: &GroupName, error: busline_log::Error) -> Error {
        match error.kind() {
            busline_log::ErrorKind::NotFound => {
                self.forget_group(name);
                Error::new(
                    ErrorKind::NotFound,
                    format!("topic '{}' has no group '{name}'", self.topic),
                )
                .hint("declare the group first")
            }
            _ => of_log(error).context("topic", &self.topic).context("group", name),
        }
    }

    /// Both clocks, with the boot that this log goes by.
    pub(super) fn now(&self) -> Now {
        self.time.now(self.log.boot_id())
    }

    fn set_retention(&self, storage: &dyn Storage, retention: Retention) -> Result<()> {
        let found = read_settings(storage, &self.directory)?;
        if found.retention() == retention {
            // Who set it may have died before it was durable.
            let synced = storage.sync_dir(&self.directory);
            return synced.map_err(|e| of_io("declare topic", &self.directory, e));
        }
        write_settings(storage, &self.directory, &Settings::new(found.name, retention))
    }
}

/// Closes the topics that nobody uses at the moment; they are opened again when somebody does.
fn let_go_idle(topics: &mut HashMap<Topic, Arc<TopicLog>>) {
    topics.retain(|_, topic| Arc::strong_count(topic) > 1);
}

fn is_deleted(group: &Group) -> bool {
    group.floor().is_err_and(|error| error.kind() == busline_log::ErrorKind::NotFound)
}

/// Half of a log's id names its shard; ids are random, so that two topics do not share it.
pub(super) fn shard_of(id: u128) -> u64 {
    (id >> 64) as u64 ^ id as u64
}
