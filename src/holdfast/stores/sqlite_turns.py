"""Turns and branches, as they stand in the tables: what follows what, and reading it.

Rule of this file: the number and size of statements never depend on the length of a conversation, but for reading
one. Every value is bound. What is not what was written is never handed on.
"""

from __future__ import annotations

from typing import Any, cast

import apsw

from holdfast.conversation.errors import DamagedError
from holdfast.conversation.records import ROOT
from holdfast.ports.stores import Head, Segment, StoredTurn
from holdfast.stores import rules
from holdfast.stores.sqlite_db import check_of

_TURN = (
    "INSERT INTO turns (tenant, branch, seq, id, key, status, reference, started, ended, hash, record) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# A turn stays for a thread whose branch it is on, or whose branch begins there or later.
_IS_KEPT = (
    "SELECT 1 FROM branches WHERE tenant = ? AND thread = ? AND incarnation = ? "
    "AND (id = ? OR (parent = ? AND parent_seq >= ?))"
)


def insert_turn(connection: apsw.Connection, tenant: str, thread_id: str, branch: int, turn: StoredTurn) -> None:
    """Put a turn in its place. Raises InvalidInputError if its id is taken."""
    columns = (turn.seq, turn.turn_id, turn.key, turn.status, turn.reference, turn.started_us, turn.ended_us)
    try:
        connection.execute(_TURN, (tenant, branch, *columns, turn.hash, turn.record))
    except apsw.ConstraintError:
        raise rules.turn_id_taken(thread_id, turn.turn_id) from None


def new_branch(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, parent: int | None, parent_seq: int
) -> int:
    """A branch of this life of a thread, that begins after a turn of another one (or of none)."""
    columns = (tenant, thread_id, incarnation, parent, parent_seq)
    connection.execute(
        'INSERT INTO branches (tenant, thread, incarnation, parent, parent_seq, "check") VALUES (?, ?, ?, ?, ?, ?)',
        (*columns, check_of(columns)),
    )
    return connection.last_insert_rowid()


def anchor(connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head) -> None:
    """Before a head leaves another thread's branch: keep the turns up to it for this thread, as an empty branch.

    Otherwise they could be swept with their own thread, and this one could never return to them.
    """
    if head.branch is None:
        return
    values = (tenant, thread_id, incarnation, head.branch, head.branch, head.seq)
    if connection.execute(_IS_KEPT, values).fetchone() is None:
        new_branch(connection, tenant, thread_id, incarnation, head.branch, head.seq)


def lineage(connection: apsw.Connection, tenant: str, head: Head) -> tuple[Segment, ...]:
    """The stretches from the first turn to the head, which must be there: one look-up for each branch on the way."""
    if head.branch is not None and _hash_and_id(connection, tenant, head.branch, head.seq) is None:
        raise rules.turns_gone(Segment(head.branch, 0, head.seq))
    return stretches(connection, tenant, head)


def stretches(connection: apsw.Connection, tenant: str, head: Head) -> tuple[Segment, ...]:
    """The same without a look at the head itself, so that a thread whose latest turn is damaged can be left."""
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
    if found is None or check_of(found[:5]) != found[5]:
        raise damaged(f"The row of branch {branch}")
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
            raise damaged(f"Turn {seq} of branch {segment.branch} is missing; the log")
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
        raise damaged(f"Turn {segment.after} before branch {segment.branch} is missing; the log")
    return found


def _hash_and_id(connection: apsw.Connection, tenant: str, branch: int, seq: int) -> tuple[bytes, str] | None:
    found = connection.execute(
        "SELECT hash, id FROM turns WHERE branch = ? AND seq = ? AND tenant = ?", (branch, seq, tenant)
    ).fetchone()
    return cast(tuple[bytes, str] | None, found)


def head_at_turn(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head, turn_id: str
) -> Head:
    """The head that stands at a turn of a thread's own history. Raises TurnNotFoundError."""
    found: Any = connection.execute(
        "SELECT branch, seq FROM turns WHERE tenant = ? AND id = ?", (tenant, turn_id)
    ).fetchone()
    if found is not None:
        branch, seq = found
        check_found(connection, tenant, branch, seq, turn_id)
        for segment in stretches(connection, tenant, head):
            if segment.branch == branch and segment.after < seq <= segment.upto:
                return head_at(connection, tenant, thread_id, incarnation, branch, seq)
    raise rules.no_turn(thread_id, turn_id)


def check_found(connection: apsw.Connection, tenant: str, branch: int, seq: int, turn_id: str) -> None:
    """Raises DamagedError if the turn that was looked for by its id is not the one that was found."""
    found = _hash_and_id(connection, tenant, branch, seq)
    if found is None or found[1] != turn_id:
        raise damaged(f"The index by which turn {turn_id!r} is looked for")


def head_before(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head, back: int
) -> Head:
    """The head that stands `back` turns before another. Raises InvalidInputError if there are not so many."""
    seq = head.seq - back
    if seq < 0:
        raise rules.too_few_turns(thread_id, back, head.seq)
    for segment in stretches(connection, tenant, head):
        if segment.after < seq <= segment.upto:
            return head_at(connection, tenant, thread_id, incarnation, segment.branch, seq)
    return Head()


def head_at(connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, branch: int, seq: int) -> Head:
    """The head at a turn: it is the tip if the branch is of this life of the thread, and has no turn after it."""
    found = _hash_and_id(connection, tenant, branch, seq)
    if found is None:
        raise rules.turns_gone(Segment(branch, seq - 1, seq))
    tip = connection.execute(
        "SELECT 1 FROM branches WHERE id = ? AND thread = ? AND incarnation = ? "
        "AND NOT EXISTS (SELECT 1 FROM turns WHERE branch = ? AND seq = ?)",
        (branch, thread_id, incarnation, branch, seq + 1),
    ).fetchone()
    return Head(branch, seq, found[0], tip is not None)


def damaged(what: str, *, thread_id: str | None = None) -> DamagedError:
    return DamagedError(
        f"{what} is not what was written. Nothing of it was used. Keep a copy of the file, and restore a backup or go "
        "on with another thread.",
        thread_id=thread_id,
    )
