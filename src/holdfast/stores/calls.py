"""Calls: how the runs of this process are told that it is their turn, or that they are to stop.

Rule of this file: a call may come from any thread, also before anybody waits, and may be lost without harm: whoever
waits looks for itself from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeAlias

from holdfast.ports.stores import SlotCache

log = logging.getLogger("holdfast.stores")

Waiter: TypeAlias = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Calls:
    """Who waits under which name."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may call in the middle of a call
        self._waiting: dict[Hashable, Waiter] = {}

    async def wait(self, name: Hashable, look: Callable[[], float | None], *, seconds: float) -> None:
        """Return when called, when `look` says None (there is nothing to wait for), or after `seconds`.

        `look` says after how many seconds it wants to look again, should no call come.
        """
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        end = loop.time() + seconds
        with self._lock:
            self._waiting[name] = (loop, called)
        try:
            while (pause := look()) is not None and not called.is_set():
                left = end - loop.time()
                if left <= 0:
                    return
                await _at_most(called.wait(), min(pause, left))
        finally:
            with self._lock:
                if self._waiting.get(name) == (loop, called):
                    del self._waiting[name]

    def call(self, name: Hashable) -> bool:
        """Tell whoever waits under this name; False if nobody does."""
        with self._lock:
            waiter = self._waiting.get(name)
        if waiter is None:
            return False
        loop, called = waiter
        try:
            loop.call_soon_threadsafe(called.set)
        except RuntimeError:  # its event loop was closed
            return False
        return True


def tell_to_stop(cache: SlotCache, key: Hashable, turn_id: str, *, rollback: bool) -> None:
    """Tell the run of this process that has a thread, if there is one. No lock may be held: the run seals itself."""
    holder = cache.holders.get(key)
    if holder is None:
        return
    try:
        holder.stop(turn_id, rollback=rollback)
    except Exception as error:
        log.error("turn %s could not be stopped (%s)", turn_id, type(error).__name__)


async def _at_most(work: Awaitable[object], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work
