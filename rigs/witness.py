"""Witnesses: workers that write down what their store has told them, and that can be silent in two ways.

A worker of `rigs.workers`, whose store writes down each thread that it was given, each seal that was acknowledged and
each beat. Now and then it blocks its event loop in the middle of a turn, for longer than a lease (its thread must stay
its own, for the beat has a thread of its own); or it stops beating while its event loop goes on, as a process does
that can no longer reach the file (it must lose its thread, and be told).

Rule of this file: the library is not changed, but for the length of a lease and of what is measured by it: module
constants are set in the worker's process before the store is made, so that they keep their proportions.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast import StaleRunError
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun
from rigs.evidence import Pen
from rigs.fence import Beaten, Blocked, Given, Sealed, Starved, TurnedAway
from rigs.marks import OPEN, SLOT, TAKEOVER, Board, Slot
from rigs.talk import text_of
from rigs.workers import Errand, MarkedStore, Worker
from rigs.workers import _slot as current_slot

# A short lease for the rigs, and what goes with it: a beat, and the looks of those who wait. In the library a lease is
# 10 s, a beat 2.5 s, the looks 0.1, 0.4 and 1 s.
LEASE, BEAT = 1.0, 0.25
_LOOKS = {"LOOK_FIRST": 0.025, "LOOK_LATER": 0.1, "LOOK_SECONDS": 0.25}

_WATCH, _STARVED = 0.05, 0.3  # seconds between two looks of a process at its own time, and what is too long

_AT_WAITS = 16  # a byte of a slot that `rigs.marks` leaves free


class LineSlot(Slot):
    """The marks of one talker, and whether it stands in line."""

    @property
    def waits(self) -> bool:
        return bool(self._memory[self._start + _AT_WAITS])

    @waits.setter
    def waits(self, waits: bool) -> None:
        self._memory[self._start + _AT_WAITS] = waits


class LineBoard(Board):
    """A board of such slots."""

    def slot(self, seat: int, talker: int) -> LineSlot:
        return LineSlot(self._memory, SLOT * (1 + seat * self._talkers + talker))


def set_lease(lease: float, beat: float) -> None:
    """Set how long a lease is, for this process, wherever the library names it."""
    constants = {"LEASE_SECONDS": lease, "BEAT_SECONDS": beat, **_LOOKS}
    for name, module in list(sys.modules.items()):
        for constant in constants.keys() & vars(module).keys() if name.startswith("holdfast.") else ():
            setattr(module, constant, constants[constant])


class WitnessStore(MarkedStore):
    """The store; it writes down what it has answered. `mute`: it does not beat."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.mute = False
        self._beating = 0
        self._beat_began = 0.0

    def attach(self, pen: Pen, worker: int) -> None:
        """Write with this pen."""
        self._pen, self._worker = pen, worker
        self._beat, self._write_of_beat = self._shared.beat, self._shared.database.write
        self._shared.beat = self.beat  # type: ignore[method-assign]
        self._shared.database.write = self._write_and_note  # type: ignore[method-assign]

    def beat(self) -> None:
        """What the store's own thread calls every so often."""
        if not self.mute:
            self._beat_began = time.monotonic()
            self._beating = threading.get_ident()
            self._beat()
            self._beating = 0

    def _write_and_note(self, work: Any, **options: Any) -> Handed[Any]:
        handed, began = self._write_of_beat(work, **options), self._beat_began
        if self._beating == threading.get_ident():
            handed.then(lambda _: self._pen.write(Beaten(self._worker, time.monotonic(), began)))
        return handed

    def open_run(self, thread_id: str, turn_id: str, *args: Any, **kwargs: Any) -> Handed[Any]:
        slot = current_slot.get()
        token = slot.token if slot is not None and slot.in_turn else ""
        asked = time.monotonic()
        handed = super().open_run(thread_id, turn_id, *args, **kwargs)
        handed.then(lambda found: self._note(found, token, asked) if isinstance(found, OpenRun) else None)
        return handed

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        asked, slot = time.monotonic(), current_slot.get()

        def taken(found: OpenRun | None) -> None:
            if found is not None:
                self._note(found, "", asked, over=True)
            elif slot is not None and slot.moment == TAKEOVER:
                slot.mark(OPEN)  # somebody was faster: it waits on

        handed = super().take_over(holder)
        handed.then(taken)
        return handed

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        slot = current_slot.get()

        def sealed(_: Head) -> None:
            self._pen.write(Sealed(self._worker, time.monotonic(), run.thread_id, run.turn_id, run.epoch, len(turns)))
            if slot is not None and slot.moment == TAKEOVER:
                slot.mark(OPEN)  # what was taken over is closed; now its own turn

        handed = self.do_seal(run, turns, **options)
        handed.then(sealed)
        return handed

    def do_seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        """The seal itself; planted faults are put here."""
        return super().seal(run, turns, **options)

    def _note(self, run: OpenRun, token: str, asked: float, *, over: bool = False) -> None:
        name = (run.thread_id, run.turn_id, token, run.epoch)
        self._pen.write(Given(self._worker, time.monotonic(), *name, asked, over))

    async def wait(self, thread_id: str, turn_id: str, *, seconds: float) -> None:
        slot = current_slot.get()
        if not isinstance(slot, LineSlot):
            return await super().wait(thread_id, turn_id, seconds=seconds)
        slot.waits = True
        try:
            await super().wait(thread_id, turn_id, seconds=seconds)
        finally:
            slot.waits = False


