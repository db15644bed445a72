"""Moves: fork, rewind, switch, regenerate, cancel, delete, adopt, resume, follow and retry, against running and waiting
runs.

    python -m rigs.moves --steps 100000 [--seed N] [--keep]

Rounds of some hundred steps. In a round several tasks of one process, over two store objects on one file, do what they
like on common threads (`rigs.moves_actors`); in most rounds a second process does the same, and is killed -9 and begun
anew now and then; every fifth round is one in memory. Then a fresh process takes a turn on every thread, and one oracle
judges (`rigs.moves_judge`): acknowledged turns, the store's contents, what models were told, what followers read.

Rule of this file: this process forks, watches and kills. It uses no store, no thread and no event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from holdfast import MemoryStore, SQLiteStore
from rigs.contents import read_contents
from rigs.evidence import CONTENTS, DIARY, STORE, Contents, Pen, read_lines
from rigs.moves_actors import PATIENCE, Company
from rigs.moves_contents import read_memory
from rigs.moves_diary import Failed, Killed, Line
from rigs.moves_judge import Evidence, Verdict, judge
from rigs.moves_plants import PLANTS, Plant
from rigs.oracle import Violation
from rigs.processes import aside, fork
from rigs.telling import Ticker, per_minute, time_left, violation_lines

STEPS_A_ROUND = 250
ACTORS, OTHER_ACTORS = 6, 3
PROBE = 90  # the number of the worker that takes the last turns
DAMAGE, VERDICT = "damage.json", "verdict.json"
_MEMORY_EVERY = 5


class Round:
    """One file, or one store in memory; so many steps."""

    def __init__(self, seed: str, number: int, folder: Path, plant: Plant) -> None:
        self.folder = folder
        self.seed = f"{seed}/{number}"
        self.chance = random.Random(self.seed)
        self.plant = plant
        self.in_memory = number % _MEMORY_EVERY == _MEMORY_EVERY - 1
        self.pen = Pen(folder / DIARY)

    def run(self, steps: int) -> Verdict:
        """The whole round, and its verdict."""
        if self.in_memory:
            self._wait(fork(lambda: asyncio.run(self._all_in_memory(steps))), 1)
        else:
            self._processes(steps)
            self._wait(fork(lambda: asyncio.run(self._probe())), PROBE)
        self.pen.close()
        aside(lambda: self._judge())
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.folder / VERDICT).read_bytes(), type=Verdict)
        why = f"the process that read the store failed; see {self.folder}"
        return Verdict([Violation("no verdict", why)], {}, {}, {})

    def _processes(self, steps: int) -> None:
        """The two that act, or one; and the end of the second one."""
        both = self.chance.random() < 0.8
        kills = self.chance.choice((0, 1, 2, 3)) if both else 0
        second = steps // 3 if both else 0
        pids = {1: fork(lambda: asyncio.run(self._company(1, 2, ACTORS, steps - second)))}
        for worker in range(2, 3 + kills) if both else ():
            pid = fork(lambda worker=worker: asyncio.run(self._company(worker, 1, OTHER_ACTORS, second)))  # type: ignore[misc]
            if worker == 2 + kills:
                pids[worker] = pid
                break
            time.sleep(self.chance.uniform(0.03, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.pen.write(Killed(worker, time.monotonic()))
        for worker, pid in pids.items():
            self._wait(pid, worker)

    def _wait(self, pid: int, worker: int) -> None:
        """Wait for a process, but not for ever."""
        until = time.monotonic() + 4 * PATIENCE
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                ended = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        if ended[1] != 0:
            self.pen.write(Failed(worker, time.monotonic(), f"worker {worker} ended with status {ended[1]}"))

    # --- in other processes --------------------------------------------------------------------------------------

    async def _company(self, worker: int, stores: int, actors: int, steps: int) -> None:
        made = [SQLiteStore(self.folder / STORE) for _ in range(stores)]
        for store in made:
            self.plant.change(store)
        pen, seed = Pen(self.folder / DIARY), f"{self.seed}/{worker}"
        company = self.plant.company(worker, list(made), pen, seed, steps, may_be_killed=worker > 1)
        await company.act(actors)
        await _settled()
        for store in made:
            store.close()

    async def _probe(self) -> None:
        """A turn on every thread that there is, by a fresh process; and what the store says of itself."""
        store = SQLiteStore(self.folder / STORE)
        company = Company(PROBE, [store], Pen(self.folder / DIARY), self.seed, 0)
        await company.probe([info.id for info in (await store.list(limit=1000)).threads])
        found = await store.verify()
        store.close()
        (self.folder / DAMAGE).write_bytes(msgspec.json.encode([str(damage) for damage in found.damage]))

    async def _all_in_memory(self, steps: int) -> None:
        store = MemoryStore()
        self.plant.change(store)
        pen = Pen(self.folder / DIARY)
        company = self.plant.company(1, [store], pen, f"{self.seed}/1", steps)
        await company.act(ACTORS)
        await _settled()
        await company.probe([info.id for info in (await store.list(limit=1000)).threads])
        found = await store.verify()
        (self.folder / DAMAGE).write_bytes(msgspec.json.encode([str(damage) for damage in found.damage]))
        (self.folder / CONTENTS).write_bytes(msgspec.json.encode(await read_memory(store)))

    def _judge(self) -> None:
        if not self.in_memory:
            contents = asyncio.run(read_contents(self.folder / STORE))
            (self.folder / CONTENTS).write_bytes(msgspec.json.encode(contents))
        (self.folder / VERDICT).write_bytes(msgspec.json.encode(judge(read_evidence(self.folder))))


async def _settled() -> None:
    """Runs that go on by themselves have ended."""
    until = time.monotonic() + PATIENCE
    while len(asyncio.all_tasks()) > 1 and time.monotonic() < until:
        await asyncio.sleep(0.005)


def read_evidence(folder: Path) -> Evidence:
    """The evidence of a round, from its folder."""
    diary: tuple[Line, ...] = read_lines(folder / DIARY, Line)  # type: ignore[arg-type]
    contents = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Contents)
    return Evidence(diary, contents, tuple(msgspec.json.decode((folder / DAMAGE).read_bytes(), type=list[str])))


# --- the campaign and its command ----------------------------------------------------------------------------------


class Totals:
    """What all rounds came to."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.rounds = 0
        self.figures: Counter[str] = Counter()
        self.tried: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.violations: list[tuple[str, Violation]] = []

    def add(self, verdict: Verdict, where: str) -> None:
        """Take in what a round came to."""
        self.rounds += 1
        self.figures.update(verdict.figures)
        self.tried.update(verdict.tried)
        self.refused.update(verdict.refused)
        self.violations += [(where, violation) for violation in verdict.violations]

    @property
    def steps(self) -> int:
        return self.tried.total()

    def as_json(self) -> dict[str, Any]:
        """The figures, for machines."""
        seconds = time.monotonic() - self.began
        return {
            "steps": self.steps,
            "rounds": self.rounds,
            "tried": dict(self.tried),
            "refused": dict(self.refused),
            **dict(self.figures),
            "violations": len(self.violations),
            "kinds": dict(Counter(one.kind for _, one in self.violations)),
            "wall s": round(seconds, 1),
            "steps per minute": per_minute(self.steps, seconds),
        }

    def lines(self) -> list[str]:
        """The figures, for people."""
        told = self.as_json()
        return [
            f"steps               {self.steps} in {self.rounds} rounds, {told['steps per minute']} per minute",
            f"  tried             {_counts(self.tried)}",
            f"  refused           {_counts(self.refused)}",
            f"  came to           {_counts(self.figures)}",
            f"wall time           {told['wall s']} s",
            *violation_lines(self.violations),
        ]


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common() if count) or "nothing"


