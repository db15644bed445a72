"""Kill -9 before and after every single call of the disk; then look at what is left.

    python -m rigs.disk_kill                          every call of four short plans
    python -m rigs.disk_kill --rounds 1000 [--seed N] random plans, several deaths one after another on one file

A process runs a few turns (`rigs.disk_turns`) on a watched disk and is killed at its k-th call (`rigs.disk_vfs`): an
open, write, sync, truncation, deletion, mapping, lock or unlock. What was acknowledged stands in a diary. A fresh
process then takes a turn on every thread, reads everything, and judges (`rigs.disk_judge`). This is done for every k,
on a new file and on one that a dead process has left with a history, a log and an open turn.

Rule of this file: the processes that fork use no store, no thread and no event loop. A write is also cut in the
middle in random rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from holdfast.stores import sqlite_db
from rigs.disk_lives import PLANS, THREADED, Killer, Lives, Result, Scratch, act
from rigs.disk_plants import KILL_PLANTS
from rigs.disk_pool import Pool
from rigs.disk_report import Tally, keep, parser, seed_of
from rigs.disk_turns import Step, Talker, commit_in_writer, random_plan
from rigs.disk_vfs import disk
from rigs.evidence import STORE, Pen
from rigs.oracle import Violation

STAGES = ("before", "after")
_DEATHS, _STEPS = (1, 4), (3, 9)  # in a random round: how many die, how much each of them has to do
_BATCH, _PATIENCE = 20, 90.0


class Point(Struct, frozen=True):
    """Where the process is killed: at which call of which plan, before or after it; or a random round."""

    plan: str
    number: int
    stage: str = ""

    @property
    def name(self) -> str:
        return f"{self.plan}:{self.number}:{self.stage}" if self.stage else f"{self.plan}:{self.number}"


# --- the campaign ----------------------------------------------------------------------------------------------------


class Campaign:
    """All points of the plans, or random rounds."""

    def __init__(self, seed: str, plant: str, evidence: Path) -> None:
        self.seed = seed
        self.plant = KILL_PLANTS[plant]
        self.evidence = evidence
        self.scratch = Scratch()

    def points(self, plans: Sequence[str], moment: str | None, sample: int | None) -> list[Point]:
        """Every call of the plans, or those of one moment, before and after; or so many of them."""
        every = [
            Point(plan, number, stage)
            for plan in plans
            for number, found in enumerate(self._calls(plan), 1)
            for stage in STAGES
            if moment in (None, found)
        ]
        return every if sample is None else random.Random(self.seed).sample(every, min(sample, len(every)))

    def _calls(self, plan: str) -> list[str]:
        """The moments of a plan's calls: a killer that waits for one that never comes has counted them."""
        folder = self.scratch.fresh(plan)

        def life(talker: Talker, pen: Pen) -> None:
            commit_in_writer(plan in THREADED)
            killer = Killer(pen, -1, "before")
            disk().watch(killer, str(folder / STORE))
            asyncio.run(act(talker, PLANS[plan]))
            (folder / "calls").write_text("\n".join(killer.moments))

        if Lives(folder, self.plant).live(life) != 0:
            raise RuntimeError(f"the plan {plan!r} does not come to its end without being killed")
        calls = (folder / "calls").read_text().splitlines()
        shutil.rmtree(folder)
        return calls

    def strike(self, point: Point) -> Result:
        """One point, or one random round. Its files are kept if there was a violation."""
        result = self._strike(point)
        # A machine that stood still for a second makes a thread look slow; a slow thread is slow again.
        if {violation.kind for violation in result.verdict.violations} == {"slow thread"}:
            result = self._strike(point)
        return result

    def _strike(self, point: Point) -> Result:
        folder = self.scratch.fresh(point.plan)
        threaded = point.plan in THREADED or (not point.stage and point.number % 2 == 0)
        lives = Lives(folder, self.plant, threaded=threaded)
        if point.stage:
            lives.die(PLANS[point.plan], point.number, point.stage)
        else:
            self._round(lives, point)
        # After every second death what was left open is gone on with, after every third all is said once more.
        result = lives.end(resumed=point.number % 2 == 0, retried=point.number % 3 == 0)
        if result.verdict.violations:
            keep(folder, self.evidence / point.name.replace(":", "-"))
        shutil.rmtree(folder)
        return result

    def _round(self, lives: Lives, point: Point) -> None:
        chance = random.Random(f"{self.seed}/{point.number}")
        for life in range(chance.randint(*_DEATHS)):
            steps, seed = chance.randint(*_STEPS), chance.random()
            if chance.random() < 0.5:
                # Checkpoints fall in by themselves, in the writer's thread, beside the turns.
                sqlite_db.COMMITS_PER_LOOK, sqlite_db.CHECKPOINT_BYTES = 3, 60_000

            def plan(threads: list[str], steps: int = steps, seed: float = seed, life: int = life) -> Sequence[Step]:
                return random_plan(random.Random(seed), steps, threads, prefix=f"t{life}-")

            lives.die(plan, chance.randint(1, 40 + 40 * steps), chance.choice(("before", "after", "half")))


