"""Absent: a thread that an index does not know is not therefore one that never was.

A damaged index makes a thread vanish without a word: SQLite looks in the one place where it should stand, finds
nothing, and the next run would begin the conversation anew. So before a thread counts as absent, it is asked what
costs little: does a branch bear its name, do the entries beside the place fit their rows, and does the tenant's part
of the index begin and end where those entries say?

Rule of this file: it is asked only of threads that were not found, never on the path of a turn.
"""

from __future__ import annotations

from typing import Any

import apsw

from holdfast.stores.sqlite_turns import damaged

_BRANCH = "SELECT 1 FROM branches WHERE tenant = ? AND thread = ? LIMIT 1"
_ROW = "SELECT tenant, id FROM threads NOT INDEXED WHERE n = ?"
_ENTRY = "SELECT n, tenant, id FROM threads WHERE "
_BEFORE = f"{_ENTRY} tenant = ? AND id < ? ORDER BY id DESC LIMIT 1"
_AFTER = f"{_ENTRY} tenant = ? AND id > ? ORDER BY id LIMIT 1"
_FIRST = f"{_ENTRY} tenant = ? ORDER BY id LIMIT 1"
_LAST = f"{_ENTRY} tenant = ? ORDER BY id DESC LIMIT 1"
_BEFORE_ALL = f"{_ENTRY} tenant < ? ORDER BY tenant DESC, id DESC LIMIT 1"
_AFTER_ALL = f"{_ENTRY} tenant > ? ORDER BY tenant, id LIMIT 1"


def check_absent(connection: apsw.Connection, tenant: str, thread_id: str) -> None:
    """Raises DamagedError if a thread that was not found may have been there."""

    def entry(statement: str, *values: str) -> Any:
        return connection.execute(statement, values).fetchone()

    def fits(found: Any) -> bool:
        return found is None or connection.execute(_ROW, found[:1]).fetchone() == found[1:]

    before, after = entry(_BEFORE, tenant, thread_id), entry(_AFTER, tenant, thread_id)
    first, last = entry(_FIRST, tenant), entry(_LAST, tenant)
    beside = [before or entry(_BEFORE_ALL, tenant), after or entry(_AFTER_ALL, tenant)]
    none_before = first is None or first[2] > thread_id
    none_after = last is None or last[2] < thread_id
    sound = (before is None) == none_before and (after is None) == none_after and all(map(fits, beside))
    if not sound or connection.execute(_BRANCH, (tenant, thread_id)).fetchone() is not None:
        raise damaged(f"The index by which thread {thread_id!r} is looked for", thread_id=thread_id)
