"""Verify: everything in a SQLite store read once more, and compared with what was written.

Rules of this file:

- It only reads, in a connection and a thread of its own, a few rows in each transaction: no writer ever waits for it,
  and it needs little memory whatever the size of the store. (SQLite's look at its own pages is one long read; writers
  go on beside it, but the log cannot begin anew meanwhile.)
- Each look is at one moment, and what somebody changes between two looks is never taken for damage: turns are never
  changed, and no branch's number is used twice.
- Rows are fetched one by one, from the table and not from an index: one that cannot be read hides no other.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

import apsw

from holdfast.conversation.errors import DamagedError, NotADatabaseError, SchemaVersionError
from holdfast.conversation.records import decode_messages
from holdfast.ports.verification import Damage, Verification, Verifying
from holdfast.stores import rules
from holdfast.stores.aside import Course
from holdfast.stores.soundness import BACKUP, NOTHING_TO_DO, Findings
from holdfast.stores.sqlite_db import check_of
from holdfast.stores.sqlite_files import APPLICATION_ID, SCHEMA_VERSION, connect, schema, translated
from holdfast.stores.sqlite_log import COLUMNS
from holdfast.stores.sqlite_verify_turns import CHUNK, Tree, one_look, read_row
from holdfast.stores.sqlite_wal import left_out

_BUSY_MS, _OPS_A_LOOK = 10_000, 20_000
# So many of SQLite's complaints are told.
_COMPLAINTS = 20
_REINDEX = "If only indexes are named, SQLite can make them anew from the tables (REINDEX); else restore a backup."

_THREADS = f"SELECT n FROM threads NOT INDEXED WHERE n > ? ORDER BY n LIMIT {CHUNK}"
_THREAD = f'SELECT {COLUMNS}, "check", created, title, metadata, label_check FROM threads NOT INDEXED WHERE n = ?'
_TICKETS = f"SELECT ticket FROM runs NOT INDEXED WHERE ticket > ? ORDER BY ticket LIMIT {CHUNK}"
_TICKET = 'SELECT tenant, thread, turn, state, owner, key, input, "check" FROM runs NOT INDEXED WHERE ticket = ?'
_JOURNAL = (
    'SELECT CAST(tenant AS BLOB), CAST(turn AS BLOB), n, record, "check" FROM journal '
    f"WHERE (tenant, turn, n) > (CAST(? AS TEXT), CAST(? AS TEXT), ?) ORDER BY tenant, turn, n LIMIT {CHUNK}"
)


def verify(path: str, tenant: str | None, course: Course, *, untouched: bool = False) -> Verification:
    """Look at everything of a tenant, or of all if it is None, and at the file. `untouched`: nobody has it open.

    Raises NotADatabaseError and SchemaVersionError; GivenUp if nobody waits for it any more.
    """
    found = Findings()
    if not os.path.exists(path):
        return found.all()
    note = "" if untouched else left_out(path)
    if note:
        found.notes.append(note)
    try:
        with connected(path, untouched=untouched) as connection:
            connection.set_progress_handler(course.over, _OPS_A_LOOK)
            if is_ours(connection, path):
                _Look(connection, tenant, found, course).at_everything()
            else:
                found.notes.append(f"{path} is empty: nothing was written yet, or all of it is gone.")
    except apsw.InterruptError:
        course.at(lambda: None)
        raise
    except (apsw.CorruptError, apsw.SQLError) as error:
        found.say("file", f"SQLite cannot read the file: {error}.", BACKUP)
    except Exception as error:
        raise translated(error, path) from error
    return found.all()


@contextlib.contextmanager
def connected(path: str, *, untouched: bool = False) -> Iterator[apsw.Connection]:
    """A connection that leaves the log as it is: whoever looks for damage must not write upon it."""
    connection = _alone(path) if untouched else _beside_others(path)
    try:
        yield connection
    finally:
        connection.close()


def _beside_others(path: str) -> apsw.Connection:
    has_log = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0
    connection = connect(path, _BUSY_MS)
    try:
        if has_log:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        connection.close()
        if has_log:
            raise
        return _alone(path)  # where nothing may be written, nobody else writes
    except BaseException:
        connection.close()
        raise
    return connection


def _alone(path: str) -> apsw.Connection:
    address = f"file:{quote(os.fsencode(os.path.abspath(path)))}?immutable=1"
    connection = apsw.Connection(address, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def is_ours(connection: apsw.Connection, path: str) -> bool:
    """False for a file in which nothing is yet. Raises NotADatabaseError, SchemaVersionError."""
    if connection.pragma("application_id") != APPLICATION_ID:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").get:
            return False
        raise NotADatabaseError(f"{path} is a database of another program.")
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} was written by a newer holdfast (tables of version {version}; this one knows {SCHEMA_VERSION}). "
            "Update holdfast."
        )
    return True


class _Look:
    """One look at everything."""

    def __init__(self, connection: apsw.Connection, tenant: str | None, found: Findings, course: Course) -> None:
        self._connection = connection
        self._tenant = tenant
        self._found = found
        self._course = course
        self._tree = Tree(connection, tenant, found)
        self._turns = 0

    def at_everything(self) -> None:
        whose, values = ("", ()) if self._tenant is None else (" WHERE tenant = ?", (self._tenant,))
        self._turns = self._connection.execute(f"SELECT count(*) FROM turns{whose}", values).get or 0
        parts = {
            "turns": lambda: self._tree.walk(lambda: self._at("turns")),
            "threads": lambda: self._rows(_THREADS, self._thread),
            "places in line": lambda: self._rows(_TICKETS, self._ticket),
            "journals": self._journal,
            "tables": self._schema,
            "pages": self._pages,
        }
        for name, part in parts.items():
            try:
                part()
            except apsw.CorruptError as error:
                self._found.say("file", f"SQLite cannot read all {name}: {error}.", BACKUP)

    def _at(self, stage: Literal["turns", "threads", "file"]) -> None:
        self._course.at(lambda: Verifying(stage, self._found.turns, self._turns, self._found.damaged))

    def _rows(self, numbers: str, check: Any) -> None:
        """Have every row of a table checked, some in each look."""
        last = -(2**63)
        while True:
            with one_look(self._connection):
                some: Any = self._connection.execute(numbers, (last,)).fetchall()
                for (number,) in some:
                    if number <= last:
                        return  # a table in disorder, which SQLite's own look tells
                    check(number)
                    last = number
            if len(some) < CHUNK:
                return
            self._at("threads")

    # --- threads -----------------------------------------------------------------------------------------------

    def _thread(self, n: int) -> None:
        row = read_row(self._connection, _THREAD, n)
        if not isinstance(row, tuple):
            self._found.say("thread", f"Row {n} of the threads is damaged: {row or 'it is missing'}.", BACKUP)
            return
        columns, check, labels, label_check = row[:15], row[15], row[16:19], row[19]
        tenant, thread_id, tombstone = columns[0], columns[1], columns[4]
        if self._tenant not in (None, tenant):
            return
        self._found.threads += tombstone == 0
        named = f"{'Deleted thread' if tombstone else 'Thread'} {thread_id!r}"
        if check_of(columns) != check:
            what = f"{named} is damaged: its row is not what was written."
            self._found.say("thread", what, f"Its turns are not touched. {BACKUP}", tenant, thread_id)
            return
        if check_of(labels) != label_check or not _is_metadata(labels[2]):
            what = f"Title or metadata of {named} is not what was written."
            self._found.say("labels", what, BACKUP, tenant, thread_id)
        if not tombstone:
            self._head(named, columns)
            self._input(named, columns)

    def _head(self, named: str, columns: tuple[Any, ...]) -> None:
        branch, seq, hash = columns[5:8]
        flaw, last_sound = self._tree.head_flaw(columns[0], branch, seq, hash)
        if flaw:
            way = BACKUP if last_sound is None else f"Go on with thread.fork(at={last_sound!r}), or restore a backup."
            what = f"{named} is damaged: {flaw}."
            self._found.add(Damage("thread", what, way, columns[0], (columns[1],), seq=seq, fork_at=last_sound))

    def _input(self, named: str, columns: tuple[Any, ...]) -> None:
        """Of an open run: what was said, which will be the input of its turn."""
        if columns[9] is None:
            return
        try:
            decode_messages(columns[11])
        except (DamagedError, TypeError):
            what = f"The turn that is being made on {named} is damaged: what was said cannot be read."
            self._found.add(Damage("thread", what, BACKUP, columns[0], (columns[1],), turn_id=columns[9]))

    # --- runs --------------------------------------------------------------------------------------------------

    def _ticket(self, number: int) -> None:
        row = read_row(self._connection, _TICKET, number)
        # Tickets without key and input have been written with a check over the rest.
        if isinstance(row, tuple) and row[7] in (check_of(row[:7]), row[5] is row[6] is None and check_of(row[:5])):
            return
        tenant, thread_id = row[:2] if isinstance(row, tuple) else (None, None)
        if self._tenant in (None, tenant):
            way = f"{NOTHING_TO_DO} The next run of that thread drops it."
            self._found.say("ticket", f"Place {number} in the line before a thread is damaged.", way, tenant, thread_id)

    def _journal(self) -> None:
        """What open runs have written down."""
        last: tuple[bytes, bytes, int] = (b"", b"", -(2**63))
        while True:
            with one_look(self._connection):
                rows: Any = self._connection.execute(_JOURNAL, last).fetchall()
            for tenant, turn, n, record, check in rows:
                if not (isinstance(n, int) and (tenant, turn, n) > last):
                    return  # an index in disorder, which SQLite's own look tells
                self._record(tenant, turn, n, record, check)
                last = (tenant, turn, n)
            if len(rows) < CHUNK:
                return
            self._at("threads")

    def _record(self, tenant: bytes, turn: bytes, n: int, record: object, check: object) -> None:
        whose, named = tenant.decode(errors="replace"), turn.decode(errors="replace")
        if check_of((whose, named, n, record)) != check and self._tenant in (None, whose):
            what = f"Entry {n} of what turn {named}, which is being made, has written down is not what was written."
            way = f"{NOTHING_TO_DO} Whoever goes on with that turn does so from before it."
            self._found.add(Damage("journal", what, way, whose, turn_id=named))

    # --- the file ----------------------------------------------------------------------------------------------

    def _schema(self) -> None:
        """The tables and indexes are those that holdfast makes, and no others."""
        with one_look(self._connection):
            there = _told(self._connection)
            version, mode = self._connection.pragma("user_version"), self._connection.pragma("journal_mode")
            numbers: Any = self._connection.execute(_NUMBERS).fetchall()
        made = _made()
        wrong = sorted(name for name in there.keys() | made.keys() if there.get(name) != made.get(name))
        if wrong:
            what = f"What the file says of its tables is not what was written: {', '.join(wrong)}."
            self._found.say("file", what, BACKUP)
        if version != SCHEMA_VERSION:
            self._found.say("file", f"The file says that its tables are of version {version}, which never was.", BACKUP)
        if not self._connection.open_flags & apsw.SQLITE_OPEN_URI:
            self._check_header(mode)
        for table, given, used in numbers:
            if not isinstance(given, int) or not (used or 0) <= given < _MANY:
                self._found.say("file", f"The last number given in {table} is not what was written.", BACKUP)

    def _check_header(self, mode: str) -> None:
        """What the file's header says of how it is to be opened, and what came of that."""
        path = self._connection.filename
        if mode != "wal":
            self._found.say("file", f"The file says that it has no write-ahead log (its journal is {mode!r}).", BACKUP)
        if self._connection.readonly("main") and os.access(path, os.W_OK):
            self._found.say("file", "The file says that it may not be written, though its rights allow it.", BACKUP)

    def _pages(self) -> None:
        """SQLite's own look: pages, indexes against tables, kinds of values."""
        self._at("file")
        rows: Any = self._connection.execute(f"PRAGMA integrity_check({_COMPLAINTS + 1})")
        lines = [line for (told,) in rows for line in str(told).splitlines()]
        found = [line for line in lines if line != "ok" and not line.startswith("***")]
        for complaint in found[:_COMPLAINTS]:
            self._found.say("file", f"SQLite says: {complaint}.", _REINDEX)
        if len(found) > _COMPLAINTS:
            self._found.say("file", "SQLite has more complaints of this kind.", _REINDEX)


# No table comes to so many rows.
_MANY = 2**53
_NUMBERS = (
    "SELECT s.name, s.seq, CASE s.name WHEN 'branches' THEN (SELECT max(id) FROM branches) "
    "WHEN 'runs' THEN (SELECT max(ticket) FROM runs) ELSE -1 END FROM sqlite_sequence s"
)


def _is_metadata(stored: object) -> bool:
    try:
        rules.decoded_metadata(stored)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _told(connection: apsw.Connection) -> dict[str, str]:
    """What a database says of its tables and indexes, by name, without what has no meaning."""
    rows: Any = connection.execute("SELECT name, type, tbl_name, sql FROM sqlite_schema").fetchall()
    return {str(name): f"{kind} of {table}: {_plain(str(sql or ''))}" for name, kind, table, sql in rows}


def _plain(sql: str) -> str:
    return " ".join(re.sub(r"--[^\n]*", "", sql).split())


def _made() -> dict[str, str]:
    """What holdfast says of its tables when it makes them."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(schema())
        return _told(connection)
    finally:
        connection.close()
