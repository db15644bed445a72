"""Let every single call of the disk fail; then mend the disk and go on.

    python -m rigs.disk_errors                          every call of two short plans fails, in some way
    python -m rigs.disk_errors --all                    ... in every way that there is
    python -m rigs.disk_errors --plan resumed           another plan, with a store that is opened once and kept
    python -m rigs.disk_errors --rounds 1000 [--seed N] random plans with random errors

Turns run on a watched disk (`rigs.disk_vfs`) whose k-th call fails as a disk does (EIO, ENOSPC after half of a write,
EMFILE, EACCES, a lock that somebody else holds, no memory for a mapping): once, or from then on until the disk is
mended. This is done for every k. And the disk is filled for real (`rigs.disk_full`): by a limit on the size of files,
on open files, on the pages of the database, and by a small file system.

What was refused must have been refused in clear words of a typed error. After the disk is mended the same store
object takes a turn on every thread, and on a new one; then it is closed, read by a new one, and judged
(`rigs.disk_judge`): nothing acknowledged may be gone, no run may be left open.

Rule of this file: a fault is in the disk, never in the library; the store is not opened again after it. The k-th call
is the same one whatever was done before in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct, field

from holdfast import HoldfastError
from rigs.contents import read_contents
from rigs.disk_full import LIMITS, Limit, NotPossible, set_limit
from rigs.disk_judge import Verdict, judge, remains, to_retry
from rigs.disk_lives import PLANS, THREADED, Scratch
from rigs.disk_plants import ERROR_PLANTS
from rigs.disk_pool import Pool
from rigs.disk_report import Tally, keep, parser, seed_of
from rigs.disk_turns import AnyLine, Began, Refused, Step, Talker, commit_in_writer, force_checkpoint, random_plan
from rigs.disk_vfs import ERRORS, KINDS, Call, disk, moment
from rigs.evidence import DIARY, STORE, Pen
from rigs.oracle import Violation

ONCE, FOR_EVER = "once", "ever"
_REFUSED_ENOUGH = 2  # steps that are refused before the disk is mended
_HANGS_ENOUGH = 8  # calls that hang, each for long: nobody waits for more of them
_OTHERS_LET_GO = 20  # so many tries later a lock that somebody else holds is free
_USUAL = ("new", "history", "resumed", "closed")  # the plans that are played if none is named
_STEPS = (4, 10)
_BATCH, _PATIENCE = 40, 60.0


class Fault(Struct, frozen=True):
    """Which call of which plan fails, with which error, and whether all that follow it fail too; or a random round."""

    plan: str
    number: int
    error: str = ""
    how: str = ""

    @property
    def name(self) -> str:
        return ":".join(part for part in (self.plan, str(self.number), self.error, self.how) if part)


class Result(Struct):
    """What came of it: the calls that failed, as "kind, error" and by their moments; or why it is not possible here."""

    verdict: Verdict
    fell: list[str] = field(default_factory=list)
    moments: list[str] = field(default_factory=list)
    impossible: str = ""


class FailingDisk:
    """Fails the call with a number; with `ever` also all calls after it that this error can befall, until mended."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []  # so far, each with its moment
        self.copied = 0  # pages that were written to the database
        self.fell: list[str] = []
        self.moments: list[str] = []
        self._number = 0
        self._error = 0
        self._ever = self._failing = False
        self._locked = 0

    def fail(self, number: int, error: int, *, ever: bool) -> None:
        """The call that comes as this one from now on, 1 being the next, is to fail."""
        self._number, self._error, self._ever = len(self.calls) + number, error, ever
        self._locked = _OTHERS_LET_GO

    def mend(self) -> None:
        self._number, self._failing = 0, False

    def before(self, call: Call) -> int:
        self.calls.append((call.kind, moment()))
        if len(self.calls) == self._number:
            self._failing = self._ever
        elif not self._failing or self._error not in ERRORS.get(call.kind, ()):
            return 0
        if call.kind == "lock":
            self._locked -= 1
        return self._fails(call) if call.kind != "lock" or self._locked > 0 else 0

    def _fails(self, call: Call) -> int:
        possible = ERRORS.get(call.kind, ())
        if not possible:
            return 0
        error = self._error if self._error in possible else possible[0]
        if len(self.fell) < 100:
            self.fell.append(f"{call.kind}, {errno.errorcode[error]}")
            self.moments.append(moment())
        if error == errno.ENOSPC and call.kind == "write":
            with contextlib.suppress(OSError):  # it may be open for reading only
                os.pwrite(call.fd, call.data[: len(call.data) // 2], call.at)
        return error

    def after(self, call: Call) -> None:
        self.copied += call.kind == "write" and call.file == "database"


class Trial:
    """One store, one talker, one failing disk."""

    def __init__(self, folder: Path, kind: type[Talker], lines: Sequence[AnyLine], *, threaded: bool) -> None:
        self.folder = folder
        self.lines = list(lines)
        self.disk = FailingDisk()
        self.limit: Limit | None = None
        self.clear_away: Callable[[], None] = lambda: None
        self.talker = kind(folder / STORE, self.lines.append, life=2)
        commit_in_writer(threaded)
        disk().watch(self.disk, str(folder / STORE), KINDS)

    async def take(self, plan: Sequence[Step]) -> None:
        """The plan; the disk is mended when enough was refused."""
        refused = 0
        for step in plan:
            before = len(self.lines)
            await self.talker.take(step)
            refused += any(isinstance(line, Refused) for line in self.lines[before:])
            if refused == _REFUSED_ENOUGH:
                self.mend()

    def mend(self) -> None:
        """From now on nothing fails."""
        self.disk.mend()
        if self.limit is not None:
            self.limit.lift()
            self.limit = None

    async def verdict(self, *, retried: bool) -> Verdict:
        """Mend the disk, go on with the same store, and judge."""
        self.mend()
        probes = await self.talker.probe(retries=to_retry(self.lines) if retried else ())
        before = len(self.lines)
        await self.talker.take(Step("say", "one more"))
        probes += [line.token for line in self.lines[before:] if isinstance(line, Began)]
        copied = self.disk.copied
        force_checkpoint(self.talker.store)
        copied = self.disk.copied - copied
        self.talker.close()
        disk().watch(None)
        contents = await read_contents(self.folder / STORE)
        verdict = judge(self.lines, contents, probes=probes, hushed=True)
        verdict.violations += remains(self.lines, contents, (self.folder / STORE).read_bytes())
        if not copied:
            verdict.violations.append(Violation("log grows", "a checkpoint after the disk was mended copied nothing"))
        return verdict


class Nuisances:
    """What goes wrong where nobody can catch it: in threads, in finalizers."""

    def __init__(self) -> None:
        self.found: list[Violation] = []
        threading.excepthook = lambda args: self._add("thread died", args.exc_value)
        sys.unraisablehook = lambda args: self._add("error nobody hears", args.exc_value)

    def _add(self, kind: str, error: Any) -> None:
        self.found.append(Violation(kind, f"{type(error).__name__}: {error}"))


# --- the campaign ----------------------------------------------------------------------------------------------------


class Campaign:
    """All faults of the plans, or random rounds."""

    def __init__(self, seed: str, plant: str, evidence: Path) -> None:
        self.seed = seed
        self.talker = ERROR_PLANTS[plant]
        self.evidence = evidence
        self.scratch = Scratch()

    def faults(self, plans: Sequence[str], within: str | None, *, in_every_way: bool) -> list[Fault]:
        """Every call of these plans, or those of one moment: with each of its errors, once and for ever, or with one.

        Before the usual plans, if they are played whole, all limits.
        """
        chance, found = random.Random(self.seed), limits() if plans == _USUAL and within is None else []
        for plan in plans:
            for number, (kind, stood) in enumerate(self._calls_of(plan), 1):
                if within not in (None, stood):
                    continue
                names = [errno.errorcode[error] for error in ERRORS.get(kind, ())]
                ways = [Fault(plan, number, name, how) for name in names for how in (ONCE, FOR_EVER)]
                found += ways if in_every_way or not ways else [chance.choice(ways)]
        return found

    def _calls_of(self, plan: str) -> list[tuple[str, str]]:
        """The calls of a plan, by a run in which none fails."""
        calls: list[tuple[str, str]] = []
        kind = list[tuple[str, str]]
        pool = Pool(self._calls, kind, done=lambda _, found: calls.extend(found), stuck=_no_plan, patience=_PATIENCE)
        pool.run([plan], jobs=1, batch=1)
        return calls

    def _calls(self, plan: str) -> list[tuple[str, str]]:
        folder = self.scratch.fresh(plan)
        trial = Trial(folder, Talker, self.scratch.lines(plan), threaded=plan in THREADED)
        asyncio.run(trial.take(PLANS[plan]))
        return trial.disk.calls

    def strike(self, fault: Fault) -> Result:
        """One fault, or one random round. A thread that seemed slow must seem so twice."""
        result = self._strike(fault)
        if {violation.kind for violation in result.verdict.violations} == {"slow thread"}:
            result = self._strike(fault)
        return result

    def _strike(self, fault: Fault) -> Result:
        logging.getLogger("holdfast").setLevel(logging.CRITICAL)  # it says what it does about failing disks
        nuisances = Nuisances()
        folder = self.scratch.fresh(fault.plan)
        threaded = fault.plan in THREADED or (fault.plan == "random" and fault.number % 2 == 0)
        trial = Trial(folder, self.talker, self.scratch.lines(fault.plan), threaded=threaded)
        impossible = ""
        try:
            verdict = asyncio.run(self._act(trial, fault))
        except NotPossible as why:
            verdict, impossible = Verdict(), str(why)
        except (HoldfastError, apsw.Error, OSError) as error:
            words = f"after the disk was mended: {type(error).__name__}: {error}"
            verdict = Verdict([Violation("store stays broken", words)])
        disk().watch(None)
        verdict.violations += nuisances.found
        if verdict.violations:
            pen = Pen(folder / DIARY)
            for line in trial.lines:
                pen.write(line)
            pen.close()
            keep(folder, self.evidence / fault.name.replace(":", "-"))
        trial.clear_away()
        shutil.rmtree(folder)
        return Result(verdict, trial.disk.fell, trial.disk.moments, impossible)

    async def _act(self, trial: Trial, fault: Fault) -> Verdict:
        if fault.error:
            trial.disk.fail(fault.number, getattr(errno, fault.error), ever=fault.how == FOR_EVER)
            await trial.take(PLANS[fault.plan])
        elif fault.plan in LIMITS:
            trial.limit = limit = set_limit(fault.plan, trial.folder, fault.number)
            trial.clear_away = limit.clear_away
            await trial.take(PLANS["new"])
        else:
            chance = random.Random(f"{self.seed}/{fault.number}")
            trial.talker.in_step = chance.random() < 0.5
            for _ in range(chance.randint(1, 4)):
                trial.disk.mend()
                there = [info.id for info in (await trial.talker.store.list(limit=1000)).threads]
                errors = sorted({error for possible in ERRORS.values() for error in possible})
                trial.disk.fail(chance.randint(1, 150), chance.choice(errors), ever=chance.random() < 0.5)
                await trial.take(random_plan(chance, chance.randint(*_STEPS), there, prefix=f"t{len(trial.lines)}-"))
        return await trial.verdict(retried=fault.number % 2 == 0)


def limits() -> list[Fault]:
    """All limits that can be run into."""
    return [Fault(name, value) for name, (_, values) in LIMITS.items() for value in values]


def _hangs(violation: Violation) -> bool:
    return violation.kind == "call hangs" or (violation.kind == "thread stuck" and "TimeoutError" in violation.what)


def _no_plan(plan: str, why: str) -> None:
    raise RuntimeError(f"the plan {plan!r} does not come to its end without a fault: {why}")


def run(campaign: Campaign, faults: Sequence[Fault], jobs: int, tally: Tally) -> None:
    """Every fault; what came of it goes into the tally."""

    def done(fault: Fault, result: Result) -> None:
        verdict = result.verdict
        if fault.plan in LIMITS:
            tally.count(f"limits on {fault.plan}" if not result.impossible else f"{fault.plan}: {result.impossible}")
            tally.count("  steps refused there", verdict.refused)
        tally.faults.update(result.fell[:1] if fault.error else result.fell)
        tally.moments.update(result.moments[:1] if fault.error else result.moments)
        tally.count("calls that failed", len(result.fell))
        tally.count("steps refused", verdict.refused)
        tally.count("turns acknowledged", verdict.told)
        tally.count("recorded though refused", verdict.unacknowledged)
        tally.count("interrupted", verdict.interrupted)
        tally.at_most("slowest next turn, s", verdict.next_turn)
        tally.found(verdict.violations, fault.name)
        tally.tick()
        if sum(_hangs(violation) for violation, _ in tally.violations) >= _HANGS_ENOUGH:
            pool.stop()

    def stuck(fault: Fault, why: str) -> None:
        tally.found([Violation("call hangs", why)], fault.name)
        tally.tick()

    pool = Pool(campaign.strike, Result, done=done, stuck=stuck, patience=_PATIENCE)
    pool.run(faults, jobs=jobs, batch=_BATCH)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    options = parser("disk_errors", __doc__, list(ERROR_PLANTS)[1:])
    options.add_argument("--rounds", type=int, default=0, help="random rounds, instead of every call of the plans")
    options.add_argument("--all", action="store_true", help="every call with each of its errors, once and for ever")
    options.add_argument("--limits", action="store_true", help="only the limits: no call is made to fail")
    options.add_argument("--plan", choices=sorted(PLANS), help="only this one of the plans")
    options.add_argument("--moment", help="only the calls in this moment of a turn, as they are told at the end")
    options.add_argument("--sample", type=int, help="so many of these, chosen at random, instead of every one")
    given = options.parse_args(argv)
    seed = seed_of(given)
    evidence = given.folder or Path(tempfile.gettempdir()) / f"holdfast-disk-errors-{os.getpid()}"
    campaign = Campaign(seed, given.plant, evidence)
    try:
        faults = _chosen(campaign, given, seed)
        if not faults:
            options.error(f"no call falls into the moment {given.moment!r}")
        tally = Tally("faults" if not given.rounds else "rounds", len(faults))
        run(campaign, faults, given.jobs, tally)
    finally:
        campaign.scratch.close()
    plant = f" --plant {given.plant}" if given.plant != "none" else ""
    return tally.conclude(
        seed, given, lambda where: f"python -m rigs.disk_errors --seed {seed} --only {where}{plant}", evidence
    )


def _chosen(campaign: Campaign, given: argparse.Namespace, seed: str) -> list[Fault]:
    if given.only:
        plan, number, *how = given.only.split(":")
        return [Fault(plan, int(number), *how)]
    if given.rounds:
        return [Fault("random", number) for number in range(given.rounds)]
    if given.limits:
        return limits()
    plans = (given.plan,) if given.plan else _USUAL
    every = campaign.faults(plans, given.moment, in_every_way=given.all or given.sample is not None)
    return every if given.sample is None else random.Random(seed).sample(every, min(given.sample, len(every)))


if __name__ == "__main__":
    sys.exit(main())
