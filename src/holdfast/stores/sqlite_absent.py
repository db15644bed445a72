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
# An entry of the index, and the row that it leads to.
_ENTRY = "SELECT e.tenant, e.id, t.tenant, t.id FROM threads e LEFT JOIN threads t NOT INDEXED ON t.n = e.n WHERE "
_BEFORE = f"{_ENTRY} e.tenant = ? AND e.id < ? ORDER BY e.id DESC LIMIT 1"
_AFTER = f"{_ENTRY} e.tenant = ? AND e.id > ? ORDER BY e.id LIMIT 1"
_BEFORE_ALL = f"{_ENTRY} e.tenant < ? ORDER BY e.tenant DESC, e.id DESC LIMIT 1"
_AFTER_ALL = f"{_ENTRY} e.tenant > ? ORDER BY e.tenant, e.id LIMIT 1"
_FIRST = "SELECT id FROM threads WHERE tenant = ? ORDER BY id LIMIT 1"
_LAST = "SELECT id FROM threads WHERE tenant = ? ORDER BY id DESC LIMIT 1"


def check_absent(connection: apsw.Connection, tenant: str, thread_id: str) -> None:
    """Raises DamagedError if a thread that was not found may have been there."""

    def found(statement: str, *values: str) -> Any:
        return connection.execute(statement, values).fetchone()

    def fits(entry: Any) -> bool:
        return entry is None or entry[:2] == entry[2:]

    def begins_after() -> bool:
        """Nothing of the tenant stands before the place: then its first entry stands after it."""
        first = found(_FIRST, tenant)
        return (first is None or (isinstance(first[0], str) and first[0] > thread_id)) and fits(
            found(_BEFORE_ALL, tenant)
        )

    def ends_before() -> bool:
        last = found(_LAST, tenant)
        return (last is None or (isinstance(last[0], str) and last[0] < thread_id)) and fits(found(_AFTER_ALL, tenant))

    before, after = found(_BEFORE, tenant, thread_id), found(_AFTER, tenant, thread_id)
    sound = fits(before) and fits(after) and found(_BRANCH, tenant, thread_id) is None
    if not (sound and (before is not None or begins_after()) and (after is not None or ends_before())):
        raise damaged(f"The index by which thread {thread_id!r} is looked for", thread_id=thread_id)
