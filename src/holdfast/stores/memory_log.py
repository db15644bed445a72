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
from holdfast.ports.stores import Earlier, Head, NewTurn, OpenRun, Point, Segment, StoredTurn, Tip, Twin
from holdfast.stores import rules

K = TypeVar("K")
V = TypeVar("V")

# A turn's place: its branch and its depth. None stands for the root, before any first turn.
Place: TypeAlias = tuple[int, int]


class Ticket(Struct, frozen=True):
    """A run that stands in line, with what it will say."""

    turn_id: str
    said: bytes
    key: str | None = None


class Thread(Struct, frozen=True):
    """A thread, or the tombstone of one. `deserted` says that its open run has no writer: the one that it had has given
    up, or the run waits.

    `line` holds the runs that wait for it.
    """

    id: str
    incarnation: int
    epoch: int = 0
    head: Head = Head()
    origin: Place | None = None
    branches: tuple[int, ...] = ()
    run: OpenRun | None = None
    deserted: bool = False
    title: str | None = None
    metadata: bytes | None = None
    created_us: int = 0
    updated_us: int = 0
    deleted: bool = False
    line: tuple[Ticket, ...] = ()

    @property
    def waiting(self) -> bool:
        """Whether its open run waits for an answer."""
        return self.run is not None and self.run.waiting

    def has_in_line(self, turn_id: str) -> bool:
        return any(ticket.turn_id == turn_id for ticket in self.line)

    def without(self, turn_id: str) -> Thread:
        """The same, but that this run does not stand in line."""
        return replace(self, line=tuple(ticket for ticket in self.line if ticket.turn_id != turn_id))

    def told_run(self) -> OpenRun | None:
        """Its open run, as those know it who do not make it."""
        return None if self.run is None else replace(self.run, left=None)

    def twin(self, turn_id: str, key: str | None) -> Twin | None:
        """Another run that is open, or in line, under a key."""
        if key is None:
            return None
        if self.run is not None and self.run.key == key:
            return Twin(self.run.turn_id, self.run.input)
        same = (ticket for ticket in self.line if ticket.key == key and ticket.turn_id != turn_id)
        return next((Twin(ticket.turn_id, ticket.said) for ticket in same), None)


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
        # By branch and idempotency key, and by turn id.
        self.keys: Table[tuple[int, str], Place] = Table()
        self.journals: Table[str, tuple[bytes, ...]] = Table()
        self.tables = (self.threads, self.branches, self.turns, self.places, self.anchors, self.keys, self.journals)
        self._numbers = numbers
        self._decided = False

    def begin(self) -> None:
        """Start from what was decided: finish that, forget everything else."""
        if self._decided:
            self.commit()
            return
        for table in self.tables:
            if table.changes:
                table.changes = {}

    def commit(self) -> None:
        self._decided = True
        for table in self.tables:
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

    def written_by(self, run: OpenRun) -> Thread | None:
        """The same, if the run's writer may still write; nobody may while it waits."""
        thread = self.held(run)
        return None if thread is None or thread.waiting else thread

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

    def is_on(self, place: Place, end: Place | None) -> bool:
        """Whether a turn is on the way to another one."""
        return any(number == place[0] and branch.after < place[1] <= upto for number, branch, upto in self.path(end))

    def on_history(self, thread: Thread, turn_id: str) -> Place:
        """The place of a turn on the way to the thread's head. Raises TurnNotFoundError."""
        place = self.places.get(turn_id)
        if place is None or not self.is_on(place, place_of(thread.head)):
            raise rules.no_turn(thread.id, turn_id)
        return place

    def on_branches(self, thread: Thread, turn_id: str) -> Place | None:
        """The place of a turn on any of the thread's branches, or before the turn at which it was forked."""
        place = self.places.get(turn_id)
        if place is None or not (place[0] in thread.branches or self.is_on(place, thread.origin)):
            return None
        return place

    def at_point(self, thread: Thread, point: Point) -> Place | None:
        """The place at which a run begins. Raises TurnNotFoundError."""
        place = self.on_history(thread, point.turn_id)
        if point.latest and place != place_of(thread.head):
            raise rules.not_latest(thread.id, point.turn_id)
        return self.at_depth(thread.head, place[1] - 1) if point.before else place

    def recorded(self, thread: Thread, place: Place) -> Earlier:
        """A turn, and whether it is on the way to the thread's head."""
        turn = self.turns.get(place)
        assert turn is not None
        return Earlier(turn, self.is_on(place, place_of(thread.head)), thread.incarnation)

    def earlier(self, thread: Thread, key: str | None) -> Earlier | None:
        """The turn that this life of a thread has under a key, on whichever of its own branches."""
        for number in reversed(thread.branches) if key is not None else ():
            place = self.keys.get((number, key or ""))
            if place is not None:
                return self.recorded(thread, place)
        return None

    def tips(self, thread: Thread) -> list[Tip]:
        """The tips of its branches, the newest first; at last where it was forked, if nothing goes on from there."""
        found: list[Tip] = []
        head, parents = place_of(thread.head), set()
        for number in reversed(thread.branches):
            branch = self.branches.get(number)
            assert branch is not None
            parents.add(branch.parent)
            found.append(self._tip((number, branch.last), branch.parent, head is not None and head[0] == number))
        if thread.origin is not None:
            stands_there = head is not None and head[0] not in thread.branches
            if stands_there or thread.origin not in parents:
                found.append(self._tip(thread.origin, None, stands_there))
        return found

    def _tip(self, place: Place, parent: Place | None, current: bool) -> Tip:
        last, before = self.turn_at(place), self.turn_at(parent)
        assert last is not None
        return Tip(last.turn_id, last.seq, before.turn_id if before is not None else None, current, last.ended_us)

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
            if stored.key is not None:
                self.keys.put((number, stored.key), (number, seq))
            parent = stored.hash
        self.branches.put(number, replace(own, last=seq))
        return replace(thread, head=Head(number, seq, parent, own_tip=True), updated_us=turns[-1].ended_us)

    def forked(self, source: Thread, new: Thread, place: Place | None) -> Thread:
        """The new thread, standing at a place on the source's history."""
        self._anchor(place, 1)
        return replace(new, origin=place, head=self.head_at(new.id, place))

    def bury(self, thread: Thread) -> None:
        """Leave a tombstone, and sweep every turn that the thread alone has kept."""
        if thread.run is not None:
            self.journals.put(thread.run.turn_id, None)
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
            if turn.key is not None:
                self.keys.put((number, turn.key), None)
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
