"""A crowd: the workers of one round, in their seats, where they can be watched, stopped and killed.

Rule of this file: what was done to a process is written down with the time at which it was surely done, and with where
its talkers stood then, whatever was aimed at.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rigs import processes
from rigs.evidence import DIARY, STORE, Died, Failed, Pen, Stalled, Standing
from rigs.fence import Paused, Resumed, Struck
from rigs.marks import MOMENTS
from rigs.witness import LEASE, LineBoard, LineSlot, Witness
from rigs.workers import Errand, begin

_STALL = 0.25  # a nap of a fraction of a millisecond that took longer is the machine's fault
_PATIENCE = 20.0  # for processes that are to end by themselves

# What is counted, by the name of the moment; "queue" is a talker that stands in line.
FACES = ("queue", "open", "takeover", "ask", "seal", "idle", "move", "start")


def moment_of(slot: LineSlot) -> str:
    """Where a talker is."""
    return "queue" if slot.waits else MOMENTS[slot.moment]


def face_of(moment: str) -> str:
    """The moment as it is counted."""
    return "seal" if moment == "sealed" else moment


class Seat:
    """A place for a worker, and the process that has it now. `until` is set while it is stopped."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.worker = 0
        self.talkers = 1
        self.until: float | None = None


class Crowd:
    """So many workers on one file."""

    def __init__(self, folder: Path, number: int, chance: random.Random, kind: type[Witness], address: str) -> None:
        self.folder = folder
        self.number = number
        self.chance = chance
        self.kind = kind
        self.address = address
        self.pen = Pen(folder / DIARY)
        self.board = LineBoard(0, 1)
        self.seats: list[Seat] = []
        self.threads: tuple[str, ...] = ()
        self._workers = 0
        self._probing = False

    @contextlib.contextmanager
    def at_work(self, seats: int, talkers: int, threads: int) -> Iterator[None]:
        """All seats are filled, and nobody is left behind."""
        self.board = LineBoard(seats, talkers)
        self.seats = [Seat(number) for number in range(seats)]
        self.threads = tuple(f"thread-{number}" for number in range(threads))
        try:
            for seat in self.seats:
                self.fill(seat, talkers=self.chance.randint(1, talkers))
            yield
        finally:
            for seat in self.seats:
                if seat.pid:
                    os.kill(seat.pid, signal.SIGKILL)
                    os.waitpid(seat.pid, 0)
            self.pen.close()

    def fill(self, seat: Seat, *, talkers: int, touched: Sequence[str] = (), probe: bool = False) -> None:
        """Put a new worker into a seat."""
        self._workers += 1
        seat.worker, seat.talkers, seat.until = self._workers, talkers, None
        place = (self.number, seat.worker, seat.number, talkers)
        plan = (f"{self.chance.random()}", tuple(touched), self.threads, probe)
        seat.pid = begin(Errand(self.folder, self.address, *place, *plan), self.board, self.kind)

    # --- what is done to them --------------------------------------------------------------------------------------

    def slots(self, seat: Seat) -> list[LineSlot]:
        return [self.board.slot(seat.number, talker) for talker in range(seat.talkers)]

    def standing(self, seat: Seat) -> tuple[Standing, ...]:
        """Where a process's talkers are."""
        return tuple(
            Standing(talker, slot.token, slot.thread, moment_of(slot)) for talker, slot in enumerate(self.slots(seat))
        )

    def pause(self, seat: Seat, seconds: float, *, aimed: str) -> Paused | None:
        """Stop a process for so long; None if it has ended by itself."""
        if not processes.stop(seat.pid):
            self._gone(seat, "it ended")
            return None
        at = time.monotonic()
        wrote = processes.holds_write_lock(seat.pid, self.folder / STORE)
        paused = Paused(seat.worker, at, self.standing(seat), aimed, wrote)
        self.pen.write(paused)
        # Nobody can write meanwhile: long enough to see that nothing breaks, and no longer.
        seat.until = at + (min(seconds, 1.2 * LEASE) if wrote else seconds)
        return paused

    def resume(self, seat: Seat) -> None:
        self.pen.write(Resumed(seat.worker, time.monotonic()))
        processes.go_on(seat.pid)
        seat.until = None

    def kill(self, seat: Seat, *, stuck: bool = False) -> Died:
        """End a process; the seat is empty then."""
        if stuck:
            os.kill(seat.pid, signal.SIGUSR1)  # it writes its stacks down, beside the evidence
            time.sleep(0.2)
        self.pen.write(Struck(seat.worker, time.monotonic()))
        os.kill(seat.pid, signal.SIGKILL)
        os.waitpid(seat.pid, 0)
        # A talker that stands in line stands before its opening, for the oracle.
        standing = [
            Standing(one.talker, one.token, one.thread, one.moment.replace("queue", "open"))
            for one in self.standing(seat)
        ]
        died = Died(seat.worker, time.monotonic(), tuple(standing), 0, stuck)
        self.pen.write(died)
        seat.pid = 0
        return died

    def resume_due(self) -> None:
        """Let those go on whose time has come."""
        now = time.monotonic()
        for seat in self.seats:
            if seat.until is not None and now >= seat.until:
                self.resume(seat)

    # --- the end ---------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The living come to an end by themselves; who does not has hung. Then a fresh process uses every thread."""
        for seat in self.seats:
            if seat.until is not None:
                self.resume(seat)
        self.board.over = True
        self._await_ends()
        self.board.over, self._probing = False, True
        self.fill(self.seats[0], talkers=1, probe=True)
        self._await_ends()

    def _await_ends(self) -> None:
        until = time.monotonic() + _PATIENCE
        while (living := [seat for seat in self.seats if seat.pid]) and time.monotonic() < until:
            for seat in living:
                ended, status = os.waitpid(seat.pid, os.WNOHANG)
                if ended:
                    self._gone(seat, f"it ended with code {os.waitstatus_to_exitcode(status)}", well=status == 0)
            self.nap(0.002)
        for seat in self.seats:
            if seat.pid:
                self.kill(seat, stuck=True)

    def _gone(self, seat: Seat, how: str, *, well: bool = False) -> None:
        """A process is gone without having been killed: a finding, unless its work was done."""
        seat.pid = 0
        if not well or not (self.board.over or self._probing):
            self.pen.write(Failed(seat.worker, time.monotonic(), "the worker itself", how))

    def nap(self, seconds: float = 0.0001) -> None:
        """Sleep; it is written down if the machine did not let even this process run for long."""
        began = time.monotonic()
        time.sleep(seconds)
        now = time.monotonic()
        if now - began - seconds > _STALL:
            self.pen.write(Stalled(0, now, now - began))


class Aim:
    """Where the next fault is to fall. What is counted is where it fell."""

    def __init__(self, crowd: Crowd, weights: Mapping[str, float], hits: Counter[str]) -> None:
        self._crowd = crowd
        self._weights = weights
        self._hits = hits

    def wishes(self) -> list[str]:
        """The moments, first those that have had the least of the part that is theirs."""
        chance = self._crowd.chance
        return sorted(self._weights, key=lambda face: (self._hits[face] / self._weights[face], chance.random()))

    def found(self, face: str) -> Seat | None:
        """A process of which a talker is at that moment now."""
        going = [seat for seat in self._crowd.seats if seat.pid and seat.until is None]
        self._crowd.chance.shuffle(going)
        for seat in going:
            if any(face_of(moment_of(slot)) == face for slot in self._crowd.slots(seat)):
                return seat
        return None

    def count(self, standing: Sequence[Standing], aimed: str) -> None:
        """A fault has struck a process whose talkers stood there."""
        faces = [face_of(one.moment) for one in standing]
        self._hits[aimed if aimed in faces else faces[0]] += 1
