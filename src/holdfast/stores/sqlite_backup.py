"""Backup: a copy of a SQLite store, made while others go on writing.

Rules of this file:

- The copy is the store as it was at one moment: all that was acknowledged before the backup began, whole turns only.
- Nobody sees half a copy. It is made under another name, synced, verified, and only then put in its place.
- What is in its place already stays, unless it is to be replaced; a store that is in use is never replaced, for its
  log would be taken for the copy's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from urllib.parse import quote

import apsw

from holdfast.conversation.errors import DamagedError, InvalidInputError, StoreUnavailableError
from holdfast.ports.verification import Backup, Copying
from holdfast.stores.aside import Course
from holdfast.stores.sqlite_files import translated
from holdfast.stores.sqlite_verify import connected, is_ours, verify

# Pages that are copied between two looks at whether it is still wanted.
_PAGES_A_STEP = 500
# What SQLite keeps beside a database that is in use, or was not closed.
_COMPANIONS = ("-wal", "-journal", "-shm")


def backup(source: str, target: str, course: Course, *, replace: bool) -> Backup:
    """Copy a database to a new file, and verify the copy.

    Raises InvalidInputError if there is something in its place, DamagedError if the copy is not sound.
    """
    target = os.path.abspath(target)
    _check_place(source, target, replace)
    made = f"{target}.{os.getpid()}.new"
    try:
        _create(made)
        try:
            _copy(source, made, course)
            _sync(made)
            seen = verify(made, None, course, untouched=True)
            if seen.damage:
                raise DamagedError(
                    f"No backup was made: {source} is damaged. {seen.damage[0].what} 'holdfast verify' tells all of it."
                )
            _put_in_place(made, target, replace)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
    except OSError as error:
        raise StoreUnavailableError(f"No backup was made at {target}: {error.strerror or error}.") from None
    return Backup(target, os.path.getsize(target), seen.threads, seen.turns)


def _check_place(source: str, target: str, replace: bool) -> None:
    """Refuse what must not be written to, before anything is done."""
    if not os.path.isfile(source):
        raise StoreUnavailableError(f"There is nothing to back up: {source} does not exist yet.")
    if any(os.path.exists(target + ending) for ending in _COMPANIONS):
        raise InvalidInputError(
            f"{target} is a store that is in use, or was not closed: there are files of SQLite's beside it. "
            "Choose another place for the backup."
        )
    if not os.path.lexists(target):
        return
    if os.path.exists(target) and os.path.samefile(source, target):
        raise InvalidInputError(f"{target} is the store itself. Choose another place for the backup.")
    if not stat.S_ISREG(os.lstat(target).st_mode):
        raise InvalidInputError(f"{target} is no regular file. Name the file that the backup is to be.")
    if not replace:
        raise InvalidInputError(f"There is a file {target} already. Choose another place, or ask to replace it.")


def _create(made: str) -> None:
    """A file for its owner alone, before SQLite makes one for everybody."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(made, flags, 0o600))


def _copy(source: str, made: str, course: Course) -> None:
    # Nobody else knows this file: it needs no locks (which a network disk may not have) and no journal, and is synced
    # once, at the end.
    copy = apsw.Connection(
        f"file:{quote(os.fsencode(made))}?nolock=1", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
    )
    try:
        copy.execute("PRAGMA journal_mode=OFF")
        copy.execute("PRAGMA synchronous=OFF")
        with connected(source) as connection:
            _step_by_step(connection, copy, source, course)
    except (apsw.Error, OSError) as error:
        raise translated(error, source) from None
    finally:
        copy.close()


def _step_by_step(connection: apsw.Connection, copy: apsw.Connection, source: str, course: Course) -> None:
    # One look from beginning to end: without it SQLite would begin anew whenever somebody writes.
    connection.execute("BEGIN")
    if not is_ours(connection, source):
        raise StoreUnavailableError(f"There is nothing to back up: {source} is empty.")
    with copy.backup("main", connection, "main") as steps:
        while not steps.done:
            steps.step(_PAGES_A_STEP)
            course.at(lambda: Copying(steps.page_count - steps.remaining, steps.page_count))
    connection.execute("ROLLBACK")


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _put_in_place(made: str, target: str, replace: bool) -> None:
    if replace:
        os.replace(made, target)
    else:
        try:
            os.link(made, target)  # which, unlike a rename, never takes another's place
        except OSError:  # another's place it is; or a disk without links
            if os.path.lexists(target):
                raise InvalidInputError(f"There is a file {target} meanwhile. Choose another place.") from None
            os.rename(made, target)
    with contextlib.suppress(OSError):  # some file systems know no sync of a folder
        _sync(os.path.dirname(target))
