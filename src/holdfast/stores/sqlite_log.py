"""SQLiteLog: the part of the SQLite store that a turn passes through, and the rows of threads.

Rule of this file: opening a run is one look-up and one update, sealing it one update and one insert, whatever the
length of the conversation. The fence is in the statements themselves. A row whose check does not fit is damaged and
is never used.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Hashable, Sequence
from typing import Any, TypeAlias

import apsw
from msgspec import Struct
from msgspec.structs import astuple, replace

from holdfast.conversation.ids import checked_thread_id, checked_turn_id
from holdfast.conversation.records import ROOT
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import (
    Busy,
    Failed,
    Handed,
    Head,
    Intent,
    NewTurn,
    OpenRun,
    Ready,
    Segment,
    SlotCache,
    StoredTurn,
)
from holdfast.stores import liveness, rules
from holdfast.stores.sqlite_bell import Beat
from holdfast.stores.sqlite_db import Database, Work, check_of
from holdfast.stores.sqlite_line import LOOK_FIRST, LOOK_LATER, Line, NextUp
from holdfast.stores.sqlite_turns import damaged, insert_turn, lineage, new_branch, read_turns

COLUMNS = (
    "tenant, id, incarnation, epoch, tombstone, branch, seq, hash, own_tip, run, owner, input, opened, key, updated"
)
_FIND = f'SELECT n, {COLUMNS}, "check" FROM threads WHERE tenant = ? AND id = ?'
_SAVE = f'UPDATE threads SET ({COLUMNS}, "check") = ({", ".join("?" * 16)}) WHERE n = ?'
_CREATE = (
    f'INSERT INTO threads ({COLUMNS}, "check", created, title, metadata, label_check) VALUES ({", ".join("?" * 20)})'
)
# Columns that an index is over are named only where they change: naming one rewrites the index.
_OPEN = 'UPDATE threads SET epoch = ?, run = ?, owner = ?, input = ?, opened = ?, "check" = ? WHERE n = ?'
# The fence: nothing is changed unless the run is still this writer's and the head where it was.
_SEAL = (
    "UPDATE threads SET {branch}seq = ?, hash = ?, own_tip = 1, run = NULL, owner = NULL, input = NULL, "
    'opened = NULL, key = NULL, updated = ?, "check" = ? '
    "WHERE tenant = ? AND id = ? AND epoch = ? AND run = ? AND incarnation = ? AND tombstone = 0 "
    "AND branch IS ? AND seq = ?"
)
_SEAL_ON, _SEAL_ON_NEW_BRANCH = _SEAL.format(branch=""), _SEAL.format(branch="branch = ?, ")

_TURN_ID_TAKEN = "SELECT 1 FROM turns WHERE tenant = ? AND id = ?"
_ANYBODY_IN_LINE = "SELECT 1 FROM runs WHERE tenant = ? AND thread = ? LIMIT 1"

# What tells one writer's run from all others: tenant, thread, epoch.
RunName: TypeAlias = tuple[str, str, int]


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

    def open_run(self) -> OpenRun:
        """The run that is open on it; there must be one."""
        head = Head(self.branch, self.seq, self.hash, bool(self.own_tip))
        return OpenRun(self.id, self.run or "", self.epoch, self.incarnation, head, self.input or b"", self.opened or 0)


def find_thread(connection: apsw.Connection, tenant: str, thread_id: str) -> ThreadRow | None:
    """The thread's row, tombstones too. Raises DamagedError."""
    found: Any = connection.execute(_FIND, (tenant, thread_id)).fetchone()
    if found is None:
        return None
    if check_of(found[1:16]) != found[16]:
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


def _somebody_waits(connection: apsw.Connection, key: Any) -> bool:
    """Whether anybody stands in line before a thread, given as (tenant, thread id)."""
    return connection.execute(_ANYBODY_IN_LINE, key).fetchone() is not None


