"""Queues: who waits for which thread inside this process.

Rule of this file: it saves model calls and keeps runs in the order they came, no more. What keeps two writers
apart is the epoch in the store; a queue that were wrong could only make a run fail, never mix two.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple, Protocol

from holdfast.conversation.errors import ThreadBusyError
from holdfast.ports.stores import SlotCache

# How often a waiting run looks whether the one before it still moves.
LOOK_SECONDS = 1.0

_lock = threading.Lock()


class Holder(Protocol):
    """The run that has a thread, as those behind it see it."""

    def give_way(self) -> bool:
        """End yourself if nobody reads you any more (or can); True if you did."""
        ...


class _Place(NamedTuple):
    """A run in a queue. The queue does not keep it alive: a run that nobody holds any more must be able to end."""

    run: weakref.ref[Holder]
    run_id: int
    loop: asyncio.AbstractEventLoop | None = None
    called: asyncio.Future[None] | None = None


class _Line:
    """One thread's queue: the run that has the thread, and those that wait, first come first."""

    __slots__ = ("first", "waiting")

    def __init__(self, first: _Place) -> None:
        self.first = first
        self.waiting: deque[_Place] = deque()


async def enter(cache: SlotCache, key: Hashable, run: Holder, *, wait: bool, thread_id: str) -> None:
    """Return when `run` has the thread. `leave` must be called once afterwards.

    Raises ThreadBusyError at once if another has it and `wait` is False.
    """
    with _lock:
        line = cache.queues.get(key)
        if line is None:
            cache.queues[key] = _Line(_Place(weakref.ref(run), id(run)))
            return
        if not wait:
            raise ThreadBusyError(
                f"Thread {thread_id!r} is in the middle of another run, and this one was not to wait "
                "(on_conflict='reject'). Run it again when the other has ended.",
                thread_id=thread_id,
            )
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        mine = _Place(weakref.ref(run), id(run), loop, called)
        line.waiting.append(mine)
    try:
        while not called.done():
            await asyncio.wait((called,), timeout=LOOK_SECONDS)
            first = line.first.run()
            if not called.done() and first is not None:
                first.give_way()
    except BaseException:
        _withdraw(cache, key, line, mine, run)
        raise


def leave(cache: SlotCache, key: Hashable, run: Holder) -> None:
    """Give the thread to whoever waits longest. Does nothing if `run` does not have it."""
    with _lock:
        line = cache.queues.get(key)
        if line is None or line.first.run_id != id(run):
            return
        while line.waiting:
            line.first = line.waiting.popleft()
            if _call(line.first):
                return
        del cache.queues[key]


def _call(place: _Place) -> bool:
    """Tell a waiting run that it has the thread; False if there is nobody any more to be told."""
    if place.loop is None or place.called is None or place.run() is None:
        return False
    try:
        place.loop.call_soon_threadsafe(_wake, place.called)
    except RuntimeError:  # its event loop was closed while it waited
        return False
    return True


def _wake(called: asyncio.Future[None]) -> None:
    if not called.done():
        called.set_result(None)


def _withdraw(cache: SlotCache, key: Hashable, line: _Line, mine: _Place, run: Holder) -> None:
    """Leave the queue without having had the thread, or hand the thread on if it came at the same moment."""
    with _lock:
        if mine in line.waiting:
            line.waiting.remove(mine)
            return
    leave(cache, key, run)
