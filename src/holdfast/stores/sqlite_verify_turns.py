"""The tree of branches and turns, read once more: what follows what, and whether it is what was written.

Rule of this file: a look is a transaction of its own, and short. Branches are walked in the order of their numbers,
so that a branch comes after the one that it began from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

import apsw
from msgspec import Struct
from msgspec.structs import replace

from holdfast.conversation.records import ROOT
from holdfast.ports.stores import StoredTurn
from holdfast.ports.verification import Damage
from holdfast.stores.soundness import BACKUP, NAMED_THREADS, Before, Findings, Where, damaged_turn, gone, step
from holdfast.stores.sqlite_db import check_of
from holdfast.stores.sqlite_files import roll_back

# Rows in one look, and bytes of records after which it ends.
CHUNK, CHUNK_BYTES = 200, 1_000_000

# The next number of a branch that has a row, or turns.
_NEXT = (
    "SELECT min(id) FROM (SELECT min(id) AS id FROM branches WHERE id > ?1 "
    "UNION ALL SELECT min(branch) FROM turns WHERE branch > ?1)"
)
_BRANCH = 'SELECT tenant, thread, incarnation, parent, parent_seq, "check" FROM branches WHERE id = ?'
_OWNER = "SELECT 1 FROM threads WHERE tenant = ? AND id = ?"
_PLACES = "SELECT seq, n FROM turns WHERE branch = ? AND seq > ? ORDER BY seq LIMIT ?"
_TURN = (
    "SELECT seq, id, status, record, started, ended, hash, key, reference, tenant, branch FROM turns NOT INDEXED "
    "WHERE n = ?"
)
_TURN_AT = "SELECT hash, id FROM turns WHERE branch = ? AND seq = ?"
_TURN_OF_ID = "SELECT branch, seq FROM turns WHERE tenant = ? AND id = ?"
_TURN_BEFORE = "SELECT seq FROM turns WHERE branch = ? AND seq < ? ORDER BY seq DESC LIMIT 1"
# On a branch that itself is damaged nothing is sound.
_LOST = (0, None)
# Who stands on a turn, or after it: on its branch, or on one that begins there or later.
_REACHED = (
    "WITH RECURSIVE later(branch, seq) AS (VALUES (?1, ?2) UNION "
    "SELECT b.id, b.parent_seq + 1 FROM branches b JOIN later l ON b.parent = l.branch AND b.parent_seq >= l.seq "
    "AND b.id > l.branch) "
    "SELECT DISTINCT t.id FROM later l JOIN threads t ON t.branch = l.branch AND t.seq >= l.seq "
    "WHERE t.tombstone = 0 ORDER BY t.n"
)


@contextlib.contextmanager
def one_look(connection: apsw.Connection) -> Iterator[None]:
    """All that is read inside is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)


def read_row(connection: apsw.Connection, statement: str, *values: object) -> tuple[Any, ...] | str | None:
    """A row; None if there is none; why it cannot be read if it cannot."""
    try:
        found: Any = connection.execute(statement, values).fetchone()
    except apsw.InterruptError:
        raise
    except UnicodeDecodeError:
        return "a text in it is none"
    except apsw.Error as error:
        return f"it cannot be read ({error})"
    return cast("tuple[Any, ...] | None", found)


class Branch(Struct):
    """A branch on the way: whose it is, who made it, and what stands before its next turn."""

    number: int
    tenant: str | None
    owner: str | None
    before: Before


