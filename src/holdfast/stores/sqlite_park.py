"""Parking a run: it waits on disk for an answer from outside, and has no owner until somebody takes it over.

Rule of this file: a run waits if its thread's row names it and no owner. That is one column of a row with a check, so
a run is its writer's or waits, never half; and what looks for owners that are gone finds none to look for.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
from msgspec.structs import astuple

from holdfast.ports.stores import OpenRun
from holdfast.stores import rules
from holdfast.stores.sqlite_db import check_of
from holdfast.stores.sqlite_journal import write_down
from holdfast.stores.sqlite_log import find_thread

# Columns that an index is over are not named: naming one rewrites the index.
_PARK = 'UPDATE threads SET epoch = ?, owner = NULL, "check" = ? WHERE n = ?'


def park(connection: apsw.Connection, tenant: str, run: OpenRun, records: Sequence[bytes]) -> None:
    """Write the records down and leave the run without an owner. Raises StaleRunError, DamagedError."""
    row = find_thread(connection, tenant, run.thread_id)
    if row is None or row.run is None or row.waiting or not row.is_making(run):
        raise rules.stale_run(run)
    write_down(connection, tenant, run, records)
    row.epoch += 1
    row.owner = None
    connection.execute(_PARK, (row.epoch, check_of(astuple(row)[1:]), row.n))