def run(given: argparse.Namespace, folder: Path) -> Totals:
    """All rounds. The evidence of those with violations, or of all with `keep`, stays in the folder."""
    totals = Totals()
    number, done = given.first, 0

    def told() -> str:
        left = time_left(done, given.steps, totals.began)
        return f"{done}/{given.steps} steps, {len(totals.violations)} violations, {left}"

    ticker = Ticker(told)
    with contextlib.suppress(KeyboardInterrupt):
        while done < given.steps:
            here = folder / f"round-{number}"
            here.mkdir()
            steps = min(given.a_round, given.steps - done)
            verdict = Round(given.seed, number, here, PLANTS[given.plant]).run(steps)
            totals.add(verdict, str(number))
            if not verdict.violations and not given.keep:
                shutil.rmtree(here)
            number, done = number + 1, done + steps
            ticker.show()
    return totals


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="python -m rigs.moves", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000, help="5000 by default")
    parser.add_argument("--a-round", type=int, default=STEPS_A_ROUND, help="steps in one file")
    parser.add_argument("--seed", help="of the plan: who does what where; the machine adds its own chance")
    parser.add_argument("--round", type=int, dest="first", default=0, metavar="N", help="begin with this round")
    parser.add_argument("--folder", type=Path, help="where the evidence goes; a new temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="keep the evidence of all rounds, not only of bad ones")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument(
        "--judge", type=Path, metavar="FOLDER", help="judge kept evidence once more, and do nothing else"
    )
    parser.add_argument("--plant", choices=sorted(PLANTS), default="none", help="put a fault in; it must be reported")
    given = parser.parse_args(argv)
    if given.judge is not None:
        totals = Totals()
        totals.add(judge(read_evidence(given.judge)), str(given.judge))
        print("\n".join(totals.lines()))
        return 1 if totals.violations else 0
    given.seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    folder = given.folder or Path(tempfile.mkdtemp(prefix="holdfast-moves-"))
    print(f"seed                {given.seed}", flush=True)
    totals = run(given, folder)
    print(json.dumps({"seed": given.seed, **totals.as_json()}) if given.json else "\n".join(totals.lines()))
    if any(folder.iterdir()):
        print(f"evidence            {folder}")
    else:
        folder.rmdir()
    if totals.violations:
        where, plant = totals.violations[0][0], f" --plant {given.plant}" if given.plant != "none" else ""
        size = f"--steps {min(given.steps, given.a_round)} --a-round {given.a_round}"
        print(f"to repeat           python -m rigs.moves --seed {given.seed} --round {where} {size}{plant} --keep")
        print(f"to judge again      python -m rigs.moves --judge {folder}/round-{where}")
    return 1 if totals.violations else 0


if __name__ == "__main__":
    sys.exit(main())