class Tree:
    """The branches and turns of a tenant, or of all."""

    def __init__(self, connection: apsw.Connection, tenant: str | None, found: Findings) -> None:
        self._connection = connection
        self._tenant = tenant
        self._found = found
        # Where something is damaged: from which turn of a branch on, and the last sound turn before it; the hashes
        # that turns should have had.
        self._unsound: dict[int, tuple[int, str | None]] = {}
        self._made: dict[tuple[int, int], bytes | None] = {}
        self._missed: set[tuple[str, str]] = set()

    def walk(self, at: Callable[[], None]) -> None:
        """Everything; `at` is called after each look."""
        number = 0
        while True:
            with one_look(self._connection):
                following = self._connection.execute(_NEXT, (number,)).get
                if not isinstance(following, int) or following <= number:
                    return  # the end; or an index in disorder, which SQLite's own look tells
                number = following
                branch = self._branch(number)
            while branch is not None:
                with one_look(self._connection):
                    more = self._look(branch)
                at()
                if not more:
                    break

    # --- branches ----------------------------------------------------------------------------------------------

    def _branch(self, number: int) -> Branch | None:
        """The branch, to be walked; None if it is another tenant's."""
        row = read_row(self._connection, _BRANCH, number)
        if not isinstance(row, tuple):
            return self._lost_branch(number, None, row or "it has turns, but no row")
        *columns, check = row
        tenant, owner, _, parent, parent_seq = columns
        if self._tenant not in (None, tenant):
            return None
        if check_of(columns) != check:
            return self._lost_branch(number, tenant, "its row is not what was written")
        self._check_owner(tenant, owner)
        before = self.before(parent, parent_seq) if parent is None or parent < number else None
        if before is None:
            flaw = f"turn {parent_seq} of branch {parent}, after which it begins, is not there"
            return self._lost_branch(number, tenant, flaw)
        if not before.sound:
            self._unsound[number] = (before.seq + 1, before.last_sound)
        return Branch(number, tenant, owner, before)

    def _check_owner(self, tenant: str, owner: str) -> None:
        """Deleted or not, a thread has a row as long as a branch of it is there."""
        if self._connection.execute(_OWNER, (tenant, owner)).fetchone() is None and (tenant, owner) not in self._missed:
            self._missed.add((tenant, owner))
            self._found.say("thread", f"Thread {owner!r} is damaged: its row is missing.", BACKUP, tenant, owner)

    def _lost_branch(self, number: int, tenant: str | None, flaw: str) -> Branch | None:
        """A branch of which nobody can say where it begins; its turns are looked at all the same."""
        if tenant is None:
            tenant = self._tenant_of_turns(number)
        if self._tenant not in (None, tenant):
            return None
        where = self.where(number, 0, tenant, None)
        self._unsound[number] = _LOST
        what = f"Branch {number} is damaged: {flaw}."
        self._found.add(Damage("branch", what, BACKUP, tenant, where.threads, where.others))
        return Branch(number, tenant, None, Before(None, -1, sound=False))

    def _tenant_of_turns(self, number: int) -> str | None:
        row = read_row(self._connection, "SELECT tenant FROM turns WHERE branch = ? LIMIT 1", number)
        return row[0] if isinstance(row, tuple) else None

    def before(self, branch: int | None, seq: int) -> Before | None:
        """What the turn of that depth is to one that follows it; None if it is not there."""
        if branch is None or seq <= 0:
            return Before() if branch is None and seq == 0 else None
        while True:
            row = read_row(self._connection, _BRANCH, branch)
            if self._unsound.get(branch) == _LOST or not isinstance(row, tuple) or check_of(row[:5]) != row[5]:
                return Before(None, seq, sound=False)
            parent, parent_seq = row[3:5]
            if seq > parent_seq:
                break
            if parent is None or parent >= branch:
                return None
            branch = parent
        found = read_row(self._connection, _TURN_AT, branch, seq)
        if not isinstance(found, tuple):
            return None
        first, last_sound = self._unsound.get(branch, (seq + 1, None))
        sound = seq < first
        return Before(found[0], seq, found[1] if sound else last_sound, sound, self._made.get((branch, seq)))

    def where(self, branch: int, seq: int, tenant: str | None, owner: str | None) -> Where:
        """On whose history a turn lies."""
        named: list[str] = []
        others = 0
        with contextlib.suppress(UnicodeDecodeError, apsw.CorruptError):
            reached: Any = self._connection.execute(_REACHED, (branch, seq))
            for (thread_id,) in reached:
                if len(named) < NAMED_THREADS:
                    named.append(thread_id)
                else:
                    others += 1
        return Where(tenant, tuple(named), others, owner)

    # --- turns -------------------------------------------------------------------------------------------------

    def _look(self, branch: Branch) -> bool:
        """Some turns of a branch; whether there may be more."""
        start = self._found.record_bytes
        try:
            places: Any = self._connection.execute(_PLACES, (branch.number, branch.before.seq, CHUNK)).fetchall()
        except apsw.CorruptError as error:
            self._turn_damage(branch, None, branch.before.seq + 1, f"it cannot be read ({error})")
            return False
        for seq, n in places:
            if not isinstance(seq, int) or seq <= branch.before.seq:
                self._turn_damage(branch, None, branch.before.seq + 1, "the index has it in a wrong place")
                return False
            if branch.before.seq < 0:
                branch.before = replace(branch.before, seq=seq - 1)
            self._turn(branch, seq, n)
            if self._found.record_bytes - start > CHUNK_BYTES:
                return True
        return len(places) == CHUNK

    def _turn(self, branch: Branch, seq: int, n: int) -> None:
        if seq != branch.before.seq + 1:
            self._turn_damage(branch, None, branch.before.seq + 1, "it is missing")
            branch.before = replace(gone(branch.before), seq=seq - 1)
        row = read_row(self._connection, _TURN, n)
        self._found.turns += 1
        if not isinstance(row, tuple):
            self._turn_damage(branch, None, seq, row or "it is missing")
            branch.before = gone(branch.before)
            return
        turn, place = StoredTurn(*row[:9]), (row[9], row[10], row[0])
        if place != (branch.tenant, branch.number, seq):
            self._turn_damage(branch, str(turn.turn_id), seq, "it does not stand where the index says")
            branch.before = gone(branch.before)
            return
        self._found.record_bytes += len(turn.record) if isinstance(turn.record, bytes) else 0
        flaw, after = step(branch.before, turn)
        if flaw:
            self._turn_damage(branch, str(turn.turn_id), seq, flaw)
            self._made[branch.number, seq] = after.made
        branch.before = after

    def _turn_damage(self, branch: Branch, turn_id: str | None, seq: int, flaw: str) -> None:
        before = branch.before
        self._unsound.setdefault(branch.number, (seq, before.last_sound))
        where = self.where(branch.number, seq, branch.tenant, branch.owner)
        before = replace(before, last_sound=self._if_forkable(branch.tenant, before.last_sound))
        self._found.add(damaged_turn(flaw, turn_id, seq, before, where))

    def _if_forkable(self, tenant: str | None, turn_id: str | None) -> str | None:
        """The turn, if the indexes by which a fork looks for it know it too."""
        row = read_row(self._connection, _TURN_OF_ID, tenant, turn_id)
        if not isinstance(row, tuple):
            return None
        found = read_row(self._connection, _TURN_AT, *row)
        return turn_id if isinstance(found, tuple) and found[1] == turn_id else None

    # --- heads -------------------------------------------------------------------------------------------------

    def head_flaw(self, tenant: str, branch: int | None, seq: int, hash: bytes) -> tuple[str, str | None]:
        """What is wrong with a head ("" if nothing that is not told of its turn), and the last sound turn before it."""
        if branch is None:
            return ("" if (seq, hash) == (0, ROOT) else "it stands nowhere"), None
        if self._unsound.get(branch, (seq + 1, None))[0] <= seq:
            return "", None
        before = self.before(branch, seq)
        if before is not None and (hash in (before.hash, before.made) or not before.sound):
            return "", None
        if before is not None:
            flaw, earlier = f"it names another hash than turn {seq} has", self.before(branch, seq - 1)
        else:
            flaw = f"turn {seq} of branch {branch}, on which it stands, is not there"
            row = read_row(self._connection, _TURN_BEFORE, branch, seq)
            earlier = self.before(branch, row[0]) if isinstance(row, tuple) and isinstance(row[0], int) else None
        return flaw, self._if_forkable(tenant, earlier.last_sound) if earlier is not None else None
