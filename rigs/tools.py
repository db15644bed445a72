"""Kill processes around their tools, and see whether anything is done twice, or without a trace.

    python -m rigs.tools --kills 100 [--seed N]        kills: before, inside and after tools, several at once
    python -m rigs.tools --part cancels [--every K]    cancels at every await of runs with tools (`rigs.tools_cancels`)

Rounds of a few dozen kills, each with a database, a diary, a ledger and a strict service that calls tools
(`rigs.tools_service`). Workers (`rigs.tools_workers`) run turns on common threads; calls that need to be allowed leave
runs that wait, and any process answers them. One worker is killed where it was aimed at (`rigs.tools_marks`), and
another one takes its seat. In the end a fresh process uses every thread, another one reads the store, and
`rigs.tools_judge` judges.

Rule of this file: this process forks, watches and kills. It uses no store, no thread and no event loop, so that what
it forks can.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import holdfast.clients.transport  # noqa: F401 - imported once here, and not in each of many workers
from rigs import tools_cancels
from rigs.commands import Command, Totals
from rigs.evidence import CONTENTS, DIARY, REQUESTS, STORE, Died, Failed, Pen, Stalled, Standing
from rigs.oracle import Violation
from rigs.processes import aside
from rigs.telling import Ticker, at
from rigs.tools_contents import read_file
from rigs.tools_evidence import read_evidence
from rigs.tools_judge import PATIENCE, Verdict, judge
from rigs.tools_marks import AIMS, ToolBoard
from rigs.tools_plants import PLANTS
from rigs.tools_service import serving
from rigs.tools_workers import AFTERWARDS, ToolWorker
from rigs.workers import Errand, begin

KILLS_A_ROUND = 25
SEATS, TALKERS, THREADS = 2, 2, 4
VERDICT = "verdict.json"
_ANY = 0.12  # the part of kills that are not aimed
_STALL = 0.25  # a nap that took so much longer is the machine's fault
_PATIENCE_FOR_A_MOMENT, _PATIENCE_FOR_ENDS = 0.8, 20.0


class Kills(Totals):
    """What all rounds came to."""

    unit = "kills"

    def __init__(self) -> None:
        super().__init__()
        self.kills = 0
        self.places: Counter[str] = Counter()
        self.recoveries: list[float] = []

    @property
    def done(self) -> int:
        return self.kills

    def take_in(self, found: Verdict) -> None:
        self.figures.update(found.figures)
        self.recoveries += found.recoveries

    def brief(self) -> str:
        return f"{self.figures['effects']} effects, {self.figures['results unknown']} outcomes unknown"

    def own_json(self) -> dict[str, Any]:
        return {
            "kills": self.kills,
            "places": dict(self.places),
            **dict(sorted(self.figures.items())),
            "recovery p50 s": round(at(self.recoveries, 0.5), 3),
            "recovery max s": round(max(self.recoveries, default=0.0), 3),
        }

    def own_lines(self) -> list[str]:
        told, figures = self.own_json(), self.figures
        turns = {name.removeprefix("turns "): n for name, n in sorted(figures.items()) if name.startswith("turns ")}
        return [
            f"kills               {self.kills}",
            "  where they stood  " + "   ".join(f"{place} {count}" for place, count in self.places.most_common()),
            f"calls made          {figures['calls made']}, {figures['made again']} of them again; "
            f"{figures['effects']} effects",
            f"outcome unknown     {figures['results unknown']}",
            f"answers             {figures['answers']}, {figures['answers refused']} refused; "
            f"{figures['calls allowed']} calls allowed",
            f"runs taken over     {figures['resumed']} to go on with them",
            "turns               " + "   ".join(f"{name} {count}" for name, count in turns.items()),
            f"requests            {figures['requests']}",
            f"threads free again  after {told['recovery p50 s']} s (median), {told['recovery max s']} s (at most)",
        ]


# --- a round -------------------------------------------------------------------------------------------------------


class Seat(msgspec.Struct):
    """A place for a worker, and the process that has it now."""

    number: int
    pid: int = 0
    worker: int = 0
    talkers: int = 1


class Round:
    """One database, one service, so many kills."""

    def __init__(self, given: argparse.Namespace, number: int, folder: Path, totals: Kills) -> None:
        self.number = number
        self.folder = folder
        self.kind = kind_of(given)
        self.aims = {place: weight for place, weight in AIMS.items() if not given.aim or place in given.aim}
        self.totals = totals
        self.chance = random.Random(f"{given.seed}/{number}")
        self.board = ToolBoard(SEATS, TALKERS)
        self.seats = [Seat(number) for number in range(self.chance.choice((1, 1, SEATS)))]
        self.threads = tuple(f"thread-{number}" for number in range(self.chance.randint(1, THREADS)))
        self.pen = Pen(folder / DIARY)
        self._workers = 0
        self._ending = False

    def run(self, kills: int, tick: Callable[[], None]) -> None:
        """So many kills; then everybody comes to an end, and a fresh process uses every thread."""
        with serving(self.folder / REQUESTS) as self.address:
            try:
                for seat in self.seats:
                    self._fill(seat, ())
                for _ in range(kills):
                    seat = self.chance.choice(self.seats)
                    self._fill(seat, sorted(self._strike(seat)))
                    tick()
                self._end()
            finally:
                for seat in self.seats:
                    if seat.pid:
                        os.kill(seat.pid, signal.SIGKILL)
                        os.waitpid(seat.pid, 0)
        self.pen.close()

    def _fill(self, seat: Seat, touched: Sequence[str], *, probe: bool = False) -> None:
        self._workers += 1
        seat.worker, seat.talkers = self._workers, 1 if probe else self.chance.randint(1, TALKERS)
        place = (self.number, seat.worker, seat.number, seat.talkers)
        plan = (f"{self.chance.random()}", tuple(touched), self.threads, probe)
        seat.pid = begin(Errand(self.folder, self.address, *place, *plan), self.board, self.kind)

    def _strike(self, seat: Seat) -> set[str]:
        """Kill the process in a seat where chance will have it; the threads that it had touched."""
        chance = self.chance
        if chance.random() < _ANY:
            self._wait(seat, chance.uniform(0, 0.25))
        else:
            # Some turns later, so that not only the first one of each process is hit.
            turns = chance.choice((0, 0, 0, 1, 2))
            self._wait(seat, _PATIENCE_FOR_A_MOMENT, lambda: self.board.turns(seat.number) >= turns)
            place = chance.choices(list(self.aims), weights=list(self.aims.values()))[0]
            self.board.arm(seat.number, place, chance.choice((1, 1, 2, 3)))
            self._wait(seat, _PATIENCE_FOR_A_MOMENT)
        return self._dead(seat)

    def _wait(self, seat: Seat, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait until a process is dead, or something holds, or so long."""
        end = time.monotonic() + seconds
        while seat.pid and time.monotonic() < end and not until():
            self._look(seat)
            before = time.monotonic()
            time.sleep(0.001)
            if (lasted := time.monotonic() - before) > _STALL:
                self.pen.write(Stalled(0, time.monotonic(), lasted))

    def _look(self, seat: Seat) -> None:
        """See whether a process has ended; by anything but a kill, or its work being done, is a finding."""
        ended, status = os.waitpid(seat.pid, os.WNOHANG)
        if not ended:
            return
        seat.pid = 0
        code = os.waitstatus_to_exitcode(status)
        if code != -signal.SIGKILL and not (code == 0 and self._ending):
            self.pen.write(Failed(seat.worker, time.monotonic(), "the worker itself", f"it ended with code {code}"))

    def _dead(self, seat: Seat, *, stuck: bool = False) -> set[str]:
        """Make sure that a process is dead, and write down where it stood."""
        if seat.pid:
            if stuck:
                os.kill(seat.pid, signal.SIGUSR1)  # it writes its stacks down, beside the evidence
                time.sleep(0.2)
            os.kill(seat.pid, signal.SIGKILL)
            os.waitpid(seat.pid, 0)
            seat.pid = 0
        slots = [self.board.slot(seat.number, talker) for talker in range(seat.talkers)]
        standing = tuple(Standing(n, slot.token, slot.thread, slot.place) for n, slot in enumerate(slots))
        self.pen.write(Died(seat.worker, time.monotonic(), standing, 0, stuck))
        if not stuck:
            self.totals.kills += 1
            places, armed = [one.moment for one in standing], self.board.armed(seat.number)
            self.totals.places[armed if armed in places else self.chance.choice(places)] += 1
        return {one.thread for one in standing if one.thread}

    def _end(self) -> None:
        self._ending = self.board.over = True
        self._await_ends()
        self.board.over = False
        self._fill(self.seats[0], (), probe=True)
        self._await_ends()

    def _await_ends(self) -> None:
        until = time.monotonic() + _PATIENCE_FOR_ENDS
        for seat in self.seats:
            self._wait(seat, until - time.monotonic())
            if seat.pid:
                self._dead(seat, stuck=True)