class Shared:
    """What the views of one store have in common: the file, the cache, and this process's number in the file."""

    def __init__(self, path: str, runtime: Runtime, busy_timeout: float, max_cache_bytes: int) -> None:
        self.database = Database(path, busy_timeout=busy_timeout)
        self.runtime = runtime
        self.cache = SlotCache(max_cache_bytes)
        self.line = Line(path, runtime)
        self.owner = 0
        self._beat: Beat | None = None
        self._process = 0
        self._listed = False
        self._making: set[Hashable] = set()

    def owner_in(self, connection: apsw.Connection) -> int:
        """This process's number, as long as it lives; listed in the file, for people, when it is first needed."""
        if self._listed and self._process == os.getpid():
            return self.owner
        path = self.database.path
        if self._process != os.getpid():
            # Not of the runtime: two processes that replay one seed are still two.
            self.owner, self._listed = int.from_bytes(os.urandom(7), "big"), False
            self._making = liveness.begin(path, self.owner)
            self._process = os.getpid()
            self.line.belongs_to(self.owner, self._making)
            self._beat = Beat(self)
        listed: list[Any] = connection.execute("SELECT id FROM owners").fetchall()
        for (other,) in listed:
            if not liveness.is_alive(path, other):
                connection.execute("DELETE FROM owners WHERE id = ?", (other,))
        connection.execute(
            "INSERT OR REPLACE INTO owners (id, process, since) VALUES (?, ?, ?)",
            (self.owner, f"{socket.gethostname()}:{self._process}", self.runtime.now_us()),
        )
        self._listed = True
        return self.owner

    def beat(self) -> None:
        """Say that this process is not stopped, while it has something that others may wait for.

        And have streams that nobody reads give way to those who wait, in whichever process.
        """
        if not self._making or self._process != os.getpid():
            return
        owner = self.owner
        self.database.write(
            lambda connection: connection.execute("UPDATE owners SET beat = beat + 1 WHERE id = ?", (owner,)),
            durable=False,
        )
        for key, run in list(self.cache.holders.items()):
            if self.database.read(lambda connection, key=key: _somebody_waits(connection, key)):  # type: ignore[misc]
                run.give_way()

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
        self.line.close()
        liveness.end(self.database.path, self.owner)
        self._process, self._making = 0, set()

    def close(self) -> None:
        self.database.close()
        self.die()

    def __del__(self) -> None:
        # A store that was dropped without being closed gives its descriptors and threads back.
        with contextlib.suppress(Exception):
            self.close()


