"""Columns: where in a database's bytes the values of each column of each table stand.

Most of a store is text, so a flip that falls by chance hits a small column (a status, a time, a key) hardly ever. With
this a column gets its share whatever its size.

Rule of this file: a pure function of bytes, after SQLite's description of its file format. What of a row stands on
pages of its own is left out: it is hit often enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

# A value's offset in the file and its length.
Span: TypeAlias = tuple[int, int]

_TABLE_LEAF, _INDEX_INNER, _INDEX_LEAF = 13, 2, 10
_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}  # of the serial types that have one size


def columns_of(data: bytes, size: int, pages: Sequence[int], names: Sequence[str]) -> dict[str, list[Span]]:
    """The values of each column of a table that has these pages of that size. Columns without any byte are left out."""
    found: dict[str, list[Span]] = {}
    for page in pages:
        for row in _rows(data, page, size):
            for name, span in zip(names, row, strict=False):
                if span[1]:
                    found.setdefault(name, []).append(span)
    return found


def _rows(data: bytes, page: int, size: int) -> Iterator[list[Span]]:
    """The values of each row on a page."""
    start = page + (100 if page == 0 else 0)
    kind = data[start]
    if kind not in (_TABLE_LEAF, _INDEX_INNER, _INDEX_LEAF):
        return
    pointers = start + (12 if kind == _INDEX_INNER else 8)
    for n in range(int.from_bytes(data[start + 3 : start + 5], "big")):
        at = page + int.from_bytes(data[pointers + 2 * n : pointers + 2 * n + 2], "big")
        at += 4 if kind == _INDEX_INNER else 0
        payload, at = _number(data, at)
        if kind == _TABLE_LEAF:
            _, at = _number(data, at)  # the row's id
        yield _values(data, at, at + _kept(payload, size, kind))


def _values(data: bytes, at: int, end: int) -> list[Span]:
    """The values of a row that begins there, as far as they stand before the end."""
    length, after = _number(data, at)
    value, found = at + length, list[Span]()
    while after < at + length:
        serial, after = _number(data, after)
        wide = _SIZES[serial] if serial < 12 else (serial - 12) // 2
        if value + wide > end:
            break
        found.append((value, wide))
        value += wide
    return found


def _kept(payload: int, size: int, kind: int) -> int:
    """How much of a row stands on its page."""
    most = size - 35 if kind == _TABLE_LEAF else (size - 12) * 64 // 255 - 23
    if payload <= most:
        return payload
    least = (size - 12) * 32 // 255 - 23
    kept = least + (payload - least) % (size - 4)
    return kept if kept <= most else least


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
