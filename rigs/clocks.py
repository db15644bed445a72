"""Set the clocks of processes that run turns, and see that nothing is ordered, named or decided by them.

    python -m rigs.clocks --jumps 1000 [--seed N] [--keep]

Workers talk on common threads, as in the other rigs, while their clocks are set (`rigs.clock`), each for itself or
all at once: a day forward or back, a little back, standing still, right again; and a clock that never runs backwards
jumps ahead, as when a machine has slept. Some workers are killed, so that others have to close what they left. In
every other round no machine sleeps; there the lease is short, and some workers are stopped for longer than that.

In the end a fresh process takes a turn on every thread, another one reads the store and its listing, while its own
clock jumps, and the judges of the other campaigns judge.

Rule of this file: this process forks, watches and sets clocks. It uses no store, no thread and no event loop, so that
what it forks can.
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
from rigs.clock import Clocks
from rigs.clock_workers import PLANTS, Clocked, Listing, read_listing
from rigs.commands import Command, Totals
from rigs.contents import read_contents
from rigs.crowd import FACES, Aim, Crowd, Seat
from rigs.evidence import CONTENTS, DIARY, REQUESTS, STORE, Contents, Evidence, Request, read_lines
from rigs.fence import FenceLine, FenceVerdict, Given, Jumped, judge_fence
from rigs.oracle import PATIENCE, Verdict, Violation, judge
from rigs.processes import aside, serving
from rigs.stale import as_told
from rigs.telling import Ticker
from rigs.witness import LEASE

JUMPS_A_ROUND = 50
SEATS, TALKERS, THREADS = 4, 2, 3
THINKS = 0.01  # seconds that the service takes for an answer
KILL_EVERY, STOP_EVERY = 15, 12  # so many jumps, about
LISTING, VERDICT = "listing.json", "verdict.json"

_DAY = 86_400 * 10**9
_MOMENTS = {"ask": 3, "seal": 3, "open": 3, "queue": 2, "takeover": 0.5, "idle": 1}
_PATIENCE_FOR_A_MOMENT = 0.05
_BETWEEN_SLEEPS = 0.3  # seconds
_STUCK = 30.0  # seconds that a turn may take where processes are stopped, or readers slow

KINDS = ("day forward", "day back", "a little back", "stands still", "right again", "slept")


class Round(msgspec.Struct):
    """What a round came to."""

    oracle: Verdict
    fence: FenceVerdict
    clocks: list[Violation]
    ids: int = 0
    listed: int = 0

    @property
    def violations(self) -> list[Violation]:
        return [*self.clocks, *self.fence.violations, *self.oracle.violations]


class Jumps(Totals):
    """What all rounds came to."""

    unit = "jumps"

    def __init__(self) -> None:
        super().__init__()
        self.jumps: Counter[str] = Counter()
        self.faces: Counter[str] = Counter()
        self.recoveries: list[float] = []

    @property
    def done(self) -> int:
        return self.jumps.total()

    def take_in(self, found: Round) -> None:
        of_fence, of_oracle = ("pauses", "takeovers", "zombies", "accepted"), ("asked", "acked", "interrupted")
        self.figures.update({name: getattr(found, name) for name in ("ids", "listed")})
        self.figures.update({name: getattr(found.fence, name) for name in of_fence})
        self.figures.update({name: getattr(found.oracle, name) for name in of_oracle})
        if not found.fence.pauses:
            self.recoveries += found.oracle.recoveries

    def brief(self) -> str:
        return f"{self.figures['kills']} kills"

    def own_json(self) -> dict[str, Any]:
        return {
            "jumps": self.done,
            "kinds of jumps": {kind: self.jumps[kind] for kind in KINDS},
            "moments": {face: self.faces[face] for face in FACES},
            **self.figures,
            "recoveries": len(self.recoveries),
            "recovery max ms": round(max(self.recoveries, default=0.0) * 1e3, 1),
        }

    def own_lines(self) -> list[str]:
        figures, told = self.figures, self.own_json()
        return [
            f"jumps               {self.done}: {', '.join(f'{self.jumps[kind]} {kind}' for kind in KINDS)}",
            f"  at the moments    {'   '.join(f'{face} {self.faces[face]}' for face in FACES)}",
            f"kills               {figures['kills']}; {told['recoveries']} first turns after a death, slowest "
            f"{told['recovery max ms']} ms",
            f"pauses              {figures['pauses']}; {figures['takeovers']} runs taken over in all, "
            f"{figures['zombies']} zombies turned away, {figures['accepted']} accepted",
            f"turns               {figures['asked']} asked, {figures['acked']} acknowledged, "
            f"{figures['interrupted']} interrupted",
            f"ids                 {figures['ids']} of turns",
            f"threads listed      {figures['listed']}",
        ]


# --- a round -------------------------------------------------------------------------------------------------------


class Setter:
    """Sets clocks, and now and then kills or stops a process."""

    def __init__(self, crowd: Crowd, clocks: Clocks, totals: Jumps, *, short: bool) -> None:
        self.crowd = crowd
        self.clocks = clocks
        self.totals = totals
        self.chance = crowd.chance
        self.short = short
        self.aim = Aim(crowd, _MOMENTS, totals.faces)
        self._sleepless = 0.0

    def run(self, jumps: int, tick: Callable[[], None]) -> None:
        """So many jumps."""
        self._wait(0.2)
        for _ in range(jumps):
            self.crowd.resume_due()
            seat, wanted = self._seat()
            if seat is not None:
                self._jump(seat, wanted)
            if self.chance.random() < 1 / KILL_EVERY:
                self._kill()
            if self.short and self.chance.random() < 1 / STOP_EVERY:
                self._stop()
            self._wait(self.chance.uniform(0, 0.06 if self.short else 0.02))
            tick()

    def _seat(self) -> tuple[Seat | None, str]:
        """A process that is where it was aimed at, or where another is, after a while."""
        wishes = self.aim.wishes()
        until = time.monotonic() + _PATIENCE_FOR_A_MOMENT
        while time.monotonic() < until:
            if (seat := self.aim.found(wishes[0])) is not None:
                return seat, wishes[0]
            self._wait(0.0002)
        found = ((self.aim.found(face), face) for face in wishes)
        return next((pair for pair in found if pair[0] is not None), (None, ""))

    def _jump(self, seat: Seat, wanted: str) -> None:
        kind = self.chance.choice(KINDS[:-1] if self.short or time.monotonic() < self._sleepless else KINDS)
        if kind == "slept":
            self._sleepless = time.monotonic() + _BETWEEN_SLEEPS
        standing = self.crowd.standing(seat)
        for other in self.crowd.seats if kind == "slept" or self.chance.random() < 0.5 else [seat]:
            self._set(other.number, kind)
            self.crowd.pen.write(Jumped(other.worker, time.monotonic(), kind))
        self.totals.jumps[kind] += 1
        self.aim.count(standing, wanted)

    def _set(self, seat: int, kind: str) -> None:
        wall, stands, slept = self.clocks.get(seat)
        now = time.time_ns() + wall + slept
        if kind == "slept":
            self.clocks.set(seat, wall=wall, slept=slept + int(self.chance.uniform(3, 7200) * 1e9))
        elif kind == "stands still":
            self.clocks.set(seat, wall=wall, stands=stands or now, slept=slept)
        else:
            by = {"day forward": _DAY, "day back": -_DAY, "a little back": -self.chance.randrange(10**7, 10**10)}
            self.clocks.set(seat, wall=wall + by[kind] if kind in by else 0, slept=slept)

    def _kill(self) -> None:
        living = [seat for seat in self.crowd.seats if seat.pid and seat.until is None]
        if living:
            seat = self.chance.choice(living)
            died = self.crowd.kill(seat)
            touched = sorted({one.thread for one in died.talkers if one.thread})
            self.crowd.fill(seat, talkers=self.chance.randint(1, TALKERS), touched=touched)
            self.totals.figures["kills"] += 1

    def _stop(self) -> None:
        going = [seat for seat in self.crowd.seats if seat.until is None]
        seat = self.aim.found("ask")
        if seat is not None and len(going) > SEATS // 2:
            self.crowd.pause(seat, LEASE * self.chance.uniform(1.3, 2.6), aimed="ask")

    def _wait(self, seconds: float) -> None:
        self.crowd.nap(seconds)


def run_round(
    given: argparse.Namespace, totals: Jumps, number: int, folder: Path, jumps: int, tick: Callable[[], None]
) -> Round:
    """One database, one service, so many jumps; the verdict."""
    base, clocks, short = PLANTS[given.plant], Clocks(SEATS), number % 2 == 1
    kind: type[Clocked] = type(base.__name__, (base,), {"clocks": clocks, "short": short, "slow": given.slow})
    with serving(folder / REQUESTS, THINKS) as address:
        crowd = Crowd(folder, number, random.Random(f"{given.seed}/{number}"), kind, address)
        with crowd.at_work(SEATS, TALKERS, THREADS):
            Setter(crowd, clocks, totals, short=short).run(jumps, tick)
            crowd.end()
    aside(lambda: _judge(folder, given.slow))
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / VERDICT).read_bytes(), type=Round)
    failed = Violation("no verdict", f"the process that read the store failed; see {folder}")
    return Round(Verdict(), FenceVerdict(), [failed])


# --- judging -------------------------------------------------------------------------------------------------------


def _judge(folder: Path, slow: bool) -> None:
    contents = asyncio.run(read_contents(folder / STORE))
    (folder / CONTENTS).write_bytes(msgspec.json.encode(contents))
    (folder / LISTING).write_bytes(msgspec.json.encode(asyncio.run(read_listing(folder / STORE))))
    (folder / VERDICT).write_bytes(msgspec.json.encode(judged(folder, slow=slow)))


def judged(folder: Path, *, slow: bool) -> Round:
    """The verdict on a folder of evidence."""
    contents = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Contents)
    listing = msgspec.json.decode((folder / LISTING).read_bytes(), type=Listing)
    lines: tuple[FenceLine, ...] = read_lines(folder / DIARY, FenceLine)  # type: ignore[arg-type]
    fence = judge_fence(lines, contents, lease=LEASE)
    evidence = Evidence(as_told(lines), read_lines(folder / REQUESTS, Request), contents)
    oracle = judge(evidence, patience=_STUCK if fence.pauses or slow else PATIENCE)
    made = [(line.turn, line.token) for line in lines if isinstance(line, Given) and not line.over]
    found = [*_made_twice(made), *listing_flaws(listing, contents)]
    return Round(oracle, fence, found, len(made), len(listing.whole))


def _made_twice(made: Sequence[tuple[str, str]]) -> list[Violation]:
    times = Counter(turn for turn, _ in set(made))
    return [Violation("id made twice", turn) for turn, count in times.items() if count > 1]


def listing_flaws(listing: Listing, contents: Contents) -> list[Violation]:
    """A listing holds every thread once, whole or in pages, the latest time first, and by id where times are equal."""
    found: list[Violation] = []
    ids = [thread for thread, _ in listing.whole]
    if sorted(ids) != sorted(thread.id for thread in contents.threads):
        found.append(Violation("listing", f"it holds {len(ids)} threads, the store {len(contents.threads)}"))
    if listing.paged != ids:
        found.append(Violation("listing", f"in pages it is {listing.paged}, whole {ids}"))
    if ids != [thread for thread, _ in sorted(listing.whole, key=lambda one: (-one[1], one[0]))]:
        found.append(Violation("listing", "it is not in the order of its times"))
    return found


# --- the command ---------------------------------------------------------------------------------------------------

COMMAND = Command(
    "clocks",
    __doc__ or "",
    "jumps",
    200,
    JUMPS_A_ROUND,
    PLANTS,
    lambda folder, given: judged(folder, slow=given.slow),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    parser, totals = COMMAND.parser(), Jumps()
    slow = "some readers take longer over a piece of an answer than others wait before they look (and a turn may)"
    parser.add_argument("--slow-readers", dest="slow", action="store_true", help=slow)
    given = parser.parse_args(argv)
    given.also = " --slow-readers" if given.slow else ""

    def one_round(number: int, folder: Path, jumps: int, ticker: Ticker) -> Round:
        return run_round(given, totals, number, folder, jumps, ticker.show)

    return COMMAND.carry_out(given, totals, one_round)


if __name__ == "__main__":
    sys.exit(main())
