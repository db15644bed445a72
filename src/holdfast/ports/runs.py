"""Runs and turns as a store knows them: where a thread stands, what is stored, what is being made.

Rule of this file: frozen data and nothing else. What is done with it stands in `ports.stores`, which is also where it
is imported from.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from holdfast.conversation.records import ROOT
from holdfast.conversation.turns import TurnStatus


class Head(Struct, frozen=True):
    """Where a thread stands: its latest turn. `seq` is that turn's depth (0: no turn yet), `hash` its chained hash.

    `own_tip` is True if the head is the last turn of a branch that belongs to the thread itself, so that the next
    turn can be appended there; elsewhere the next turn begins a branch.
    """

    branch: int | None = None
    seq: int = 0
    hash: bytes = ROOT
    own_tip: bool = False


class Segment(Struct, frozen=True):
    """A stretch of one branch: its turns after `after`, up to and including `upto`."""

    branch: int
    after: int
    upto: int


class StoredTurn(Struct, frozen=True):
    """A turn as it is stored: its columns and its record (see `conversation.records`). Times in microseconds."""

    seq: int
    turn_id: str
    status: TurnStatus
    record: bytes
    started_us: int
    ended_us: int
    hash: bytes
    key: str | None = None
    reference: str | None = None


class NewTurn(Struct, frozen=True):
    """A turn to be stored; the store gives it its place and its hash."""

    turn_id: str
    status: TurnStatus
    record: bytes
    started_us: int
    ended_us: int
    key: str | None = None
    reference: str | None = None


class OpenRun(Struct, frozen=True):
    """A turn being made: what its writer holds. `epoch` is the fence, `input` the stored form of its input.

    `left` is where the thread stood before, if the run began elsewhere (see `Point`). `journal` holds what the run's
    earlier writer wrote down; only `take_over` fills it. Those who merely hear of a run (`Busy`, `Progress`) are told
    neither.
    `waiting` says that it waits for an answer from outside (see `RunLog.park`): nobody makes it.
    """

    thread_id: str
    turn_id: str
    epoch: int
    incarnation: int
    head: Head
    input: bytes
    started_us: int
    key: str | None = None
    left: Head | None = None
    journal: tuple[bytes, ...] = ()
    waiting: bool = False


class Twin(Struct, frozen=True):
    """A run under the same idempotency key that has not ended: it is open, or stands in line. `input` as stored."""

    turn_id: str
    input: bytes


class Busy(Struct, frozen=True):
    """The thread is taken. `run` is its open run; None if it has none, but others stand in line before.

    `alive` is False if the run can be taken over: it waits for an answer (`run.waiting`), or the process that made it
    is gone, or has shown no sign of life for a lease. `twin` is the run in flight that has the key of the one that
    asked, if any; then that one has no ticket (any more). (An open run that can be taken over is a twin too; a queued
    one is dropped with its process.)
    """

    run: OpenRun | None
    alive: bool
    twin: Twin | None = None


class Earlier(Struct, frozen=True):
    """There is a turn under this idempotency key already. `on_head`: it lies on the thread's history as it is now.

    The run that asked does not stand in line (any more).

    `incarnation` is the life of the thread to which it belongs.
    """

    turn: StoredTurn
    on_head: bool
    incarnation: int = 0


class Point(Struct, frozen=True):
    """Where on its thread's own history a run begins: right after a turn, or right before it.

    With `latest` only if that turn is the thread's latest one when the run opens.
    """

    turn_id: str
    before: bool = False
    latest: bool = False


class Terms(Struct, frozen=True):
    """What else a run may ask for when it opens: an idempotency key, a point to begin at, a bound for the line."""

    key: str | None = None
    point: Point | None = None
    max_waiting: int = 1000


# What most runs ask for: nothing.
PLAIN = Terms()


class Progress(Struct, frozen=True):
    """How far a turn has come: the run that is open (then `alive` as in `Busy`), a place in line, or the turn.

    `records` are those of the open run's journal, without the first ones that were asked to be left out, and up to
    the first that is damaged.
    """

    run: OpenRun | None = None
    alive: bool = False
    queued: bool = False
    records: tuple[bytes, ...] = ()
    turn: StoredTurn | None = None
    on_head: bool = False


class Holder(Protocol):
    """The run of this process that has a thread, as those who wait for it see it. Called from any thread."""

    def give_way(self) -> bool:
        """End yourself if nobody reads you any more (or can); True if you did."""
        ...

    def stop(self, turn_id: str, *, rollback: bool) -> None:
        """End yourself as cancelled, if you are that turn; with `rollback` the thread stands where it stood before."""
        ...
