-- The tables of a holdfast database, version 1 (PRAGMA user_version). docs/format.md explains them.
--
-- Rules: turns are only ever inserted, at the end of their table (a rowid table: a large record never splits a page
-- in the middle), and deleted only with their thread. A "check" is a CRC-32 of the other columns of its row; what a
-- turn says is covered by its chained SHA-256. No id of a branch is ever used twice (AUTOINCREMENT), since other
-- processes remember branches by number. Times are microseconds since 1970, told to people only.

-- One row per thread: its head, and beside it the run that is being made, or waits for an answer, if any.
CREATE TABLE threads (
  n           INTEGER PRIMARY KEY,
  tenant      TEXT    NOT NULL,
  id          TEXT    NOT NULL,
  incarnation INTEGER NOT NULL,            -- how many lives this id has had
  epoch       INTEGER NOT NULL,            -- the fence: raised whenever somebody becomes the thread's writer
  tombstone   INTEGER NOT NULL,            -- 1: deleted; only this row is left
  branch      INTEGER,                     -- the head: branch and depth of the latest turn,
  seq         INTEGER NOT NULL,
  hash        BLOB    NOT NULL,            --   its hash,
  own_tip     INTEGER NOT NULL,            --   1 if the next turn can be appended to that branch
  run         TEXT,                        -- the open run: its turn id,
  owner       INTEGER,                     --   the process that makes it, NULL while it waits for an answer,
  input       BLOB,                        --   what was said,
  opened      INTEGER,                     --   and when
  key         TEXT,                        --   and its idempotency key
  updated     INTEGER NOT NULL,
  "check"     INTEGER NOT NULL,            -- of all columns above but n
  created     INTEGER NOT NULL,
  title       TEXT,
  metadata    TEXT,
  label_check INTEGER NOT NULL,            -- of created, title and metadata
  UNIQUE (tenant, id)
) STRICT;

CREATE INDEX threads_recent ON threads (tenant, updated DESC, id) WHERE tombstone = 0;
CREATE INDEX threads_branch ON threads (branch) WHERE branch IS NOT NULL;

-- A run of turns with dense numbers, owned by one life of one thread. It begins after turn parent_seq of its parent.
CREATE TABLE branches (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant      TEXT    NOT NULL,
  thread      TEXT    NOT NULL,
  incarnation INTEGER NOT NULL,
  parent      INTEGER,
  parent_seq  INTEGER NOT NULL,
  "check"     INTEGER NOT NULL
) STRICT;

CREATE INDEX branches_thread ON branches (tenant, thread);
CREATE INDEX branches_parent ON branches (parent) WHERE parent IS NOT NULL;

-- One row per turn.
CREATE TABLE turns (
  n         INTEGER PRIMARY KEY,
  tenant    TEXT    NOT NULL,
  branch    INTEGER NOT NULL,
  seq       INTEGER NOT NULL,              -- its depth in the conversation
  id        TEXT    NOT NULL,
  key       TEXT,                          -- idempotency key
  status    TEXT    NOT NULL,              -- completed, failed, cancelled, interrupted
  reference TEXT,                          -- the service's own conversation after this turn
  started   INTEGER NOT NULL,
  ended     INTEGER NOT NULL,
  hash      BLOB    NOT NULL,              -- SHA-256 over the parent's hash, these columns and the record
  record    BLOB    NOT NULL,              -- JSON
  UNIQUE (branch, seq),
  UNIQUE (tenant, id)
) STRICT;

CREATE INDEX turns_key ON turns (tenant, key) WHERE key IS NOT NULL;

-- Runs that stand in line before a thread, first come, first served.
CREATE TABLE runs (
  ticket  INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant  TEXT    NOT NULL,
  thread  TEXT    NOT NULL,
  turn    TEXT    NOT NULL,
  state   TEXT    NOT NULL,                -- queued
  owner   INTEGER,
  key     TEXT,                            -- its idempotency key
  input   BLOB,                            -- what it will say
  "check" INTEGER NOT NULL,                -- of all columns above but ticket
  UNIQUE (tenant, turn)
) STRICT;

CREATE INDEX runs_thread ON runs (tenant, thread, ticket);

-- What open runs have done so far: records from n = 0, and below that what the store notes of a run (sqlite_journal).
CREATE TABLE journal (
  tenant  TEXT    NOT NULL,
  turn    TEXT    NOT NULL,
  n       INTEGER NOT NULL,
  record  BLOB    NOT NULL,
  "check" INTEGER NOT NULL,                -- of all columns above
  PRIMARY KEY (tenant, turn, n)
) STRICT, WITHOUT ROWID;

-- The processes that may have runs. Each holds a lock on byte `id` of the file beside the database for as long as
-- it lives, and raises its beat every few seconds while it has something that others wait for.
CREATE TABLE owners (
  id      INTEGER PRIMARY KEY,             -- chosen at random
  process TEXT    NOT NULL,
  since   INTEGER NOT NULL,
  beat    INTEGER NOT NULL DEFAULT 0,
  address TEXT                             -- where it listens for calls
) STRICT;
