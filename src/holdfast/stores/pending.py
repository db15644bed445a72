"""Pending: work in the queue of a thread that does it, and those who wait for it, in whichever event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

log = logging.getLogger("holdfast.stores")

T = TypeVar("T")

# How much is taken out of the queue together.
MAX_BATCH = 256


class Pending(Generic[T]):
    """Work in the writer's queue. May be awaited by several tasks, in several event loops."""

    __slots__ = ("_calls", "_done", "_lock", "_waiters", "durable", "error", "failed", "settled", "value", "work")

    def __init__(
        self,
        work: Callable[..., T],
        durable: bool,
        settled: Callable[[], None] | None = None,
        failed: Callable[[], None] | None = None,
    ) -> None:
        self.work = work
        self.durable = durable
        self.settled = settled
        self.failed = failed
        self.value: Any = None
        self.error: BaseException | None = None
        self._done = False
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._calls: list[Callable[[T], object]] = []

    def __await__(self) -> Generator[Any, None, T]:
        with self._lock:
            mine = None
            if not self._done:
                loop = asyncio.get_running_loop()
                mine = loop.create_future()
                self._waiters.append((loop, mine))
        if mine is not None:
            yield from mine
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[no-any-return]

    def then(self, call: Callable[[T], object]) -> None:
        with self._lock:
            if not self._done:
                self._calls.append(call)
                return
        if self.error is None:
            call(self.value)

    def finish(self, value: T) -> None:
        self.value = value
        finish_all([self])

    def settle(self) -> list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]:
        """Mark it as done; who waits for it."""
        if self.error is not None:
            give_notice(self.failed)
        give_notice(self.settled)
        with self._lock:
            self._done = True
            waiters, self._waiters = self._waiters, []
        for call in self._calls if self.error is None else ():
            try:
                call(self.value)
            except Exception as error:
                log.error("what was to follow a write failed (%s); the write itself is done", type(error).__name__)
        return waiters


def give_notice(notice: Callable[[], None] | None) -> None:
    """Call it, if there is one. Whatever it raises, those who wait for the work must hear of it."""
    if notice is None:
        return
    try:
        notice()
    except Exception as error:
        log.error("the notice of a write failed (%s); what was written is not touched", type(error).__name__)


def finish_all(batch: list[Pending[Any]]) -> None:
    """Tell everybody that waits for this batch, with one call into each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for pending in batch:
        for loop, future in pending.settle():
            loops.setdefault(loop, []).append(future)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, futures)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


Item: TypeAlias = Pending[Any] | Callable[[], None] | None


def batches(
    items: queue.SimpleQueue[Item],
) -> Iterator[tuple[list[Pending[Any]], list[Callable[[], None]]]]:
    """What has arrived, together, until None comes."""
    while True:
        batch: list[Pending[Any]] = []
        calls: list[Callable[[], None]] = []
        item: Item = items.get()
        with contextlib.suppress(queue.Empty):
            while item is not None:
                if isinstance(item, Pending):
                    batch.append(item)
                else:
                    calls.append(item)
                if len(batch) == MAX_BATCH:
                    break
                item = items.get_nowait()
        yield batch, calls
        if item is None:
            return
