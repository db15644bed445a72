"""Rows: how threads, branches and turns stand in the tables, and the statements that read and write them.

Rule of this file: the number and size of statements never depend on the length of a conversation, but for reading
one. Every value is bound. A row whose check does not fit is damaged and is never used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import apsw
import msgspec

from holdfast.conversation.errors import DamagedError
from holdfast.conversation.records import ROOT
from holdfast.ports.stores import Head, NewTurn, OpenRun, Segment, StoredTurn, ThreadInfo, ThreadPage
from holdfast.stores import rules
from holdfast.stores.rules import Position

_encode = msgspec.json.Encoder().encode

_CORE = "tenant, id, incarnation, epoch, tombstone, branch, seq, hash, own_tip, run, owner, input, opened, key, updated"
_FIND = f'SELECT {_CORE}, "check", n FROM threads WHERE tenant = ? AND id = ?'
_SAVE = f'UPDATE threads SET ({_CORE}, "check") = ({", ".join("?" * 16)}) WHERE n = ?'
_CREATE = (
    f'INSERT INTO threads ({_CORE}, "check", created, title, metadata, label_check) VALUES ({", ".join("?" * 20)})'
)
_LABEL = "UPDATE threads SET created = ?, title = ?, metadata = ?, label_check = ? WHERE tenant = ? AND id = ?"
# Columns that an index is over are named only where they change: naming one rewrites the index.
_OPEN = 'UPDATE threads SET epoch = ?, run = ?, owner = ?, input = ?, opened = ?, key = ?, "check" = ? WHERE n = ?'
# The fence: nothing is changed unless the run is still this writer's and the head where it was.
_SEAL = (
    "UPDATE threads SET {branch}seq = ?, hash = ?, own_tip = ?, run = NULL, owner = NULL, input = NULL, "
    'opened = NULL, key = NULL, updated = ?, "check" = ? '
    "WHERE tenant = ? AND id = ? AND epoch = ? AND run = ? AND incarnation = ? AND tombstone = 0 "
    "AND branch IS ? AND seq = ?"
)
_SEAL_ON, _SEAL_ON_NEW_BRANCH = _SEAL.format(branch=""), _SEAL.format(branch="branch = ?, ")
_TURN = (
    "INSERT INTO turns (tenant, branch, seq, id, key, status, reference, started, ended, hash, record) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INFO = f'SELECT {_CORE}, "check", n, created, title, metadata, label_check FROM threads'


def check_of(*columns: object) -> int:
    """A CRC-32 over columns. It finds what a disk or a stray write did, not what an enemy does."""
    return zlib.crc32(_encode(columns))


class ThreadRow:
    """A thread's row, but for its labels. The fields are the columns (see sqlite.sql)."""

    __slots__ = (
        "branch",
        "epoch",
        "hash",
        "id",
        "incarnation",
        "input",
        "key",
        "n",
        "opened",
        "own_tip",
        "owner",
        "run",
        "seq",
        "tenant",
        "tombstone",
        "updated",
    )

    def __init__(self, row: Sequence[Any], n: int | None) -> None:
        (
            self.tenant,
            self.id,
            self.incarnation,
            self.epoch,
            self.tombstone,
            self.branch,
            self.seq,
            self.hash,
            self.own_tip,
            self.run,
            self.owner,
            self.input,
            self.opened,
            self.key,
            self.updated,
        ) = row
        self.n = n

    @classmethod
    def new(cls, n: int | None, tenant: str, thread_id: str, *, incarnation: int, epoch: int, now: int) -> ThreadRow:
        """A thread without turns: a new row, or (`n`) a new life in the row of a tombstone."""
        row = (tenant, thread_id, incarnation, epoch, 0, None, 0, ROOT, 0, None, None, None, None, None, now)
        return cls(row, n)

    def columns(self) -> tuple[Any, ...]:
        return (
            self.tenant,
            self.id,
            self.incarnation,
            self.epoch,
            self.tombstone,
            self.branch,
            self.seq,
            self.hash,
            self.own_tip,
            self.run,
            self.owner,
            self.input,
            self.opened,
            self.key,
            self.updated,
        )

    @property
    def head(self) -> Head:
        return Head(self.branch, self.seq, self.hash, bool(self.own_tip))

    def stand_at(self, head: Head) -> None:
        """Put the head somewhere."""
        self.branch, self.seq, self.hash, self.own_tip = head.branch, head.seq, head.hash, int(head.own_tip)

    def open(self, owner: int, turn_id: str, stored_input: bytes, started_us: int) -> None:
        """Give the thread to a writer, and raise the fence before all others."""
        self.epoch += 1
        self.run, self.owner, self.input, self.opened = turn_id, owner, stored_input, started_us

    def open_run(self) -> OpenRun:
        """The run that is open on it."""
        return OpenRun(self.id, self.run, self.epoch, self.incarnation, self.head, self.input, self.opened)

    def info(self, labels: Sequence[Any] | None = None) -> ThreadInfo:
        """What people are told of it; `labels` are created, title and metadata."""
        created, title, metadata = labels if labels is not None else (self.updated, None, None)
        return ThreadInfo(
            self.id,
            self.head,
            self.incarnation,
            title,
            rules.decoded_metadata(metadata),
            created,
            self.updated,
            self.run,
            bool(self.tombstone),
        )


