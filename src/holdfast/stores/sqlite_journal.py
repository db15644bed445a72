"""The journal of an open run: what it has done so far, for whoever takes it over or follows it.

Rule of this file: a record is written by the run's own writer or not at all; the fence is in the statement. Records
are numbered from 0 without a gap. Below 0 stands what the store itself notes of a run: that somebody wishes it to
stop, and where its thread stood before. All of it goes in the transaction that closes the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from holdfast.ports.stores import Head, OpenRun
from holdfast.stores import rules
from holdfast.stores.sqlite_db import check_of

# What stands below the records.
_STOP, _LEFT = -1, -2
_WISHES = {b"stop": False, b"rollback": True}

_NEXT = "SELECT coalesce(max(n), -1) + 1 FROM journal WHERE tenant = ? AND turn = ? AND n >= 0"
# The fence: nothing is written unless the run is still this writer's, and has one at all.
_WRITE = (
    'INSERT INTO journal (tenant, turn, n, record, "check") SELECT ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM threads '
    "WHERE tenant = ? AND id = ? AND epoch = ? AND run = ? AND incarnation = ? AND tombstone = 0 "
    "AND owner IS NOT NULL)"
)
_NOTE = 'INSERT OR REPLACE INTO journal (tenant, turn, n, record, "check") VALUES (?, ?, ?, ?, ?)'
_READ = 'SELECT n, record, "check" FROM journal WHERE tenant = ? AND turn = ? AND n >= ? ORDER BY n'
_NOTED = 'SELECT record, "check" FROM journal WHERE tenant = ? AND turn = ? AND n = ?'
_WISH = (
    'SELECT j.turn, j.record, j."check" FROM threads t JOIN journal j ON j.tenant = t.tenant AND j.turn = t.run '
    f"AND j.n = {_STOP} WHERE t.tenant = ? AND t.id = ? AND t.owner = ?"
)

_head = msgspec.json.Decoder(Head).decode


def write_down(connection: apsw.Connection, tenant: str, run: OpenRun, records: Sequence[bytes]) -> None:
    """Put records after those that the run has already. Raises StaleRunError."""
    first: int = connection.execute(_NEXT, (tenant, run.turn_id)).get
    fence = (tenant, run.thread_id, run.epoch, run.turn_id, run.incarnation)
    for n, record in enumerate(records, first):
        columns = (tenant, run.turn_id, n, record)
        connection.execute(_WRITE, (*columns, check_of(columns), *fence))
        if connection.changes() != 1:
            raise rules.stale_run(run)


def records_of(connection: apsw.Connection, tenant: str, turn_id: str, after: int = 0) -> tuple[bytes, ...]:
    """The records of a run but for its first ones, up to the first that is damaged or missing."""
    sound: list[bytes] = []
    found: list[Any] = connection.execute(_READ, (tenant, turn_id, after)).fetchall()
    for number, (n, record, check) in enumerate(found, after):
        if n != number or check_of((tenant, turn_id, n, record)) != check:
            break
        sound.append(record)
    return tuple(sound)


def inherited(connection: apsw.Connection, tenant: str, turn_id: str) -> tuple[bytes, ...]:
    """The records for the run's next writer. What is damaged is dropped, so that its own follow what it has seen."""
    sound = records_of(connection, tenant, turn_id)
    connection.execute("DELETE FROM journal WHERE tenant = ? AND turn = ? AND n >= ?", (tenant, turn_id, len(sound)))
    return sound


def clear(connection: apsw.Connection, tenant: str, turn_id: str) -> None:
    """The run is closed: all that was written down of it goes."""
    connection.execute("DELETE FROM journal WHERE tenant = ? AND turn = ?", (tenant, turn_id))


# --- what the store notes ----------------------------------------------------------------------------------------


def note_left(connection: apsw.Connection, tenant: str, turn_id: str, left: Head) -> None:
    """Keep where the thread stood before a run that begins elsewhere, for its next writer."""
    _note(connection, tenant, turn_id, _LEFT, msgspec.json.encode(left))


def left_of(connection: apsw.Connection, tenant: str, turn_id: str) -> Head | None:
    """Where the thread stood before a run, if it began elsewhere."""
    found: Any = connection.execute(_NOTED, (tenant, turn_id, _LEFT)).fetchone()
    if found is None or check_of((tenant, turn_id, _LEFT, found[0])) != found[1]:
        return None
    return _head(found[0])


def note_wish(connection: apsw.Connection, tenant: str, turn_id: str, *, rollback: bool) -> None:
    """Somebody wishes that a run be stopped."""
    _note(connection, tenant, turn_id, _STOP, b"rollback" if rollback else b"stop")


def wish_for(connection: apsw.Connection, tenant: str, thread_id: str, owner: int) -> tuple[str, bool] | None:
    """The run that this owner makes on a thread, if it is to stop, and whether what it said is to be rolled back."""
    found: Any = connection.execute(_WISH, (tenant, thread_id, owner)).fetchone()
    if found is None or check_of((tenant, found[0], _STOP, found[1])) != found[2]:
        return None
    return found[0], _WISHES[found[1]]


def _note(connection: apsw.Connection, tenant: str, turn_id: str, n: int, record: bytes) -> None:
    columns = (tenant, turn_id, n, record)
    connection.execute(_NOTE, (*columns, check_of(columns)))
