"""Closing a run: its turns are stored, the thread's head moves, the journal goes, all in one transaction.

Rule of this file: a usual seal is one update, one insert and one look-up, whatever the length of the conversation.
The fence is in the update itself: nothing is changed unless the run is still this writer's (one that waits has none),
and the head where the run began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from holdfast.ports.stores import Head, NewTurn, OpenRun
from holdfast.stores import rules
from holdfast.stores.sqlite_db import check_of
from holdfast.stores.sqlite_journal import clear
from holdfast.stores.sqlite_turns import insert_turn, new_branch

# Columns that an index is over are named only where they change: naming one rewrites the index.
_CLOSE = (
    "UPDATE threads SET {branch}seq = ?, hash = ?, own_tip = ?, run = NULL, owner = NULL, input = NULL, "
    'opened = NULL, key = NULL, updated = ?, "check" = ? '
    "WHERE tenant = ? AND id = ? AND epoch = ? AND run = ? AND incarnation = ? AND tombstone = 0 "
    "AND branch IS ? AND seq = ? AND owner IS NOT NULL"
)
_CLOSE_ON, _CLOSE_ON_ANOTHER_BRANCH = _CLOSE.format(branch=""), _CLOSE.format(branch="branch = ?, ")

_LEFT_BEHIND = (
    "SELECT EXISTS (SELECT 1 FROM runs WHERE tenant = ? AND thread = ?), "
    "EXISTS (SELECT 1 FROM journal WHERE tenant = ? AND turn = ?)"
)


def seal(
    connection: apsw.Connection, tenant: str, run: OpenRun, turns: Sequence[NewTurn], stand: Head | None
) -> tuple[Head, bool]:
    """Close the run with these turns, or as it began if there are none.

    The turns' head, and whether somebody waits for the thread. Raises StaleRunError, InvalidInputError.
    """
    head = _with_turns(connection, tenant, run, turns, stand) if turns else _as_it_was(connection, tenant, run, stand)
    values = (tenant, run.thread_id, tenant, run.turn_id)
    found: Any = connection.execute(_LEFT_BEHIND, values).fetchone()
    somebody_waits, was_journalled = found
    if was_journalled:
        clear(connection, tenant, run.turn_id)
    return head, bool(somebody_waits)


def _with_turns(
    connection: apsw.Connection, tenant: str, run: OpenRun, turns: Sequence[NewTurn], stand: Head | None
) -> Head:
    """Put the turns after the run's head; the thread stands at the last of them, or where it is told to."""
    was = run.head
    branch = was.branch if was.own_tip else None
    if branch is None:
        branch = new_branch(connection, tenant, run.thread_id, run.incarnation, was.branch, was.seq)
    parent, seq, placed = was.hash, was.seq, []
    for turn in turns:
        seq += 1
        placed.append(rules.placed(turn, seq, parent))
        parent = placed[-1].hash
    end = Head(branch, seq, parent, True)
    at = end if stand is None else rules.beside(stand, end)
    _close(connection, tenant, run, at, turns[-1].ended_us)
    for stored in placed:
        insert_turn(connection, tenant, run.thread_id, branch, stored)
    return end


def _as_it_was(connection: apsw.Connection, tenant: str, run: OpenRun, stand: Head | None) -> Head:
    """Nothing is to be kept of the run."""
    found: Any = connection.execute(
        "SELECT updated FROM threads WHERE tenant = ? AND id = ?", (tenant, run.thread_id)
    ).fetchone()
    if found is None:
        raise rules.stale_run(run)
    at = stand or run.left or run.head
    _close(connection, tenant, run, at, found[0])
    return at


def _close(connection: apsw.Connection, tenant: str, run: OpenRun, at: Head, updated: int) -> None:
    """The thread has no run any more and stands there, if the run is still this writer's."""
    place: tuple[object, ...] = (at.seq, at.hash, int(at.own_tip))
    columns = (tenant, run.thread_id, run.incarnation, run.epoch, 0, at.branch, *place)
    check = check_of((*columns, None, None, None, None, None, updated))
    same_branch = at.branch == run.head.branch
    if not same_branch:
        place = (at.branch, *place)
    fence = (tenant, run.thread_id, run.epoch, run.turn_id, run.incarnation, run.head.branch, run.head.seq)
    connection.execute(_CLOSE_ON if same_branch else _CLOSE_ON_ANOTHER_BRANCH, (*place, updated, check, *fence))
    if connection.changes() != 1:
        raise rules.stale_run(run)
