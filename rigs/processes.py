"""Processes: those that a campaign forks, stops, kills and waits for.

Rule of this file: whoever calls has used no store, no event loop and no thread, so that what it forks can.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rigs.service import serve
from rigs.workers import die_with_parent

# Where SQLite's lock on writing stands in the index of its log (`-shm`); part of its file format.
_WRITE_LOCK_BYTE = 120


def fork(work: Callable[[], object]) -> int:
    """Do something in a process of its own, which dies with this one; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        work()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def aside(work: Callable[[], object]) -> bool:
    """Do something in a process of its own and wait for it; whether it came to its end."""
    return os.waitpid(fork(work), 0)[1] == 0


def stop(pid: int) -> bool:
    """Stop a process; False if it has ended meanwhile. When this returns, none of its threads runs any more."""
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    return os.WIFSTOPPED(status)


def go_on(pid: int) -> None:
    """Let a stopped process go on."""
    os.kill(pid, signal.SIGCONT)


def holds_write_lock(pid: int, database: Path) -> bool:
    """Whether a process is in the middle of writing to a SQLite database, by the kernel's list of locks."""
    try:
        index = os.stat(f"{database}-shm")
    except FileNotFoundError:
        return False
    file = f"{os.major(index.st_dev):02x}:{os.minor(index.st_dev):02x}:{index.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        # 7: POSIX  ADVISORY  WRITE 4711 fd:00:1234 120 120
        told = line.split()
        ours = told[1:2] == ["POSIX"] and told[3:6] == ["WRITE", str(pid), file]
        if ours and int(told[6]) <= _WRITE_LOCK_BYTE <= int(told[7]):
            return True
    return False


@contextlib.contextmanager
def serving(written: Path, thinks: float) -> Iterator[str]:
    """The address of the strict stand-in, as long as it serves; it writes down there what it is asked."""
    (reads, told), (halt, holds) = os.pipe(), os.pipe()

    def work() -> None:
        os.close(holds)
        asyncio.run(serve(written, thinks, told, halt))

    child = fork(work)
    os.close(told)
    os.close(halt)
    try:
        address = os.read(reads, 1000).decode()
        if not address:
            raise RuntimeError("the service did not start")
        yield address
    finally:
        os.close(reads)
        os.close(holds)
        os.waitpid(child, 0)
