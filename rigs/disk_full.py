"""Disks that are really full, and other ends of what a machine has: limits that are set, run into, and lifted.

    size     no file may grow beyond so many bytes (RLIMIT_FSIZE)
    files    so many more files may be open (RLIMIT_NOFILE)
    pages    the database may have so many pages (PRAGMA max_page_count, on every connection)
    small    a file system in memory of so many bytes, where a process may make one for itself

Rule of this file: a limit is set in the process that calls, and lifted there; where the system does not allow it,
`NotPossible` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import apsw
from msgspec import Struct

_PLENTY = 1 << 30
_NEWNS, _NEWUSER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_REMOUNT, _ALL_BELOW, _PRIVATE, _DETACH = 32, 1 << 14, 1 << 18, 2  # MS_REMOUNT, MS_REC, MS_PRIVATE, MNT_DETACH


class NotPossible(Exception):
    """This system does not let us."""


class Limit(Struct, frozen=True):
    """A limit that is set. `lift` may be called once, `clear_away` when nobody uses the files any more."""

    lift: Callable[[], None]
    clear_away: Callable[[], None] = lambda: None


def _limit(what: int, value: int) -> Limit:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    return Limit(lambda: resource.setrlimit(what, before))


def _size(_: Path, value: int) -> Limit:
    return _limit(resource.RLIMIT_FSIZE, value)


def _files(_: Path, value: int) -> Limit:
    """The limit is on the numbers that files have, and the lowest free one is taken: so many free ones are left."""
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in taken)
    return _limit(resource.RLIMIT_NOFILE, next(itertools.islice(free, value, None)))


def _pages(_: Path, value: int) -> Limit:
    made: weakref.WeakSet[apsw.Connection] = weakref.WeakSet()

    def limited(connection: apsw.Connection) -> None:
        made.add(connection)
        connection.pragma("max_page_count", value)

    def lift() -> None:
        apsw.connection_hooks.remove(limited)
        for connection in list(made):
            with contextlib.suppress(apsw.ConnectionClosedError):
                connection.pragma("max_page_count", _PLENTY)

    apsw.connection_hooks.append(limited)
    return Limit(lift)


def _small(folder: Path, value: int) -> Limit:
    libc, where = ctypes.CDLL(None, use_errno=True), os.fsencode(folder)

    def done(result: int, what: str) -> None:
        if result != 0:
            raise NotPossible(f"{what} is not possible here: {os.strerror(ctypes.get_errno())}")

    def mount(flags: int, size: int) -> None:
        done(libc.mount(b"tmpfs", where, b"tmpfs", flags, f"size={size}".encode()), "a small file system")

    done(libc.unshare(_NEWNS if os.geteuid() == 0 else _NEWUSER | _NEWNS), "a view of the file systems of its own")
    done(libc.mount(None, b"/", None, _PRIVATE | _ALL_BELOW, None), "a view of the file systems of its own")
    mount(0, value)
    return Limit(lambda: mount(_REMOUNT, _PLENTY), lambda: done(libc.umount2(where, _DETACH), "to clear it away"))


# How each limit is set, and to which values.
LIMITS: Mapping[str, tuple[Callable[[Path, int], Limit], tuple[int, ...]]] = {
    "size": (_size, (0, 100, 4095, 4096, 8192, 20_000, 32_767, 32_768, 40_000, 82_432, 100_000, 130_000, 200_000)),
    "files": (_files, tuple(range(1, 14))),
    "pages": (_pages, (1, 2, 5, 10, 18, 19, 20, 21, 22, 23, 24, 26)),
    "small": (_small, tuple(4096 * pages for pages in (1, 2, 5, 9, 10, 12, 20, 24, 28, 32, 36, 40, 48))),
}


def set_limit(name: str, folder: Path, value: int) -> Limit:
    """Set a limit. Raises NotPossible."""
    return LIMITS[name][0](folder, value)
