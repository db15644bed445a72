"""The diary of moves: what was tried on threads, what came of it, and what models were told.

Rule of this file: data only, as in `rigs.evidence`, whose pens write it. A line is written before anything is done and
another when it is done, so the order of lines is the order of events over all processes.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct


class Entry(Struct, frozen=True, tag_field="is"):
    """A line. `at` is the machine's monotonic clock, the same in all processes."""

    worker: int
    at: float


class Tries(Entry, frozen=True, tag="tries"):
    """Somebody is about to do something.

    `op` is its number in the worker, `what` the kind of move. `turn` is the turn it is about: that which a stream
    becomes, which is followed, at which a thread is forked, after which a run begins. `text` is what is said.
    """

    op: int
    what: str
    thread: str
    turn: str | None = None
    text: str = ""
    key: str | None = None
    new: str | None = None  # the thread that a fork makes
    how: str = ""  # on_conflict, and whatever else is worth telling


class Done(Entry, frozen=True, tag="done"):
    """It is done, or was refused with an error of this name.

    `turn` is the turn that it was, or became; `turns` are several; `text` is what was read of an answer; `status` what
    a follower was told at the end.
    """

    op: int
    error: str | None = None
    turn: str | None = None
    text: str = ""
    status: str | None = None
    turns: tuple[str, ...] = ()
    yes: bool = False


class Told(Entry, frozen=True, tag="told"):
    """A model was asked. `request` is in its answer; `messages` are fingerprints (see `moves_talk`)."""

    request: str
    text: str
    messages: tuple[str, ...]
    refusal: str | None = None


class Hung(Entry, frozen=True, tag="hung"):
    """Something took too long; where every task of the process stood."""

    op: int
    stacks: str


class Killed(Entry, frozen=True, tag="killed"):
    """The campaign has killed this worker."""


class Failed(Entry, frozen=True, tag="failed"):
    """A worker, or a probe, did not come to its end."""

    what: str


Line: TypeAlias = Tries | Done | Told | Hung | Killed | Failed
