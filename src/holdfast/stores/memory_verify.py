"""Verify for a memory store: every turn's hash made once more. Memory is no disk, but bits flip there too.

Rule of this file: it only reads, some turns in each step, so that no writer waits for long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from holdfast.conversation.records import ROOT
from holdfast.ports.verification import Damage, Verification, Verifying
from holdfast.stores.aside import Course
from holdfast.stores.memory_log import Branch, Log, Place, Thread, place_of
from holdfast.stores.ready import Steps
from holdfast.stores.soundness import NAMED_THREADS, Before, Findings, Where, damaged_turn, gone, step

T = TypeVar("T")

_TURNS_A_STEP = 200


def verify(logs: Mapping[str, Log], tenant: str | None, steps: Steps, course: Course) -> Verification:
    """Look at everything of a tenant, or of all if it is None."""
    found = Findings()
    for name in sorted(_done(steps, lambda: list(logs)) if tenant is None else [tenant]):
        log = logs.get(name)
        if log is not None:
            _Look(name, log, found, steps, course).at_everything()
    return found.all()


def _done(steps: Steps, work: Callable[[], T]) -> T:
    """What comes of a step, in a thread that has no event loop."""
    try:
        steps.do(work).__await__().send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a step is done when it is asked for")


class _Look:
    """One look at one tenant's log."""

    def __init__(self, tenant: str, log: Log, found: Findings, steps: Steps, course: Course) -> None:
        self._tenant = tenant
        self._log = log
        self._found = found
        self._steps = steps
        self._course = course
        # What stands after a turn that a branch begins at; for branches on which something is damaged, from where on.
        self._unsound: dict[int, tuple[int, str | None]] = {}

    def at_everything(self) -> None:
        for number in sorted(self._step(lambda: list(self._log.branches.rows))):
            before = self._step(lambda number=number: self._before(number))  # type: ignore[misc]
            while before is not None:
                before = self._step(lambda n=number, b=before: self._some(n, b))  # type: ignore[misc]
                self._at("turns")
        for thread_id in self._step(lambda: list(self._log.threads.rows)):
            self._step(lambda thread_id=thread_id: self._thread(thread_id))  # type: ignore[misc]
            self._at("threads")

    def _step(self, work: Callable[[], T]) -> T:
        def step() -> T:
            self._log.begin()  # what an earlier step has left undone counts for nothing
            return work()

        return _done(self._steps, step)

    def _at(self, stage: Literal["turns", "threads"]) -> None:
        log, found = self._log, self._found
        self._course.at(lambda: Verifying(stage, found.turns, len(log.turns.rows), found.damaged))

    # --- turns -------------------------------------------------------------------------------------------------

    def _before(self, number: int) -> Before | None:
        """What stands before the first turn of a branch; None if somebody has deleted it meanwhile."""
        branch = self._log.branches.rows.get(number)
        if branch is None:
            return None
        before = self._at_place(branch.parent)
        if not before.sound:
            self._unsound[number] = (before.seq + 1, before.last_sound)
        return before

    def _at_place(self, place: Place | None) -> Before:
        turn = self._log.turn_at(place)
        if place is None or turn is None:
            return Before() if place is None else gone(Before(seq=place[1] - 1))
        number = next(number for number, _, _ in self._log.path(place))
        first, last_sound = self._unsound.get(number, (turn.seq + 1, None))
        sound = turn.seq < first
        return Before(turn.hash, turn.seq, turn.turn_id if sound else last_sound, sound)

    def _some(self, number: int, before: Before) -> Before | None:
        """The next turns of a branch; None at its end."""
        branch = self._log.branches.rows.get(number)
        if branch is None:
            return None
        for seq in range(before.seq + 1, min(branch.last, before.seq + _TURNS_A_STEP) + 1):
            turn = self._log.turns.rows.get((number, seq))
            self._found.turns += 1
            flaw, after = ("it is missing", gone(before)) if turn is None else step(before, turn)
            if turn is not None:
                self._found.record_bytes += len(turn.record)
            if flaw:
                self._unsound.setdefault(number, (seq, before.last_sound))
                named = turn.turn_id if turn is not None else None
                self._found.add(damaged_turn(flaw, named, seq, before, self._where(number, seq, branch)))
            before = after
        return before if before.seq < branch.last else None

    def _where(self, number: int, seq: int, branch: Branch) -> Where:
        def stands_after(thread: Thread) -> bool:
            return any(found == number and upto >= seq for found, _, upto in self._log.path(place_of(thread.head)))

        reached = [thread.id for thread in self._log.threads.rows.values() if stands_after(thread)]
        others = max(0, len(reached) - NAMED_THREADS)
        return Where(self._tenant, tuple(reached[:NAMED_THREADS]), others, branch.owner)

    # --- threads -----------------------------------------------------------------------------------------------

    def _thread(self, thread_id: str) -> None:
        thread: Thread | None = self._log.threads.rows.get(thread_id)
        if thread is None or thread.deleted:
            return
        self._found.threads += 1
        before = self._at_place(place_of(thread.head))
        expected = ROOT if before.seq == 0 else before.hash
        if before.sound and (expected, before.seq) != (thread.head.hash, thread.head.seq):
            what = f"Thread {thread_id!r} is damaged: its head is not what turn {thread.head.seq} is."
            way = "Begin a new thread."
            self._found.add(Damage("thread", what, way, self._tenant, (thread_id,), seq=thread.head.seq))
