"""SQLiteLog: opening a run, the rows of threads, and what the views of one file share.

Rule of this file: opening a run is three look-ups and one update, whatever the length of the conversation; what few
runs ask for (a key, a point) costs only them. A row whose check does not fit is damaged and is never used.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Hashable
from typing import Any, TypeAlias

import apsw
from msgspec import Struct
from msgspec.structs import astuple, replace

from holdfast.conversation.ids import checked_thread_id, checked_turn_id
from holdfast.conversation.records import ROOT
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import (
    PLAIN,
    Busy,
    Earlier,
    Failed,
    Handed,
    Head,
    Intent,
    OpenRun,
    Point,
    SlotCache,
    Terms,
    Twin,
)
from holdfast.stores import liveness, rules
from holdfast.stores.sqlite_absent import check_absent
from holdfast.stores.sqlite_bell import Beat
from holdfast.stores.sqlite_branches import earlier, head_at_point
from holdfast.stores.sqlite_db import Database, check_of
from holdfast.stores.sqlite_ear import Ear
from holdfast.stores.sqlite_journal import note_left
from holdfast.stores.sqlite_line import ANYBODY_IN_LINE, Line, NextUp
from holdfast.stores.sqlite_turns import anchor, damaged

COLUMNS = (
    "tenant, id, incarnation, epoch, tombstone, branch, seq, hash, own_tip, run, owner, input, opened, key, updated"
)
_FIND = f'SELECT n, {COLUMNS}, "check" FROM threads WHERE tenant = ? AND id = ?'
_SAVE = f'UPDATE threads SET ({COLUMNS}, "check") = ({", ".join("?" * 16)}) WHERE n = ?'
_CREATE = (
    f'INSERT INTO threads ({COLUMNS}, "check", created, title, metadata, label_check) VALUES ({", ".join("?" * 20)})'
)
# Columns that an index is over are named only where they change: naming one rewrites the index.
_OPEN = 'UPDATE threads SET epoch = ?, run = ?, owner = ?, input = ?, opened = ?, key = ?, "check" = ? WHERE n = ?'

_TURN_ID_TAKEN = "SELECT 1 FROM turns WHERE tenant = ? AND id = ?"

# What tells one writer's run from all others: tenant, thread, epoch.
RunName: TypeAlias = tuple[str, str, int]
# Who is to be called, and where it listens if that is known.
Callee: TypeAlias = tuple[str | None, NextUp]


class ThreadRow(Struct):
    """A thread's row, but for its labels. The fields are the columns (see sqlite.sql), in their order."""

    n: int | None
    tenant: str
    id: str
    incarnation: int
    epoch: int
    tombstone: int = 0
    branch: int | None = None
    seq: int = 0
    hash: bytes = ROOT
    own_tip: int = 0
    run: str | None = None
    owner: int | None = None
    input: bytes | None = None
    opened: int | None = None
    key: str | None = None
    updated: int = 0

    @property
    def head(self) -> Head:
        return Head(self.branch, self.seq, self.hash, bool(self.own_tip))

    def stand_at(self, head: Head) -> None:
        """Put the head somewhere."""
        self.branch, self.seq, self.hash, self.own_tip = head.branch, head.seq, head.hash, int(head.own_tip)

    @property
    def waiting(self) -> bool:
        """Whether its open run waits for an answer: nobody owns it."""
        return self.run is not None and self.owner is None

    def open_run(self) -> OpenRun:
        """The run that is open on it; there must be one."""
        head = Head(self.branch, self.seq, self.hash, bool(self.own_tip))
        said, since, waits = self.input or b"", self.opened or 0, self.owner is None
        return OpenRun(
            self.id, self.run or "", self.epoch, self.incarnation, head, said, since, self.key, None, (), waits
        )

    def is_making(self, run: OpenRun) -> bool:
        """Whether this is its open run, and of the same writer."""
        return (self.run, self.epoch, self.incarnation) == (run.turn_id, run.epoch, run.incarnation)


