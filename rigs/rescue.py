"""Stop writers in the middle of turns, have others go on with the same turns, and wake the first ones amid that.

    python -m rigs.rescue --pauses 1000 [--seed N] [--keep]

In `rigs.stale` what a stopped process has left is closed, and another turn is begun. Here it is gone on with
(`agent.resume`): the same turn, under the same id, with another writer. So whoever wakes up finds its own turn open,
and only its epoch says that it is not its own any more.

Processes come in pairs, each with a thread of its own in one file. One says something, again and again, and is stopped
there for longer than its lease. The other goes on with what is left open, some of it as a slow reader of a stream; and
while it does, the first is let go on and wants to seal. In the end a fresh process takes a turn on every thread,
another one reads the store, and the judges of stopped writers judge (`rigs.fence`, `rigs.oracle`).

Rule of this file: this process forks, watches and stops. It uses no store, no thread and no event loop, so that what
it forks can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import holdfast.clients.transport  # noqa: F401 - imported once here, and not in each of many workers
from holdfast import AgentThread
from rigs.commands import Command, Totals
from rigs.contents import read_contents
from rigs.crowd import FACES, Crowd, Seat, face_of, moment_of
from rigs.evidence import CONTENTS, DIARY, REQUESTS, STORE, Contents, Evidence, Request, read_lines
from rigs.fence import FenceLine, FenceVerdict, Given, Rescued, judge_fence
from rigs.marks import IDLE, OPEN, TAKEOVER
from rigs.oracle import Verdict, Violation, judge
from rigs.processes import aside, serving
from rigs.stale import STUCK, Round, as_told
from rigs.stale_plants import PLANTS
from rigs.telling import Ticker
from rigs.witness import LEASE, Witness
from rigs.workers import _slot as current_slot

PAUSES_A_ROUND = 30
PAIRS = 6
THINKS = 0.25  # seconds that the service takes for an answer
VERDICT = "verdict.json"

_MOMENTS = {"ask": 8, "seal": 2, "open": 1}  # of a talker, and how often it is stopped there
_SOON = 0.01  # the part of looks at which a talker that is asking is stopped: anywhere in that
_LONGEST = (2.2, 3.0)  # leases that a pause takes if nobody goes on with the turn
_AMID = 0.5  # seconds after somebody has gone on with it, at most, in which the first one wakes
_LOOK = 0.02
_PATIENCE = 5.0  # seconds in which nobody can be stopped, since nobody gets that far: the round is over


class Pair(Witness):
    """In even seats one that talks, in odd ones one that goes on with what it leaves open."""

    silent_every = None

    async def _talk(self, talker: int) -> None:
        current_slot.set(self.slots[talker])
        thread = self.errand.threads[self.errand.seat // 2]
        while not self.board.over:
            if self.errand.seat % 2:
                await self._rescue(thread)
            else:
                await self.say(talker, thread, streamed=self.chance.random() < 0.5)
            await asyncio.sleep(_LOOK)

    async def _rescue(self, name: str) -> None:
        slot, thread = self.slots[0], self.agent.get_thread(name, create=True)
        slot.begin(OPEN, "", name)
        try:
            found = await (self._slowly(thread) if self.chance.random() < 0.5 else self._at_once(thread))
        except Exception as error:
            self.fail("", error)
        else:
            if found is not None:
                self.pen.write(Rescued(self.errand.worker, time.monotonic(), name, *found))
        slot.mark(IDLE)

    async def _at_once(self, thread: AgentThread) -> tuple[str, str] | None:
        response = await self.agent.resume(thread)
        return None if response is None else (response.turn_id, response.text)

    async def _slowly(self, thread: AgentThread) -> tuple[str, str] | None:
        async with self.agent.resume_stream(thread) as stream:
            said = False
            async for _ in stream:
                said = True
                await asyncio.sleep(self.chance.uniform(0, _AMID / 3))
            if not said:
                return None
            response = await stream.response()
        return response.turn_id, response.text


class Rescues(Totals):
    """What all rounds came to."""

    unit = "pauses"

    def __init__(self) -> None:
        super().__init__()
        self.faces: Counter[str] = Counter()
        self.pauses = 0

    @property
    def done(self) -> int:
        return self.pauses

    def take_in(self, found: Round) -> None:
        names = ("rescued", "takeovers", "zombies", "accepted")
        self.figures.update({name: getattr(found.fence, name) for name in names})
        self.figures.update({name: getattr(found.oracle, name) for name in ("asked", "acked", "interrupted")})
        self.pauses = self.pauses or found.fence.pauses  # counted as they happen, unless kept evidence is judged

    def brief(self) -> str:
        return f"{self.figures['rescued']} gone on with, {self.figures['zombies']} turned away"

    def own_json(self) -> dict[str, Any]:
        return {"pauses": self.pauses, "moments": {face: self.faces[face] for face in FACES}, **self.figures}

    def own_lines(self) -> list[str]:
        figures = self.figures
        return [
            f"pauses              {self.pauses}",
            f"  at the moments    {'   '.join(f'{face} {count}' for face, count in self.faces.items())}",
            f"turns gone on with  {figures['rescued']} to their ends; {figures['takeovers']} runs taken over in all",
            f"zombies turned away {figures['zombies']}",
            f"stale accepted      {figures['accepted']}",
            f"turns               {figures['asked']} asked, {figures['acked']} acknowledged, "
            f"{figures['interrupted']} interrupted",
        ]


# --- a round -------------------------------------------------------------------------------------------------------


class Waker:
    """Stops the talkers, and wakes each while another goes on with its turn."""

    def __init__(self, crowd: Crowd, totals: Rescues) -> None:
        self.crowd = crowd
        self.totals = totals
        self.chance = crowd.chance
        self._wanted = {seat.number: self._wish() for seat in crowd.seats[::2]}
        self._to_wake: set[int] = set()

    def run(self, pauses: int, tick: Callable[[], None]) -> None:
        """So many pauses; those who sleep at the end are woken as the others were."""
        begun, last = 0, time.monotonic()
        while all(seat.pid for seat in self.crowd.seats):
            sleeping = False
            for talker, other in zip(self.crowd.seats[::2], self.crowd.seats[1::2], strict=True):
                if talker.until is not None:
                    self._see_to(talker, other)
                    sleeping = True
                elif begun < pauses and self._stopped(talker):
                    begun, last = begun + 1, time.monotonic()
                    tick()
            self.crowd.resume_due()
            self.crowd.nap(0.0005)
            if not sleeping and (begun >= pauses or time.monotonic() > last + LEASE * _LONGEST[1] + _PATIENCE):
                return

    def _wish(self) -> str:
        return self.chance.choices(list(_MOMENTS), list(_MOMENTS.values()))[0]

    def _stopped(self, talker: Seat) -> bool:
        wanted, slot = self._wanted[talker.number], self.crowd.slots(talker)[0]
        if slot.turns < 2 or face_of(moment_of(slot)) != wanted:  # in its first turn it may be making the file
            return False
        if wanted == "ask" and self.chance.random() > _SOON:
            return False
        paused = self.crowd.pause(talker, LEASE * self.chance.uniform(*_LONGEST), aimed=wanted)
        self._wanted[talker.number] = self._wish()
        if paused is None:
            return False
        self._to_wake.add(talker.number)
        self.totals.faces[face_of(paused.talkers[0].moment)] += 1
        self.totals.pauses += 1
        return True

    def _see_to(self, talker: Seat, other: Seat) -> None:
        """Have a sleeper wake soon, if the other goes on with its turn by now."""
        if talker.number in self._to_wake and self.crowd.slots(other)[0].moment == TAKEOVER:
            self._to_wake.discard(talker.number)
            assert talker.until is not None
            talker.until = min(talker.until, time.monotonic() + self.chance.uniform(0, _AMID))


def run_round(
    given: argparse.Namespace, totals: Rescues, number: int, folder: Path, pauses: int, tick: Callable[[], None]
) -> Round:
    """One database, one service, so many pauses; the verdict."""
    kind: type[Witness] = type("Pair", (Pair, PLANTS[given.plant]), {})
    with serving(folder / REQUESTS, THINKS) as address:
        crowd = Crowd(folder, number, random.Random(f"{given.seed}/{number}"), kind, address)
        with crowd.at_work(2 * PAIRS, 1, PAIRS):
            Waker(crowd, totals).run(pauses, tick)
            crowd.end()
    aside(lambda: _judge(folder))
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / VERDICT).read_bytes(), type=Round)
    failed = Violation("no verdict", f"the process that read the store failed; see {folder}")
    return Round(Verdict([failed]), FenceVerdict())


# --- judging -------------------------------------------------------------------------------------------------------


def _judge(folder: Path) -> None:
    contents = asyncio.run(read_contents(folder / STORE))
    (folder / CONTENTS).write_bytes(msgspec.json.encode(contents))
    (folder / VERDICT).write_bytes(msgspec.json.encode(judged(folder)))


def judged(folder: Path) -> Round:
    """The verdict on a folder of evidence."""
    contents = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Contents)
    lines: tuple[FenceLine, ...] = read_lines(folder / DIARY, FenceLine)  # type: ignore[arg-type]
    requests = asked_once(read_lines(folder / REQUESTS, Request), lines)
    evidence = Evidence(as_told(lines), requests, contents)
    return Round(judge(evidence, patience=STUCK), judge_fence(lines, contents, lease=LEASE))


def asked_once(requests: Sequence[Request], lines: Sequence[FenceLine]) -> tuple[Request, ...]:
    """The requests, but for those by which the next writer of a turn has put the same to the service once more."""
    more = Counter(line.turn for line in lines if isinstance(line, Given) and line.over)
    left = {line.token: more[line.turn] for line in lines if isinstance(line, Given) and line.token}
    found: list[Request] = []
    for request in requests:
        if request in found and left.get(request.token, 0) > 0:
            left[request.token] -= 1
        else:
            found.append(request)
    return tuple(found)


# --- the command ---------------------------------------------------------------------------------------------------

_HERE = ("none", "no-fence", "takeover-forgets")  # the others are of leases
COMMAND = Command("rescue", __doc__ or "", "pauses", 100, PAUSES_A_ROUND, _HERE, lambda folder, _: judged(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    given, totals = COMMAND.parser().parse_args(argv), Rescues()

    def one_round(number: int, folder: Path, pauses: int, ticker: Ticker) -> Round:
        return run_round(given, totals, number, folder, pauses, ticker.show)

    return COMMAND.carry_out(given, totals, one_round)


if __name__ == "__main__":
    sys.exit(main())
