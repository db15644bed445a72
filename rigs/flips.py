"""Flip one bit of a store, look at it in every way in which users do, and compare with what was written.

    python -m rigs.flips --flips 20000 [--seed N] [--only FLIP] [--folder WHERE]

Each flip is on a fresh copy of a small store that the library wrote: a bit of any table, any index, the file's
header, its free pages, the write-ahead log that a dead process left; or the file ends too soon. A flip is *silent* if
a reader or a model is handed anything that differs from what was written without an error, or if anything that is
read differs (a thread is missing from a listing, say) and `verify` has nothing to say.

Rule of this file: files are in memory where the system offers that, and nothing is mended between looks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from holdfast import AgentThread, SQLiteStore
from rigs.flip_base import TENANTS, Base, commits_in, make_bases, turns_in
from rigs.flip_looks import Asked, Judged, Seen, Sight, judge, look
from rigs.flip_places import LOG_CUT, Flip, Map, choose, flipped, in_column, map_of
from rigs.processes import fork
from rigs.telling import Ticker, per_minute, time_left

FOUND_BY = ("open", "verify", "a note", "reading", "cut at a commit", "harmless", "silent")
# A look that takes so many seconds has hung.
_PATIENCE = 30
_SHOWN = 20


class _Hung(Exception):
    """A look that does not come to its end."""


class Totals:
    """What all flips came to."""

    def __init__(self, began: float | None = None) -> None:
        self.began = time.monotonic() if began is None else began
        self.flips = 0
        self.places: dict[str, Counter[str]] = {}
        self.faults: list[tuple[int, str, str]] = []

    def add(self, number: int, flip: Flip, judged: Judged) -> None:
        self.flips += 1
        self.places.setdefault(flip.place, Counter())[judged.by] += 1
        self.faults += [(number, flip.told(), fault) for fault in judged.faults]

    def take_in(self, part: Mapping[str, Any]) -> None:
        """Add what a part of the campaign came to, as its `as_json` tells it."""
        self.flips += part["flips"]
        for place, counts in part["places"].items():
            self.places.setdefault(place, Counter()).update(counts)
        self.faults = sorted([*self.faults, *(tuple(fault) for fault in part["faults"])])

    @property
    def by(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for counts in self.places.values():
            found += counts
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "flips": self.flips,
            "found by": {name: self.by[name] for name in FOUND_BY},
            "places": {place: dict(counts) for place, counts in sorted(self.places.items())},
            "faults": [list(fault) for fault in self.faults],
            "wall s": round(time.monotonic() - self.began, 1),
        }

    def lines(self) -> list[str]:
        width = max(map(len, self.places), default=0)
        heading = f"{'':{width}}" + "".join(f"{name:>17}" for name in ("flips", *FOUND_BY))
        found = [heading]
        for place, counts in (*sorted(self.places.items()), ("all", self.by)):
            found.append(
                f"{place:{width}}{counts.total():>17}" + "".join(f"{counts[name] or '·':>17}" for name in FOUND_BY)
            )
        seconds = time.monotonic() - self.began
        found.append(f"wall time           {seconds:.1f} s, {per_minute(self.flips, seconds):,} flips a minute")
        found.append(f"silent              {self.by['silent']}")
        found.append(f"faults              {len(self.faults)}")
        found += [f"  flip {number}, {where}: {fault}" for number, where, fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            found.append(f"  and {len(self.faults) - _SHOWN} more")
        return found


class Campaign:
    """The stores that are flipped, what was written in them, and a place for the copies."""

    def __init__(self, seed: str, folder: Path, column: str | None = None) -> None:
        """`column`: all flips fall into this one, "table.column"."""
        self.seed = seed
        self.folder = folder
        self.column = column

    async def begin(self) -> None:
        """Write the stores, and see what they hold when nothing is flipped."""
        self.closed, self.logged = await make_bases(self.folder, self.seed)
        self.pages: Map = map_of(self.folder / "packed.db")
        self.asked = await self._what_to_ask()
        self.written = [await self._sound(self.closed)]
        log = self.logged.log
        states = [Base(self.logged.database, log[:length]) for length in (0, *commits_in(log))]
        self.states = [await self._sound(state) for state in states]

    async def _sound(self, base: Base) -> Mapping[str, Sight]:
        seen = await look(self._put(base), self.asked)
        if seen.noticed or seen.refused:
            raise RuntimeError(f"the store is not sound before anything is flipped: {seen.verified} {seen.refused}")
        return seen.sights

    async def _what_to_ask(self) -> Asked:
        """Every thread that there ever was, the deleted ones too; and some turns in the middle."""
        store = SQLiteStore(self._put(self.logged))
        try:
            living = {(name, info.id) for name in TENANTS for info in (await store.for_tenant(name).list()).threads}
            forks = []
            for thread, number in (("plain", 1), ("forked", 4), ("rewound", 0)):
                turns = await AgentThread(store, thread, intent="existing").turns()
                forks.append((thread, turns[number].id))
        finally:
            store.close()
        threads = sorted({*living, ("", "deleted"), ("", "trunk")})
        return Asked(threads, forks, [("endings", "key-1")], turns_in(self._put(self.logged)))

    def flip_of(self, number: int) -> Flip:
        """Where the flip of that number falls."""
        chance = random.Random(f"{self.seed}/{number}")
        if self.column is None:
            return choose(chance, self.closed, self.logged, self.pages)
        columns = [one for one in self.pages.columns if f"{one[0]}.{one[1]}" == self.column]
        if not columns:
            raise ValueError(f"there is no value in a column {self.column!r}")
        return in_column(chance, columns)

    async def one(self, number: int) -> tuple[Flip, Seen | None, Judged]:
        """The flip of that number, and what came of it."""
        flip = self.flip_of(number)
        written = self.states if flip.in_log else self.written
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
        try:
            seen = await look(self._put(flipped(flip, self.closed, self.logged)), self.asked)
        except _Hung:
            return flip, None, Judged("silent", (f"hangs: no answer within {_PATIENCE} s",))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return flip, seen, judge(seen, written, self.asked, may_lose_tail=flip.place == LOG_CUT)

    def _put(self, base: Base) -> Path:
        path = self.folder / "flipped.db"
        for ending in ("-shm", "-owners", "-wal"):
            if os.path.exists(f"{path}{ending}"):
                os.unlink(f"{path}{ending}")
        path.write_bytes(base.database)
        if base.log:
            Path(f"{path}-wal").write_bytes(base.log)
        return path

    def keep(self, number: int, folder: Path) -> None:
        """Keep the files of a flip, as they were before anybody looked."""
        flip = self.flip_of(number)
        base = flipped(flip, self.closed, self.logged)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"flip-{number}.db").write_bytes(base.database)
        if base.log:
            (folder / f"flip-{number}.db-wal").write_bytes(base.log)


def _hung(signum: int, frame: FrameType | None) -> None:
    raise _Hung


async def run(campaign: Campaign, numbers: Sequence[int], *, keep: Path | None, shown: bool) -> Totals:
    """All flips of these numbers."""
    signal.signal(signal.SIGALRM, _hung)
    await campaign.begin()
    totals = Totals()

    def line() -> str:
        left = time_left(totals.flips, len(numbers), totals.began)
        return f"{totals.flips}/{len(numbers)} flips, {totals.by['silent']} silent, {len(totals.faults)} faults, {left}"

    ticker = Ticker(line)
    for number in numbers:
        flip, _, judged = await campaign.one(number)
        totals.add(number, flip, judged)
        if judged.faults and keep is not None:
            campaign.keep(number, keep)
        if shown:
            ticker.show()
    return totals


def run_in_parts(given: argparse.Namespace, place: Path) -> Totals:
    """The campaign on several processors: each process takes every n-th flip."""
    flips, jobs = given.flips, given.jobs

    def part(job: int) -> None:
        folder = place / f"part-{job}"
        folder.mkdir()
        campaign = Campaign(given.seed, folder, given.column)
        totals = asyncio.run(run(campaign, range(job, flips, jobs), keep=given.folder, shown=job == 0))
        (place / f"part-{job}.json").write_text(json.dumps(totals.as_json()))

    began = time.monotonic()
    children = [fork(lambda job=job: part(job)) for job in range(jobs)]  # type: ignore[misc]
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        raise RuntimeError("a part of the campaign failed; what it printed says why")
    totals = Totals(began)
    for job in range(jobs):
        totals.take_in(json.loads((place / f"part-{job}.json").read_text()))
    return totals


async def tell(campaign: Campaign, number: int) -> int:
    """One flip, in all detail. 1 if it shows a fault."""
    signal.signal(signal.SIGALRM, _hung)
    await campaign.begin()
    flip, seen, judged = await campaign.one(number)
    print(f"flip {number}            {flip.told()}")
    written = campaign.states[-1] if flip.in_log else campaign.written[-1]
    if seen is not None:
        print(f"verify              {seen.verified}")
        for name, sight in seen.sights.items():
            if sight != written.get(name):
                print(f"  {name}\n    written: {written.get(name)}\n    seen:    {sight}")
    print(f"found by            {judged.by}")
    for fault in judged.faults:
        print(f"  {fault}")
    return 1 if judged.faults else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m rigs.flips", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=1000, help="1000 by default")
    parser.add_argument("--seed", help="of the stores and of where flips fall")
    parser.add_argument("--only", type=int, metavar="FLIP", help="this flip alone, in all detail")
    parser.add_argument("--column", metavar="TABLE.COLUMN", help="flip bits of the values of this column alone")
    parser.add_argument("--folder", type=Path, help="where the files of flips that show a fault are kept")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes; one for each processor by default"
    )
    given = parser.parse_args(argv)
    given.seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a fault."""
    options = _options(argv)
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="holdfast-flips-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        print(f"seed                {options.seed}", flush=True)
        if options.only is not None:
            return asyncio.run(tell(Campaign(options.seed, place, options.column), options.only))
        totals = run_in_parts(options, place)
    finally:
        shutil.rmtree(place)
    print(json.dumps({"seed": options.seed, **totals.as_json()}) if options.json else "\n".join(totals.lines()))
    if totals.faults:
        column = f" --column {options.column}" if options.column else ""
        print(f"to repeat           python -m rigs.flips --seed {options.seed} --only {totals.faults[0][0]}{column}")
    return 1 if totals.faults else 0


if __name__ == "__main__":
    sys.exit(main())
