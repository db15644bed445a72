"""Appends by several processes to common threads of one file, under kills; then see whether they are linearizable.

    python -m rigs.append --turns 1000000 [--processes 4] [--seed N] [--keep]

Rounds of some ten thousand turns, each with a fresh file, so that memory and time for the check do not grow with the
campaign. In a round some processes append unique tokens to three threads (`rigs.appenders`), through the store's
port and through agents; now and then one of them is killed -9 and another takes its seat; one more process reads all
the time. Then a fresh process takes a turn on every thread, another one reads the store, and what was begun,
acknowledged and read is checked against the log that is left (`rigs.linear`).

Rule of this file: this process forks, watches and kills. It uses no store, no thread and no event loop, so that what
it forks can.
"""

from __future__ import annotations

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

import apsw
import msgspec

import holdfast.clients.transport  # noqa: F401 - imported once here, and not in each of many processes
from holdfast import HoldfastError
from rigs.append_plants import PLANTS, Plant
from rigs.appenders import LINES, Counters, Job, Process, run_process
from rigs.commands import Command, Totals
from rigs.contents import read_contents
from rigs.evidence import CONTENTS, STORE, Contents, Pen, Standing, read_lines
from rigs.linear import Killed, Line, Linearity, Refused, check
from rigs.marks import FACES, MOMENTS, Board
from rigs.oracle import Violation
from rigs.processes import aside, fork
from rigs.telling import Ticker

TURNS_A_ROUND = 20_000
LANES = (1, 1, 2)  # appends at a time in a process, one of these; with more they only stand in line
THREADS = ("thread-0", "thread-1", "thread-2")
KILL_EVERY = (0.4, 1.6)  # seconds
_PATIENCE = 20.0  # for processes that are to end by themselves
VERDICT = "verdict.json"


