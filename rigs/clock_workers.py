"""Workers that go by a clock which is set while they work; faults that are planted in how they use it; a listing.

Rule of this file: a worker's clock is installed before its store is made, and nothing else is changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from holdfast import SQLiteStore
from holdfast.ports.runtime import SystemRuntime
from holdfast.ports.stores import Segment, StoredTurn
from rigs.clock import Clock, Clocks
from rigs.marks import Board
from rigs.talk import text_of
from rigs.witness import Witness, WitnessStore
from rigs.workers import Errand

_PAGE = 2  # threads


class Clocked(Witness):
    """A worker that goes by its seat's clock. Some of its readers take their time over each piece of an answer.

    `slow`: now and then one takes so long that others look whether it still reads.
    """

    clocks: Clocks
    slow = False
    clock_class: type[Clock] = Clock
    silent_every = None

    def __init__(self, errand: Errand, board: Board) -> None:
        self.clock_class(self.clocks, errand.seat).install()
        super().__init__(errand, board)

    async def run(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        if not streamed or self.chance.random() < 0.5:
            return await super().run(token, thread_id, streamed=streamed)
        async with self.agent.run_stream(
            text_of(token), thread=self.agent.get_thread(thread_id, create=True)
        ) as stream:
            async for _ in stream:
                await asyncio.sleep(1.2 if self.slow and self.chance.random() < 0.05 else 0.003)
            response = await stream.response()
        return response.turn_id, response.text


# --- a listing -----------------------------------------------------------------------------------------------------


class Listing(Struct, frozen=True):
    """A store's threads as they are listed: whole, with the times of their last use; and in pages, by id."""

    whole: list[tuple[str, int]]
    paged: list[str]


async def read_listing(path: Path) -> Listing:
    """The listing of a store, read while the clock of whoever reads it jumps. For a process of its own."""
    clocks = Clocks(1)
    Clock(clocks, 0).install()
    store = SQLiteStore(path)
    try:
        whole = [(info.id, info.updated_us) for info in (await store.list(limit=1000)).threads]
        paged: list[str] = []
        cursor: str | None = None
        for day in range(1000):
            clocks.set(0, wall=(-1) ** day * 86_400 * 10**9, stands=time.time_ns() if day % 3 == 0 else 0)
            page = await store.list(limit=_PAGE, cursor=cursor)
            paged += [info.id for info in page.threads]
            if (cursor := page.next) is None:
                break
        return Listing(whole, paged)
    finally:
        store.close()


# --- planted faults ------------------------------------------------------------------------------------------------


class _WallClock(Clock):
    """Takes the wall clock for one that never runs backwards."""

    def monotonic(self) -> float:
        return self.time_ns() / 1e9


class _StoreByClock(WitnessStore):
    """Reads turns in the order of the clock."""

    async def read(self, segment: Segment, *, limit: int | None = None) -> list[StoredTurn]:
        turns = await super().read(segment, limit=limit)
        by_clock = sorted(turns, key=lambda turn: turn.started_us)
        return [replace(turn, seq=seq) for seq, turn in enumerate(by_clock, segment.after + 1)]


class _LeaseByWall(Clocked):
    clock_class = _WallClock


class _OrderedByClock(Clocked):
    store_class = _StoreByClock


def _id_by_clock(runtime: SystemRuntime, kind: str) -> str:
    return f"{kind}_{runtime.now_us() // 1000:032x}"


class _IdsByClock(Clocked):
    """Its ids are made of the time alone."""

    def __init__(self, errand: Errand, board: Board) -> None:
        super().__init__(errand, board)
        setattr(SystemRuntime, "new_id", _id_by_clock)  # noqa: B010 - a method, for a type checker


PLANTS: Mapping[str, type[Clocked]] = {
    "none": Clocked,
    "lease-by-wall": _LeaseByWall,
    "ordered-by-clock": _OrderedByClock,
    "ids-by-clock": _IdsByClock,
}
