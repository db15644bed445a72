"""Cancel at every await of runs with tools, and see whether anything is done twice, or without a trace.

    python -m rigs.tools --part cancels [--every K] [--scene NAME] [--way WAY] [--point K]

A scene (`rigs.tools_scenes`) is played again and again in each way of cancelling (`rigs.cancel_drive`): at its first
suspension, its second, and so on, until it ends by itself; with --every at each K-th one, from one that the seed says.
After each, all comes to an end, the thread takes its next turn, and the judge of the kills judges
(`rigs.tools_judge`); what the process has not given back is looked for too.

Rule of this file: it drives, and looks at the process; what is played and what is right stands elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rigs.cancel_drive import WAYS, Outcome, Strike, Way
from rigs.cancel_judge import left_over
from rigs.cancel_stage import until
from rigs.oracle import Violation
from rigs.telling import Ticker, per_minute, violation_lines
from rigs.tools_judge import judge
from rigs.tools_plants import PLANTS
from rigs.tools_scenes import KINDS, SCENES, Place, Stage, world_of

_GRACE = 3.0  # seconds in which what was let go must be gone


class Points:
    """What all points came to."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.points: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()
        self.violations: list[tuple[str, Violation]] = []

    def as_json(self) -> dict[str, Any]:
        """The figures, for programs."""
        seconds = time.monotonic() - self.began
        return {
            "points": self.points.total(),
            "ways": dict(self.points),
            **dict(sorted(self.figures.items())),
            "violations": len(self.violations),
            "kinds": dict(Counter(one.kind for _, one in self.violations)),
            "wall s": round(seconds, 1),
            "points per minute": per_minute(self.points.total(), seconds),
        }

    def lines(self) -> list[str]:
        """The figures, for people."""
        told = self.as_json()
        figures = self.figures
        return [
            f"cancelled           {told['points']} times: "
            + "   ".join(f"{way} {count}" for way, count in told["ways"].items()),
            f"calls made          {figures['calls made']}, {figures['made again']} of them again; "
            f"{figures['effects']} effects",
            f"outcome unknown     {figures['results unknown']}",
            f"wall time           {told['wall s']} s, {told['points per minute']} points per minute",
            *violation_lines(self.violations),
        ]


async def play(place: Place, name: str, way: Way, k: int, totals: Points) -> bool:
    """One point of a scene; whether it was reached."""
    stage = Stage(place)
    strike = Strike(k, way)
    outcome = await strike.drive(await SCENES[name](stage))
    found = list(_ended(outcome))
    stage.cut()
    found += await _settled(stage)
    try:
        await stage.afterwards()
    except Exception as error:
        found.append(Violation("thread stuck", f"the next run: {type(error).__name__}: {error}"))
    found += await _settled(stage)
    verdict = judge(await stage.evidence(), patience=_GRACE)
    found += verdict.violations
    found += [Violation(kind, what) for kind, what in left_over(place.store)]
    where = f"{name} in {place.kind}, {way} at {k}"
    totals.violations += [(where, one) for one in found]
    if outcome.reached:
        totals.points[way] += 1
        totals.figures.update(verdict.figures)
    return outcome.reached and outcome.ended != "hung"


def _ended(outcome: Outcome) -> Iterator[Violation]:
    if outcome.ended == "hung":
        yield Violation("hung", outcome.stack)
    elif outcome.reached and outcome.ended != "cancelled" and outcome.way != "inner":
        yield Violation("cancellation swallowed", f"it {outcome.ended} {outcome.error or outcome.value!r}")
    elif outcome.ended == "raised":
        yield Violation("refused", f"{type(outcome.error).__name__}: {outcome.error}")


async def _settled(stage: Stage) -> list[Violation]:
    """Wait until nobody is at work any more; what is left all the same."""
    found: list[Violation] = []

    def at_work() -> list[str]:
        tasks = [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}]
        threads = [one.name for one in threading.enumerate() if one.name.startswith("holdfast-tool")]
        holders = [f"lease on {name}" for name in list(stage.place.store.cache.holders)]
        answers = [f"{stage.place.model.open} answers are not closed"] if stage.place.model.open else []
        return [*tasks, *threads, *holders, *answers]

    await until(lambda: not at_work(), None, _GRACE)
    if left := at_work():
        found.append(Violation("left behind", ", ".join(left)))
    return found


# --- the command ---------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    cancels = parser.add_argument_group("cancels")
    cancels.add_argument("--every", type=int, default=1, metavar="K", help="cancel at each K-th suspension alone")
    cancels.add_argument("--scene", choices=sorted(SCENES), help="play this one alone")
    cancels.add_argument("--store", choices=KINDS, help="on this kind of store alone")
    cancels.add_argument("--way", choices=WAYS, help="cancel in this way alone")
    cancels.add_argument("--point", type=int, metavar="K", help="cancel at the K-th suspension alone")


async def _in_place(given: argparse.Namespace, kind: str, folder: Path, totals: Points) -> None:
    ticker = Ticker(lambda: f"{kind}: {totals.points.total()} points, {len(totals.violations)} violations")
    chance = random.Random(f"{given.seed}/{kind}")
    with world_of(kind, folder, PLANTS[given.plant].till_class) as place:
        for name in SCENES if given.scene is None else [given.scene]:
            for way in WAYS if given.way is None else [given.way]:
                first = 1 + chance.randrange(given.every)
                points = itertools.count(first, given.every) if given.point is None else iter([given.point])
                for k in points:
                    going = await play(place, name, way, k, totals)
                    ticker.show()
                    if not going:
                        break


def carry_out(given: argparse.Namespace) -> int:
    """Every point that was asked for. The exit code."""
    given.seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    print(f"seed                {given.seed}", flush=True)
    totals = Points()
    # In memory if there is such a place: how slow a disk is is not what is looked at.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="holdfast-tools-", dir=memory) as folder:
        for kind in KINDS if given.store is None else [given.store]:
            asyncio.run(_in_place(given, kind, Path(folder), totals))
    if given.json:
        print(json.dumps({"seed": given.seed, **totals.as_json()}))
    print("\n".join(violation_lines(totals.violations) if given.json else totals.lines()))
    if totals.violations:
        name, _, rest = totals.violations[0][0].partition(" in ")
        kind, _, rest = rest.partition(", ")
        way, _, k = rest.partition(" at ")
        plant = f" --plant {given.plant}" if given.plant != "none" else ""
        print(
            f"to repeat           python -m rigs.tools --part cancels --scene {name} --store {kind} --way {way} "
            f"--point {k} --seed {given.seed}{plant}"
        )
    return 1 if totals.violations else 0
