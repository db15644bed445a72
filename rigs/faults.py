"""Faults of the service: every kind of them at every place of some conversations, over real sockets.

    python -m rigs.faults                                  every kind, at every place of every conversation
    python -m rigs.faults --talk jokes --kind "cut (reset)"
    python -m rigs.faults --sequences 100000 --seed 7      conversations by chance, in which a third goes wrong

The service is the strict stand-in: it refuses whatever a real one refuses. Before it stands a relay, for faults that
strike before HTTP begins (`rigs.faults_gate`). What a service can do wrong is in `faults_kinds`, what is said in
`faults_talks`; `faults_play` leads the conversations, and `faults_judge` says what is wrong with them. Each turn that
went wrong is followed by what its caller does then, with a sound service: nothing of it may be refused, doubled, lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from rigs.faults_chance import lead
from rigs.faults_judge import differences, judge
from rigs.faults_kinds import KINDS, SILENCE, spots
from rigs.faults_plants import PLANTS, Plant
from rigs.faults_play import RETRIES, Base, Booth, Played, Point, booth, left_in, speak, writes_of
from rigs.faults_talks import ODD_ANSWERS, TALKS, Talk
from rigs.oracle import Violation
from rigs.telling import Ticker, per_minute, violation_lines

BOOTHS = 3  # that play at the same time; while one waits for silence, the others go on


class Totals:
    """What everything came to."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.kinds: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.points = self.sequences = self.requests = self.turns = self.compared = 0
        self.violations: list[tuple[str, Violation]] = []

    def add(self, played: Played, where: str) -> None:
        """Take in a conversation."""
        if played.point is not None:
            self.points += 1
            self.kinds[played.point.kind.name] += 1
        self.requests += sum(len(spoken.asked) for spoken in played.spoken)
        self.turns += len(played.spoken)
        self.outcomes.update("answer" if s.error is None else type(s.error).__name__ for s in played.spoken)
        self.violations += [(where, violation) for violation in judge(played)]

    def as_json(self) -> dict[str, Any]:
        """The figures, for machines."""
        seconds = time.monotonic() - self.began
        return {
            "points": self.points,
            "sequences": self.sequences,
            "kinds of faults": dict(self.kinds),
            "runs": self.turns,
            "outcomes": dict(self.outcomes),
            "requests": self.requests,
            "answers compared": self.compared,
            "violations": len(self.violations),
            "kinds": dict(Counter(one.kind for _, one in self.violations)),
            "wall s": round(seconds, 1),
            "per minute": per_minute(self.points + self.sequences, seconds),
        }

    def lines(self) -> list[str]:
        """The figures, for people."""
        told = self.as_json()
        outcomes = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        return [
            f"faults              {self.points} places, {len(self.kinds)} kinds",
            *(f"  {count:6}  {name}" for name, count in self.kinds.items()),
            f"conversations       {self.points + self.sequences}, {told['per minute']} per minute",
            f"runs                {self.turns}: {outcomes}",
            f"requests            {self.requests}",
            f"answers compared    {self.compared}, streamed and in one piece",
            f"wall time           {told['wall s']} s",
            *violation_lines(self.violations),
        ]


# --- what is to be played ------------------------------------------------------------------------------------------


def points(talks: Sequence[Talk], *, kind: str | None, heavy: bool) -> Iterator[Point]:
    """Every kind at every place of every answer; those that pass also so often that trying again does not help."""
    kinds = [one for one in KINDS if kind in (None, one.name)]
    for talk in talks:
        for turn, exchange in enumerate(talk.exchanges):
            for number, answer in enumerate(exchange.answers):
                for streamed in (True, False):
                    writes = writes_of(answer, streamed=streamed)
                    found = (Point(talk, turn, number, one, None, streamed) for one in kinds)
                    yield from (point for first in found for point in _at(first, writes) if heavy or _is_light(point))


def _at(point: Point, writes: int) -> Iterator[Point]:
    """The same at every place of an answer of so many writes."""
    for spot in spots(point.kind, writes, streamed=point.streamed):
        yield replace(point, spot=spot)
        if point.kind.passes and spot in (None, 0):
            yield replace(point, spot=spot, times=RETRIES + 1)


def _is_light(point: Point) -> bool:
    """Whether it costs little. Of what takes long there is a little in the first answer of a conversation."""
    if point.kind.name == SILENCE:
        return (point.turn, point.answer) == (0, 0)
    first = (point.talk.name, point.turn, point.answer) == (TALKS[0].name, 0, 0)
    return not point.kind.heavy or (first and point.spot in (None, 0, 3))


# --- the campaign and its command ----------------------------------------------------------------------------------


