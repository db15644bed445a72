"""What belongs to a thread besides its history: its branches, the keys of its turns, and the points to begin at.

Rule of this file: a thread has the turns of its own branches, and, if it is a fork, those of its *trunk*: the turns of
other threads up to the one that it began at. Nothing else can be reached from it, and nothing of this outlives it.
"""

from __future__ import annotations

from typing import Any

import apsw
from msgspec.structs import replace

from holdfast.ports.stores import Earlier, Head, Point, Segment, StoredTurn, Tip
from holdfast.stores import rules
from holdfast.stores.sqlite_db import check_of
from holdfast.stores.sqlite_turns import check_found, damaged, head_at, head_at_turn, head_before, lineage, read_turns

_PLACE = (
    "SELECT t.branch, t.seq, b.thread = ? AND b.incarnation = ? FROM turns t JOIN branches b ON b.id = t.branch "
    "WHERE t.tenant = ? AND t.id = ?"
)
# The trunk goes as far as the deepest turn of another thread from which one of this thread's branches goes on.
_TRUNK = (
    "SELECT b.parent, b.parent_seq FROM branches b WHERE b.tenant = ? AND b.thread = ? AND b.incarnation = ? "
    "AND b.parent IS NOT NULL AND NOT EXISTS (SELECT 1 FROM branches o WHERE o.id = b.parent AND o.thread = b.thread "
    "AND o.incarnation = b.incarnation) ORDER BY b.parent_seq DESC LIMIT 1"
)
_OWN = "SELECT 1 FROM branches WHERE id = ? AND thread = ? AND incarnation = ?"
_TIPS = (
    'SELECT b.id, b.tenant, b.thread, b.incarnation, b.parent, b.parent_seq, b."check", '
    "(SELECT max(seq) FROM turns WHERE branch = b.id) AS last "
    "FROM branches b WHERE b.tenant = ? AND b.thread = ? AND b.incarnation = ? AND last IS NOT NULL ORDER BY b.id DESC"
)
_UNDER_KEY = (
    "SELECT t.branch, t.seq FROM turns t JOIN branches b ON b.id = t.branch WHERE t.tenant = ? AND t.key = ? "
    "AND b.thread = ? AND b.incarnation = ? ORDER BY t.branch DESC, t.seq DESC LIMIT 1"
)


# --- branches ----------------------------------------------------------------------------------------------------


def tips(connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head) -> list[Tip]:
    """The tips of a thread's branches, the newest first; its trunk's is the last, if nothing goes on from there."""
    listed: list[Any] = connection.execute(_TIPS, (tenant, thread_id, incarnation)).fetchall()
    found: list[Tip] = []
    for row in listed:
        if check_of(row[1:6]) != row[6]:
            raise damaged(f"The row of branch {row[0]}", thread_id=thread_id)
        branch, parent, parent_seq, last = row[0], row[4], row[5], row[7]
        parts_after = _turn(connection, tenant, parent, parent_seq).turn_id if parent is not None else None
        turn = _turn(connection, tenant, branch, last)
        found.append(Tip(turn.turn_id, last, parts_after, branch == head.branch, turn.ended_us))
    trunk = _trunk(connection, tenant, thread_id, incarnation, head)
    if trunk.branch is not None:
        stands_there = head.branch is not None and not _is_own(connection, thread_id, incarnation, head.branch)
        if stands_there or (trunk.branch, trunk.seq) not in [(row[4], row[5]) for row in listed]:
            turn = _turn(connection, tenant, trunk.branch, trunk.seq)
            found.append(Tip(turn.turn_id, trunk.seq, None, stands_there, turn.ended_us))
    return found


def _turn(connection: apsw.Connection, tenant: str, branch: int, seq: int) -> StoredTurn:
    """One turn. Raises DamagedError."""
    if not isinstance(seq, int):  # what stands in a damaged index may be anything
        raise damaged(f"The index of the turns of branch {branch}")
    (turn,) = read_turns(connection, tenant, Segment(branch, seq - 1, seq), None)
    return turn


def place_on_branches(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head, turn_id: str
) -> tuple[int, int] | None:
    """Branch and depth of a turn that is on any of a thread's branches, or on its trunk."""
    found: Any = connection.execute(_PLACE, (thread_id, incarnation, tenant, turn_id)).fetchone()
    if found is None:
        return None
    branch, seq, is_own = found
    check_found(connection, tenant, branch, seq, turn_id)
    if is_own:
        return branch, seq
    trunk = _trunk(connection, tenant, thread_id, incarnation, head)
    return (branch, seq) if is_on(lineage(connection, tenant, trunk), branch, seq) else None


def head_anywhere(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head, turn_id: str
) -> Head:
    """The head that stands at a turn of any of a thread's branches. Raises TurnNotFoundError."""
    place = place_on_branches(connection, tenant, thread_id, incarnation, head, turn_id)
    if place is None:
        raise rules.no_turn_anywhere(thread_id, turn_id)
    return head_at(connection, tenant, thread_id, incarnation, *place)


def _trunk(connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head) -> Head:
    """The end of a thread's trunk (only branch and seq count); the root if it is no fork."""
    found: Any = connection.execute(_TRUNK, (tenant, thread_id, incarnation)).fetchone()
    end = Head() if found is None else Head(found[0], found[1])
    if head.branch is None or head.seq <= end.seq or _is_own(connection, thread_id, incarnation, head.branch):
        return end
    return head


def _is_own(connection: apsw.Connection, thread_id: str, incarnation: int, branch: int) -> bool:
    return connection.execute(_OWN, (branch, thread_id, incarnation)).fetchone() is not None


def is_on(segments: tuple[Segment, ...], branch: int, seq: int) -> bool:
    """Whether a turn is on one of these stretches."""
    return any(segment.branch == branch and segment.after < seq <= segment.upto for segment in segments)


# --- what a run may ask for ----------------------------------------------------------------------------------------


def earlier(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head, key: str
) -> Earlier | None:
    """The turn that this life of a thread has under a key, on whichever of its own branches."""
    found: Any = connection.execute(_UNDER_KEY, (tenant, key, thread_id, incarnation)).fetchone()
    if found is None:
        return None
    turn = replace(recorded(connection, tenant, head, *found), incarnation=incarnation)
    if turn.turn.key != key:
        raise damaged(f"The index by which the key {key!r} is looked for", thread_id=thread_id)
    return turn


def recorded(connection: apsw.Connection, tenant: str, head: Head, branch: int, seq: int) -> Earlier:
    """A turn, and whether it is on the way to the head. Raises DamagedError."""
    turn = _turn(connection, tenant, branch, seq)
    return Earlier(turn, is_on(lineage(connection, tenant, head), branch, seq))


def head_at_point(
    connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int, head: Head, point: Point
) -> Head:
    """The head at which a run begins. Raises TurnNotFoundError."""
    at = head_at_turn(connection, tenant, thread_id, incarnation, head, point.turn_id)
    if point.latest and (at.branch, at.seq) != (head.branch, head.seq):
        raise rules.not_latest(thread_id, point.turn_id)
    return head_before(connection, tenant, thread_id, incarnation, at, 1) if point.before else at
