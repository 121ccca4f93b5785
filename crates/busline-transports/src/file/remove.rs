//! Deleting topics: wholly, however far the process that does it gets.

use std::path::Path;

use busline_core::{Result, Topic};
use busline_log::{ErrorKind as LogKind, Log};

use super::error::{of_io, of_log};
use super::layout::SETTINGS;
use super::store::{Store, locked};

/// What the settings are called from the moment on at which a topic is deleted.
const DELETED: &str = "topic.deleted";

impl Store {
    /// Deletes a topic that no other process uses.
    pub(super) fn delete_topic(&self, topic: &Topic) -> Result<()> {
        let open = self.topic(topic)?;
        let directory = open.directory.clone();
        open.log.close_alone().map_err(|error| in_use(error, topic))?;
        locked(&self.topics).remove(topic);
        open.forget_groups();
        drop(open);
        // From here on the topic does not exist, whatever happens.
        let (settings, deleted) = (directory.join(SETTINGS), directory.join(DELETED));
        let io = |e| of_io("delete topic", &directory, e);
        self.storage.rename(&settings, &deleted).map_err(io)?;
        self.storage.sync_dir(&directory).map_err(io)?;
        let finished = self.finish_deletion(topic, &directory);
        if matches!(&finished, Err(error) if error.kind() == busline_core::ErrorKind::Conflict) {
            // Somebody has just begun to use it: it stays.
            self.storage.rename(&deleted, &settings).map_err(io)?;
        }
        finished
    }

    /// Removes what a deletion left that was cut off; the name is free afterwards.
    pub(super) fn finish_deletion(&self, topic: &Topic, directory: &Path) -> Result<()> {
        let io = |e| of_io("delete topic", directory, e);
        let storage = &*self.storage;
        if !storage.exists(&directory.join(DELETED)).map_err(io)? {
            return Ok(());
        }
        let log = directory.join("log");
        match Log::delete(storage, &log) {
            Ok(()) => {}
            // It was begun before: the log has lost its FORMAT, and perhaps more.
            Err(error)
                if matches!(
                    error.kind(),
                    LogKind::NotFound | LogKind::Foreign | LogKind::Damaged
                ) =>
            {
                if storage.exists(&log).map_err(io)? {
                    storage.remove_dir_all(&log).map_err(io)?;
                }
            }
            Err(error) => return Err(in_use(error, topic)),
        }
        // The mark goes last, together with the directory.
        storage.remove_dir_all(directory).map_err(io)?;
        storage.sync_dir(&self.topics_directory()).map_err(io)
    }
}

fn in_use(error: busline_log::Error, topic: &Topic) -> busline_core::Error {
    let busy = error.kind() == LogKind::Busy;
    let error = of_log(error).context("topic", topic);
    if busy { error.hint("stop the programs that publish to it or consume it") } else { error }
}
