"""Sweep: what goes when a thread is deleted.

Rule of this file: a turn stays as long as a living thread reaches it, from its head or from the beginning of one of
its branches; everything else goes in the transaction that deletes the thread. SQLite overwrites what is deleted
(secure_delete).
"""

from __future__ import annotations

from typing import Any

import apsw

from holdfast.ports.stores import Head
from holdfast.stores.sqlite_journal import clear
from holdfast.stores.sqlite_log import ThreadRow, save_labels, save_thread


def bury(connection: apsw.Connection, row: ThreadRow) -> None:
    """Make a thread a tombstone, and sweep what only it reached."""
    stood_on = row.branch
    row.tombstone = 1
    row.epoch += 1  # whoever is in the middle of a run finds out when it seals
    if row.run is not None:
        clear(connection, row.tenant, row.run)
    row.run = row.owner = row.input = row.opened = row.key = None
    connection.execute("DELETE FROM runs WHERE tenant = ? AND thread = ?", (row.tenant, row.id))
    row.stand_at(Head())
    row.updated = 0
    save_thread(connection, row)
    save_labels(connection, row.n, 0, None, None)
    branches: list[Any] = connection.execute(
        "SELECT id FROM branches WHERE tenant = ? AND thread = ?", (row.tenant, row.id)
    ).fetchall()
    _sweep(connection, [branch for (branch,) in branches] + ([stood_on] if stood_on is not None else []))


def _sweep(connection: apsw.Connection, branches: list[int]) -> None:
    """Delete the unreachable ends of branches whose threads are gone; then look at the branches they began from."""
    while branches:
        branch = branches.pop()
        if _is_of_a_living_thread(connection, branch):
            continue
        needed = _needed_up_to(connection, branch)
        if needed is not None:
            connection.execute("DELETE FROM turns WHERE branch = ? AND seq > ?", (branch, needed))
            continue
        parent = connection.execute("SELECT parent FROM branches WHERE id = ?", (branch,)).fetchone()
        connection.execute("DELETE FROM turns WHERE branch = ?", (branch,))
        connection.execute("DELETE FROM branches WHERE id = ?", (branch,))
        if parent is not None and parent[0] is not None:
            branches.append(parent[0])


def _is_of_a_living_thread(connection: apsw.Connection, branch: int) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM branches b JOIN threads t ON t.tenant = b.tenant AND t.id = b.thread "
            "WHERE b.id = ? AND t.tombstone = 0 AND t.incarnation = b.incarnation",
            (branch,),
        ).fetchone()
        is not None
    )


def _needed_up_to(connection: apsw.Connection, branch: int) -> int | None:
    """The last turn of a branch that somebody else reaches."""
    needed: int | None = connection.execute(
        "SELECT max(seq) FROM (SELECT parent_seq AS seq FROM branches WHERE parent = ? "
        "UNION ALL SELECT seq FROM threads WHERE branch = ? AND tombstone = 0)",
        (branch, branch),
    ).get
    return needed