def find_thread(connection: apsw.Connection, tenant: str, thread_id: str) -> ThreadRow | None:
    """The thread's row, tombstones too. Raises DamagedError."""
    found: Any = connection.execute(_FIND, (tenant, thread_id)).fetchone()
    if found is None:
        return None
    # An index that is damaged may lead to another thread's row, which is sound in itself.
    if check_of(found[1:16]) != found[16] or found[1:3] != (tenant, thread_id):
        raise damaged(f"The row of thread {thread_id!r}", thread_id=thread_id)
    return ThreadRow(*found[:16])


def save_thread(connection: apsw.Connection, row: ThreadRow) -> None:
    """Write the row; one without a number is a new one."""
    columns = astuple(row)[1:]
    if row.n is None:
        labels = (row.updated, None, None)
        connection.execute(_CREATE, (*columns, check_of(columns), *labels, check_of(labels)))
    else:
        connection.execute(_SAVE, (*columns, check_of(columns), row.n))


def save_labels(
    connection: apsw.Connection, n: int | None, created: int, title: str | None, metadata: bytes | None
) -> None:
    """Write what people call a thread, and when it came to be."""
    labels = (created, title, None if metadata is None else metadata.decode())
    connection.execute(
        "UPDATE threads SET created = ?, title = ?, metadata = ?, label_check = ? WHERE n = ?",
        (*labels, check_of(labels), n),
    )


def new_life(
    connection: apsw.Connection,
    row: ThreadRow | None,
    tenant: str,
    thread_id: str,
    *,
    intent: Intent,
    incarnation: int | None,
    now: int,
) -> ThreadRow:
    """Make a thread: in a new row, or as the next life in the row of a tombstone.

    Raises ThreadNotFoundError, ThreadDeletedError for who meant one that exists.
    """
    if row is None:
        check_absent(connection, tenant, thread_id)
    if incarnation is not None and row is not None:
        raise rules.thread_deleted(thread_id)
    if incarnation is not None or intent == "existing":
        raise rules.no_thread(thread_id)
    if row is not None:
        life = ThreadRow(row.n, tenant, thread_id, row.incarnation + 1, row.epoch, updated=now)
        save_thread(connection, life)
        save_labels(connection, row.n, now, None, None)
        return life
    life = ThreadRow(None, tenant, thread_id, 1, 0, updated=now)
    save_thread(connection, life)
    life.n = connection.last_insert_rowid()
    return life


