"""Kill -9 at random moments of processes that run turns; then look at what is left.

    python -m rigs.kill --kills 1000 [--seed N] [--keep]

Rounds of a few dozen kills, each with a database, a diary and a strict service of its own: workers talk on common
threads (`rigs.workers`); one is killed; another takes its seat, and goes on with the threads that the dead one had
touched. After the last kill a fresh process takes a turn on every thread, another one reads the store, and the
oracle judges (`rigs.oracle`).

An unaimed kill falls into the ask nearly always, for that takes the longest. So a kill waits for a talker's mark
(`rigs.marks`), and then for a random part of what that moment lasts. What is counted is not what was aimed at, but
where the talker stood when it was dead.

Rule of this file: this process forks, watches and kills. It uses no store, no thread and no event loop, so that what
it forks can.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

import holdfast.clients.transport  # noqa: F401 - imported once here, and not in each of a thousand workers
from rigs.aim import Aim
from rigs.contents import read_contents
from rigs.evidence import CONTENTS, DIARY, REQUESTS, STORE, Died, Failed, Pen, Stalled, Standing, read_evidence
from rigs.marks import FACE_OF, FACE_OF_MARK, MOMENTS, OPEN, Board
from rigs.oracle import Verdict, Violation, judge
from rigs.plants import PLANTS, Plant
from rigs.reports import Progress, Totals
from rigs.service import serve
from rigs.workers import Errand, begin, die_with_parent

KILLS_A_ROUND = 40
SEATS, TALKERS = 2, 3
THREADS = 3
THINKS = 0.008  # seconds that the service takes for an answer
_STALL = 0.25  # a nap of a thousandth of a second that took longer is the machine's fault
_PATIENCE_FOR_MARKS, _PATIENCE_FOR_ENDS = 1.5, 15.0
_YOUNG = 0.15  # the part of kills that strike again where somebody has just died, while the next one clears up
VERDICT = "verdict.json"


class Seat:
    """A place for a worker: the process that has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.worker = 0
        self.talkers = 1