# --- threads ---------------------------------------------------------------------------------------------------


def find_thread(connection: apsw.Connection, tenant: str, thread_id: str) -> ThreadRow | None:
    """The thread's row, tombstones too. Raises DamagedError."""
    found = connection.execute(_FIND, (tenant, thread_id)).fetchone()
    if found is None:
        return None
    return _checked_row(found)


def _checked_row(found: Sequence[Any]) -> ThreadRow:
    if check_of(*found[:15]) != found[15]:
        raise _damaged(f"The row of thread {found[1]!r}", thread_id=str(found[1]))
    return ThreadRow(found[:15], found[16])


def save_thread(connection: apsw.Connection, row: ThreadRow) -> None:
    """Write the row; one without a number is a new one."""
    columns = row.columns()
    if row.n is None:
        labels = (row.updated, None, None)
        connection.execute(_CREATE, (*columns, check_of(*columns), *labels, check_of(*labels)))
    else:
        connection.execute(_SAVE, (*columns, check_of(*columns), row.n))


def save_opened(connection: apsw.Connection, row: ThreadRow) -> None:
    """Write that a run was opened on the thread."""
    if row.n is None:
        save_thread(connection, row)
        return
    run = (row.epoch, row.run, row.owner, row.input, row.opened, row.key)
    connection.execute(_OPEN, (*run, check_of(*row.columns()), row.n))


def save_labels(connection: apsw.Connection, tenant: str, info: ThreadInfo) -> None:
    """Write what people call a thread, and when it came to be."""
    metadata = rules.encoded_metadata(info.metadata)
    labels = (info.created_us, info.title, None if metadata is None else metadata.decode())
    connection.execute(_LABEL, (*labels, check_of(*labels), tenant, info.id))


def info(connection: apsw.Connection, tenant: str, thread_id: str) -> ThreadInfo | None:
    """What people are told of a thread, tombstones too. Raises DamagedError."""
    found = connection.execute(f"{_INFO} WHERE tenant = ? AND id = ?", (tenant, thread_id)).fetchone()
    return None if found is None else _checked_info(found)


def page(connection: apsw.Connection, tenant: str, limit: int, after: Position | None) -> ThreadPage:
    """The threads after a position, the most recently used first."""
    where, values = "tenant = ? AND tombstone = 0", [tenant]
    if after is not None:
        where += " AND (updated < ? OR (updated = ? AND id > ?))"
        values += [after[0], after[0], after[1]]  # type: ignore[list-item]
    rows = connection.execute(
        f"{_INFO} WHERE {where} ORDER BY updated DESC, id LIMIT ?", (*values, limit + 1)
    ).fetchall()
    found = tuple(_checked_info(row) for row in rows[:limit])
    more = len(rows) > limit
    return ThreadPage(found, rules.cursor_after((found[-1].updated_us, found[-1].id)) if more else None)


def _checked_info(found: Sequence[Any]) -> ThreadInfo:
    row = _checked_row(found)
    labels = found[17:20]
    if check_of(*labels) != found[20]:
        raise _damaged(f"The title or metadata of thread {row.id!r}", thread_id=row.id)
    return row.info(labels)


# --- turns -----------------------------------------------------------------------------------------------------


def seal(connection: apsw.Connection, tenant: str, run: OpenRun, turns: Sequence[NewTurn]) -> Head:
    """Put the turns after the run's head, move the head, close the run. Raises StaleRunError, InvalidInputError."""
    if not turns:
        return _give_back(connection, tenant, run)
    branch = run.head.branch if run.head.own_tip else _new_branch(connection, tenant, run)
    parent, seq, placed = run.head.hash, run.head.seq, []
    for turn in turns:
        seq += 1
        placed.append(rules.placed(turn, seq, parent))
        parent = placed[-1].hash
    head = Head(branch, seq, parent, True)
    _move_head(connection, tenant, run, head, turns[-1].ended_us)
    for stored in placed:
        _insert(connection, tenant, run, branch, stored)
    return head