class Shared:
    """What the views of one store have in common: the file, the cache, and this process's number in the file."""

    def __init__(self, path: str, runtime: Runtime, busy_timeout: float, max_cache_bytes: int) -> None:
        self.database = Database(path, busy_timeout=busy_timeout)
        self.runtime = runtime
        self.cache = SlotCache(max_cache_bytes)
        self.line = Line(path, runtime)
        self.ear = Ear(self.database, self.cache, self.line)
        self.owner = 0
        self._beat: Beat | None = None
        self._process = 0
        self._listed = False
        self._making: set[Hashable] = set()

    def owner_in(self, connection: apsw.Connection) -> int:
        """This process's number, as long as it lives; listed in the file when it is first needed."""
        if self._listed and self._process == os.getpid():
            return self.owner
        if self._process != os.getpid():
            # Not of the runtime: two processes that replay one seed are still two.
            self.owner = int.from_bytes(os.urandom(7), "big")
            self._making = liveness.begin(self.database.path, self.owner)
            self._process = os.getpid()
            self.line.belongs_to(self.owner, self._making)
            self._beat = Beat(self)
            self.ear.listen(self.owner)
        self._list(connection)
        self._listed = True
        return self.owner

    def _list(self, connection: apsw.Connection) -> None:
        """Write this process down, for people and for those who call; strike out those that are gone."""
        listed: list[Any] = connection.execute("SELECT id FROM owners").fetchall()
        for (other,) in listed:
            if not liveness.is_alive(self.database.path, other):
                connection.execute("DELETE FROM owners WHERE id = ?", (other,))
        name = f"{socket.gethostname()}:{self._process}"
        connection.execute(
            "INSERT OR REPLACE INTO owners (id, process, since, address) VALUES (?, ?, ?, ?)",
            (self.owner, name, self.runtime.now_us(), self.ear.address),
        )

    def beat(self) -> None:
        """Say that this process is not stopped, while it has something that others may wait for.

        And have its runs look whether they are to stop, or to give way to those who wait, in whichever process.
        """
        if not self._making or self._process != os.getpid():
            return
        self.database.write(self._pulse, durable=False)
        for key, run in list(self.cache.holders.items()):
            self.ear.obey(key)
            if self.database.read(lambda connection, key=key: Line.is_waited_for(connection, key)):  # type: ignore[misc]
                run.give_way()

    def _pulse(self, connection: apsw.Connection) -> None:
        connection.execute("UPDATE owners SET beat = beat + 1 WHERE id = ?", (self.owner,))
        if not connection.changes():  # what listed it was rolled back
            self._list(connection)

    def begins(self, run: RunName, turn_id: str) -> None:
        """From now on this process makes that run, and does not wait with it."""
        self._making.discard((run[0], run[1], turn_id))
        self._making.add(run)
        self.database.open_runs = len(self._making)

    def ends(self, run: RunName | None) -> None:
        """This process does not make that run any more."""
        self._making.discard(run)
        self.database.open_runs = len(self._making)

    def die(self) -> None:
        """Give up this process's number: from now on its open runs are nobody's."""
        if self._process != os.getpid():
            return
        if self._beat is not None:
            self._beat.close()
        self.ear.close()
        liveness.end(self.database.path, self.owner)
        self._process, self._making = 0, set()

    def close(self) -> None:
        self.database.close()
        self.die()

    def __del__(self) -> None:
        # A store that was dropped without being closed gives its descriptors and threads back.
        with contextlib.suppress(Exception):
            self.close()


class _Asked(Struct):
    """What a run asks for when it opens. `place` is where it stands in line, if it does."""

    place: tuple[str, str, str]
    said: bytes
    in_line: bool
    terms: Terms


