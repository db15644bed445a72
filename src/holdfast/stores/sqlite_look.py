"""A look into a SQLite store that changes nothing: no byte of its files, and no file beside it is made.

Rule of this file: it only reads, and by SQLite itself. A database that nobody has open is read as a file that does
not change; one with a log beside it through that log, whose index is left as it is. (Opened in the ordinary way, a
database of this kind gets a log and an index, and the last one to close it copies the log. If the last one closes it
in the very moment in which this opens it, an empty log may stay, which means nothing.)
"""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import quote

import apsw
from msgspec import Struct

from holdfast.conversation.errors import NotADatabaseError, SchemaVersionError
from holdfast.stores import liveness
from holdfast.stores.sqlite_files import APPLICATION_ID, SCHEMA_VERSION, translated

# SQLite's own numbers, part of its interface.
_MOMENT, _BUSY_MS = 0.05, 2000
# Up to so many bytes a database is looked through for damage.
_WHOLE = 64 * 1024 * 1024


class UnreadLog(Exception):
    """There is a log that cannot be read without making a file; the next use of the store takes it in."""


class LeftOpen(Struct, frozen=True):
    """A turn that is open, and whether the program that makes it is there; None if that cannot be known."""

    thread: str
    turn: str
    alive: bool | None


class Look(Struct, frozen=True):
    """What was seen. `version` is 0 in a file that has no tables yet, `damage` what SQLite says if it found some.

    `waiting` counts the turns that wait for an answer, which are not among the `open_turns`.
    """

    version: int = 0
    threads: int = 0
    turns: int = 0
    whole: bool = False
    damage: str = ""
    open_turns: tuple[LeftOpen, ...] = ()
    programs: tuple[str, ...] = ()
    waiting: int = 0


def sqlite_version() -> str:
    """The version of the SQLite that the stores use."""
    return str(apsw.sqlite_lib_version())


def look(path: str) -> Look:
    """Look into the store.

    Raises UnreadLog, and StoreError if it is none, cannot be read, or a newer holdfast wrote it.
    """
    for tries_left in (2, 1, 0):
        try:
            seen = _look(path)
        except Exception as error:
            if not tries_left:
                raise translated(error, path) from None
        else:
            if not tries_left or not seen.damage:
                return seen
        time.sleep(_MOMENT)  # somebody may have opened or closed it right now
    raise AssertionError("unreachable")


def _look(path: str) -> Look:
    connection = apsw.Connection(_address(path), flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        connection.set_busy_timeout(_BUSY_MS)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("BEGIN")
        return _seen(connection, path)
    finally:
        connection.close()


def _address(path: str) -> str:
    """The database as an address that tells SQLite how to open it."""
    name = f"file:{quote(os.fsencode(os.path.abspath(path)))}"
    log, index = os.path.exists(f"{path}-wal"), os.path.exists(f"{path}-shm")
    if log and index:
        return f"{name}?mode=ro&readonly_shm=1"
    if log and os.path.getsize(f"{path}-wal"):
        raise UnreadLog(f"{path} has a log beside it ({path}-wal) without its index, as if the files were copied")
    return f"{name}?immutable=1"


def _seen(connection: Any, path: str) -> Look:
    if connection.pragma("application_id") != APPLICATION_ID:
        if connection.execute("SELECT count(*) FROM sqlite_schema").get:
            raise NotADatabaseError(f"{path} is a database of another program.")
        return Look()
    version = connection.pragma("user_version")
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} was written by a newer holdfast (tables of version {version}; this one knows {SCHEMA_VERSION})."
        )
    whole = os.path.getsize(path) <= _WHOLE
    damage = connection.execute("PRAGMA quick_check(1)").get if whole else "ok"
    runs = connection.execute("SELECT id, run, owner FROM threads WHERE run IS NOT NULL AND tombstone = 0").fetchall()
    made = [run for run in runs if run[2] is not None]
    owners = connection.execute("SELECT id, process FROM owners ORDER BY since").fetchall()
    return Look(
        version,
        connection.execute("SELECT count(*) FROM threads WHERE tombstone = 0").get,
        connection.execute("SELECT count(*) FROM turns").get,
        whole,
        "" if damage == "ok" else str(damage),
        tuple(LeftOpen(str(thread), str(turn), _is_alive(path, owner)) for thread, turn, owner in made),
        tuple(str(process) for owner, process in owners if _is_alive(path, owner)),
        len(runs) - len(made),
    )


def _is_alive(path: str, owner: object) -> bool | None:
    if not isinstance(owner, int):
        return False
    try:
        return liveness.is_alive(path, owner)
    except OSError:
        return None
