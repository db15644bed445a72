"""Clock: a stand-in for the machine's clocks, one for each process, that the campaign sets while it is read.

Rule of this file: it takes the place of the module `time` where the library's own runtime reads it, in the worker's
process and nowhere else. So all that the library does with a clock (times, ids, leases, timeouts of its own) goes by
it; the event loop, SQLite and the rig itself go by the real one.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import Any

from holdfast.ports import runtime

_FORM = struct.Struct("<qqq")


class Clocks:
    """The clocks of so many seats, in shared memory. Made before the forks. All in nanoseconds."""

    def __init__(self, seats: int) -> None:
        self._memory = mmap.mmap(-1, _FORM.size * seats)
        for seat in range(seats):
            self.set(seat)

    def set(self, seat: int, *, wall: int = 0, stands: int = 0, slept: int = 0) -> None:
        """How far the wall clock is off, when it stands still (0: it goes), and for how long the machine slept."""
        _FORM.pack_into(self._memory, _FORM.size * seat, wall, stands, slept)

    def get(self, seat: int) -> tuple[int, int, int]:
        """What was set."""
        wall, stands, slept = _FORM.unpack_from(self._memory, _FORM.size * seat)
        return wall, stands, slept


class Clock:
    """The clock of one process."""

    def __init__(self, clocks: Clocks, seat: int) -> None:
        self._clocks = clocks
        self._seat = seat

    def time_ns(self) -> int:
        wall, stands, slept = self._clocks.get(self._seat)
        return stands or time.time_ns() + wall + slept

    def monotonic(self) -> float:
        return time.monotonic() + self._clocks.get(self._seat)[2] / 1e9

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def install(self) -> None:
        """From now on this process goes by it."""
        setattr(runtime, "time", self)  # noqa: B010 - the name is the library's own affair, for a type checker
