"""Ready: work that is done at the call, whatever comes of it handed out at the await.

A store does the whole of a write when its method is called (see `holdfast.ports.stores`), so that no cancellation
can cut it in two. A failure nobody awaits is dropped in silence: `Ready` and `Failed` are no coroutines and no
futures, so nothing warns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from threading import RLock
from typing import Any, Generic, TypeVar

from holdfast.ports.stores import Failed, Handed, Ready

T = TypeVar("T")


class Steps:
    """Does pieces of work one at a time, each at the call, from any thread.

    A finalizer can strike in the middle of a piece of work and ask for another one in the same thread (the engine
    seals from `__del__` what nobody reads any more). It must neither wait for the lock, which its own thread holds,
    nor see things half done: its work comes right after.
    """

    __slots__ = ("_inside", "_later", "_lock")

    def __init__(self) -> None:
        self._lock = RLock()
        self._inside = False
        self._later: deque[_Later[Any]] = deque()

    def do(self, work: Callable[[], T]) -> Handed[T]:
        """Do the work; its error, if any, waits for the await. Ctrl-C is not held back: it leaves by the call."""
        with self._lock:
            if self._inside:
                late = _Later(work)
                self._later.append(late)
                return late
            self._inside = True
            try:
                self._catch_up()
                done = _outcome(work)
                self._catch_up()
                return done
            finally:
                self._inside = False

    def _catch_up(self) -> None:
        while self._later:
            self._later.popleft().do()


def _outcome(work: Callable[[], T]) -> Ready[T] | Failed:
    try:
        return Ready(work())
    except Exception as error:
        return Failed(error)


class _Later(Generic[T]):
    """Work that is done as soon as the work in hand is: before the thread that asked for it can await anything."""

    __slots__ = ("_calls", "_outcome", "_work")

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._outcome: Ready[T] | Failed | None = None
        self._calls: list[Callable[[T], object]] = []

    def do(self) -> None:
        assert self._work is not None
        self._outcome = _outcome(self._work)
        self._work = None
        for call in self._calls:
            self._outcome.then(call)

    def __await__(self) -> Generator[Any, None, T]:
        assert self._outcome is not None, "awaited from within another piece of work"
        return (yield from self._outcome.__await__())

    def then(self, call: Callable[[T], object]) -> None:
        if self._outcome is None:
            self._calls.append(call)
        else:
            self._outcome.then(call)
