"""Stop processes in the middle of turns for longer than their lease, and see that they write nothing afterwards.

    python -m rigs.stale --pauses 1000 [--seed N] [--keep]

Rounds of some pauses, each with a database, a diary and a strict service of its own. Workers talk on common threads;
several at a time are stopped (SIGSTOP), at moments that are aimed at. The others wait for the threads, take them over
when the lease is over, and go on. Then the stopped ones are let go on (SIGCONT), and want to seal what they had begun.
Beside that, workers block their event loop, or stop beating (`rigs.witness`). In the end a fresh process takes a turn
on every thread, another one reads the store, and two judge: one for all campaigns (`rigs.oracle`), to whom a run that
was turned away is one whose process has died; and one for who wrote what (`rigs.fence`).

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
from rigs.commands import Command, Totals
from rigs.contents import read_contents
from rigs.crowd import FACES, Aim, Crowd, Seat
from rigs.evidence import (
    CONTENTS,
    DIARY,
    REQUESTS,
    STORE,
    Acked,
    Asks,
    Contents,
    Died,
    Evidence,
    Failed,
    Line,
    Moved,
    Moves,
    Request,
    Stalled,
    Standing,
    read_lines,
)
from rigs.fence import FenceLine, FenceVerdict, Given, Rescued, TurnedAway, judge_fence
from rigs.oracle import Verdict, Violation, judge
from rigs.processes import aside, serving
from rigs.stale_plants import PLANTS
from rigs.telling import Ticker, at
from rigs.witness import LEASE, Witness

PAUSES_A_ROUND = 20
SEATS, TALKERS, THREADS = 8, 2, 6
AT_ONCE = 4  # so many are stopped at a time, at most
THINKS = 0.06  # seconds that the service takes for an answer
VERDICT = "verdict.json"

# The part of the pauses that each moment is to get.
_WEIGHTS = {"ask": 6, "seal": 3, "open": 2, "queue": 2, "takeover": 1, "idle": 0.5}
_PATIENCE_FOR_A_MOMENT = 1.0
# How long a pause is, in leases: longer than one; so short that nothing may come of it; longer than anybody may wait.
_LENGTHS = ((1.3, 2.2),) * 4 + ((0.1, 0.5), (2.6, 3.2), (2.6, 3.2))
STUCK = 30.0  # seconds that a turn may take, with all that is done to it


class Round(msgspec.Struct):
    """What a round came to: by the oracle of all campaigns, and by the judge of who wrote what."""

    oracle: Verdict
    fence: FenceVerdict

    @property
    def violations(self) -> list[Violation]:
        return [*self.fence.violations, *self.oracle.violations]


class Pauses(Totals):
    """What all rounds came to."""

    unit = "pauses"

    def __init__(self) -> None:
        super().__init__()
        self.faces: Counter[str] = Counter()
        self.pauses = 0
        self.waits: list[float] = []

    @property
    def done(self) -> int:
        return self.pauses

    def take_in(self, found: Round) -> None:
        fence, oracle = found.fence, found.oracle
        of_fence = ("takeovers", "zombies", "accepted", "blocked", "blocked_wanted", "muted", "mute_refused")
        self.figures.update({name: getattr(fence, name) for name in (*of_fence, "held_the_lock")})
        self.figures.update({name: getattr(oracle, name) for name in ("asked", "acked", "interrupted", "requests")})
        self.figures["lost"] += sum("lost" in one.kind for one in oracle.violations)
        self.waits += fence.waits
        self.pauses = self.pauses or fence.pauses  # counted as they happen, unless kept evidence is judged

    def brief(self) -> str:
        figures = self.figures
        return f"{figures['takeovers']} taken over, {figures['zombies']} turned away, {figures['accepted']} accepted"

    def own_json(self) -> dict[str, Any]:
        return {
            "pauses": self.pauses,
            "moments": {face: self.faces[face] for face in FACES},
            **self.figures,
            "wait p50 s": round(at(self.waits, 0.5), 2),
            "wait max s": round(max(self.waits, default=0.0), 2),
        }

    def own_lines(self) -> list[str]:
        told = self.own_json()
        moments = "   ".join(f"{face} {self.faces[face]}" for face in FACES)
        figures = self.figures
        return [
            f"pauses              {self.pauses}",
            f"  at the moments    {moments}",
            f"  in a write        {figures['held_the_lock']}, with the file locked",
            f"blocked event loops {figures['blocked']}; for {figures['blocked_wanted']} of them somebody waited longer "
            "than the lease, in vain",
            f"missing beats       {figures['muted']}, {figures['mute_refused']} of them turned away",
            f"runs taken over     {figures['takeovers']}; the lease is {LEASE:g} s, somebody had waited "
            f"{told['wait p50 s']} s (median), {told['wait max s']} s (at most)",
            f"zombies turned away {figures['zombies']}",
            f"stale accepted      {figures['accepted']}",
            f"turns               {figures['asked']} asked, {figures['acked']} acknowledged, "
            f"{figures['interrupted']} interrupted, {figures['lost']} lost",
        ]


# --- a round -------------------------------------------------------------------------------------------------------


class Stopper:
    """Stops one process after the other, several at a time, where they stand as is wished."""

    def __init__(self, crowd: Crowd, totals: Pauses) -> None:
        self.crowd = crowd
        self.totals = totals
        self.chance = crowd.chance
        self.aim = Aim(crowd, _WEIGHTS, totals.faces)

    def run(self, pauses: int, tick: Callable[[], None]) -> None:
        """So many pauses."""
        done, free_at = 0, time.monotonic() + 0.3
        wanted, since = self.aim.wishes()[0], free_at
        while done < pauses and any(seat.pid for seat in self.crowd.seats):
            self.crowd.nap()
            self.crowd.resume_due()
            now = time.monotonic()
            stopped = sum(seat.until is not None for seat in self.crowd.seats)
            if stopped >= AT_ONCE or now < free_at:
                since = now
                continue
            if now > since + _PATIENCE_FOR_A_MOMENT:
                wanted = next(filter(self.aim.found, self.aim.wishes()), wanted)
            seat = self.aim.found(wanted)
            if seat is None:
                continue
            if self._stop(seat, wanted):
                done += 1
            wanted, since = self.aim.wishes()[0], now
            free_at = now + self.chance.choice((0.0, self.chance.uniform(0, 0.6)))
            tick()

    def _stop(self, seat: Seat, aimed: str) -> bool:
        if aimed in ("open", "seal") and self.chance.random() < 0.6:
            until = time.monotonic() + self.chance.uniform(0, 0.0012)  # somewhere in it
            while time.monotonic() < until:
                continue
        paused = self.crowd.pause(seat, LEASE * self.chance.uniform(*self.chance.choice(_LENGTHS)), aimed=aimed)
        if paused is None:
            return False
        self.aim.count(paused.talkers, aimed)
        self.totals.pauses += 1
        return True


def run_round(
    given: argparse.Namespace, totals: Pauses, number: int, folder: Path, pauses: int, tick: Callable[[], None]
) -> Round:
    """One database, one service, so many pauses; the verdict."""
    kind: type[Witness] = PLANTS[given.plant]
    with serving(folder / REQUESTS, THINKS) as address:
        crowd = Crowd(folder, number, random.Random(f"{given.seed}/{number}"), kind, address)
        with crowd.at_work(SEATS, TALKERS, THREADS):
            Stopper(crowd, totals).run(pauses, tick)
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
    evidence = Evidence(as_told(lines), read_lines(folder / REQUESTS, Request), contents)
    return Round(judge(evidence, patience=STUCK), judge_fence(lines, contents, lease=LEASE))


def as_told(lines: Sequence[FenceLine]) -> tuple[Line, ...]:
    """The diary as the oracle of all campaigns reads it: to be turned away is to die while the service is asked.

    So what was turned away must be in the log, once, as interrupted. Who never had the thread has only died in line.
    Whoever has gone on with a turn was acknowledged it, under the token that it was begun with.
    """
    given = {line.token for line in lines if isinstance(line, Given)}
    tokens = {line.turn: line.token for line in lines if isinstance(line, Given) and line.token}
    found: list[Line] = []
    for line in lines:
        if isinstance(line, TurnedAway):
            moment = "ask" if line.token in given else "open"
            found.append(Died(line.worker, line.at, (Standing(line.talker, line.token, line.thread, moment),)))
        elif isinstance(line, Rescued):
            token = tokens.get(line.turn, "")
            found.append(Acked(line.worker, line.at, line.thread, token, line.turn, line.answer))
        elif isinstance(line, Asks | Acked | Moves | Moved | Failed | Died | Stalled):
            found.append(line)
    return tuple(found)


# --- the command ---------------------------------------------------------------------------------------------------

COMMAND = Command("stale", __doc__ or "", "pauses", 100, PAUSES_A_ROUND, PLANTS, lambda folder, _: judged(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    given, totals = COMMAND.parser().parse_args(argv), Pauses()

    def one_round(number: int, folder: Path, pauses: int, ticker: Ticker) -> Round:
        return run_round(given, totals, number, folder, pauses, ticker.show)

    return COMMAND.carry_out(given, totals, one_round)


if __name__ == "__main__":
    sys.exit(main())
