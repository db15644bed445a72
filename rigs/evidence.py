"""Evidence: the forms in which a campaign writes down what happened. The oracle reads them and nothing else.

Three files in one folder, and the store beside them:

    diary.jsonl      what workers were about to do, what they were told was done, and who was killed when
    requests.jsonl   what the service was asked
    contents.json    what the store held afterwards, read by a fresh process

Rule of this file: data only. A line of the diary is one write to a file opened for appending, so lines of several
processes never mix, their order is the order of events, and what was written outlasts kill -9. A kill can cut a line
where it crosses a page of memory: a line therefore begins with a line break too, and half of one counts as none (its
writer had not gone on).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Struct

# --- the diary -----------------------------------------------------------------------------------------------------


class Entry(Struct, frozen=True, tag_field="is"):
    """A line of the diary. `at` is the machine's monotonic clock, the same in all processes."""

    worker: int
    at: float


class Asks(Entry, frozen=True, tag="asks"):
    """A talker is about to say something."""

    talker: int
    thread: str
    token: str
    streamed: bool


class Acked(Entry, frozen=True, tag="acked"):
    """`run` has returned: the turn is acknowledged."""

    thread: str
    token: str
    turn: str
    answer: str


class Moves(Entry, frozen=True, tag="moves"):
    """A talker is about to fork a thread at a turn (into the thread `new`) or to rewind it to one."""

    move: int
    thread: str
    to: str
    new: str | None = None


class Moved(Entry, frozen=True, tag="moved"):
    """The fork or rewind is acknowledged; or it was refused, in a word of the error's code."""

    move: int
    refused: str | None = None


class Failed(Entry, frozen=True, tag="failed"):
    """Something was refused that should have worked."""

    what: str
    error: str


class Standing(Struct, frozen=True):
    """Where a talker stood when its process died: its last token (if any) and the name of the moment."""

    talker: int
    token: str
    thread: str
    moment: str


class Died(Entry, frozen=True, tag="died"):
    """The campaign has killed a worker. `aimed` is the talker whose moment was aimed at."""

    talkers: tuple[Standing, ...]
    aimed: int = 0
    stuck: bool = False


class Stalled(Entry, frozen=True, tag="stalled"):
    """The machine did not run even the campaign itself for so long: nobody can be blamed for that time."""

    seconds: float


Line: TypeAlias = Asks | Acked | Moves | Moved | Failed | Died | Stalled


# --- requests ------------------------------------------------------------------------------------------------------


class Request(Struct, frozen=True):
    """A request as the service saw it: the token of its last message, and all messages as fingerprints."""

    token: str
    messages: tuple[str, ...]
    refusal: str | None = None


# --- contents ------------------------------------------------------------------------------------------------------


class TurnSeen(Struct, frozen=True):
    """A turn in the tables, wherever it hangs. `order` is the order of sealing. `sound`: its hash was made anew.

    Messages are (role, text).
    """

    id: str
    order: int
    thread: str
    parent: str | None
    status: str
    input: tuple[tuple[str, str], ...]
    output: tuple[tuple[str, str], ...]
    sound: bool = True
    flaw: str | None = None


class ThreadSeen(Struct, frozen=True):
    """A thread: its head, the run that is open on it, and the turns that the library reads from it."""

    id: str
    head: str | None
    told: tuple[str, ...] = ()
    open_run: str | None = None
    flaw: str | None = None


class Contents(Struct, frozen=True):
    """What a store holds."""

    turns: tuple[TurnSeen, ...] = ()
    threads: tuple[ThreadSeen, ...] = ()
    tickets: tuple[str, ...] = ()
    journal: int = 0
    integrity: str = "ok"


class Evidence(Struct, frozen=True):
    """All that a round is judged by."""

    diary: tuple[Line, ...]
    requests: tuple[Request, ...]
    contents: Contents


# --- files ---------------------------------------------------------------------------------------------------------

T = TypeVar("T")

DIARY, REQUESTS, CONTENTS, STORE = "diary.jsonl", "requests.jsonl", "contents.json", "threads.db"


class Pen:
    """Writes lines to a file, each in one call, for as many processes as like to."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, line: Struct) -> None:
        os.write(self._fd, b"\n" + msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def read_lines(path: Path, kind: type[T]) -> tuple[T, ...]:
    """The lines of a file, but for those that a kill has cut. Raises msgspec.ValidationError for another kind."""
    found: list[T] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            if line:
                found.append(msgspec.json.decode(line, type=kind))
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            continue
    return tuple(found)


def read_evidence(folder: Path) -> Evidence:
    """The evidence of a round, from its folder."""
    contents = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Contents)
    diary: tuple[Line, ...] = read_lines(folder / DIARY, Line)  # type: ignore[arg-type]
    return Evidence(diary, read_lines(folder / REQUESTS, Request), contents)
