"""Files: a database as bytes. What it holds, whoever wrote it, and one bit of it flipped.

Rule of this file: a database is looked at in a copy, so that looking changes nothing. Nobody uses it meanwhile.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def holds(path: Path, text: str) -> bool:
    """True if the text stands in any row of any table, in the log of recent writes too."""
    wanted = text.encode()
    with _copy(path) as connection:
        tables = [
            name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return any(
            wanted in _bytes(value)
            for table in tables
            for row in connection.execute(f'SELECT * FROM "{table}"')
            for value in row
        )


def flip(path: Path, text: str, reads: str, chance: random.Random) -> str:
    """Flip one bit of this text where the query reads it. The text as it stands there now, as bytes in words.

    A text may stand in several places of a file; it is the file that is changed, at the one place that changes what
    the query reads.
    """
    _fold(path)
    whole, wanted = path.read_bytes(), text.encode()
    before = _rows(path, reads)
    offset, bit = chance.randrange(len(wanted)), 1 << chance.randrange(8)
    start = -1
    while (start := whole.find(wanted, start + 1)) >= 0:
        changed = bytearray(whole)
        changed[start + offset] ^= bit
        path.write_bytes(changed)
        if _rows(path, reads) != before:
            return repr(bytes(changed[start : start + len(wanted)]))
    path.write_bytes(whole)
    raise ValueError(f"{text!r} does not stand in one piece where it is read")


def _fold(path: Path) -> None:
    """Bring what is still in the log of recent writes into the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _rows(path: Path, query: str) -> list[Any]:
    with _copy(path) as connection:
        return connection.execute(query).fetchall()


@contextlib.contextmanager
def _copy(path: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for end in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{path}{end}", f"{copy}{end}")
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            # A text may be no UTF-8 any more.
            connection.text_factory = bytes
            yield connection


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
