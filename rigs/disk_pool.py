"""Pool: many small tasks in a few processes at a time, each batch in a fresh fork of this one.

A fork is fresh: this process has imported everything and used nothing. A task that does not come to an end is killed
and reported; the rest of its batch goes on in another process.

Rule of this file: it knows nothing of disks or turns. Results come back as lines of JSON over a pipe.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from rigs.workers import die_with_parent

T = TypeVar("T")
R = TypeVar("R")


class _Job(Generic[T]):
    """A process with a batch of tasks."""

    def __init__(self, pid: int, reads: int, tasks: Sequence[T]) -> None:
        self.pid = pid
        self.reads = reads
        self.left = deque(tasks)
        self.since = time.monotonic()
        self.buffer = b""


class Pool(Generic[T, R]):
    """Does `work` for every task. `done` is told of each result, `stuck` of a task whose process hung or died."""

    def __init__(
        self,
        work: Callable[[T], R],
        kind: type[R],
        *,
        done: Callable[[T, R], None],
        stuck: Callable[[T, str], None],
        patience: float,
    ) -> None:
        self._work, self._kind = work, kind
        self._done, self._stuck = done, stuck
        self._patience = patience
        self._selector = selectors.DefaultSelector()
        self._jobs: dict[int, _Job[T]] = {}
        self._over = False

    def stop(self) -> None:
        """Begin nothing more, and end what was begun."""
        self._over = True

    def run(self, tasks: Sequence[T], *, jobs: int, batch: int) -> None:
        """All tasks, `jobs` processes at a time. A Ctrl-C ends them, and what is done is done."""
        todo = deque(list(tasks[start : start + batch]) for start in range(0, len(tasks), batch))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while (todo or self._jobs) and not self._over:
                while todo and len(self._jobs) < jobs:
                    self._begin(todo.popleft())
                for key, _ in self._selector.select(timeout=0.5):
                    todo.extendleft(self._heard(self._jobs[key.fd]))
                for job in [job for job in self._jobs.values() if time.monotonic() - job.since > self._patience]:
                    todo.extendleft(self._hung(job))
        except KeyboardInterrupt:
            pass
        finally:
            for job in list(self._jobs.values()):
                os.kill(job.pid, signal.SIGKILL)
                self._end(job)

    def _begin(self, tasks: Sequence[T]) -> None:
        reads, writes = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reads)
            self._serve(tasks, writes)
        os.close(writes)
        self._jobs[reads] = _Job(pid, reads, tasks)
        self._selector.register(reads, selectors.EVENT_READ)

    def _serve(self, tasks: Sequence[T], writes: int) -> None:
        """The rest of a child's life."""
        code = 1
        try:
            die_with_parent()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            faulthandler.register(signal.SIGUSR1)
            for task in tasks:
                told = msgspec.json.encode(self._work(task)) + b"\n"
                while told:
                    told = told[os.write(writes, told) :]
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _heard(self, job: _Job[T]) -> list[list[T]]:
        """What a process says: results, or its end. The tasks that are to be done by another one."""
        told = os.read(job.reads, 1 << 20)
        if not told:
            code = self._end(job)
            if not job.left:
                return []
            self._stuck(job.left.popleft(), f"the process ended with code {code}")
            return [list(job.left)] if job.left else []
        *lines, job.buffer = (job.buffer + told).split(b"\n")
        for line in lines:
            job.since = time.monotonic()
            self._done(job.left.popleft(), msgspec.json.decode(line, type=self._kind))
        return []

    def _hung(self, job: _Job[T]) -> list[list[T]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.pid, signal.SIGUSR1)  # it tells its stacks
            time.sleep(0.3)
            os.kill(job.pid, signal.SIGKILL)
        self._end(job)
        self._stuck(job.left.popleft(), f"it did not come to an end in {self._patience:.0f} s")
        return [list(job.left)] if job.left else []

    def _end(self, job: _Job[T]) -> int:
        self._selector.unregister(job.reads)
        os.close(job.reads)
        del self._jobs[job.reads]
        return os.waitstatus_to_exitcode(os.waitpid(job.pid, 0)[1])


def in_child(work: Callable[[], object]) -> int:
    """Do something in a forked child; how that ended: 0, or minus the signal that killed it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        die_with_parent()
        work()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)