def _move_head(connection: apsw.Connection, tenant: str, run: OpenRun, head: Head, updated: int) -> None:
    """Close the run at its new head, if it is still this writer's."""
    columns = (tenant, run.thread_id, run.incarnation, run.epoch, 0, head.branch, head.seq, head.hash, 1)
    closed = (None, None, None, None, None, updated)
    same_branch = head.branch == run.head.branch
    connection.execute(
        _SEAL_ON if same_branch else _SEAL_ON_NEW_BRANCH,
        (
            *columns[6 if same_branch else 5 :],
            updated,
            check_of(*columns, *closed),
            tenant,
            run.thread_id,
            run.epoch,
            run.turn_id,
            run.incarnation,
            run.head.branch,
            run.head.seq,
        ),
    )
    if connection.changes() != 1:
        raise rules.stale_run(run)


def _give_back(connection: apsw.Connection, tenant: str, run: OpenRun) -> Head:
    """Close a run of which nothing is to be kept."""
    row = find_thread(connection, tenant, run.thread_id)
    if row is None or row.open_run() != run:
        raise rules.stale_run(run)
    row.run = row.owner = row.input = row.opened = row.key = None
    save_thread(connection, row)
    return row.head


def _insert(connection: apsw.Connection, tenant: str, run: OpenRun, branch: int | None, turn: StoredTurn) -> None:
    columns = (turn.seq, turn.turn_id, turn.key, turn.status, turn.reference, turn.started_us, turn.ended_us)
    try:
        connection.execute(_TURN, (tenant, branch, *columns, turn.hash, turn.record))
    except apsw.ConstraintError:
        raise rules.turn_id_taken(run.thread_id, turn.turn_id) from None


def _new_branch(connection: apsw.Connection, tenant: str, run: OpenRun) -> int:
    return _branch_after(connection, (tenant, run.thread_id, run.incarnation, run.head.branch, run.head.seq))


def anchor(connection: apsw.Connection, row: ThreadRow) -> None:
    """Before a head leaves another thread's branch: keep the turns up to it for this thread, as an empty branch.

    Otherwise they could be swept with their own thread, and this one could never return to them.
    """
    owned = "SELECT 1 FROM branches WHERE id = ? AND thread = ? AND incarnation = ?"
    if row.branch is not None and connection.execute(owned, (row.branch, row.id, row.incarnation)).fetchone() is None:
        _branch_after(connection, (row.tenant, row.id, row.incarnation, row.branch, row.seq))


def _branch_after(connection: apsw.Connection, columns: tuple[str, str, int, int | None, int]) -> int:
    """A new branch: tenant, thread and incarnation that own it, and the turn after which it begins."""
    connection.execute(
        'INSERT INTO branches (tenant, thread, incarnation, parent, parent_seq, "check") VALUES (?, ?, ?, ?, ?, ?)',
        (*columns, check_of(*columns)),
    )
    return connection.last_insert_rowid()


def lineage(connection: apsw.Connection, tenant: str, head: Head) -> tuple[Segment, ...]:
    """The stretches from the first turn to the head: one look-up for each branch on the way."""
    if head.branch is not None and _hash_and_id(connection, tenant, head.branch, head.seq) is None:
        raise rules.turns_gone(Segment(head.branch, 0, head.seq))
    segments: list[Segment] = []
    branch, upto = head.branch, head.seq
    while branch is not None and upto > 0:
        parent, parent_seq = parent_of(connection, tenant, branch)
        if upto > parent_seq:
            segments.append(Segment(branch, parent_seq, upto))
        branch, upto = parent, min(upto, parent_seq)
    return tuple(reversed(segments))


def parent_of(connection: apsw.Connection, tenant: str, branch: int) -> tuple[int | None, int]:
    """Where a branch begins. Raises DamagedError if there is no such branch, or its row is damaged."""
    found = connection.execute(
        'SELECT tenant, thread, incarnation, parent, parent_seq, "check" FROM branches WHERE id = ? AND tenant = ?',
        (branch, tenant),
    ).fetchone()
    if found is None or check_of(*found[:5]) != found[5]:
        raise _damaged(f"The row of branch {branch}")
    return found[3], found[4]