def kind_of(given: argparse.Namespace) -> type[ToolWorker]:
    """The workers that were asked for."""
    narrowed = {"letters": given.calls, "afterwards": given.then}
    return type("Given", (PLANTS[given.plant],), {name: value for name, value in narrowed.items() if value})


# --- judging -------------------------------------------------------------------------------------------------------


def _judge(folder: Path, patience: float) -> None:
    (folder / CONTENTS).write_bytes(msgspec.json.encode(asyncio.run(read_file(folder / STORE))))
    (folder / VERDICT).write_bytes(msgspec.json.encode(judged(folder, patience)))


def judged(folder: Path, patience: float) -> Verdict:
    """The verdict on a folder of evidence."""
    return judge(read_evidence(folder), patience=patience)


def run_round(given: argparse.Namespace, totals: Kills, number: int, folder: Path, kills: int, tick: Any) -> Verdict:
    """One round; the verdict."""
    Round(given, number, folder, totals).run(kills, tick)
    aside(lambda: _judge(folder, given.patience))
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((folder / VERDICT).read_bytes(), type=Verdict)
    return Verdict([Violation("no verdict", f"the process that read the store failed; see {folder}")])


# --- the command ---------------------------------------------------------------------------------------------------

COMMAND = Command(
    "tools", __doc__ or "", "kills", 100, KILLS_A_ROUND, PLANTS, lambda folder, given: judged(folder, given.patience)
)


