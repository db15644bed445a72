"""Aside: long pieces of work in a thread of their own, that say how far they have come and can be given up.

Rule of this file: the caller's event loop is never kept waiting, and is where progress is told. A caller that is
cancelled leaves nothing running for long: the work sees it at its next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from threading import Event
from typing import Any, TypeVar

T = TypeVar("T")

_EVERY = 0.1  # seconds between two words


class GivenUp(Exception):
    """Nobody waits for this work any more."""


class Course:
    """How a piece of work goes: it asks here whether it is still wanted, and tells how far it is."""

    def __init__(self, tell: Callable[[Any], object] | None = None) -> None:
        self._tell = tell
        self._told = 0.0
        self._given_up = Event()

    def give_up(self) -> None:
        self._given_up.set()

    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._given_up.is_set()

    def at(self, where: Callable[[], object]) -> None:
        """The work has come so far; `where` is asked if it is time to tell. Raises GivenUp."""
        if self.over():
            raise GivenUp
        now = time.monotonic()
        if self._tell is not None and now - self._told >= _EVERY:
            self._told = now
            self._tell(where())


async def aside(work: Callable[[Course], T], progress: Callable[[Any], object] | None) -> T:
    """Do the work in another thread. `progress` is called on this event loop."""
    loop = asyncio.get_running_loop()

    def tell(where: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody is there to be told
            loop.call_soon_threadsafe(_told, where)

    def _told(where: object) -> None:
        if progress is not None and not course.over():
            progress(where)

    course = Course(tell if progress is not None else None)
    try:
        return await asyncio.to_thread(work, course)
    finally:
        course.give_up()
