"""The model that a store is compared with: threads as plain lists of turn ids.

Rule of this file: it is too simple to be wrong. A fork copies a list, a rewind cuts it, a deletion drops it; a branch
is the whole list up to its tip. Lists are never changed, only replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from holdfast.conversation.errors import HoldfastError, QueueFullError, TurnNotFoundError
from holdfast.ports.stores import Busy, Head, NewTurn, OpenRun, Point, Tip, Twin

# A thread is known by its tenant and its id.
Name: TypeAlias = tuple[str, str]


class Run(Struct):
    """A run that was opened once; it fits as long as it is the thread's open one, and never again."""

    name: Name
    run: OpenRun


class Stand(Struct):
    """The head of turns that were once stored. It can be read for as long as its thread lives."""

    name: Name
    incarnation: int
    head: Head
    turns: list[str]


class Ticket(Struct, frozen=True):
    """A run that asks for a thread, or waits for it. Its turn id, input and time are made of one number."""

    now: int
    key: str | None = None

    @property
    def turn_id(self) -> str:
        return f"turn {self.now}"

    @property
    def said(self) -> bytes:
        return b"[%d]" % self.now


class Branch(Struct):
    """All turns from the first one to the tip of a branch; its own ones begin at `start`."""

    turns: list[str]
    start: int


class Thread:
    """What the model knows of a thread that lives. `trunk` is what it shares with what it was forked from."""

    def __init__(self, incarnation: int, trunk: list[str]) -> None:
        self.incarnation = incarnation
        self.trunk = trunk
        self.turns = trunk
        self.branches: list[Branch] = []
        self.run: OpenRun | None = None
        # The run has no writer: the one that it had has given up, or it waits.
        self.deserted = False
        # The history before the run, if it began elsewhere.
        self.left: list[str] | None = None
        self.journal: list[bytes] = []
        self.line: list[Ticket] = []
        # Which turn has an idempotency key.
        self.keys: dict[str, str] = {}
        self.title: str | None = None
        self.metadata: dict[str, Any] | None = None

    # --- branches ----------------------------------------------------------------------------------------------

    def branch_here(self) -> Branch | None:
        """The branch of its own on which it stands."""
        latest = self.turns[-1] if self.turns else None
        return next((branch for branch in self.branches if latest in branch.turns[branch.start :]), None)

    def at_own_tip(self) -> bool:
        branch = self.branch_here()
        return branch is not None and branch.turns == self.turns

    def up_to(self, turn_id: str) -> list[str] | None:
        """The turns up to one of its turns, on whichever branch."""
        for turns in (self.trunk, *(branch.turns for branch in self.branches)):
            if turn_id in turns:
                return turns[: turns.index(turn_id) + 1]
        return None

    def append(self, turn_ids: list[str]) -> list[str]:
        """Store turns where it stands: at the tip of a branch of its own, or on a new one. All turns up to them."""
        branch = self.branch_here()
        if branch is None or branch.turns != self.turns:
            branch = Branch(self.turns, len(self.turns))
            self.branches.append(branch)
        branch.turns = self.turns + turn_ids
        return branch.turns

    def tips(self) -> list[tuple[str, int, str | None, bool]]:
        """Turn id, depth, the turn after which the branch begins, and whether it stands there; the newest first."""
        here = self.branch_here()
        found: list[tuple[str, int, str | None, bool]] = []
        for branch in reversed(self.branches):
            before = branch.turns[branch.start - 1] if branch.start else None
            found.append((branch.turns[-1], len(branch.turns), before, branch is here))
        stands_there = bool(self.turns) and here is None
        goes_on = any(branch.turns[: branch.start] == self.trunk for branch in self.branches)
        if self.trunk and (stands_there or not goes_on):
            found.append((self.trunk[-1], len(self.trunk), None, stands_there))
        return found

    # --- runs --------------------------------------------------------------------------------------------------

    def told_run(self) -> OpenRun | None:
        """Its open run, as those know it who do not make it."""
        return None if self.run is None else replace(self.run, left=None)

    def waits(self, turn_id: str) -> bool:
        return any(ticket.turn_id == turn_id for ticket in self.line)

    def leave(self, turn_id: str) -> None:
        self.line = [ticket for ticket in self.line if ticket.turn_id != turn_id]

    def answer(self, asks: Ticket, max_waiting: int | None) -> Busy | type[HoldfastError] | str | None:
        """What a run gets that asks for it: a refusal, the turn that has its key, or None: it may open.

        It stands in line if there is a bound for that.
        """
        if asks.key in self.keys:
            self.leave(asks.turn_id)
            return self.keys[asks.key]
        if self.run is None and (not self.line or self.line[0] == asks):
            return None
        twin = self._twin(asks)
        if twin is not None:
            self.leave(asks.turn_id)
        elif max_waiting is not None and asks not in self.line:
            if len(self.line) >= max_waiting:
                return QueueFullError
            self.line = [*self.line, asks]
        return Busy(self.told_run(), not self.deserted, twin)

    def _twin(self, asks: Ticket) -> Twin | None:
        if asks.key is None:
            return None
        if self.run is not None and self.run.key == asks.key:
            return Twin(self.run.turn_id, self.run.input)
        return next((Twin(t.turn_id, t.said) for t in self.line if t.key == asks.key and t != asks), None)

    def at_point(self, point: Point | None) -> list[str] | type[HoldfastError]:
        """The turns up to where a run begins."""
        if point is None:
            return self.turns
        if point.turn_id not in self.turns or (point.latest and point.turn_id != self.turns[-1]):
            return TurnNotFoundError
        return self.turns[: self.turns.index(point.turn_id) + (0 if point.before else 1)]

    def opened(self, run: OpenRun, turns: list[str]) -> None:
        """A run was opened, and begins after these turns."""
        self.left = self.turns if turns != self.turns else None
        self.turns, self.run, self.deserted, self.journal = turns, run, False, []
        self.leave(run.turn_id)

    def parked(self, run: OpenRun, records: list[bytes]) -> None:
        """Its run waits, as this one, and has written these down at last."""
        self.run, self.deserted, self.journal = run, True, self.journal + records

    def closed(self, turns: list[NewTurn], stand: Head | None) -> list[str]:
        """Its run was sealed with these turns. All turns up to the last of them."""
        assert self.run is not None
        left = self.turns if self.left is None else self.left
        if turns:
            self.keys.update({turn.key: turn.turn_id for turn in turns if turn.key is not None})
            end = self.append([turn.turn_id for turn in turns])
            elsewhere = self.turns if stand == self.run.head else left
            self.turns = end if stand is None else elsewhere
        else:
            self.turns = end = self.turns if stand == self.run.head else left
        self.run, self.deserted, self.left, self.journal = None, False, None, []
        return end


def told(tips: Sequence[Tip]) -> list[tuple[str, int, str | None, bool]]:
    """A store's tips in the model's words."""
    return [(tip.turn_id, tip.seq, tip.parts_after, tip.current) for tip in tips]