class Round:
    """One file, so many turns, a few kills."""

    def __init__(self, seed: str, number: int, folder: Path, plant: Plant, processes: int) -> None:
        self.folder = folder
        self.number = number
        self.plant = plant
        self.chance = random.Random(f"{seed}/{number}")
        self.counters = Counters(processes)
        self.board = Board(processes + 1, max(LANES))
        self.pen = Pen(folder / LINES)
        self._seats: dict[int, tuple[int, int]] = {}  # seat: process id and worker in it; the last one reads
        self._processes = processes
        self._workers = 0
        self._kills = 0

    def run(self, turns: int, tick: Callable[[int, int], None]) -> Linearity:
        """The whole round: so many turns at least, then the verdict."""
        try:
            for seat in range(self._processes):
                self._fill(seat, self.plant.appender)
            self._fill(self._processes, self.plant.reader)
            self._append(turns, tick)
            self.board.over = True
            self._await_ends()
            self._fill(0, self.plant.appender, last=True)
            self._await_ends()
        finally:
            for pid, _ in self._seats.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self.pen.close()
        if self.plant.afterwards is not None:
            aside(lambda: self.plant.afterwards(self.folder / STORE))  # type: ignore[misc]
        aside(self._judge)
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.folder / VERDICT).read_bytes(), type=Linearity)
        return Linearity([Violation("no verdict", f"the process that read the store failed; see {self.folder}")])

    def _append(self, turns: int, tick: Callable[[int, int], None]) -> None:
        next_kill = time.monotonic() + self.chance.uniform(*KILL_EVERY)
        last, moved = 0, time.monotonic()
        while (done := self.counters.total) < turns and time.monotonic() < moved + _PATIENCE:
            if done != last:
                last, moved = done, time.monotonic()
            time.sleep(self.chance.uniform(0, 0.004))
            if time.monotonic() > next_kill:
                seat = self.chance.randrange(self._processes)
                if seat in self._seats:
                    self._kill(seat)
                self._fill(seat, self.plant.appender)
                next_kill = time.monotonic() + self.chance.uniform(*KILL_EVERY)
            self._look_for_ends()
            tick(done, self._kills)

    # --- processes -------------------------------------------------------------------------------------------------

    def _fill(self, seat: int, kind: type[Process], *, last: bool = False) -> None:
        self._workers += 1
        seed, lanes = f"{self.chance.random()}", self.chance.choice(LANES)
        shared = (self.board, self.counters)
        job = Job(self.folder, self.number, self._workers, seat, seed, lanes, THREADS, *shared, last)
        self.board.clear(seat)
        self._seats[seat] = fork(lambda: run_process(kind, job)), self._workers

    def _kill(self, seat: int, *, hung: bool = False) -> None:
        pid, worker = self._seats.pop(seat)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        slots = [self.board.slot(seat, lane) for lane in range(max(LANES))]
        standing = [Standing(lane, slot.token, slot.thread, MOMENTS[slot.moment]) for lane, slot in enumerate(slots)]
        self.pen.write(Killed(worker, time.monotonic(), tuple(standing), hung))
        self._kills += 1

    def _look_for_ends(self) -> None:
        """Processes that are gone; who ended too early, or in an error, is a finding."""
        for seat, (pid, worker) in list(self._seats.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self._seats[seat]
            if status or not self.board.over:
                code = os.waitstatus_to_exitcode(status)
                self.pen.write(Refused(worker, time.monotonic(), "the process itself", f"it ended with code {code}"))

    def _await_ends(self) -> None:
        until = time.monotonic() + _PATIENCE
        while self._seats and time.monotonic() < until:
            self._look_for_ends()
            time.sleep(0.002)
        for seat in list(self._seats):
            self._kill(seat, hung=True)

    def _judge(self) -> None:
        try:
            contents = asyncio.run(read_contents(self.folder / STORE))
        except (HoldfastError, apsw.Error) as error:
            verdict = Linearity([Violation("store cannot be read", f"{type(error).__name__}: {error}")])
        else:
            (self.folder / CONTENTS).write_bytes(msgspec.json.encode(contents))
            verdict = judged(self.folder)
        (self.folder / VERDICT).write_bytes(msgspec.json.encode(verdict))


def judged(folder: Path) -> Linearity:
    """The verdict on a folder of evidence."""
    contents = msgspec.json.decode((folder / CONTENTS).read_bytes(), type=Contents)
    lines: tuple[Line, ...] = read_lines(folder / LINES, Line)  # type: ignore[arg-type]
    return check(lines, contents)


# --- the campaign and its command ----------------------------------------------------------------------------------


class Turns(Totals):
    """What all rounds came to."""

    unit = "turns"

    def __init__(self) -> None:
        super().__init__()
        self.moments: Counter[str] = Counter()
        self.slowest = 0.0
        self.now = (0, 0)  # turns and kills of the round that goes on

    @property
    def done(self) -> int:
        return self.figures["acked"] + self.now[0]

    def take_in(self, found: Linearity) -> None:
        names = ("begun", "acked", "by_agents", "interrupted", "unacknowledged", "kills", "reads", "whole_reads")
        self.figures.update({name: getattr(found, name) for name in names})
        self.figures["rounds"] += 1
        self.moments.update(found.moments)
        self.slowest = max(self.slowest, found.slowest)
        self.now = (0, 0)

    def brief(self) -> str:
        return f"{self.figures['kills'] + self.now[1]} kills"

    def own_json(self) -> dict[str, Any]:
        return {**self.figures, "moments": dict(self.moments), "slowest ms": round(self.slowest * 1e3, 1)}

    def own_lines(self) -> list[str]:
        figures = self.figures
        moments = "   ".join(f"{face} {self.moments[face]}" for face in FACES if face != "move")
        return [
            f"turns               {figures['acked']} acknowledged of {figures['begun']}, {figures['by_agents']} by "
            f"agents; {figures['rounds']} files",
            f"kills               {figures['kills']}",
            f"  at the moments    {moments}",
            f"  interrupted       {figures['interrupted']}",
            f"  sealed, not told  {figures['unacknowledged']}",
            f"reads               {figures['reads']}, {figures['whole_reads']} of a whole thread",
            f"slowest append      {self.slowest * 1e3:.0f} ms",
        ]


COMMAND = Command("append", __doc__ or "", "turns", 10_000, TURNS_A_ROUND, PLANTS, lambda folder, _: judged(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    parser, totals = COMMAND.parser(), Turns()
    parser.add_argument("--processes", type=int, default=4, help="that append, 4 by default; one more reads")
    given = parser.parse_args(argv)
    given.also = f" --processes {given.processes}"

    def one_round(number: int, folder: Path, turns: int, ticker: Ticker) -> Linearity:
        def tick(done: int, kills: int) -> None:
            totals.now = (done, kills)
            ticker.show()

        return Round(given.seed, number, folder, PLANTS[given.plant], given.processes).run(turns, tick)

    return COMMAND.carry_out(given, totals, one_round)


if __name__ == "__main__":
    sys.exit(main())