class Witness(Worker):
    """A worker with such a store. Planted faults are subclasses (`rigs.stale_plants`)."""

    store_class: type[WitnessStore] = WitnessStore
    store: WitnessStore
    # Seconds from one time that it blocks its event loop, or is mute, to the next; None if it never does.
    silent_every: tuple[float, float] | None = (4.0, 9.0)
    mute_part = 0.5  # of them, that it is mute
    short = True  # the lease; else it is the library's

    def __init__(self, errand: Errand, board: Board) -> None:
        if self.short:
            set_lease(LEASE, BEAT)
        super().__init__(errand, board)
        self.store.attach(self.pen, errand.worker)
        threading.Thread(target=self._watch, name="rig-watch", daemon=True).start()
        self._next_silence = time.monotonic() + (
            self.chance.uniform(0.5, self.silent_every[1]) if self.silent_every else 0
        )

    async def run(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        if self.silent_every is None or self.errand.probe or time.monotonic() < self._next_silence:
            return await super().run(token, thread_id, streamed=streamed)
        self._next_silence = time.monotonic() + self.chance.uniform(*self.silent_every)
        quiet = False
        async with self.agent.run_stream(
            text_of(token), thread=self.agent.get_thread(thread_id, create=True)
        ) as stream:
            async for _ in stream:
                if not quiet:
                    quiet = True
                    await self._be_silent(token)
            response = await stream.response()
        return response.turn_id, response.text

    async def _be_silent(self, token: str) -> None:
        """For longer than a lease, in the middle of an answer."""
        seconds, mute = LEASE * self.chance.uniform(1.3, 2.0), self.chance.random() < self.mute_part
        self.pen.write(Blocked(self.errand.worker, time.monotonic(), token, seconds, mute))
        if mute:
            self.store.mute = True
            try:
                await asyncio.sleep(seconds)
            finally:
                self.store.mute = False
        elif self.chance.random() < 0.75:
            time.sleep(seconds)
        else:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                continue

    def _watch(self) -> None:
        """Write down when this process was not run for a while."""
        while True:
            began = time.monotonic()
            time.sleep(_WATCH)
            if (lasted := time.monotonic() - began) > _STARVED:
                self.pen.write(Starved(self.errand.worker, time.monotonic(), lasted))

    def fail(self, what: str, error: BaseException) -> None:
        for talker, slot in enumerate(self.slots):
            if isinstance(error, StaleRunError) and slot.token == what:
                self.pen.write(TurnedAway(self.errand.worker, time.monotonic(), talker, slot.thread, what))
                return
        super().fail(what, error)