class SQLiteLog:
    """`RunLog` on a SQLite file. The base of `SQLiteStore`, which adds the directory of threads."""

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
    ) -> Handed[OpenRun | Busy]:
        shared, tenant, said = self._shared, self.tenant, bytes(stored_input)
        name: RunName | None = None

        def work(connection: apsw.Connection) -> OpenRun | Busy:
            nonlocal name
            row = find_thread(connection, tenant, thread_id)
            if row is None or row.tombstone or incarnation not in (None, row.incarnation):
                row = new_life(
                    connection, row, tenant, thread_id, intent=intent, incarnation=incarnation, now=started_us
                )
            elif intent == "new" and incarnation is None:
                raise rules.thread_exists(thread_id)
            if connection.execute(_TURN_ID_TAKEN, (tenant, turn_id)).fetchone() is not None:
                raise rules.turn_id_taken(thread_id, turn_id)
            if row.run is not None:
                if in_line:
                    self._stand_in_line(connection, thread_id, turn_id)
                return Busy(row.open_run(), self._is_made(connection, row))
            if connection.execute(_ANYBODY_IN_LINE, (tenant, thread_id)).fetchone() is not None:
                if in_line:
                    self._stand_in_line(connection, thread_id, turn_id)
                if not shared.line.lets_in(connection, (tenant, thread_id, turn_id)):
                    return Busy(None, True)
            name = self._give_to(connection, row, turn_id, said, started_us)
            return row.open_run()

        # Ids that are not plain ASCII take the slow way to be told what is wrong with them, if anything is.
        if not (type(thread_id) is type(turn_id) is str and 0 < len(thread_id) < 256 > len(turn_id) > 0) or not (
            thread_id.isascii() and thread_id.isprintable() and turn_id.isascii() and turn_id.isprintable()
        ):
            try:
                checked_thread_id(thread_id), checked_turn_id(turn_id)
            except Exception as error:
                return Failed(error)
        return self._write(work, durable=False, failed=lambda: shared.ends(name))

    def _give_to(
        self, connection: apsw.Connection, row: ThreadRow, turn_id: str, said: bytes | None, started_us: int
    ) -> RunName:
        """Make this process the thread's writer; the fence rises before all others."""
        row.epoch += 1
        row.owner = self._shared.owner_in(connection)
        row.run, row.input, row.opened = turn_id, said, started_us
        run = (row.epoch, row.run, row.owner, row.input, row.opened)
        connection.execute(_OPEN, (*run, check_of(astuple(row)[1:]), row.n))
        name = (row.tenant, row.id, row.epoch)
        self._shared.begins(name, turn_id)
        return name

    def _is_made(self, connection: apsw.Connection, row: ThreadRow) -> bool:
        """Whether somebody is at work on the row's open run."""
        return self._shared.line.is_there(connection, row.owner, (row.tenant, row.id, row.epoch))

    # --- the line ----------------------------------------------------------------------------------------------

    def _stand_in_line(self, connection: apsw.Connection, thread_id: str, turn_id: str) -> None:
        self._shared.owner_in(connection)
        self._shared.line.stand(connection, (self.tenant, thread_id, turn_id))

    async def wait(self, thread_id: str, turn_id: str, *, seconds: float) -> None:
        place = (self.tenant, thread_id, turn_id)

        def look() -> float | None:
            return self._shared.database.read(lambda connection: self._still_waits(connection, thread_id, turn_id))

        await self._shared.line.calls.wait(place, look, seconds=seconds)

    def _still_waits(self, connection: apsw.Connection, thread_id: str, turn_id: str) -> float | None:
        """None if a run in line should try to open; else in how many seconds it should look again."""
        row = find_thread(connection, self.tenant, thread_id)
        if row is None or row.tombstone or (row.run is not None and not self._is_made(connection, row)):
            return None
        up = self._shared.line.next_up(connection, self.tenant, thread_id)
        is_next = up is None or up[1][2] == turn_id
        if row.run is None and is_next:
            return None
        return LOOK_FIRST if is_next else LOOK_LATER

    def withdraw(self, thread_id: str, turn_id: str) -> Handed[None]:
        up: list[tuple[str | None, NextUp]] = []
        # At once: should the writing fail, others drop a ticket that nobody waits with.
        self._shared.line.give_up((self.tenant, thread_id, turn_id))

        def work(connection: apsw.Connection) -> None:
            self._shared.line.leave(connection, (self.tenant, thread_id, turn_id))
            row = find_thread(connection, self.tenant, thread_id)
            if row is not None and row.run is None:
                self._note_next(connection, thread_id, up)

        return self._write(work, durable=False, settled=lambda: self._call(up))

    def _note_next(self, connection: apsw.Connection, thread_id: str, up: list[tuple[str | None, NextUp]]) -> None:
        """Note in `up` who is to be called once the transaction is done."""
        up.clear()
        found = self._shared.line.next_up(connection, self.tenant, thread_id)
        if found is not None:
            up.append((Line.address_of(connection, found[0]), found))

    def _call(self, up: list[tuple[str | None, NextUp]]) -> None:
        for address, found in up:
            self._shared.line.call(address, found)

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        shared, tenant = self._shared, self.tenant
        name: RunName | None = None

        def work(connection: apsw.Connection) -> OpenRun | None:
            nonlocal name
            row = find_thread(connection, tenant, holder.thread_id)
            if row is None or row.run is None or row.open_run() != holder or self._is_made(connection, row):
                return None
            name = self._give_to(connection, row, row.run, row.input, holder.started_us)
            return row.open_run()

        return self._write(work, durable=False, failed=lambda: shared.ends(name))

    def seal(self, run: OpenRun, turns: Sequence[NewTurn]) -> Handed[Head]:
        shared, tenant = self._shared, self.tenant
        handed = [turn if type(turn.record) is bytes else replace(turn, record=bytes(turn.record)) for turn in turns]

        up: list[tuple[str | None, NextUp]] = []

        def work(connection: apsw.Connection) -> Head:
            head = _seal(connection, tenant, run, handed) if handed else _give_back(connection, tenant, run)
            if connection.execute(_ANYBODY_IN_LINE, (tenant, run.thread_id)).fetchone() is not None:
                self._note_next(connection, run.thread_id, up)
            return head

        def settled() -> None:
            shared.ends((tenant, run.thread_id, run.epoch))
            self._call(up)

        return self._write(work, durable=True, large=len(handed) > 50, settled=settled)

    def lineage(self, head: Head) -> Awaitable[tuple[Segment, ...]]:
        return self._read(lambda connection: lineage(connection, self.tenant, head))

    def read(self, segment: Segment, *, limit: int | None = None) -> Awaitable[list[StoredTurn]]:
        def work(connection: apsw.Connection) -> list[StoredTurn]:
            if limit is not None:
                rules.checked_count(limit, "limit")
            return read_turns(connection, self.tenant, segment, limit)

        return self._read(work)

    def _read(self, work: Work[Any]) -> Handed[Any]:
        try:
            return Ready(self._shared.database.read(work))
        except Exception as error:
            return Failed(error)


