"""The write-ahead log beside a database, as bytes: whether there is more in it than SQLite takes in.

After a crash SQLite takes in what the log holds up to the first place where a sum does not fit, and leaves out the
rest, without a word: it cannot know whether the writer was cut off there, or a disk has changed a byte of what was
acknowledged long ago. Nor can this file. It tells that there is more, so that a person may know.

Rule of this file: it reads, and decides nothing. The log carries no lock that closing it could drop. Its form is
SQLite's (https://sqlite.org/fileformat2.html, "The Write-Ahead Log").
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import BinaryIO

from msgspec import Struct

_HEADER, _FRAME = 32, 24
_MOMENT = 0.02
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}


class Frame(Struct, frozen=True):
    """A page in the log: its salts, whether it ends a transaction, and whether all sums up to it fit."""

    salts: tuple[int, int]
    commit: bool
    fits: bool


def left_out(path: str) -> str:
    """A note on what SQLite leaves out of the log of this database; "" if there is nothing to say."""
    try:
        with open(f"{path}-wal", "rb") as file:
            told = _left_out(file)
            if told:
                # Somebody may be writing at this moment: what is so for good is so a second time.
                time.sleep(_MOMENT)
            return told if told and told == _left_out(file) else ""
    except FileNotFoundError:
        return ""


def _left_out(file: BinaryIO) -> str:
    file.seek(0)
    header = file.read(_HEADER)
    size = file.seek(0, 2)
    if size <= _HEADER:
        return ""
    if not _header_fits(header):
        return _told("its beginning does not fit", "all of it")
    salts = struct.unpack(">II", header[16:24])
    taken = left = number = 0
    for number, frame in enumerate(_frames(file, header), 1):
        if frame.fits and frame.commit:
            taken = number
        # One salt of two that fits is neither this log's nor an earlier one's.
        left = number if (frame.salts[0] == salts[0]) or (frame.salts[1] == salts[1]) else left
    cut = number == left and size > _HEADER + number * (_FRAME + _page_size(header))
    pages = left - taken + cut
    return _told(f"page {taken + 1} of it does not fit", f"{pages} pages") if pages else ""


def _told(where: str, what: str) -> str:
    return (
        f"The write-ahead log holds more than can be taken in: {where}, so that {what} are left out. That is usual "
        "after a power cut, a kill or a write that failed, and then nothing acknowledged is among them. If there was "
        "nothing of the kind, the disk has changed the log, and the turns said last may be missing."
    )


def _header_fits(header: bytes) -> bool:
    magic = int.from_bytes(header[:4], "big")
    return magic in _MAGIC and _sum(_MAGIC[magic], header[:24], (0, 0)) == struct.unpack(">II", header[24:32])


def _page_size(header: bytes) -> int:
    return int.from_bytes(header[8:12], "big")


def _frames(file: BinaryIO, header: bytes) -> Iterator[Frame]:
    magic, page_size = int.from_bytes(header[:4], "big"), _page_size(header)
    so_far, fits = struct.unpack(">II", header[24:32]), True
    file.seek(_HEADER)
    while len(frame := file.read(_FRAME + page_size)) == _FRAME + page_size:
        _, pages, *salts, first, second = struct.unpack(">6I", frame[:_FRAME])
        if fits:
            so_far = _sum(_MAGIC[magic], frame[:8] + frame[_FRAME:], so_far)
            fits = so_far == (first, second) and frame[8:16] == header[16:24]
        yield Frame((salts[0], salts[1]), pages > 0, fits)


def _sum(order: str, data: bytes, so_far: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum, going on from one before."""
    first, second = so_far
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
