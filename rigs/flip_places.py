"""Where a flip falls: every table and every index gets its share, wherever its pages lie, and so does every column.

Rule of this file: pure functions of bytes, but for SQLite's own list of which page belongs to what (dbstat).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from rigs.flip_base import Base, commits_in
from rigs.flip_columns import Span, columns_of

LOG, HEADER, FREE, CUT, LOG_CUT = "the log", "file header", "free pages", "database cut", "log cut"
# The part of flips that fall into the log, that are cuts of the database or of the log, that are aimed at a column.
_LOG_SHARE, _CUT_SHARE, _LOG_CUT_SHARE, _COLUMN_SHARE = 0.10, 0.04, 0.02, 0.30
_FILE_HEADER = 100


class Flip(Struct, frozen=True):
    """One change: a bit of a byte of the database or the log, or all that comes after a byte (`bit` is None).

    `column` is the one that was aimed at, if any was.
    """

    place: str
    in_log: bool
    offset: int
    bit: int | None
    column: str = ""

    def told(self) -> str:
        file = "log" if self.in_log else "database"
        what = f"cut at byte {self.offset}" if self.bit is None else f"bit {self.bit} of byte {self.offset}"
        return f"{what} of the {file} ({self.place}{self.column and f', column {self.column}'})"


class Map(Struct, frozen=True):
    """The pages of a database: for each table and index its pages, and the free ones.

    A page is its offset, and how much of it is in use if it holds the rest of a long row; else 0.
    """

    page_size: int
    pages: Mapping[str, Sequence[tuple[int, int]]]
    columns: Sequence[tuple[str, str, Sequence[Span]]] = ()  # table, column, its values


_PAGES = "SELECT name, pgoffset, pagetype, unused FROM dbstat ORDER BY name, pageno"


def map_of(path: Path) -> Map:
    """Ask SQLite which page belongs to what."""
    connection = apsw.Connection(f"file:{path}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        size = connection.pragma("page_size")
        pages: dict[str, list[tuple[int, int]]] = {}
        rows: list[Any] = connection.execute(_PAGES).fetchall()
        for name, offset, kind, unused in rows:
            pages.setdefault(name, []).append((offset, size - unused if kind == "overflow" else 0))
        used = {offset for found in pages.values() for offset, _ in found}
        numbers = range(connection.pragma("page_count"))
        pages[FREE] = [(number * size, 0) for number in numbers if number * size not in used]
        return Map(size, pages, list(_columns(connection, path.read_bytes(), size, pages)))
    finally:
        connection.close()


def _columns(
    connection: apsw.Connection, data: bytes, size: int, pages: Mapping[str, Sequence[tuple[int, int]]]
) -> Iterator[tuple[str, str, Sequence[Span]]]:
    for table in sorted(pages):
        rows: list[Any] = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (table,)).fetchall()
        if _has_no_row_ids(data, pages[table]):  # its key comes first
            rows = sorted(rows, key=lambda row: row[1] or len(rows))
        names = [name for name, _ in rows]
        found = columns_of(data, size, [offset for offset, used in pages[table] if not used], names) if names else {}
        yield from ((table, column, spans) for column, spans in found.items())


def _has_no_row_ids(data: bytes, pages: Sequence[tuple[int, int]]) -> bool:
    return any(offset and data[offset] == 10 for offset, used in pages if not used)


def choose(chance: random.Random, closed: Base, logged: Base, pages: Map) -> Flip:
    """A flip, or a cut."""
    draw = chance.random()
    if draw < _LOG_SHARE:
        return Flip(LOG, True, chance.randrange(len(logged.log)), chance.randrange(8))
    draw -= _LOG_SHARE
    if draw < _LOG_CUT_SHARE:
        ends = commits_in(logged.log)
        offset = chance.choice(ends[:-1]) if chance.random() < 0.3 else chance.randrange(len(logged.log))
        return Flip(LOG_CUT, True, offset, None)
    draw -= _LOG_CUT_SHARE
    if draw < _CUT_SHARE:
        # An empty file is a store that nothing was written in yet: that cannot be told from one that was emptied.
        offset = chance.randrange(pages.page_size, len(closed.database))
        whole = offset - offset % pages.page_size
        return Flip(CUT, False, whole if chance.random() < 0.5 else offset, None)
    draw -= _CUT_SHARE
    if draw < _COLUMN_SHARE:
        return in_column(chance, pages.columns)
    name = chance.choice([HEADER, *sorted(pages.pages)])
    if name == HEADER:
        return Flip(HEADER, False, chance.randrange(_FILE_HEADER), chance.randrange(8))
    page, used = chance.choice(pages.pages[name])
    offset = chance.randrange(used) if used else _in_page(chance, closed.database, page, pages.page_size)
    return Flip(name, False, page + offset, chance.randrange(8))


def in_column(chance: random.Random, columns: Sequence[tuple[str, str, Sequence[Span]]]) -> Flip:
    """A bit of a value of one of these columns."""
    table, column, spans = chance.choice(columns)
    start, length = chance.choice(spans)
    return Flip(table, False, start + chance.randrange(length), chance.randrange(8), column)


def _in_page(chance: random.Random, database: bytes, page: int, size: int) -> int:
    """A byte of a page, most often one that is in use."""
    start = _FILE_HEADER if page == 0 else 0
    kind = database[page + start]
    draw = chance.random()
    if kind not in (2, 5, 10, 13) or draw < 0.05:
        return chance.randrange(start, size)
    cells = int.from_bytes(database[page + start + 3 : page + start + 5], "big")
    content = int.from_bytes(database[page + start + 5 : page + start + 7], "big") or 65536
    pointers = start + (12 if kind in (2, 5) else 8) + 2 * cells
    if draw < 0.15 or content >= size:
        return chance.randrange(start, pointers)
    return chance.randrange(content, size)


def flipped(flip: Flip, closed: Base, logged: Base) -> Base:
    """The store with the change in it."""
    base = logged if flip.in_log else closed
    data = bytearray(base.log if flip.in_log else base.database)
    if flip.bit is None:
        del data[flip.offset :]
    else:
        data[flip.offset] ^= 1 << flip.bit
    return Base(base.database, bytes(data)) if flip.in_log else Base(bytes(data), base.log)
