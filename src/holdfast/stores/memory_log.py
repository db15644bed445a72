"""The log of a memory store: rows in dicts, and the tree of branches that they hold.

Rules of this file:

- Rows are frozen. A write puts new rows beside the old ones and then decides, in one assignment: whatever strikes
  before (an error, Ctrl-C) leaves everything as it was, whatever strikes after is made good by the next step.
- A live thread keeps the turns of its own branches, the turn at which it was forked, and all before these; no move
  of its head changes that. Deleting it is the only thing that sweeps turns. `anchors` counts who begins at a turn,
  so a deletion looks at nothing but what it sweeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from holdfast.conversation.records import ROOT
from holdfast.ports.stores import Head, NewTurn, OpenRun, Segment, StoredTurn
from holdfast.stores import rules

K = TypeVar("K")
V = TypeVar("V")

# A turn's place: its branch and its depth. None stands for the root, before any first turn.
Place: TypeAlias = tuple[int, int]


class Thread(Struct, frozen=True):
    """A thread, or the tombstone of one. `left` says that the writer of its open run has given up.

    `line` holds the turn ids of the runs that stand in line before it.
    """

    id: str
    incarnation: int
    epoch: int = 0
    head: Head = Head()
    origin: Place | None = None
    branches: tuple[int, ...] = ()
    run: OpenRun | None = None
    left: bool = False
    title: str | None = None
    metadata: bytes | None = None
    created_us: int = 0
    updated_us: int = 0
    deleted: bool = False
    line: tuple[str, ...] = ()


class Branch(Struct, frozen=True):
    """A run of turns after `parent`, up to `last`. `owner` is None once the thread that it belonged to is deleted."""

    owner: str | None
    parent: Place | None
    last: int

    @property
    def after(self) -> int:
        return self.parent[1] if self.parent is not None else 0


class Table(Generic[K, V]):
    """Rows, and beside them the changes of the step that is going on (None: the row is to go)."""

    __slots__ = ("changes", "rows")

    def __init__(self) -> None:
        self.rows: dict[K, V] = {}
        self.changes: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        return self.changes[key] if key in self.changes else self.rows.get(key)

    def put(self, key: K, row: V | None) -> None:
        self.changes[key] = row

    def apply(self) -> None:
        """May be begun again after it was cut short."""
        for key, row in self.changes.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.changes = {}


class Log:
    """One tenant's tables, and what can be said of the tree that they hold."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.threads: Table[str, Thread] = Table()
        self.branches: Table[int, Branch] = Table()
        self.turns: Table[Place, StoredTurn] = Table()
        self.places: Table[str, Place] = Table()
        self.anchors: Table[Place, int] = Table()
        self._tables = (self.threads, self.branches, self.turns, self.places, self.anchors)
        self._numbers = numbers
        self._decided = False

    def begin(self) -> None:
        """Start from what was decided: finish that, forget everything else."""
        if self._decided:
            self.commit()
            return
        for table in self._tables:
            if table.changes:
                table.changes = {}

    def commit(self) -> None:
        self._decided = True
        for table in self._tables:
            table.apply()
        self._decided = False

    # --- threads -----------------------------------------------------------------------------------------------

    def live(self, thread_id: str, incarnation: int | None = None) -> Thread:
        """The thread. Raises ThreadNotFoundError; ThreadDeletedError if it is not in this incarnation (any more)."""
        thread = self.threads.get(thread_id)
        if thread is None or (thread.deleted and incarnation is None):
            raise rules.no_thread(thread_id)
        if thread.deleted or incarnation not in (None, thread.incarnation):
            raise rules.thread_deleted(thread_id)
        return thread

    def held(self, run: OpenRun) -> Thread | None:
        """The thread, if this is its open run and the run's writer still the one that holds it."""
        thread = self.threads.get(run.thread_id)
        if thread is None or thread.run is None:
            return None
        found = thread.run
        same = (found.turn_id, found.epoch, found.incarnation) == (run.turn_id, run.epoch, run.incarnation)
        return thread if same else None

    def newborn(self, thread_id: str, now_us: int) -> Thread:
        """The first thread of this id, or its next incarnation. Epochs go on, so that no old writer fits."""
        tombstone = self.threads.get(thread_id)
        incarnation, epoch = (tombstone.incarnation, tombstone.epoch) if tombstone is not None else (0, 0)
        return Thread(thread_id, incarnation + 1, epoch, created_us=now_us, updated_us=now_us)

    # --- the tree ----------------------------------------------------------------------------------------------

    def path(self, place: Place | None) -> Iterator[tuple[int, Branch, int]]:
        """The branches from this place to the root, with the last turn on each that belongs to the way."""
        while place is not None:
            number, seq = place
            branch = self.branches.get(number)
            if branch is None or seq > branch.last:
                raise rules.turns_gone(Segment(number, branch.after if branch else 0, seq))
            if seq > branch.after:
                yield number, branch, seq
            place = branch.parent and (branch.parent[0], min(seq, branch.parent[1]))

    def at_depth(self, head: Head, seq: int) -> Place | None:
        """The turn of this depth on the way to the head; None for the root."""
        for number, branch, _ in self.path(place_of(head)):
            if branch.after < seq:
                return number, seq
        return None

    def on_history(self, thread: Thread, turn_id: str) -> Place:
        """The place of a turn on the way to the thread's head. Raises TurnNotFoundError."""
        place = self.places.get(turn_id)
        if place is None or place[1] > thread.head.seq or self.at_depth(thread.head, place[1]) != place:
            raise rules.no_turn(thread.id, turn_id)
        return place

    def head_at(self, thread_id: str, place: Place | None) -> Head:
        """The head of a thread that stands at this place."""
        if place is None:
            return Head()
        branch = self.branches.get(place[0])
        own_tip = branch is not None and branch.owner == thread_id and branch.last == place[1]
        return Head(*place, self.hash_at(place), own_tip)

    def turns_of(self, segment: Segment, limit: int | None) -> list[StoredTurn]:
        """The first turns of a segment. Raises TurnNotFoundError if they are not all there."""
        branch = self.branches.get(segment.branch)
        if branch is None or segment.after < branch.after or segment.upto > branch.last:
            raise rules.turns_gone(segment)
        upto = segment.upto if limit is None else min(segment.upto, segment.after + limit)
        rows = self.turns.rows
        return [rows[segment.branch, seq] for seq in range(segment.after + 1, upto + 1)]

    def turn_at(self, place: Place | None) -> StoredTurn | None:
        """The turn that a branch knows by this depth: one of its own, or of those it goes on from."""
        for number, _, seq in self.path(place):
            return self.turns.get((number, seq))
        return None

    def hash_at(self, place: Place | None) -> bytes:
        turn = self.turn_at(place)
        return turn.hash if turn is not None else ROOT

    def append(self, thread: Thread, turns: Sequence[NewTurn]) -> Thread:
        """Put turns after the thread's head: on its own branch if it stands at the tip of it, else on a new one."""
        head = thread.head
        own = self.branches.get(head.branch) if head.own_tip and head.branch is not None else None
        number = head.branch if own is not None and head.branch is not None else next(self._numbers)
        if own is None:
            own = Branch(thread.id, place_of(head), head.seq)
            self._anchor(own.parent, 1)
            thread = replace(thread, branches=(*thread.branches, number))
        seq, parent = head.seq, head.hash
        for turn in turns:
            seq += 1
            stored = rules.placed(turn, seq, parent)
            if self.places.get(stored.turn_id) is not None:
                raise rules.turn_id_taken(thread.id, stored.turn_id)
            self.turns.put((number, seq), stored)
            self.places.put(stored.turn_id, (number, seq))
            parent = stored.hash
        self.branches.put(number, replace(own, last=seq))
        return replace(thread, head=Head(number, seq, parent, own_tip=True), updated_us=turns[-1].ended_us)

    def forked(self, source: Thread, new: Thread, place: Place | None) -> Thread:
        """The new thread, standing at a place on the source's history."""
        self._anchor(place, 1)
        return replace(new, origin=place, head=self.head_at(new.id, place))

    def bury(self, thread: Thread) -> None:
        """Leave a tombstone, and sweep every turn that the thread alone has kept."""
        self.threads.put(thread.id, Thread(thread.id, thread.incarnation, thread.epoch, deleted=True))
        for number in thread.branches:
            branch = self.branches.get(number)
            assert branch is not None
            self.branches.put(number, replace(branch, owner=None))
        self._anchor(thread.origin, -1)
        unchecked = [*thread.branches] if thread.origin is None else [thread.origin[0], *thread.branches]
        while unchecked:
            parent = self._sweep(unchecked.pop())
            if parent is not None:
                unchecked.append(parent[0])

    def _sweep(self, number: int) -> Place | None:
        """Drop the turns at the end of a branch that nobody keeps. If none is left: the place that is now free."""
        branch = self.branches.get(number)
        if branch is None or branch.owner is not None:
            return None
        last = branch.last
        while last > branch.after and not self.anchors.get((number, last)):
            turn = self.turns.get((number, last))
            assert turn is not None
            self.turns.put((number, last), None)
            self.places.put(turn.turn_id, None)
            last -= 1
        if last > branch.after:
            self.branches.put(number, replace(branch, last=last))
            return None
        self.branches.put(number, None)
        self._anchor(branch.parent, -1)
        return branch.parent

    def _anchor(self, place: Place | None, more: int) -> None:
        if place is not None:
            self.anchors.put(place, ((self.anchors.get(place) or 0) + more) or None)


def place_of(head: Head) -> Place | None:
    """The place of the head's turn."""
    return None if head.branch is None else (head.branch, head.seq)
