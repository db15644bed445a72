"""SQLiteRuns: all that happens to a run besides its opening: in line, journal, parking, seal, taking over, stopping.

Rule of this file: each method is one piece of work in one transaction; whoever must hear of it is told after that,
while no lock is held. What the statements are stands in `sqlite_seal`, `sqlite_park`, `sqlite_journal` and
`sqlite_line`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import apsw
from msgspec.structs import replace

from holdfast.conversation.ids import checked_thread_id, checked_turn_id
from holdfast.ports.stores import Failed, Handed, Head, NewTurn, OpenRun, Progress, Ready, Segment, StoredTurn
from holdfast.stores import rules
from holdfast.stores.sqlite_branches import place_on_branches, recorded
from holdfast.stores.sqlite_db import Work
from holdfast.stores.sqlite_journal import inherited, left_of, note_wish, records_of, write_down
from holdfast.stores.sqlite_line import LOOK_FIRST, LOOK_LATER, Line
from holdfast.stores.sqlite_log import Callee, RunName, SQLiteLog, find_thread
from holdfast.stores.sqlite_park import park
from holdfast.stores.sqlite_seal import seal
from holdfast.stores.sqlite_turns import lineage, read_turns


class SQLiteRuns(SQLiteLog):
    """`RunLog` on a SQLite file. The base of `SQLiteStore`, which adds the directory of threads."""

    # --- the line ----------------------------------------------------------------------------------------------

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
        up: Callee | None = None
        # At once: should the writing fail, others drop a ticket that nobody waits with.
        self._shared.line.give_up((self.tenant, thread_id, turn_id))

        def work(connection: apsw.Connection) -> None:
            nonlocal up
            self._shared.line.leave(connection, (self.tenant, thread_id, turn_id))
            row = find_thread(connection, self.tenant, thread_id)
            up = self._next_up(connection, thread_id) if row is not None and row.run is None else None

        return self._write(work, durable=False, settled=lambda: self._call(up))

    def _call(self, up: Callee | None) -> None:
        if up is not None:
            self._shared.line.call(*up)

    # --- an open run -------------------------------------------------------------------------------------------

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        shared, tenant = self._shared, self.tenant
        name: RunName | None = None

        def work(connection: apsw.Connection) -> OpenRun | None:
            nonlocal name
            row = find_thread(connection, tenant, holder.thread_id)
            if row is None or row.run is None or not row.is_making(holder) or self._is_made(connection, row):
                return None
            name = self._give_to(connection, row, row.run, row.input, row.opened or 0, row.key)
            records, left = inherited(connection, tenant, row.run), left_of(connection, tenant, row.run)
            return replace(row.open_run(), journal=records, left=left)

        return self._write(work, durable=False, failed=lambda: shared.ends(name))

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Handed[None]:
        tenant, handed = self.tenant, [bytes(record) for record in records]
        if not handed:
            return Ready(None)
        return self._write(lambda connection: write_down(connection, tenant, run, handed), durable=durable)

    def park(self, run: OpenRun, records: Sequence[bytes]) -> Handed[None]:
        shared, tenant, handed = self._shared, self.tenant, [bytes(record) for record in records]
        up: Callee | None = None

        def work(connection: apsw.Connection) -> None:
            nonlocal up
            park(connection, tenant, run, handed)
            up = self._next_up(connection, run.thread_id)

        def settled() -> None:
            shared.ends((tenant, run.thread_id, run.epoch))
            self._call(up)

        return self._write(work, durable=True, settled=settled)

    def stop(self, thread_id: str, turn_id: str, *, rollback: bool = False) -> Handed[bool]:
        shared, tenant = self._shared, self.tenant
        owner: int | None = None
        address: str | None = None

        def work(connection: apsw.Connection) -> bool:
            nonlocal owner, address
            row = find_thread(connection, tenant, checked_thread_id(thread_id))
            if row is None or row.run != checked_turn_id(turn_id) or not self._is_made(connection, row):
                return False
            note_wish(connection, tenant, turn_id, rollback=rollback)
            owner, address = row.owner, Line.address_of(connection, row.owner or 0)
            return True

        def tell(is_made: bool) -> None:
            if is_made:
                shared.ear.pass_on_wish(owner, address, (tenant, thread_id, turn_id))

        handed = self._write(work, durable=False)
        handed.then(tell)
        return handed

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], *, stand: Head | None = None) -> Handed[Head]:
        shared, tenant = self._shared, self.tenant
        handed = [turn if type(turn.record) is bytes else replace(turn, record=bytes(turn.record)) for turn in turns]
        up: Callee | None = None

        def work(connection: apsw.Connection) -> Head:
            nonlocal up
            head, somebody_waits = seal(connection, tenant, run, handed, rules.checked_stand(run, stand))
            up = self._next_up(connection, run.thread_id) if somebody_waits else None
            return head

        def settled() -> None:
            shared.ends((tenant, run.thread_id, run.epoch))
            self._call(up)

        return self._write(work, durable=True, large=len(handed) > 50, settled=settled)

    # --- reading -----------------------------------------------------------------------------------------------

    def progress(self, thread_id: str, turn_id: str, *, after: int = 0) -> Awaitable[Progress | None]:
        def work(connection: apsw.Connection) -> Progress | None:
            checked_thread_id(thread_id), checked_turn_id(turn_id), rules.checked_count(after, "after")
            return self._progress(connection, thread_id, turn_id, after)

        return self._read(work)

    def _progress(self, connection: apsw.Connection, thread_id: str, turn_id: str, after: int) -> Progress | None:
        tenant = self.tenant
        row = find_thread(connection, tenant, thread_id)
        if row is None or row.tombstone:
            return None
        if row.run == turn_id:
            records = records_of(connection, tenant, turn_id, after)
            return Progress(row.open_run(), self._is_made(connection, row), records=records)
        place = place_on_branches(connection, tenant, thread_id, row.incarnation, row.head, turn_id)
        if place is not None:
            found = recorded(connection, tenant, row.head, *place)
            return Progress(turn=found.turn, on_head=found.on_head)
        return Progress(queued=True) if self._shared.line.holds(connection, (tenant, thread_id, turn_id)) else None

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
