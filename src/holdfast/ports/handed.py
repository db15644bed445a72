"""What passes between a store and those who use it, besides data: work that is handed over, and slots that are lent.

Rules of this file: whoever awaits decides nothing, the work goes on whatever becomes of those who wait for it; and
nothing in a slot is needed, all of it can be made again from the store.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Handed(Protocol[T_co]):
    """A piece of work that was handed over. Await it for what came of it, as often as you like.

    Cancelling the task that awaits it does not cancel the work.
    """

    def __await__(self) -> Generator[Any, None, T_co]: ...

    def then(self, call: Callable[[T_co], object]) -> None:
        """Have `call` called with the result, now or later, in whichever thread; never if the work fails."""
        ...


class Ready(Struct, Generic[T], frozen=True):
    """Work that is already done: what a store returns that need not wait."""

    value: T

    def __await__(self) -> Generator[Any, None, T]:
        yield from ()  # makes this a generator, as an awaitable has to be
        return self.value

    def then(self, call: Callable[[T], object]) -> None:
        call(self.value)


class Failed:
    """Work that failed: the error is raised where it is awaited, so that every store fails in the same place."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        raise self._error

    def then(self, call: Callable[[Any], object]) -> None:
        return


class SlotCache:
    """What the engine keeps beside a store, opaque to the store and shared by all handles.

    Slots: a byte-bounded LRU. `holders` knows the run of this process that has a thread, as long as it lives.

    A slot is lent, not shared: `take` removes it, so that one run at a time writes in it, and `give` puts it back.
    Everything in it can be made again from the log; dropping it costs nothing but time. Safe to use from several
    threads.
    """

    __slots__ = ("__weakref__", "_limit", "_lock", "_size", "_slots", "holders")

    def __init__(self, limit: int = 256 * 1024 * 1024) -> None:
        _caches.add(self)
        self._slots: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._limit = limit
        self._size = 0
        self.holders: weakref.WeakValueDictionary[object, Any] = weakref.WeakValueDictionary()

    def take(self, key: object) -> Any:
        """The slot, removed; None if there is none."""
        with self._lock:
            slot, size = self._slots.pop(key, (None, 0))
            self._size -= size
            return slot

    def give(self, key: object, slot: object, size: int) -> None:
        """Put a slot of `size` bytes (back); the longest unused ones are dropped when all are over the limit."""
        with self._lock:
            self._size -= self._slots.pop(key, (None, 0))[1]
            if size > self._limit:
                return
            self._slots[key] = (slot, size)
            self._size += size
            while self._size > self._limit:
                self._size -= self._slots.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget all slots."""
        with self._lock:
            self._slots.clear()
            self._size = 0


_caches: weakref.WeakSet[SlotCache] = weakref.WeakSet()


def _begin_anew() -> None:
    """In a forked child: the runs are the parent's, and whoever held a lock there does not exist here."""
    for cache in list(_caches):
        cache._lock = threading.Lock()
        cache.holders.clear()
        cache.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
