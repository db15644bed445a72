"""Images: what a disk may hold after a power cut, built from the recorded stream of what was written to it.

A recording is a list of events: writes, truncations, syncs, files made and deleted, and between them the lines of the
diary, so that it is known what had been acknowledged at each place of the stream. An image is a place to cut at and a
fate for everything that was not synced by then:

    written and synced         is there
    written, not synced        is there, or not, or in part (sectors of 512 bytes, of which one may hold garbage, or
                               up to any byte), in any order
    a length that has grown    is the old one, or the new one with nothing, or with garbage, in it
    a file made or deleted     is there, or not, until its folder is synced
    the log's index (-shm)     is gone, or garbage; SQLite makes it anew

Rule of this file: pure, and all chance comes from the image's own seed. A sync counts for what was written before it
began, and only once it has ended.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from rigs.disk_turns import AnyLine

SECTOR = 512
# How an image deals with what was not synced, and how many in a hundred deal so.
MODES = {"nothing": 15, "all": 5, "some": 25, "torn sectors": 25, "torn bytes": 15, "lengths": 15}


class Event(Struct, frozen=True, array_like=True):
    """write (at, data), truncate (to `at`), sync and folder (of what came before event `at`), create, delete, line."""

    kind: str
    file: str = ""
    at: int = 0
    data: bytes = b""
    moment: str = ""
    line: AnyLine | None = None


class _File:
    """A file that was made once: what is surely on the disk, and what may be."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.pending: list[tuple[int, Event]] = []

    def sync(self, before: int) -> None:
        for index, event in self.pending:
            if index < before:
                _apply(self.durable, event, event.data, 0)
        self.pending = [(index, event) for index, event in self.pending if index >= before]


def _apply(content: bytearray, event: Event, data: bytes, offset: int) -> None:
    """Do a write, or a part of one, or a truncation."""
    if event.kind == "truncate":
        _resize(content, event.at, b"")
        return
    start = event.at + offset
    if len(content) < start:
        _resize(content, start, b"")
    content[start : start + len(data)] = data


def _resize(content: bytearray, size: int, filling: bytes) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend((filling + bytes(size))[: size - len(content)])


class Shadow:
    """The disk as it goes through a recording."""

    def __init__(self) -> None:
        self._now: dict[str, _File] = {}  # as processes see it
        self._durable: dict[str, _File] = {}  # what the folder surely holds
        self._pending: list[tuple[int, str, _File | None]] = []  # names that were made (a file) or deleted (None)
        self.events = 0
        self.lines: list[AnyLine] = []

    def go_on(self, event: Event) -> None:
        """The next event of the recording."""
        index, name = self.events, event.file
        self.events += 1
        if event.line is not None:
            self.lines.append(event.line)
        elif event.kind == "folder":
            self._sync_folder(event.at)
        elif event.kind == "create":
            self._now[name] = _File()
            self._pending.append((index, name, self._now[name]))
        elif event.kind == "delete":
            self._now.pop(name, None)
            self._pending.append((index, name, None))
        elif event.kind == "sync":
            self._now[name].sync(event.at)
        else:
            self._now[name].pending.append((index, event))

    def _sync_folder(self, before: int) -> None:
        for index, name, file in self._pending:
            if index < before:
                _name(self._durable, name, file)
        self._pending = [entry for entry in self._pending if entry[0] >= before]

    @property
    def unsynced(self) -> int:
        """How much there is whose fate is open."""
        return len(self._pending) + sum(len(file.pending) for file in self._now.values())

    def image(self, chance: random.Random, mode: str = "") -> tuple[str, dict[str, bytes]]:
        """What the disk may hold if the power is cut here: the mode, and each file's bytes by its name."""
        mode = mode or chance.choices(list(MODES), list(MODES.values()))[0]
        names = dict(self._durable)
        part = {"nothing": 0.0, "all": 1.0}.get(mode, chance.choice((0.1, 0.5, 0.9)))
        for _, name, file in self._pending:
            if chance.random() < part:
                _name(names, name, file)
        filling = chance.randbytes(8192) if chance.random() < 0.3 else b""
        shuffled = mode not in ("nothing", "all") and chance.random() < 0.3
        files = {name: _rendered(file, mode, part, filling, shuffled, chance) for name, file in names.items()}
        if chance.random() < 0.1:
            files["index"] = chance.randbytes(32768)
        return mode, files


def _name(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def _rendered(file: _File, mode: str, part: float, filling: bytes, shuffled: bool, chance: random.Random) -> bytes:
    content = bytearray(file.durable)
    events = [event for _, event in file.pending if chance.random() < part]
    if shuffled:
        chance.shuffle(events)
    for event in events:
        if event.kind == "write" and len(content) < event.at:
            _resize(content, event.at, filling)
        for offset, data in _parts(event, mode, chance):
            _apply(content, event, data, offset)
    if mode == "lengths" and events:
        # Longer, up to the end of some write that is not there; or without what was written beyond its old length.
        lengths = [max(len(content), event.at + len(event.data)) for _, event in file.pending if event.kind == "write"]
        if all(event.kind == "write" for event in events):
            lengths.append(len(file.durable))
        _resize(content, chance.choice(lengths or [len(content)]), filling)
    return bytes(content)


def _parts(event: Event, mode: str, chance: random.Random) -> Sequence[tuple[int, bytes]]:
    """The parts of a write that reach the disk: (offset in it, bytes)."""
    data = event.data
    if event.kind != "write" or mode not in ("torn sectors", "torn bytes") or chance.random() < 0.5:
        return ((0, data),)
    if mode == "torn bytes":
        cut = chance.randrange(len(data) + 1)
        return ((0, data[:cut]),) if chance.random() < 0.8 else ((cut, data[cut:]),)
    first = -event.at % SECTOR  # sectors are those of the file, not of the write
    edges = sorted({0, *range(first, len(data), SECTOR), len(data)})
    parts = [(start, data[start:end]) for start, end in pairwise(edges) if chance.random() < 0.5]
    # Now and then a sector was being written when the power went: it holds what nobody wrote.
    return [(start, chance.randbytes(len(part)) if chance.random() < 0.05 else part) for start, part in parts]
