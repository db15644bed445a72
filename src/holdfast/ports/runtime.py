"""Runtime: the clock, ids, sleep and randomness, passed in so that a failure replays from its seed.

Rule of this file: nothing in the engine, the clients or the stores asks the operating system for any of these.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Protocol


class Runtime(Protocol):
    """What the world outside tells: time, chance, and ids made of both."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since 1970 (UTC). Told to people, never used to order anything."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for leases and timeouts."""
        ...

    def new_id(self, kind: str) -> str:
        """A new id that nobody else will make: `kind`, an underscore, 32 hexadecimal digits."""
        ...

    def random(self) -> float:
        """A number from 0 up to, not including, 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


class SystemRuntime:
    """The real clock and the operating system's randomness."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self, kind: str) -> str:
        # Milliseconds first: ids made one after another stand beside each other in an index, so a new one
        # touches a page that is already in memory. The other 80 bits are random.
        return f"{kind}_{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"

    def random(self) -> float:
        return random.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM = SystemRuntime()
