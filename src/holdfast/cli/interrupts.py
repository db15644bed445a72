"""Interrupts: what Ctrl-C means, and the other signals that ask a program to end.

Rule of this file: while something is under way, a signal only asks it to stop, so that what was said reaches the
store; at the prompt, where nothing can be lost, it is raised at once. One handler for the whole chat knows which of
the two it is: putting handlers in and out for each turn would leave moments in which a signal means the other thing.

Python runs a handler between two steps of its own. A signal that comes right before the event loop begins to wait
would be noticed only when something else wakes it, so the loop also waits for the byte that each signal writes. (At
the prompt the same gap, a few microseconds wide, is Python's own: there the next key closes it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# This many presses end even what does not stop when it is asked to.
_ENOUGH = 3


class Interrupts:
    """Installs itself for a `with` block, in the main thread.

    `typed` tells what stands on the line that is being typed; `line` is what that was at the last Ctrl-C.
    """

    def __init__(self, typed: Callable[[], str]) -> None:
        self.line = ""
        self._typed = typed
        self._stop: Callable[[], object] | None = None
        self._presses = 0
        self._leaving: int | None = None
        self._before: dict[int, Any] = {}
        self._woken, self._wakes = socket.socketpair()

    def __enter__(self) -> Interrupts:
        self._woken.setblocking(False)
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for name, handler in (("SIGINT", self._interrupt), ("SIGTERM", self._end), ("SIGHUP", self._end)):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # What is ignored stays ignored: nohup and background jobs mean it so.
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._wakes.close()

    @contextmanager
    def asking(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], object]) -> Iterator[None]:
        """While this lasts, signals have `loop` call `stop`, and raise nothing.

        Raises SystemExit at the end if one of them asked the program to end, whatever else was raised.
        """
        with contextlib.suppress(NotImplementedError):  # Windows' loop wakes by itself
            loop.add_reader(self._woken, self._drain)
        self.line = ""
        self._presses = 0
        self._stop = lambda: loop.call_soon_threadsafe(stop)
        try:
            yield
        finally:
            self._stop = None
            if self._leaving is not None:
                raise SystemExit(self._leaving)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._stop is None:
            self.line = self._typed()
            raise KeyboardInterrupt
        self._presses += 1
        if self._presses == 1:
            self._stop()
        elif self._presses >= _ENOUGH:
            raise SystemExit(128 + number)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._leaving = 128 + number
        if self._stop is None:
            raise SystemExit(self._leaving)
        self._stop()