def read_turns(connection: apsw.Connection, tenant: str, segment: Segment, limit: int | None) -> list[StoredTurn]:
    """Turns of a segment, their hashes checked against what stands before them."""
    wanted = segment.upto - segment.after if limit is None else min(limit, segment.upto - segment.after)
    rows: list[Any] = connection.execute(
        "SELECT seq, id, status, record, started, ended, hash, key, reference FROM turns "
        "WHERE branch = ? AND seq > ? AND seq <= ? AND tenant = ? ORDER BY seq LIMIT ?",
        (segment.branch, segment.after, segment.upto, tenant, wanted),
    ).fetchall()
    turns = [StoredTurn(*row) for row in rows]
    for seq, turn in enumerate(turns, segment.after + 1):
        if turn.seq != seq:
            raise _damaged(f"Turn {seq} of branch {segment.branch} is missing; the log")
    if len(turns) < wanted:
        raise rules.turns_gone(segment)
    if turns:
        hash_before, id_before = _turn_before(connection, tenant, segment)
        rules.verify(turns, hash_before, before=id_before)
    return turns


def _turn_before(connection: apsw.Connection, tenant: str, segment: Segment) -> tuple[bytes, str | None]:
    """Hash and id of the turn before a segment, on its branch or on the one that it began from."""
    if segment.after == 0:
        return ROOT, None
    branch: int | None = segment.branch
    while branch is not None:
        parent, parent_seq = parent_of(connection, tenant, branch)
        if segment.after > parent_seq:
            break
        branch = parent
    found = None if branch is None else _hash_and_id(connection, tenant, branch, segment.after)
    if found is None:
        raise _damaged(f"Turn {segment.after} before branch {segment.branch} is missing; the log")
    return found


def _hash_and_id(connection: apsw.Connection, tenant: str, branch: int, seq: int) -> tuple[bytes, str] | None:
    found = connection.execute(
        "SELECT hash, id FROM turns WHERE branch = ? AND seq = ? AND tenant = ?", (branch, seq, tenant)
    ).fetchone()
    return cast(tuple[bytes, str] | None, found)


def turn_on_path(connection: apsw.Connection, tenant: str, row: ThreadRow, turn_id: str) -> Head:
    """The head that stands at a turn of the thread's own history. Raises TurnNotFoundError."""
    found = connection.execute(
        "SELECT branch, seq FROM turns WHERE tenant = ? AND id = ?", (tenant, turn_id)
    ).fetchone()
    if found is not None:
        branch, seq = found
        for segment in lineage(connection, tenant, row.head):
            if segment.branch == branch and segment.after < seq <= segment.upto:
                return _head_at(connection, row, branch, seq)
    raise rules.no_turn(row.id, turn_id)


def turn_back(connection: apsw.Connection, tenant: str, row: ThreadRow, back: int) -> Head:
    """The head that stands `back` turns before the thread's. Raises InvalidInputError if there are not so many."""
    seq = row.seq - back
    if seq < 0:
        raise rules.too_few_turns(row.id, back, row.seq)
    for segment in lineage(connection, tenant, row.head):
        if segment.after < seq <= segment.upto:
            return _head_at(connection, row, segment.branch, seq)
    return Head()


def _head_at(connection: apsw.Connection, row: ThreadRow, branch: int, seq: int) -> Head:
    """The head at a turn: it is the tip if the branch is of this life of the thread, and has no turn after it."""
    found: Any = connection.execute("SELECT hash FROM turns WHERE branch = ? AND seq = ?", (branch, seq)).fetchone()
    owned = connection.execute(
        "SELECT 1 FROM branches WHERE id = ? AND thread = ? AND incarnation = ? "
        "AND NOT EXISTS (SELECT 1 FROM turns WHERE branch = ? AND seq = ?)",
        (branch, row.id, row.incarnation, branch, seq + 1),
    ).fetchone()
    return Head(branch, seq, found[0], owned is not None)


# --- owners ----------------------------------------------------------------------------------------------------


def list_owner(connection: apsw.Connection, owner: int, process: str, now: int) -> None:
    """Say who a number is; for people, and so that the next can clean up."""
    connection.execute("INSERT OR REPLACE INTO owners (id, process, since) VALUES (?, ?, ?)", (owner, process, now))


def forget_dead_owners(connection: apsw.Connection, is_alive: Callable[[int], bool]) -> None:
    """Take processes that are gone off the list. Their runs are known by the number in the thread's row."""
    listed: list[Any] = connection.execute("SELECT id FROM owners").fetchall()
    for (owner,) in listed:
        if not is_alive(owner):
            connection.execute("DELETE FROM owners WHERE id = ?", (owner,))


def _damaged(what: str, *, thread_id: str | None = None) -> DamagedError:
    return DamagedError(
        f"{what} is not what was written. Nothing of it was used. Keep a copy of the file, and restore a backup or go "
        "on with another thread.",
        thread_id=thread_id,
    )