class Round:
    """One database, one service, some dozen kills."""

    def __init__(self, seed: str, number: int, folder: Path, plant: Plant, aim: Aim, totals: Totals) -> None:
        self.number = number
        self.folder = folder
        self.chance = random.Random(f"{seed}/{number}")
        self.plant, self.aim, self.totals = plant, aim, totals
        self.board = Board(SEATS, TALKERS)
        self.seats = [Seat(n) for n in range(self.chance.choice((1, 2, SEATS)))]
        self.threads = tuple(f"thread-{n}" for n in range(self.chance.randint(1, THREADS)))
        self.pen = Pen(folder / DIARY)
        self._workers = 0
        self._probing = False
        self._pids: set[int] = set()

    def run(self, kills: int, tick: Callable[[], None]) -> Verdict:
        """The whole round: so many kills, then the verdict."""
        with self._service() as self.address:
            try:
                for seat in self.seats:
                    self._fill(seat, ())
                seat, young, touched = self.seats[0], True, set[str]()
                for _ in range(kills):
                    if young and self.chance.random() < _YOUNG:
                        touched |= self._strike(seat, young=True)
                    else:
                        seat = self.chance.choice(self.seats)
                        touched = self._strike(seat)
                    self._fill(seat, sorted(touched))
                    young = bool(touched)
                    tick()
                self._end()
                self._probe()
            finally:
                for pid in self._pids:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        self.pen.close()
        if self.plant.afterwards is not None:
            self._aside(lambda: self.plant.afterwards(self.folder / STORE))  # type: ignore[misc]
        self._aside(self._judge)
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.folder / VERDICT).read_bytes(), type=Verdict)
        return Verdict([Violation("no verdict", f"the process that read the store failed; see {self.folder}")])

    # --- workers ---------------------------------------------------------------------------------------------------

    def _fill(self, seat: Seat, touched: Sequence[str], *, probe: bool = False) -> None:
        self._workers += 1
        seat.worker = self._workers
        seat.talkers = 1 if probe else self.chance.randint(1, TALKERS)
        errand = Errand(
            self.folder,
            self.address,
            self.number,
            seat.worker,
            seat.number,
            seat.talkers,
            f"{self.chance.random()}",
            tuple(touched),
            self.threads,
            probe,
        )
        seat.pid = begin(errand, self.board, self.plant.worker)
        self._pids.add(seat.pid)

    def _strike(self, seat: Seat, *, young: bool = False) -> set[str]:
        """Kill the process in a seat, at some moment of one of its talkers; the threads that it had touched.

        A young one is killed in its first turn: while the file is made, or what the dead have left is closed.
        """
        talker = 0 if young else self.chance.randrange(seat.talkers)
        if young:
            self._wait_for_first_turn(seat)
        else:
            self._wait_for(seat, talker, self.aim.choose(self.chance, self.totals.faces))
        return {one.thread for one in self._kill(seat, talker) if one.thread}

    def _wait_for_first_turn(self, seat: Seat) -> None:
        slot = self.board.slot(seat.number, 0)
        self._watch(lambda: slot.turns > 0, _PATIENCE_FOR_MARKS)
        if self.chance.random() < 0.6:
            self._watch(lambda: slot.moment != OPEN, 0.1)
            self._watch(lambda: False, self.chance.uniform(0, 0.0015))
        else:
            self._watch(lambda: False, self.chance.uniform(0, 0.012))

    def _wait_for(self, seat: Seat, talker: int, face: str | None) -> None:
        """Return at the moment that is aimed at, or after a while."""
        slot, chance = self.board.slot(seat.number, talker), self.chance
        until = time.monotonic() + _PATIENCE_FOR_MARKS
        if face is None:
            self._nap_until(time.monotonic() + chance.uniform(0, 0.15))
            return
        if face == "start":
            until = time.monotonic() + self.aim.delay(chance, face)
        else:
            # Some turns later, so that not only the first one of each process is hit.
            turn = slot.turns + chance.choice((0, 0, 1, 1, 2, 3))
            while slot.turns < turn and time.monotonic() < until:
                self._nap()
        delay = self.aim.delay(chance, face)
        self._watch(lambda: FACE_OF_MARK[slot.moment] == face, until - time.monotonic())
        # If it is over sooner than expected, the kill falls into what comes after it.
        since = slot.since if face != "start" else time.monotonic()
        self._watch(lambda: False, since + delay - time.monotonic())

    def _kill(self, seat: Seat, aimed: int, *, stuck: bool = False) -> list[Standing]:
        if stuck:
            os.kill(seat.pid, signal.SIGUSR1)  # it writes its stacks down, beside the evidence
            time.sleep(0.2)
        os.kill(seat.pid, signal.SIGKILL)
        self._ended(seat, os.waitpid(seat.pid, 0)[1])
        at = time.monotonic()  # dead for sure; this process may have been kept waiting before it could strike
        standing = []
        for talker in range(seat.talkers):
            slot = self.board.slot(seat.number, talker)
            standing.append(Standing(talker, slot.token, slot.thread, MOMENTS[slot.moment]))
            self.aim.learn(slot.lasted())
        self.pen.write(Died(seat.worker, at, tuple(standing), aimed, stuck))
        if not stuck:
            self._count(standing, aimed)
        return standing

    def _count(self, standing: list[Standing], aimed: int) -> None:
        totals = self.totals
        totals.kills += 1
        totals.faces[FACE_OF[standing[aimed].moment]] += 1
        totals.in_takeover += standing[aimed].moment == "takeover"

    def _end(self) -> None:
        """The living come to an end by themselves; who does not has hung."""
        self.board.over = True
        until = time.monotonic() + _PATIENCE_FOR_ENDS
        for seat in self.seats:
            self._await_end(seat, until)
        self.board.over = False

    def _probe(self) -> None:
        """A fresh process takes a turn on every thread."""
        self._probing = True
        self._fill(self.seats[0], (), probe=True)
        self._await_end(self.seats[0], time.monotonic() + 2 * _PATIENCE_FOR_ENDS)

    def _await_end(self, seat: Seat, until: float) -> None:
        while (ended := os.waitpid(seat.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                self._kill(seat, 0, stuck=True)
                return
            self._nap()
        self._ended(seat, ended[1])

    def _ended(self, seat: Seat, status: int) -> None:
        """A process is gone: killed, or with its work done. Anything else is a finding."""
        self._pids.discard(seat.pid)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL) or (code == 0 and not self.board.over and not self._probing):
            self.pen.write(Failed(seat.worker, time.monotonic(), "the worker itself", f"it ended with code {code}"))

    # --- time ------------------------------------------------------------------------------------------------------

    def _watch(self, seen: Callable[[], bool], seconds: float) -> None:
        """Look without sleeping, for the shortest moments last a fraction of a millisecond."""
        now = time.monotonic()
        until = now + seconds
        while now < until and not seen():
            now = self._noted(now)

    def _nap(self) -> None:
        began = time.monotonic()
        time.sleep(0.0005)
        self._noted(began)

    def _noted(self, before: float) -> float:
        """The time; it is written down if the machine did not let even this process run for long."""
        now = time.monotonic()
        if now - before > _STALL:
            self.pen.write(Stalled(0, now, now - before))
        return now

    def _nap_until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self._nap()

    # --- other processes -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _service(self) -> Iterator[str]:
        """The service's address, as long as it serves."""
        (reads, told), (halt, holds) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.close(holds)
            _in_child(lambda: asyncio.run(serve(self.folder / REQUESTS, THINKS, told, halt)))
        os.close(told)
        os.close(halt)
        try:
            address = os.read(reads, 1000).decode()
            if not address:
                raise RuntimeError("the service did not start")
            yield address
        finally:
            os.close(reads)
            os.close(holds)
            os.waitpid(child, 0)

    def _judge(self) -> None:
        contents = asyncio.run(read_contents(self.folder / STORE))
        (self.folder / CONTENTS).write_bytes(msgspec.json.encode(contents))
        (self.folder / VERDICT).write_bytes(msgspec.json.encode(judge(read_evidence(self.folder))))

    def _aside(self, work: Callable[[], None]) -> None:
        """Do something in a process of its own."""
        child = os.fork()
        if child == 0:
            _in_child(work)
        os.waitpid(child, 0)


def _in_child(work: Callable[[], None]) -> None:
    """The rest of a forked child's life."""
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        work()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


# --- the campaign and its command ----------------------------------------------------------------------------------


class Campaign(msgspec.Struct, frozen=True):
    """What was asked for on the command line."""

    kills: int = 1000
    seed: str = ""
    only_round: int | None = None
    keep: bool = False
    plant: str = "none"
    shown: bool = True

    def again(self, where: str) -> str:
        """The command that repeats a round."""
        plant = f" --plant {self.plant}" if self.plant != "none" else ""
        kills = min(self.kills, KILLS_A_ROUND)
        return f"python -m rigs.kill --seed {self.seed} --round {where} --kills {kills}{plant} --keep"


def run(campaign: Campaign, folder: Path) -> Totals:
    """All rounds. The evidence of those with violations, or of all with `keep`, stays in the folder."""
    totals, aim = Totals(), Aim()
    progress = Progress(campaign.kills, shown=campaign.shown)
    number = campaign.only_round or 0
    with contextlib.suppress(KeyboardInterrupt):
        while totals.kills < campaign.kills:
            here = folder / f"round-{number}"
            here.mkdir()
            round_ = Round(campaign.seed, number, here, PLANTS[campaign.plant], aim, totals)
            kills = min(KILLS_A_ROUND, campaign.kills - totals.kills)
            verdict = round_.run(kills, lambda: progress.show(totals))
            totals.add(verdict, str(number))
            if not verdict.violations and not campaign.keep:
                shutil.rmtree(here)
            number += 1
    progress.show(totals, last=True)
    return totals


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    parser = argparse.ArgumentParser(prog="python -m rigs.kill", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, help="1000 by default")
    parser.add_argument("--seed", help="of the plan: who is killed when; the machine adds its own chance")
    parser.add_argument("--round", type=int, dest="only_round", metavar="N", help="begin with this round of the seed")
    parser.add_argument("--folder", type=Path, help="where the evidence goes; a new temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="keep the evidence of all rounds, not only of bad ones")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge kept evidence once more; kill nobody")
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), default="none", help="put a fault in; the oracle must see it"
    )
    given = parser.parse_args(argv)
    if given.judge is not None:
        totals = Totals()
        totals.add(judge(read_evidence(given.judge)), str(given.judge))
        print("\n".join(totals.lines()))
        return 1 if totals.violations else 0

    seed = given.seed or f"{random.SystemRandom().randrange(10**9)}"
    campaign = Campaign(given.kills, seed, given.only_round, given.keep, given.plant)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="holdfast-kill-"))
    print(f"seed                {seed}", flush=True)
    totals = run(campaign, folder)
    print(json.dumps({"seed": seed, **totals.as_json()}) if given.json else "\n".join(totals.lines()))
    if not any(folder.iterdir()):
        folder.rmdir()
    else:
        print(f"evidence            {folder}")
    if totals.violations:
        print(f"to repeat           {campaign.again(totals.violations[0][2])}")
        print(f"to judge again      python -m rigs.kill --judge {folder}/round-{totals.violations[0][2]}")
    return 1 if totals.violations or totals.kills < campaign.kills else 0


if __name__ == "__main__":
    sys.exit(main())
