//! The database: opened, checked, and written to in transactions that are short and take their turn.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use busline_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};

use super::config::{SqliteConfig, Sync};
use super::error::{check_process, of_sqlite};
use super::presence::{self, STEP, Turn};
use super::schema::SCHEMA;

/// Says whose database it is: "BusL".
const APPLICATION_ID: i64 = 0x4275_734c;
/// The version of the tables that this version reads and writes.
const VERSION: i64 = 1;
/// The write-ahead log is taken into the file above so many pages, which is about 4 MiB.
const WAL_PAGES: i32 = 1000;
const STATEMENTS: usize = 64;

/// A connection to a database in our own layout.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    turn: Turn,
    /// Where others look whether a session is alive.
    pub(super) folder: PathBuf,
    sync: Sync,
    busy: Duration,
    /// Whether commits are synced at the moment.
    synced: Option<bool>,
    /// The pages of the write-ahead log after the last commit.
    wal_pages: Arc<AtomicI32>,
}

/// Whether a transaction has to be on the medium when it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// As the configuration says: somebody waits for it.
    Yes,
    /// It survives the death of every process, which is enough for what can be done again.
    No,
}

/// Why a transaction did not come about.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) error: Error,
    /// It failed in its commit, in a way that does not tell whether it is stored.
    pub(super) is_uncertain: bool,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Database {
    /// Opens the database, which is made when it is missing and may be.
    pub(super) fn open(config: &SqliteConfig, path: &Path) -> Result<Self> {
        let create = OpenFlags::SQLITE_OPEN_CREATE;
        let may_create = if config.create { create } else { OpenFlags::empty() };
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | may_create;
        let mut connection = connect(path, flags, config.busy)?;
        let is_new = check_identity(&connection)?;
        if is_new && !config.create {
            return Err(missing(path));
        }
        into_wal(&connection)?;
        let wal_pages = Arc::new(AtomicI32::new(0));
        let pages = Arc::clone(&wal_pages);
        let hook = move |_: &mut rusqlite::hooks::Wal, written: i32| {
            pages.store(written, Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(hook)).map_err(of_sqlite)?;
        let folder = presence::folder(path);
        let turn = Turn::open(&folder)?;
        let (sync, busy) = (config.sync, config.busy);
        let mut database = Self { connection, turn, folder, sync, busy, synced: None, wal_pages };
        if is_new {
            database.write(Durable::Yes, make_tables)?;
        }
        database.check_copied(path, config.accept_copied)?;
        Ok(database)
    }

    /// Runs statements that change nothing; each sees what is committed when it starts.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Runs a transaction that writes, alone; an error undoes all of it.
    pub(super) fn write<T>(
        &mut self,
        durable: Durable,
        operation: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T, Failed> {
        let plain = |error: Error| Failed { error, is_uncertain: false };
        self.set_synced(durable == Durable::Yes && self.sync == Sync::Always).map_err(plain)?;
        self.begin().map_err(plain)?;
        let result = operation(&self.connection).map_err(plain).and_then(|done| {
            let committed = self.execute("COMMIT");
            let uncertain = |error: Error| {
                let kind = error.kind();
                Failed {
                    error,
                    is_uncertain: !matches!(kind, ErrorKind::Full | ErrorKind::Elapsed),
                }
            };
            committed.map(|()| done).map_err(uncertain)
        });
        if result.is_err() && !self.connection.is_autocommit() {
            // What cannot be undone now is when the connection ends.
            let _ = self.execute("ROLLBACK");
        }
        if result.is_ok() && self.wal_pages.load(Ordering::Relaxed) >= WAL_PAGES {
            self.checkpoint();
        }
        result
    }

    /// A number that is another one after any other connection has committed.
    pub(super) fn data_version(&self) -> Result<i64> {
        let mut statement =
            self.connection.prepare_cached("PRAGMA data_version").map_err(of_sqlite)?;
        statement.query_row([], |row| row.get(0)).map_err(of_sqlite)
    }

    /// Takes our turn, and with it the lock of SQLite.
    fn begin(&self) -> Result<()> {
        self.turn.take(self.busy)?;
        let begun = self.execute("BEGIN IMMEDIATE");
        self.turn.pass();
        begun
    }

    fn execute(&self, sql: &str) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql).map_err(of_sqlite)?;
        statement.execute([]).map_err(of_sqlite).map(drop)
    }

    fn set_synced(&mut self, synced: bool) -> Result<()> {
        if self.synced != Some(synced) {
            let level = if synced { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level).map_err(of_sqlite)?;
            self.synced = Some(synced);
        }
        Ok(())
    }

    /// Takes the write-ahead log into the file; what fails is tried again after the next commit.
    fn checkpoint(&mut self) {
        self.wal_pages.store(0, Ordering::Relaxed);
        if let Err(error) = self.mark_and_checkpoint() {
            tracing::warn!(%error, "the write-ahead log cannot be taken into the database now");
        }
    }

    /// The mark in the file says 1 and the newer one beside it 0, so that a copy of the file alone tells itself.
    fn mark_and_checkpoint(&mut self) -> Result<()> {
        self.set_mark(1)?;
        let checkpoint = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let done = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], checkpoint);
        self.set_mark(0)?;
        done.map(drop).map_err(of_sqlite)
    }

    fn set_mark(&mut self, copied: i64) -> Result<()> {
        self.set_synced(false)?;
        self.begin()?;
        let update =
            self.connection.execute("UPDATE mark SET copied = ?1", [copied]).map_err(of_sqlite);
        let ended = self.execute(if update.is_ok() { "COMMIT" } else { "ROLLBACK" });
        update.map(drop).and(ended)
    }

    /// Refuses a copy of the file alone.
    fn check_copied(&mut self, path: &Path, accept: bool) -> Result<()> {
        let mark = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let copied =
            self.connection.query_row("SELECT copied FROM mark", [], mark).map_err(of_sqlite)?;
        // Nothing was written by us yet: what is there was there, or is another's, who is between its two marks.
        let wal_bytes = wal_bytes(path);
        if copied != 0 && wal_bytes == 0 && !accept {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the database was copied while it was in use, without the file FILE-wal: what was stored last is \
                 missing in this copy",
            )
            .hint(
                "copy it with 'sqlite3 FILE \".backup COPY\"', or FILE and FILE-wal together while nothing uses \
                 them; ?copied=accept opens it as it is",
            ));
        }
        if wal_bytes == 0 {
            self.checkpoint();
        }
        Ok(())
    }
}

