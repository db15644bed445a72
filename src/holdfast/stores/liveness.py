"""Liveness: which of the processes that wrote their number into a database are still there.

Every owner holds a lock on one byte of a file beside the database. The operating system drops it when the process
dies, in whichever way, so a dead owner is noticed at once and a slow one is never taken for dead.

Rule of this file: this process opens the lock file once. POSIX locks belong to the process, and closing any
descriptor of a file drops all that the process holds on it; for the same reason the locks are never put on the
database itself. A forked child inherits none of them and starts anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Hashable


class _LockFile:
    """The lock file of one database as this process has it open: the descriptor, and what each owner here makes."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o600)
        self.owners: dict[int, set[Hashable]] = {}
        self._identity = _identity(os.fstat(self.fd))

    def stands_at(self, path: str) -> bool:
        """Whether this is still the file of that name: a database may be deleted and made anew."""
        try:
            return _identity(os.stat(path)) == self._identity
        except FileNotFoundError:
            return True


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


# Owners' numbers have seven bytes.
_MOST = 2**56

_lock = threading.RLock()  # a finalizer may ask in the middle of an answer
_files: dict[str, _LockFile] = {}


def _forget() -> None:
    """In a forked child: the parent's locks are not ours."""
    global _lock
    _lock = threading.RLock()
    for file in _files.values():
        os.close(file.fd)
    _files.clear()


os.register_at_fork(after_in_child=_forget)


def lock_path(database: str) -> str:
    """The lock file that belongs to a database."""
    return f"{database}-owners"


def begin(database: str, owner: int) -> set[Hashable]:
    """Lock the byte of a new owner. Returns the set in which it names the runs that it is making.

    Raises OSError if the file cannot be opened or written.
    """
    with _lock:
        file = _files.get(database)
        if file is None:
            file = _files[database] = _LockFile(lock_path(database))
        fcntl.lockf(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner)
        return file.owners.setdefault(owner, set())


def end(database: str, owner: int) -> None:
    """Unlock an owner's byte: from now on its runs are nobody's."""
    with _lock:
        file = _files.get(database)
        if file is None or file.owners.pop(owner, None) is None:
            return
        fcntl.lockf(file.fd, fcntl.LOCK_UN, 1, owner)
        if not file.owners:
            os.close(file.fd)
            del _files[database]


def is_making(database: str, owner: int, run: Hashable) -> bool:
    """Whether the owner is there, and (as far as it is in this process) still at work on that run."""
    with _lock:
        file = _files.get(database)
        if file is not None and owner in file.owners and file.stands_at(lock_path(database)):
            return run in file.owners[owner]
    return is_alive(database, owner)


def is_alive(database: str, owner: int) -> bool:
    """Whether some process holds that owner's byte."""
    if not isinstance(owner, int) or not 0 <= owner < _MOST:
        return False  # nobody has such a number: what was stored is damaged
    with _lock:
        file = _files.get(database)
        if file is not None and file.stands_at(lock_path(database)):
            return owner in file.owners or _is_locked(file.fd, owner)
        try:
            fd = os.open(lock_path(database), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return _is_locked(fd, owner)
        finally:
            os.close(fd)  # this process holds no lock on that file, so none is dropped


def _is_locked(fd: int, owner: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, owner)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return True
        raise
    fcntl.lockf(fd, fcntl.LOCK_UN, 1, owner)
    return False
