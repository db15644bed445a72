"""The line before a thread: tickets in the table `runs`, and who of the processes that share a file is still there.

Rule of this file: first come, first served, by ticket. A ticket counts as long as its process lives and, in this
process, as long as its run waits. Nothing here is needed for safety: a run that jumped the line would find the
thread taken like any other.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeAlias

import apsw

from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Twin
from holdfast.stores import liveness, rules, sqlite_bell
from holdfast.stores.calls import Calls
from holdfast.stores.sqlite_bell import LEASE_SECONDS
from holdfast.stores.sqlite_db import check_of

# Seconds between two looks of somebody who waits and is not called: the next in line, and those behind.
LOOK_FIRST, LOOK_LATER = 0.1, 0.4

# A run in line: tenant, thread, turn id.
Place: TypeAlias = tuple[str, str, str]
# Whom to call: the owner of the next place in line, and the place.
NextUp: TypeAlias = tuple[int, Place]

ANYBODY_IN_LINE = "SELECT 1 FROM runs WHERE tenant = ? AND thread = ? LIMIT 1"
_TICKETS = "SELECT ticket, turn, owner FROM runs WHERE tenant = ? AND thread = ? ORDER BY ticket"
_TICKET = 'SELECT tenant, thread, turn, state, owner, key, input, "check" FROM runs WHERE ticket = ?'
_STAND = 'INSERT INTO runs (tenant, thread, turn, state, owner, key, input, "check") VALUES (?, ?, ?, ?, ?, ?, ?, ?)'
_UNDER_KEY = (
    "SELECT ticket, turn, input FROM runs WHERE tenant = ? AND thread = ? AND key = ? AND turn <> ? ORDER BY ticket"
)
_OF_RUN = "SELECT ticket FROM runs WHERE tenant = ? AND thread = ? AND turn = ?"


class Line:
    """The lines of one database, as one owner sees them."""

    def __init__(self, path: str, runtime: Runtime) -> None:
        self.calls = Calls()
        self._path = path
        self._runtime = runtime
        self._owner = 0
        self._making: set[Hashable] = set()
        # What was seen of another owner's run or place: its beat, since when it is the same, when it was last seen.
        self._seen: dict[tuple[int, Hashable], tuple[int, float, float]] = {}

    def belongs_to(self, owner: int, making: set[Hashable]) -> None:
        """From now on this process is that owner, and keeps the names of what it makes in that set."""
        self._owner, self._making = owner, making
        self.calls = Calls()

    # --- tickets -----------------------------------------------------------------------------------------------

    def stand(self, connection: apsw.Connection, place: Place, key: str | None, said: bytes, max_waiting: int) -> None:
        """Take a ticket, unless there is one already. Raises QueueFullError."""
        tenant, thread_id, turn_id = place
        if connection.execute("SELECT 1 FROM runs WHERE tenant = ? AND turn = ?", (tenant, turn_id)).fetchone():
            return
        if self._length(connection, place) >= max_waiting:
            self._drop_the_dead(connection, place)
            waiting = self._length(connection, place)
            if waiting >= max_waiting:
                raise rules.line_full(thread_id, waiting)
        columns = (tenant, thread_id, turn_id, "queued", self._owner, key, said)
        connection.execute(_STAND, (*columns, check_of(columns)))
        self._making.add(place)

    @staticmethod
    def _length(connection: apsw.Connection, place: Place) -> int:
        count: int = connection.execute("SELECT count(*) FROM runs WHERE tenant = ? AND thread = ?", place[:2]).get
        return count

    def _drop_the_dead(self, connection: apsw.Connection, place: Place) -> None:
        """Tear up all tickets before a thread that do not count."""
        listed: list[Any] = connection.execute(_TICKETS, place[:2]).fetchall()
        for ticket, _, _ in listed:
            if not self.counts(connection, ticket):
                connection.execute("DELETE FROM runs WHERE ticket = ?", (ticket,))

    def give_up(self, place: Place) -> None:
        """This run waits no longer: its ticket counts for nothing from now on, whenever it is torn up."""
        self._making.discard(place)

    def leave(self, connection: apsw.Connection, place: Place) -> None:
        """Tear the ticket up, if there is one."""
        connection.execute("DELETE FROM runs WHERE tenant = ? AND thread = ? AND turn = ?", place)
        self._making.discard(place)

    def lets_in(self, connection: apsw.Connection, place: Place) -> bool:
        """Whether nobody stands before this place; then its ticket is used up. Drops the tickets of the dead."""
        listed: list[Any] = connection.execute(_TICKETS, place[:2]).fetchall()
        for ticket, turn, _ in listed:
            if turn == place[2]:
                self.leave(connection, place)
                return True
            if self.counts(connection, ticket):
                return False
            connection.execute("DELETE FROM runs WHERE ticket = ?", (ticket,))
        return True

    def counts(self, connection: apsw.Connection, ticket: int) -> bool:
        """Whether a ticket is what was written, and its run waits."""
        found: Any = connection.execute(_TICKET, (ticket,)).fetchone()
        if found is None:  # the index has a number that the table does not have
            return False
        tenant, thread_id, turn, _, owner = found[:5]
        return check_of(found[:7]) == found[7] and self.is_there(connection, owner, (tenant, thread_id, turn))

    @staticmethod
    def is_waited_for(connection: apsw.Connection, key: Any) -> bool:
        """Whether anybody stands in line before a thread, given as (tenant, thread id)."""
        return connection.execute(ANYBODY_IN_LINE, key).fetchone() is not None

    def twin(self, connection: apsw.Connection, place: Place, key: str) -> Twin | None:
        """Another run that stands in this line under a key."""
        listed: list[Any] = connection.execute(_UNDER_KEY, (*place[:2], key, place[2])).fetchall()
        for ticket, turn, said in listed:
            if self.counts(connection, ticket):
                return Twin(turn, said)
        return None

    def holds(self, connection: apsw.Connection, place: Place) -> bool:
        """Whether a run stands in line."""
        found: Any = connection.execute(_OF_RUN, place).fetchone()
        return found is not None and self.counts(connection, found[0])

    def next_up(self, connection: apsw.Connection, tenant: str, thread_id: str) -> NextUp | None:
        """Whose turn it is when the thread is free."""
        listed: list[Any] = connection.execute(_TICKETS, (tenant, thread_id)).fetchall()
        for _, turn, owner in listed:
            if self.is_there(connection, owner, (tenant, thread_id, turn)):
                return owner, (tenant, thread_id, turn)
        return None

    # --- who is there ------------------------------------------------------------------------------------------

    def is_there(self, connection: apsw.Connection, owner: int | None, name: Hashable) -> bool:
        """Whether an owner lives, has its lease, and (in this process) still makes what is named."""
        if owner is None or not liveness.is_making(self._path, owner, name):
            return False
        return owner == self._owner or not self._lease_is_over(connection, owner, name)

    def _lease_is_over(self, connection: apsw.Connection, owner: int, name: Hashable) -> bool:
        """Whether its beat has stood still for a lease, by our own clock: a process that was stopped, or hangs.

        Only time in which we looked counts: an owner that was idle does not beat, and if we were stopped ourselves,
        so perhaps was everybody.
        """
        found: Any = connection.execute("SELECT beat FROM owners WHERE id = ?", (owner,)).fetchone()
        if found is None:
            return False
        now = self._runtime.monotonic()
        beat, since, last = self._seen.get((owner, name), (None, now, now))
        if beat != found[0] or now - last > 5 * LOOK_LATER:
            since = now
        if len(self._seen) > 10_000:
            self._seen.clear()
        self._seen[owner, name] = (found[0], since, now)
        return now - since > LEASE_SECONDS

    # --- calling -----------------------------------------------------------------------------------------------

    def call(self, address: str | None, up: NextUp) -> None:
        """Wake the next in line, here or in another process."""
        owner, place = up
        if owner == self._owner:
            self.calls.call(place)
        elif address is not None:
            sqlite_bell.call(address, "free", *place)

    @staticmethod
    def address_of(connection: apsw.Connection, owner: int) -> str | None:
        """Where an owner listens."""
        found: Any = connection.execute("SELECT address FROM owners WHERE id = ?", (owner,)).fetchone()
        return None if found is None else found[0]
