"""Cancel at every await of every public coroutine, and see what is left.

    python -m rigs.cancel                              every point of every situation, in every world
    python -m rigs.cancel --only NAME --world slow     one situation, in one world
    python -m rigs.cancel --random 10000 --seed 7      points by chance, under faults of the service and jitter

A situation (`rigs.cancel_runs`, `cancel_threads`, `cancel_tools`, `cancel_around`, `cancel_ports`, `cancel_http`) is
played again and again, in each of its worlds (`cancel_worlds`) and in each way of cancelling (`cancel_drive`): at its
first suspension, its second, and so on, until it ends by itself. After each, the next run is made on the thread and all
is judged (`cancel_judge`).

Which coroutines are public, and which lines of the library wait, is found by inspection (`cancel_public`): what no
situation covers is a violation, and lines at which nothing was cancelled are told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

import rigs.cancel_around
import rigs.cancel_http
import rigs.cancel_ports
import rigs.cancel_runs
import rigs.cancel_threads
import rigs.cancel_tools  # noqa: F401 - they fill SITUATIONS
from rigs.cancel_drive import WAYS, Outcome, Strike, Way
from rigs.cancel_judge import Judge, Noise
from rigs.cancel_plants import PLANTS, Plant
from rigs.cancel_public import Waits, line_of, public_coroutines
from rigs.cancel_stage import SITUATIONS, Situation, Stage, World, covered
from rigs.cancel_worlds import KINDS, close_connections, world_of
from rigs.oracle import Violation
from rigs.telling import Ticker, per_minute, violation_lines


class Point(Struct, frozen=True):
    """One place in one situation at which it is cancelled in one way. `k=None`: it is only watched."""

    situation: str
    world: str
    way: Way = "asked"
    k: int | None = None
    number: int | None = None  # of a point by chance

    def __str__(self) -> str:
        number = "" if self.number is None else f" (number {self.number})"
        return f"{self.situation}{number} in {self.world}, {self.way} at {self.k}"


class Totals:
    """What all points came to. `brief`: the first point with a violation is the last."""

    def __init__(self, *, brief: bool = False) -> None:
        self.brief = brief
        self.began = time.monotonic()
        self.points: Counter[tuple[str, Way]] = Counter()
        self.played: set[str] = set()
        self.waits = Waits()
        self.violations: list[tuple[str, Violation]] = []
        self.slowest_next = 0.0

    def add(self, point: Point, outcome: Outcome, found: Sequence[Violation]) -> None:
        """Take in what a point came to."""
        self.played.add(point.situation)
        if outcome.reached:
            self.points[point.world, point.way] += 1
            self.waits.strike(outcome.places)
        self.violations += [(str(point), violation) for violation in found]

    def uncovered(self) -> list[str]:
        """Public coroutines that nothing covers."""
        known = covered()
        return [name for name in public_coroutines() if name not in known]

    def as_json(self) -> dict[str, Any]:
        """The figures, for machines."""
        seconds = time.monotonic() - self.began
        points = self.points.total()
        return {
            "points": points,
            "worlds": {kind: sum(n for (k, _), n in self.points.items() if k == kind) for kind in KINDS},
            "ways": {way: sum(n for (_, w), n in self.points.items() if w == way) for way in WAYS},
            "situations": len(self.played),
            "public coroutines": len(public_coroutines()),
            "uncovered": self.uncovered(),
            "lines that wait": len(self.waits.all),
            "never cancelled at": [f"{file}:{line}" for file, line in self.waits.missed()],
            "slowest next turn ms": round(self.slowest_next * 1e3, 1),
            "violations": len(self.violations),
            "kinds": dict(Counter(one.kind for _, one in self.violations)),
            "wall s": round(seconds, 1),
            "points per minute": per_minute(points, seconds),
        }

    def lines(self, *, whole: bool) -> list[str]:
        """The figures, for people."""
        told = self.as_json()
        missed = self.waits.missed()
        found = [
            f"cancelled           {told['points']} times in {told['situations']} situations",
            f"  in the worlds     {_counts(told['worlds'])}",
            f"  in the ways       {_counts(told['ways'])}",
            f"slowest next turn   {told['slowest next turn ms']} ms",
            f"wall time           {told['wall s']} s, {told['points per minute']} points per minute",
        ]
        if whole:
            uncovered = told["uncovered"]
            found.append(f"public coroutines   {told['public coroutines']}, {len(uncovered)} of them not covered")
            found += [f"  {name}" for name in uncovered]
            found.append(f"lines that wait     {told['lines that wait']}, {len(missed)} of them never cancelled at")
            found += [f"  {file}:{line}  {line_of((file, line))}" for file, line in missed]
        return [*found, *violation_lines(self.violations)]


def _counts(counts: dict[str, int]) -> str:
    return "   ".join(f"{name} {count}" for name, count in counts.items() if count)


class Enough(Exception):
    """A violation was found, and no more of them were asked for."""


class Player:
    """Plays situations in one world."""

    def __init__(self, world: World, judge: Judge, totals: Totals, tick: Callable[[], None]) -> None:
        self._world = world
        self._judge = judge
        self._totals = totals
        self._tick = tick

    async def play(self, situation: Situation, ways: Sequence[Way] = WAYS) -> None:
        """All points of a situation."""
        kind = self._world.kind
        await self._point(situation, Point(situation.name, kind), first=True)
        over: set[int] = set()  # points after which it waits for nothing more, so that it cannot be cancelled again
        for way in ways:
            for k in itertools.count(1):
                if way == "again" and k in over:
                    continue
                outcome = await self._point(situation, Point(situation.name, kind, way, k))
                if not outcome.reached or outcome.ended == "hung":
                    break
                if way == "asked" and outcome.suspensions == k:
                    over.add(k)

    async def play_one(self, situation: Situation, way: Way, k: int) -> None:
        """One point of it."""
        await self._point(situation, Point(situation.name, self._world.kind), first=True)
        await self._point(situation, Point(situation.name, self._world.kind, way, k))

    async def play_by_chance(self, situation: Situation, chance: random.Random, number: int) -> None:
        """A point by chance, where tasks are delayed by chance too."""
        way, k = chance.choice(WAYS), 1 + int(chance.expovariate(0.4))
        point = Point(situation.name, self._world.kind, way, k, number)
        await self._point(situation, point, jitter=chance)

    async def _point(
        self, situation: Situation, point: Point, *, first: bool = False, jitter: random.Random | None = None
    ) -> Outcome:
        """One point."""
        stage = Stage(self._world)
        strike = Strike(point.k, point.way, jitter=jitter)
        work = await situation.play(stage)
        if jitter is not None:
            stage.trouble(jitter)
        outcome = await strike.drive(work)
        del work
        found = await self._judge.judge(stage, outcome)
        found += [Violation("leaked connection", wrong) for wrong in await close_connections(self._world)]
        self._forget(stage)
        del stage, strike
        outcome.error = outcome.value = None
        found += await self._judge.resources(first=first)
        self._totals.add(point, outcome, found)
        self._totals.slowest_next = max(self._totals.slowest_next, self._judge.slowest_next)
        self._tick()
        if self._totals.brief and self._totals.violations:
            raise Enough
        return outcome

    @staticmethod
    def _forget(stage: Stage) -> None:
        stage.model.continues.clear()
        stage.model.waiting.clear()
        stage.model.asked.clear()
        stage.model.hold = stage.model.within = None


# --- the campaign and its command ----------------------------------------------------------------------------------


async def _in_world(
    kind: str, plant: Plant, noise: Noise, totals: Totals, play: Callable[[Player], Awaitable[None]], folder: Path
) -> None:
    ticker = Ticker(lambda: f"{kind}: {totals.points.total()} points, {len(totals.violations)} violations")
    noise.listen(asyncio.get_running_loop())
    async with world_of(kind, folder) as world:
        plant.change(world)
        gc.collect()
        gc.freeze()  # what is there already need not be looked through after each point
        try:
            await play(Player(world, Judge(noise), totals, ticker.show))
        finally:
            gc.unfreeze()


def run(given: argparse.Namespace, folder: Path) -> Totals:
    """Every point that was asked for."""
    totals, plant = Totals(brief=given.brief), PLANTS[given.plant]
    chosen = [one for one in SITUATIONS.values() if given.only in (None, one.name)]
    kinds = [kind for kind in KINDS if given.world in (None, kind)]
    with Noise() as noise, contextlib.suppress(KeyboardInterrupt, Enough):
        for kind in kinds:
            here = [one for one in chosen if kind in one.on]

            async def play(player: Player, here: list[Situation] = here, kind: str = kind) -> None:
                if given.random:
                    await _by_chance(player, here, kind, given, len(kinds))
                    return
                for one in here:
                    if given.point is None:
                        await player.play(one, [given.way] if given.way else WAYS)
                    else:
                        await player.play_one(one, given.way or "asked", given.point)

            if here:
                asyncio.run(_in_world(kind, plant, noise, totals, play, folder))
    return totals


async def _by_chance(player: Player, here: list[Situation], kind: str, given: argparse.Namespace, kinds: int) -> None:
    count = given.random // kinds
    for number in range(given.first, given.first + count):
        chance = random.Random(f"{given.seed}/{kind}/{number}")
        if number == given.first:
            await player.play_one(here[0], "asked", 1)
        await player.play_by_chance(chance.choice(here), chance, number)


def again(given: argparse.Namespace, where: str) -> str:
    """The command that repeats a point."""
    plant = f" --plant {given.plant}" if given.plant != "none" else ""
    name, _, rest = where.partition(" in ")
    world, _, rest = rest.partition(", ")
    way, _, k = rest.partition(" at ")
    if given.random:
        number = name.partition("(number ")[2].rstrip(")") or "0"
        return f"python -m rigs.cancel --random 1 --first {number} --seed {given.seed} --world {world}{plant}"
    point = "" if k == "None" else f" --way {way} --point {k}"
    return f"python -m rigs.cancel --only {name} --world {world}{point}{plant}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation, or something was left out."""
    parser = argparse.ArgumentParser(prog="python -m rigs.cancel", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(SITUATIONS), metavar="SITUATION", help="play this one alone")
    parser.add_argument("--world", choices=KINDS, help="play in this world alone")
    parser.add_argument("--way", choices=WAYS, help="cancel in this way alone")
    parser.add_argument("--point", type=int, metavar="K", help="cancel at the k-th suspension alone")
    parser.add_argument("--brief", action="store_true", help="end at the first point with a violation")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="so many points by chance instead")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this number of the seed")
    parser.add_argument("--seed", help="of the points by chance")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="none", help="put a fault in; it must be reported")
    given = parser.parse_args(argv)
    given.seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    print(f"seed                {given.seed}", flush=True)
    # In memory if there is such a place: a disk that is slow at the moment would make one world into another.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="holdfast-cancel-", dir=memory) as folder:
        totals = run(given, Path(folder))
    whole = not (given.only or given.world or given.way or given.random)
    print(json.dumps(totals.as_json()) if given.json else "\n".join(totals.lines(whole=whole)))
    if totals.violations:
        print(f"to repeat           {again(given, totals.violations[0][0])}")
    return 1 if totals.violations or (whole and totals.uncovered()) else 0


if __name__ == "__main__":
    sys.exit(main())
