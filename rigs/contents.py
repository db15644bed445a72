"""Contents: what a SQLite store holds, seen twice: as the library tells it, and as it stands in the tables.

Rules of this file: it is used in a process of its own, by a store that nobody has used before. Hashes are made anew
here, from the bytes in the tables. What cannot be read is a finding, never an error of the rig.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from holdfast import AgentThread, ChatMessage, HoldfastError, SQLiteStore, ThreadInfo
from holdfast.conversation.records import ROOT, chain, decode_turn
from rigs.evidence import Contents, ThreadSeen, TurnSeen

_TURNS = (
    "SELECT n, branch, seq, id, status, key, reference, started, ended, hash, record FROM turns WHERE tenant = '' "
    "ORDER BY n"
)
_BRANCHES = "SELECT id, thread, parent, parent_seq FROM branches WHERE tenant = ''"
_THREADS = "SELECT id, branch, seq, run FROM threads WHERE tenant = '' AND tombstone = 0 ORDER BY n"


async def read_contents(path: Path) -> Contents:
    """Everything in a store that the oracle wants to know. Nobody else may be using it."""
    store = SQLiteStore(path)
    try:
        told = {info.id: await _told(store, info.id) for info in await _all_threads(store)}
    finally:
        store.close()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        tables = _Tables(connection)
        return Contents(
            tuple(tables.turns()),
            tuple(tables.threads(told)),
            tuple(str(turn) for (turn,) in connection.execute("SELECT turn FROM runs ORDER BY ticket").fetchall()),
            int(connection.execute("SELECT count(*) FROM journal").get),
            str(connection.pragma("integrity_check")),
        )
    finally:
        connection.close()


async def _all_threads(store: SQLiteStore) -> list[ThreadInfo]:
    found: list[ThreadInfo] = []
    cursor: str | None = None
    while True:
        page = await store.list(limit=1000, cursor=cursor)
        found.extend(page.threads)
        if (cursor := page.next) is None:
            return found


async def _told(store: SQLiteStore, thread_id: str) -> tuple[tuple[str, ...], str | None]:
    """The ids of a thread's turns as the library reads them, or why it does not."""
    try:
        return tuple(turn.id for turn in await AgentThread(store, thread_id, intent="existing").turns()), None
    except HoldfastError as error:
        return (), f"{type(error).__name__}: {error}"


class _Tables:
    """The rows, and what follows what."""

    def __init__(self, connection: apsw.Connection) -> None:
        rows: Any = connection.execute(_TURNS).fetchall()
        branches: Any = connection.execute(_BRANCHES).fetchall()
        self._branches: dict[int, tuple[str, int | None, int]] = {row[0]: row[1:] for row in branches}
        self._threads: Any = connection.execute(_THREADS).fetchall()
        self._rows: list[Any] = list(rows)
        self._at: dict[tuple[int, int], Any] = {(row[1], row[2]): row for row in rows}

    def turns(self) -> list[TurnSeen]:
        return [self._seen(row) for row in self._rows]

    def threads(self, told: dict[str, tuple[tuple[str, ...], str | None]]) -> list[ThreadSeen]:
        found = []
        for thread_id, branch, seq, run in self._threads:
            head = self._at_or_before(branch, seq)
            ids, flaw = told.get(thread_id, ((), "the library does not list it"))
            if head is None and seq:
                flaw = flaw or f"its head is turn {seq} of branch {branch}, which is not there"
            found.append(ThreadSeen(thread_id, None if head is None else head[3], ids, run, flaw))
        return found

    def _at_or_before(self, branch: int | None, seq: int) -> Any:
        """The row at a depth of a branch, or of one that it began from."""
        while branch is not None and branch in self._branches and seq <= self._branches[branch][2]:
            branch = self._branches[branch][1]
        return None if branch is None else self._at.get((branch, seq))

    def _seen(self, row: Any) -> TurnSeen:
        n, branch, seq, turn_id, status, key, reference, started, ended, stored_hash, record = row
        before = self._at_or_before(branch, seq - 1) if seq > 1 else None
        flaw = f"turn {seq - 1} before it is not there" if before is None and seq > 1 else None
        made = chain(
            ROOT if before is None else before[9],
            seq=seq,
            turn_id=turn_id,
            key=key,
            status=status,
            reference=reference,
            started_us=started,
            ended_us=ended,
            record=record,
        )
        said: tuple[tuple[str, str], ...] = ()
        answered: tuple[tuple[str, str], ...] = ()
        try:
            turn = decode_turn(record, turn_id=turn_id, seq=seq, status=status, started_us=started, ended_us=ended)
            said, answered = _plain(turn.input), _plain(turn.output)
        except HoldfastError as error:
            flaw = flaw or f"{type(error).__name__}: {error}"
        thread = self._branches[branch][0] if branch in self._branches else f"(no branch {branch})"
        parent = None if before is None else before[3]
        return TurnSeen(turn_id, n, thread, parent, status, said, answered, made == stored_hash, flaw)


def _plain(messages: Sequence[ChatMessage]) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.text) for message in messages)