def run(campaign: Campaign, points: Sequence[Point], jobs: int, tally: Tally) -> None:
    """Every point; what came of it goes into the tally."""

    def done(point: Point, result: Result) -> None:
        for struck in result.struck:
            tally.faults[struck.kind] += 1
            tally.moments[struck.moment] += 1
        verdict = result.verdict
        tally.count("kills", len(result.struck))
        tally.count("turns acknowledged", verdict.told)
        tally.count("turns cut", verdict.cut)
        tally.count("interrupted", verdict.interrupted)
        tally.count("sealed, not told", verdict.unacknowledged)
        tally.at_most("slowest next turn, s", verdict.next_turn)
        tally.found(verdict.violations, point.name)
        tally.tick()

    def stuck(point: Point, why: str) -> None:
        tally.found([Violation("stuck", why)], point.name)
        tally.tick()

    pool = Pool(campaign.strike, Result, done=done, stuck=stuck, patience=_PATIENCE)
    pool.run(points, jobs=jobs, batch=_BATCH)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    options = parser("disk_kill", __doc__, list(KILL_PLANTS)[1:])
    options.add_argument("--rounds", type=int, default=0, help="random rounds, instead of every call of the plans")
    options.add_argument("--plan", choices=sorted(PLANS), help="only this one of the plans")
    options.add_argument("--moment", help="only the calls in this moment of a turn, as they are told at the end")
    options.add_argument("--sample", type=int, help="so many of the calls, chosen at random, instead of every one")
    given = options.parse_args(argv)
    seed = seed_of(given)
    evidence = given.folder or Path(tempfile.gettempdir()) / f"holdfast-disk-kill-{os.getpid()}"
    campaign = Campaign(seed, given.plant, evidence)
    try:
        points = _chosen(campaign, given)
        if not points:
            options.error(f"no call falls into the moment {given.moment!r}")
        tally = Tally("points" if not given.rounds else "rounds", len(points))
        run(campaign, points, given.jobs, tally)
    finally:
        campaign.scratch.close()
    plant = f" --plant {given.plant}" if given.plant != "none" else ""
    return tally.conclude(
        seed, given, lambda where: f"python -m rigs.disk_kill --seed {seed} --only {where}{plant}", evidence
    )


def _chosen(campaign: Campaign, given: argparse.Namespace) -> list[Point]:
    if given.only:
        plan, number, *stage = given.only.split(":")
        return [Point(plan, int(number), *stage)]
    if given.rounds:
        return [Point("random", number) for number in range(given.rounds)]
    return campaign.points([given.plan] if given.plan else list(PLANS), given.moment, given.sample)


if __name__ == "__main__":
    sys.exit(main())