/// A connection that waits for others for as long as configured.
pub(super) fn connect(path: &Path, flags: OpenFlags, busy: Duration) -> Result<Connection> {
    check_process()?;
    if path.is_dir() {
        let what = format!("'{}' is a folder", path.display());
        return Err(Error::new(ErrorKind::Conflict, what)
            .hint("give the path of a file; file:FOLDER is another bus"));
    }
    if !path.exists() && !flags.contains(OpenFlags::SQLITE_OPEN_CREATE) {
        return Err(missing(path));
    }
    let open = Connection::open_with_flags(path, flags);
    let mut connection = open.map_err(|error| of_sqlite(error).context("file", path.display()))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Counted and not timed: a little longer on a busy machine, which is when it helps.
    let tries = busy.as_micros() / STEP.as_micros();
    let handler = move |tried: i32| {
        std::thread::park_timeout(STEP);
        u128::try_from(tried).is_ok_and(|tried| tried < tries)
    };
    connection.busy_handler(Some(handler)).map_err(of_sqlite)?;
    Ok(connection)
}

/// The path of the database without links, by which everybody in this process knows it.
pub(super) fn absolute(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = parent.unwrap_or(Path::new(".")).canonicalize();
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// There is no database, and none is to be made.
pub(super) fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no bus at '{}'", path.display()))
        .hint("see that the path is right; without create=false a session makes it")
}

fn wal_bytes(path: &Path) -> u64 {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    std::fs::metadata(name).map_or(0, |found| found.len())
}

/// Whether it is new; `Conflict` when it is somebody else's.
fn check_identity(connection: &Connection) -> Result<bool> {
    let number =
        |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(of_sqlite);
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    if application == APPLICATION_ID {
        if version == VERSION {
            return Ok(false);
        }
        let what = format!(
            "the database has version {version} of our tables, this program knows {VERSION}"
        );
        return Err(Error::new(ErrorKind::Conflict, what)
            .hint("use the version of Busline that made it, or a newer one"));
    }
    if number("SELECT count(*) FROM sqlite_schema")? == 0 && application == 0 {
        return Ok(true);
    }
    let named = "SELECT ifnull(group_concat(name, ', '), '') FROM \
                 (SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name LIMIT 5)";
    let tables: String = connection.query_row(named, [], |row| row.get(0)).map_err(of_sqlite)?;
    let error = Error::new(ErrorKind::Conflict, "the database is another program's")
        .context("tables", &tables);
    Err(if tables.split(", ").any(|table| table == super::hermes::TABLE) {
        error.hint("it is a message bus of Hermes: add layout=hermes to the URL")
    } else {
        error.hint("a bus needs a file of its own: give another path")
    })
}

fn into_wal(connection: &Connection) -> Result<()> {
    let mode = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], mode).map_err(of_sqlite)?;
    if mode != "wal" {
        return Err(Error::new(
            ErrorKind::Refused,
            "the database cannot have a write-ahead log here",
        )
        .context("journal mode", mode)
        .hint(
            "use a local disk: processes share memory, which a network file system does not have",
        ));
    }
    connection.pragma_update(None, "journal_size_limit", 64_i64 << 20).map_err(of_sqlite)
}

fn make_tables(connection: &Connection) -> Result<()> {
    // Another process may have been quicker.
    if check_identity(connection)? {
        connection.execute_batch(SCHEMA).map_err(of_sqlite)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(of_sqlite)?;
        connection.pragma_update(None, "user_version", VERSION).map_err(of_sqlite)?;
    }
    Ok(())
}

/// Which file a path names, where that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(Option<(u64, u64)>);

impl FileId {
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino())))
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &Path) -> Self {
        Self(None)
    }
}
