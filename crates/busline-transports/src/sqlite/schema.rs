//! The tables of our own layout.

/// Makes them. The version in `database` goes up when something here changes.
pub(super) const SCHEMA: &str = "
-- Records of all topics: the number of the topic in the upper bits of the id, that of the record in the lower 42.
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,            -- when it was taken, in microseconds since 1970; it never goes back in a topic
    key TEXT NOT NULL,
    meta BLOB NOT NULL,               -- properties and headers
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE topics (
    slot INTEGER PRIMARY KEY AUTOINCREMENT,
    shard INTEGER NOT NULL UNIQUE,    -- what its offsets begin with: another one when it is made anew
    name TEXT NOT NULL UNIQUE,
    first INTEGER NOT NULL DEFAULT 0, -- the number of the oldest record kept
    next INTEGER NOT NULL DEFAULT 0,  -- the number that the next record gets
    bytes INTEGER NOT NULL DEFAULT 0,
    time_last INTEGER NOT NULL DEFAULT -9223372036854775808,
    age_max_us INTEGER,
    bytes_max INTEGER,
    ignore_groups INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,           -- the slot of its topic
    name TEXT NOT NULL,
    config TEXT NOT NULL,             -- how it was declared, as JSON
    cursor INTEGER NOT NULL,          -- the first record not looked at yet
    epoch INTEGER NOT NULL DEFAULT 0, -- counts resets: what was claimed before is lost
    idle_since INTEGER NOT NULL,      -- since when it has had no member, in microseconds since 1970
    delivered INTEGER NOT NULL DEFAULT 0,
    redelivered INTEGER NOT NULL DEFAULT 0,
    acked INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, name)
) STRICT;
CREATE TABLE members (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    grp INTEGER NOT NULL,
    session TEXT NOT NULL,            -- the file whose lock says that it is alive
    beat INTEGER NOT NULL DEFAULT 0,  -- goes up while it runs
    lease_us INTEGER NOT NULL,        -- it loses what it holds when the beat stands still for this long
    stopped INTEGER NOT NULL DEFAULT 0
) STRICT;
-- The unsettled messages of a group below its cursor.
CREATE TABLE entries (
    grp INTEGER NOT NULL,
    number INTEGER NOT NULL,
    owner INTEGER NOT NULL,           -- the member that holds it; 0: it waits; -1: behind an earlier one of its lane
    due INTEGER NOT NULL,             -- not before then, in microseconds since 1970
    attempts INTEGER NOT NULL,
    releases INTEGER NOT NULL DEFAULT 0,
    lane BLOB,                        -- its ordering key, where retries block
    PRIMARY KEY (grp, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_waiting ON entries (grp, due, number) WHERE owner = 0;
CREATE INDEX entries_lanes ON entries (grp, lane, number) WHERE lane IS NOT NULL;
-- 1 only in the file itself while there is more in its write-ahead log: who sees it has a copy without that.
CREATE TABLE mark (copied INTEGER NOT NULL) STRICT;
INSERT INTO mark VALUES (0);
";
