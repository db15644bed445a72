"""The file: how a database is opened, made and checked, and SQLite's errors in our own words.

Rule of this file: a database is data, wherever it came from. A file that is none of ours is never changed.
"""

from __future__ import annotations

import contextlib
import os
import time

import apsw

from holdfast.conversation.errors import (
    DamagedError,
    HoldfastError,
    NotADatabaseError,
    SchemaVersionError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

SCHEMA_VERSION = 1
# Where a plain fsync does not reach the disk (macOS), ask for the one that does; elsewhere these change nothing.
_SYNCS = ("fullfsync=ON", "checkpoint_fullfsync=ON")
APPLICATION_ID = 0x686F6C64  # "hold": tells our files from other programs' databases


def connect(path: str, busy_ms: int) -> apsw.Connection:
    """A connection, to a file that is there, with the settings that all of ours have."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW)
    connection.set_busy_timeout(busy_ms)
    # mmap off: it made the WAL-reset bug of older SQLites worse. trusted_schema off and cell_size_check on:
    # a database is data, wherever it came from. secure_delete: what is deleted is overwritten.
    for pragma in ("mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON", "secure_delete=ON", *_SYNCS):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def opened(path: str, busy_ms: int) -> apsw.Connection:
    """A connection to a database of our version, made or brought up to it if need be."""
    _create_private(path)
    has_log = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0
    connection = connect(path, busy_ms)
    try:
        _check_schema(connection, path, busy_ms)
    except BaseException:
        if has_log:  # which is not ours to copy into the file
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close()
        raise
    return connection


def _use_log(connection: apsw.Connection, busy_ms: int) -> None:
    """Turn the write-ahead log on. SQLite does not wait here while another process does the same: so we do.

    If the disk fails at it, SQLite says no more than that another mode is on.
    """
    end = time.monotonic() + busy_ms / 1000
    while True:
        try:
            if connection.execute("PRAGMA journal_mode=WAL").get != "wal":
                raise apsw.IOError("the write-ahead log could not be turned on")
            return
        except apsw.BusyError:
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def _check_schema(connection: apsw.Connection, path: str, busy_ms: int) -> None:
    if connection.pragma("application_id") != APPLICATION_ID:
        others = connection.execute("SELECT count(*) FROM sqlite_schema").get
        # Another process may have made our tables between the two questions.
        if others and connection.pragma("application_id") != APPLICATION_ID:
            raise NotADatabaseError(f"{path} is a database of another program. Choose another file for the threads.")
        _use_log(connection, busy_ms)
        _create_tables(connection)
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} was written by a newer holdfast (tables of version {version}; this one knows "
            f"{SCHEMA_VERSION}). Nothing was changed. Update holdfast."
        )
    if connection.pragma("journal_mode") != "wal" and not connection.readonly("main"):
        _use_log(connection, busy_ms)  # somebody has turned it off


def identity(path: str) -> tuple[int, int] | None:
    """What tells a file from all others, whatever it is called; None if there is none of that name."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def roll_back(connection: apsw.Connection) -> None:
    """Undo a transaction that failed, if SQLite has not done so itself."""
    if connection.in_transaction:
        with contextlib.suppress(apsw.Error):
            connection.execute("ROLLBACK")


def _create_private(path: str) -> None:
    """Make the file for its owner's eyes alone, before SQLite makes it for everybody's."""
    if not os.path.exists(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise StoreUnavailableError(
                f"Cannot create {path}: {error.strerror}. Check that its folder exists and may be written."
            ) from None


def schema() -> str:
    """The SQL that makes our tables."""
    with open(os.path.join(os.path.dirname(__file__), "sqlite.sql"), encoding="utf-8") as file:
        return file.read()


def _create_tables(connection: apsw.Connection) -> None:
    tables = schema()
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        if connection.pragma("application_id") != APPLICATION_ID:
            connection.execute(tables)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


_WORDS: list[tuple[type[Exception], type[StoreError], str]] = [
    (apsw.FullError, StoreFullError, "There is no room left to write {path}. Free some space; nothing stored is lost"),
    (apsw.ReadOnlyError, StoreReadOnlyError, "{path} may not be written. Check the rights of the file and its folder"),
    (apsw.BusyError, StoreBusyError, "Another process has been writing {path} for too long. Try again"),
    (apsw.LockedError, StoreBusyError, "{path} is locked. Try again"),
    (apsw.ProtocolError, StoreBusyError, "{path} was kept locked for too long. Try again"),
    (apsw.NotADBError, NotADatabaseError, "{path} is no database. Choose another file; this one was not touched"),
    (
        apsw.CorruptError,
        StoreUnavailableError,
        "{path} is damaged. Keep a copy, and restore a backup; 'holdfast verify' tells more",
    ),
    (
        apsw.CantOpenError,
        StoreUnavailableError,
        "{path} cannot be opened. Check that its folder exists and may be written",
    ),
    (apsw.PermissionsError, StoreUnavailableError, "{path} may not be accessed. Check the rights of the file"),
    (apsw.IOError, StoreUnavailableError, "The disk failed under {path}. What was acknowledged is kept; try again"),
]


def translated(error: BaseException, path: str) -> BaseException:
    """An error of SQLite in our words; others as they are."""
    if isinstance(error, apsw.Error):
        for kind, ours, words in _WORDS:
            if isinstance(error, kind):
                return ours(f"{words.format(path=path)} ({error}).")
        return StoreUnavailableError(f"SQLite failed with {path}: {type(error).__name__}: {error}.")
    if isinstance(error, UnicodeDecodeError):  # SQLite hands on what stands there
        return DamagedError(f"A text in {path} is not what was written. Nothing of it was used. See 'holdfast verify'.")
    if isinstance(error, PermissionError):
        return StoreReadOnlyError(
            f"{error.filename or path} may not be written. Check the rights of the file and its folder."
        )
    if isinstance(error, OSError) and not isinstance(error, HoldfastError):
        words = "What was acknowledged is kept; try again"
        return StoreUnavailableError(f"The store at {path} failed: {error.strerror or error}. {words}.")
    return error