def _also(given: argparse.Namespace) -> str:
    """The options of this campaign alone, as they were given."""
    words = {"aim": given.aim, "calls": given.calls and [given.calls], "then": given.then}
    patience = f" --patience {given.patience:g}" if given.patience != PATIENCE else ""
    return patience + "".join(f" --{name} {' '.join(value)}" for name, value in words.items() if value)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    parser = COMMAND.parser()
    parser.add_argument("--part", choices=("kills", "cancels"), default="kills", help="kills by default")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds in which a free thread is to be had")
    parser.add_argument("--aim", nargs="+", choices=sorted(AIMS), help="kill at these moments alone")
    parser.add_argument("--calls", metavar="LETTERS", help="make these calls alone (see rigs.tools_talk)")
    parser.add_argument("--then", nargs="+", choices=sorted({*AFTERWARDS}), help="after a death do this alone")
    tools_cancels.add_options(parser)
    given = parser.parse_args(argv)
    if given.part == "cancels":
        return tools_cancels.carry_out(given)
    given.also = _also(given)
    totals = Kills()

    def one_round(number: int, folder: Path, kills: int, ticker: Ticker) -> Verdict:
        return run_round(given, totals, number, folder, kills, ticker.show)

    return COMMAND.carry_out(given, totals, one_round)


if __name__ == "__main__":
    sys.exit(main())
