"""SeededRuntime: a world in which time, chance and ids come from a seed, so that what failed once fails again."""

from __future__ import annotations

import asyncio
import random


class SeededRuntime:
    """A `Runtime` whose clock stands still until somebody sleeps or moves it.

        runtime = SeededRuntime(7)
        agent = ChatAgent(client, runtime=runtime)

    `sleep` lets other tasks run once and moves the clock; it never waits.
    """

    def __init__(self, seed: int = 0, *, start_us: int = 1_700_000_000_000_000) -> None:
        self._random = random.Random(seed)
        self._now_us = start_us
        self._monotonic = 0.0

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._monotonic

    def new_id(self, kind: str) -> str:
        return f"{kind}_{self._now_us // 1000:012x}{self._random.getrandbits(80):020x}"

    def random(self) -> float:
        return self._random.random()

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float, *, wall: float | None = None) -> None:
        """Let `seconds` pass; `wall` is what the wall clock says passed, if that is another number."""
        self._monotonic += seconds
        self._now_us += int((seconds if wall is None else wall) * 1e6)