def _seal(connection: apsw.Connection, tenant: str, run: OpenRun, turns: Sequence[NewTurn]) -> Head:
    """Put the turns after the run's head, move the head, close the run. Raises StaleRunError, InvalidInputError."""
    was = run.head
    branch = was.branch if was.own_tip else None
    if branch is None:
        branch = new_branch(connection, tenant, run.thread_id, run.incarnation, was.branch, was.seq)
    parent, seq, placed = was.hash, was.seq, []
    for turn in turns:
        seq += 1
        placed.append(rules.placed(turn, seq, parent))
        parent = placed[-1].hash
    _move_head(connection, tenant, run, Head(branch, seq, parent, True), turns[-1].ended_us)
    for stored in placed:
        insert_turn(connection, tenant, run.thread_id, branch, stored)
    return Head(branch, seq, parent, True)


def _move_head(connection: apsw.Connection, tenant: str, run: OpenRun, head: Head, updated: int) -> None:
    """Close the run at its new head, if it is still this writer's."""
    columns = (tenant, run.thread_id, run.incarnation, run.epoch, 0, head.branch, head.seq, head.hash, 1)
    check = check_of((*columns, None, None, None, None, None, updated))
    same_branch = head.branch == run.head.branch
    place = (head.seq, head.hash) if same_branch else (head.branch, head.seq, head.hash)
    fence = (tenant, run.thread_id, run.epoch, run.turn_id, run.incarnation, run.head.branch, run.head.seq)
    connection.execute(_SEAL_ON if same_branch else _SEAL_ON_NEW_BRANCH, (*place, updated, check, *fence))
    if connection.changes() != 1:
        raise rules.stale_run(run)


def _give_back(connection: apsw.Connection, tenant: str, run: OpenRun) -> Head:
    """Close a run of which nothing is to be kept."""
    row = find_thread(connection, tenant, run.thread_id)
    if row is None or row.run is None or row.open_run() != run:
        raise rules.stale_run(run)
    row.run = row.owner = row.input = row.opened = row.key = None
    save_thread(connection, row)
    return row.head


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