async def _all_points(given: argparse.Namespace, plant: Plant, totals: Totals, ticker: Ticker) -> None:
    """Every point that was asked for, in a few booths."""
    talks = [talk for talk in TALKS if not given.talk or talk.name in given.talk]
    wanted = list(enumerate(points(talks, kind=given.kind, heavy=given.heavy)))[:: given.every]
    waiting = iter(one for one in wanted if given.point in (None, one[0]))

    async def work(here: Booth) -> None:
        bases = {talk.name: Base(here, talk) for talk in talks}
        for number, point in waiting:
            totals.add(await bases[point.talk.name].play(point), f"{point} (point {number})")
            ticker.show()

    await _in_booths(plant, work)


async def _all_sequences(given: argparse.Namespace, plant: Plant, totals: Totals, ticker: Ticker) -> None:
    """So many conversations by chance."""
    waiting = iter(range(given.first, given.first + given.sequences))

    async def work(here: Booth) -> None:
        for number in waiting:
            totals.add(await lead(here, random.Random(f"{given.seed}/{number}")), f"sequence {number}")
            totals.sequences += 1
            ticker.show()

    await _in_booths(plant, work)


async def _in_booths(plant: Plant, work: Callable[[Booth], Awaitable[None]]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        booths = [await stack.enter_async_context(booth(plant.client)) for _ in range(BOOTHS)]
        for here in booths:
            plant.change(here)
        await asyncio.gather(*(work(here) for here in booths))


async def compare(talk: Talk, plant: Plant, totals: Totals) -> None:
    """The same answers as streams and in one piece leave the same log, and nothing of them is refused later."""
    logs = []
    for streamed in (True, False):
        async with booth(plant.client) as here:
            plant.change(here)
            agent = here.agent(talk)
            thread = agent.get_new_thread()
            spoken = [await speak(here, agent, thread, exchange.said, streamed=streamed) for exchange in talk.exchanges]
            logs.append(await thread.turns())
            totals.add(Played(None, spoken, logs[-1], talk.instructions, left_in(here)), f"talk {talk.name}")
    totals.compared += 1
    totals.violations += [(f"talk {talk.name}", violation) for violation in differences(*logs)]


async def _run(given: argparse.Namespace, totals: Totals) -> None:
    plant = PLANTS[given.plant]
    ticker = Ticker(lambda: f"{totals.points + totals.sequences} conversations, {len(totals.violations)} violations")
    if given.sequences:
        await _all_sequences(given, plant, totals, ticker)
        return
    if given.part in (None, "answers"):
        for talk in (*TALKS, *ODD_ANSWERS):
            await compare(talk, plant, totals)
    if given.part in (None, "faults"):
        await _all_points(given, plant, totals, ticker)


def again(given: argparse.Namespace, where: str) -> str:
    """The command that repeats what was found."""
    plant = f" --plant {given.plant}" if given.plant != "none" else ""
    if where.startswith("talk "):
        return f"python -m rigs.faults --part answers{plant}"
    if where.startswith("sequence "):
        return f"python -m rigs.faults --sequences 1 --first {where.split()[1]} --seed {given.seed}{plant}"
    talk = "".join(f" --talk {name}" for name in given.talk or ())
    kind = f" --kind {given.kind!r}" if given.kind else ""
    heavy = " --heavy" if given.heavy else ""
    number = where.rpartition("(point ")[2].rstrip(")")
    point = f" --point {number}" if number.isdecimal() else ""
    return f"python -m rigs.faults --part faults{talk}{kind}{heavy}{point}{plant}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="python -m rigs.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("answers", "faults"), help="sound and odd answers alone, or faults alone")
    parser.add_argument(
        "--talk",
        choices=[talk.name for talk in TALKS],
        action="append",
        help="this conversation alone; may be repeated",
    )
    parser.add_argument("--kind", choices=sorted(kind.name for kind in KINDS), metavar="KIND", help="this kind alone")
    parser.add_argument("--point", type=int, metavar="N", help="the n-th point alone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every n-th point alone")
    parser.add_argument("--heavy", action="store_true", help="silence and 50 MB at every place, too")
    parser.add_argument("--sequences", type=int, default=0, metavar="N", help="so many conversations by chance instead")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this number of the seed")
    parser.add_argument("--seed", help="of the conversations by chance")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="none", help="put a fault in; it must be reported")
    given = parser.parse_args(argv)
    given.seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    print(f"seed                {given.seed}", flush=True)
    totals = Totals()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(given, totals))
    print(json.dumps({"seed": given.seed, **totals.as_json()}) if given.json else "\n".join(totals.lines()))
    if totals.violations:
        print(f"to repeat           {again(given, totals.violations[0][0])}")
    return 1 if totals.violations else 0


if __name__ == "__main__":
    sys.exit(main())