class SQLiteLog:
    """The opening of runs on a SQLite file. `SQLiteRuns` adds the rest of `RunLog`, `SQLiteStore` the directory."""

    def __init__(self, shared: Shared, tenant: str) -> None:
        self._shared = shared
        self._write = shared.database.write
        self.tenant = tenant
        self.cache = shared.cache

    def open_run(
        self,
        thread_id: str,
        turn_id: str,
        stored_input: bytes,
        started_us: int,
        *,
        intent: Intent = "either",
        incarnation: int | None = None,
        in_line: bool = False,
        terms: Terms = PLAIN,
    ) -> Handed[OpenRun | Busy | Earlier]:
        shared, tenant = self._shared, self.tenant
        asked = _Asked((tenant, thread_id, turn_id), bytes(stored_input), in_line, terms)
        name: RunName | None = None

        def work(connection: apsw.Connection) -> OpenRun | Busy | Earlier:
            nonlocal name
            row = find_thread(connection, tenant, thread_id)
            if row is None or row.tombstone or incarnation not in (None, row.incarnation):
                row = new_life(
                    connection, row, tenant, thread_id, intent=intent, incarnation=incarnation, now=started_us
                )
            elif intent == "new" and incarnation is None:
                raise rules.thread_exists(thread_id)
            if terms.key is not None and (found := self._earlier(connection, row, asked)) is not None:
                return found
            if connection.execute(_TURN_ID_TAKEN, (tenant, turn_id)).fetchone() is not None:
                raise rules.turn_id_taken(thread_id, turn_id)
            if row.run is not None or connection.execute(ANYBODY_IN_LINE, (tenant, thread_id)).fetchone() is not None:
                busy = self._must_wait(connection, row, asked)
                if busy is not None:
                    return busy
            left = None if terms.point is None else _begin_at(connection, row, turn_id, terms.point)
            name = self._give_to(connection, row, turn_id, asked.said, started_us, terms.key)
            return row.open_run() if left is None else replace(row.open_run(), left=left)

        # Whatever is not plain takes the slow way to be told what is wrong with it, if anything is.
        if not (type(thread_id) is type(turn_id) is str and 0 < len(thread_id) < 256 > len(turn_id) > 0) or not (
            (terms.key is None is terms.point and thread_id.isascii() and thread_id.isprintable())
            and (turn_id.isascii() and turn_id.isprintable())
        ):
            try:
                checked_thread_id(thread_id), checked_turn_id(turn_id)
                rules.check_terms(terms)
            except Exception as error:
                return Failed(error)
        return self._write(work, durable=False, failed=lambda: shared.ends(name))

    def _earlier(self, connection: apsw.Connection, row: ThreadRow, asked: _Asked) -> Earlier | None:
        """The turn that there is under the key already; then the run has nothing to wait for."""
        assert asked.terms.key is not None
        found = earlier(connection, row.tenant, row.id, row.incarnation, row.head, asked.terms.key)
        if found is not None:
            self._shared.line.leave(connection, asked.place)
        return found

    def _must_wait(self, connection: apsw.Connection, row: ThreadRow, asked: _Asked) -> Busy | None:
        """What a run gets that finds the thread taken, or others in line; None if it is let in all the same."""
        line, key = self._shared.line, asked.terms.key
        run = row.open_run() if row.run is not None else None
        twin = None
        if key is not None:
            same = run is not None and run.key == key
            twin = Twin(run.turn_id, run.input) if run is not None and same else line.twin(connection, asked.place, key)
        if run is None and twin is None and line.lets_in(connection, asked.place):
            return None
        if twin is not None:
            line.leave(connection, asked.place)
        elif asked.in_line:
            self._shared.owner_in(connection)
            line.stand(connection, asked.place, key, asked.said, asked.terms.max_waiting)
        if run is not None:
            return Busy(run, self._is_made(connection, row), twin)
        up = self._next_up(connection, row.id)
        if up is not None:  # nobody may have told it that the thread is free
            line.call(*up)
        return Busy(None, True, twin)

    def _give_to(
        self,
        connection: apsw.Connection,
        row: ThreadRow,
        turn_id: str,
        said: bytes | None,
        started_us: int,
        key: str | None,
    ) -> RunName:
        """Make this process the thread's writer; the fence rises before all others."""
        row.epoch += 1
        row.owner = self._shared.owner_in(connection)
        row.run, row.input, row.opened, row.key = turn_id, said, started_us, key
        run = (row.epoch, row.run, row.owner, row.input, row.opened, row.key)
        connection.execute(_OPEN, (*run, check_of(astuple(row)[1:]), row.n))
        name = (row.tenant, row.id, row.epoch)
        self._shared.begins(name, turn_id)
        return name

    def _is_made(self, connection: apsw.Connection, row: ThreadRow) -> bool:
        """Whether somebody is at work on the row's open run."""
        return self._shared.line.is_there(connection, row.owner, (row.tenant, row.id, row.epoch))

    def _next_up(self, connection: apsw.Connection, thread_id: str) -> Callee | None:
        """Who is to be called when the thread is free."""
        found = self._shared.line.next_up(connection, self.tenant, thread_id)
        return None if found is None else (Line.address_of(connection, found[0]), found)


def _begin_at(connection: apsw.Connection, row: ThreadRow, turn_id: str, point: Point) -> Head | None:
    """Put the thread's head where a run is to begin. Where it stood before, if that is elsewhere."""
    whose, left = (row.tenant, row.id, row.incarnation), row.head
    head = head_at_point(connection, *whose, left, point)
    if (head.branch, head.seq) == (left.branch, left.seq):
        return None
    anchor(connection, *whose, left)
    row.stand_at(head)
    save_thread(connection, row)
    note_left(connection, row.tenant, turn_id, left)
    return left
