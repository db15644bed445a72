"""Plants for the rig of appends: stores and writers that are not linearizable, each in its own way.

Rule of this file: a plant changes a process's store or the file, never the library; the check is told nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from holdfast import SQLiteStore
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun, Ready, Segment, StoredTurn, ThreadInfo
from rigs.appenders import Appender, Process, Reader
from rigs.plants import PLANTS as KILL_PLANTS
from rigs.workers import MarkedStore


class Plant(Struct, frozen=True):
    """The kinds of processes, and what is done to the file behind everybody's back when they are gone."""

    appender: type[Process] = Appender
    reader: type[Process] = Reader
    afterwards: Callable[[Path], None] | None = None


class _Hasty(MarkedStore):
    """Its seal answers at once, and writes a little later."""

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        seal = super().seal
        asyncio.get_running_loop().call_later(0.004, lambda: seal(run, turns, **options))
        return Ready(replace(run.head, seq=run.head.seq + len(turns)))


class _LastWins(MarkedStore):
    """Now and then the next writer goes on from where this one began, as if this one had not been."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._seals = itertools.count(1)

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        handed, move = super().seal(run, turns, **options), super().move_head
        if next(self._seals) % 20 == 0:
            handed.then(lambda _: move(run.thread_id, back=1))
        return handed


class _ByClock(SQLiteStore):
    """Reads turns in the order of the clock."""

    async def read(self, segment: Segment, *, limit: int | None = None) -> list[StoredTurn]:
        turns = await super().read(segment, limit=limit)
        by_clock = sorted(turns, key=lambda turn: turn.started_us)
        return [replace(turn, seq=seq) for seq, turn in enumerate(by_clock, segment.after + 1)]


class _Replica(SQLiteStore):
    """Every seventh look at a thread is an old one, as at a copy that lags behind."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._looks = itertools.count(1)
        self._seen: dict[str, ThreadInfo | None] = {}

    async def get(self, thread_id: str, *, deleted: bool = False) -> ThreadInfo | None:
        if next(self._looks) % 7 == 0 and thread_id in self._seen:
            return self._seen[thread_id]
        self._seen[thread_id] = await super().get(thread_id, deleted=deleted)
        return self._seen[thread_id]


class _HastyAppender(Appender):
    store_class = _Hasty


class _LastWinsAppender(Appender):
    store_class = _LastWins


class _SkewedAppender(Appender):
    """Its clock is that of another machine."""

    def now_us(self) -> int:
        return super().now_us() + 70_000 * (self.job.worker % 3)


class _TwiceAppender(Appender):
    """Appends again when it has been acknowledged, as a retry after a lost answer does."""

    async def by_port(self, thread: str, token: str) -> tuple[str, int]:
        await super().by_port(thread, token)
        return await super().by_port(thread, token)


class _ReaderByClock(Reader):
    store_class = _ByClock


class _ReaderOfReplica(Reader):
    store_class = _Replica


PLANTS: Mapping[str, Plant] = {
    "none": Plant(),
    "ack-before-commit": Plant(_HastyAppender),
    "last-writer-wins": Plant(_LastWinsAppender),
    "ordered-by-clock": Plant(_SkewedAppender, _ReaderByClock),
    "old-reads": Plant(reader=_ReaderOfReplica),
    "appended-twice": Plant(_TwiceAppender),
    "deleted-row": Plant(afterwards=KILL_PLANTS["deleted-row"].afterwards),
}
