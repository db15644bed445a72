"""Lives: one file and the processes that use it, one after another; all but the last are killed.

A killed process is killed by itself, at a call of the disk that it has counted up to (`Killer`). The last one takes a
turn on every thread, reads everything, and judges.

Rule of this file: what forks here uses no store, no thread and no event loop; what it forks is fresh.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import msgspec
from msgspec import Struct

from holdfast import HoldfastError
from rigs.contents import read_contents
from rigs.disk_judge import Verdict, judge, remains, to_retry
from rigs.disk_plants import Plant
from rigs.disk_pool import in_child
from rigs.disk_turns import (
    BEFORE,
    CLOSED,
    HISTORY,
    NEW,
    RESUMED,
    AnyLine,
    Refused,
    Step,
    Struck,
    Talker,
    commit_in_writer,
)
from rigs.disk_vfs import Call, disk, moment
from rigs.evidence import DIARY, STORE, Pen, read_lines
from rigs.oracle import Violation

PLANS = {"new": NEW, "history": HISTORY, "resumed": RESUMED, "closed": CLOSED}
THREADED = ("history",)  # the plans whose stores commit in the writer's thread, as on a slow disk
_SHARED_MEMORY = Path("/dev/shm")
_VERDICT = "verdict.json"


class Result(Struct):
    """What came of it: the verdict, and where processes were killed."""

    verdict: Verdict
    struck: list[Struck]


class Killer:
    """Kills its own process at a call. With a moment, only calls in that moment count."""

    def __init__(self, pen: Pen, number: int, stage: str, moment: str | None = None) -> None:
        self._pen, self._number, self._stage, self._moment = pen, number, stage, moment
        self.moments: list[str] = []  # of the calls that counted
        self._call: Call | None = None

    def before(self, call: Call) -> int:
        if self._moment is not None and self._moment != moment():
            return 0
        self.moments.append(moment())
        if len(self.moments) == self._number:
            if self._stage == "half" and call.kind == "write":
                os.pwrite(call.fd, call.data[: len(call.data) // 2], call.at)
            if self._stage != "after":
                self._strike(call)
            self._call = call
        return 0

    def after(self, call: Call) -> None:
        if call is self._call:
            self._strike(call)

    def _strike(self, call: Call) -> None:
        self._pen.write(Struck("", time.monotonic(), call.kind, call.file, moment(), self._stage))
        os.kill(os.getpid(), signal.SIGKILL)


class Lives:
    """One file and the processes that use it, one after another; all but the last are killed."""

    def __init__(self, folder: Path, plant: Plant, *, threaded: bool = False) -> None:
        """`threaded`: the killed ones commit in the writer's thread."""
        self.folder = folder
        self.plant = plant
        self._threaded = threaded
        self._life = len(list(folder.glob("life-*")))
        self._struck = sum(isinstance(line, Struck) for line in lines_of(folder / DIARY))

    def live(self, what: Callable[[Talker, Pen], None]) -> int:
        """A process that uses the file; how it ended."""
        self._life += 1
        (self.folder / f"life-{self._life}").touch()

        def life() -> None:
            if self.plant.prepare is not None:
                self.plant.prepare()
            pen = Pen(self.folder / DIARY)
            talker = self.plant.talker(self.folder / STORE, pen.write, life=self._life)
            what(talker, pen)

        return in_child(life)

    def die(self, plan: Sequence[Step] | Callable[[list[str]], Sequence[Step]], number: int, stage: str) -> int:
        """A process takes the steps of a plan and is killed at a call."""

        def life(talker: Talker, pen: Pen) -> None:
            commit_in_writer(self._threaded)
            disk().watch(Killer(pen, number, stage), str(self.folder / STORE))
            asyncio.run(act(talker, plan))

        return self.live(life)

    def end(self, *, resumed: bool = False, retried: bool = False) -> Result:
        """A last process takes a turn on every thread, reads everything, and judges.

        Before that it goes on with what was left open, or says once more what nobody was told of, if so asked.
        """
        diary = self.folder / DIARY

        def life(talker: Talker, pen: Pen) -> None:
            before = lines_of(diary)
            try:
                retries = to_retry(before) if retried else ()
                probes = asyncio.run(talker.probe(resumed=resumed, retries=retries))
                talker.close()
                contents = asyncio.run(read_contents(self.folder / STORE))
            except (HoldfastError, apsw.Error) as error:
                verdict = Verdict([Violation("store cannot be read", f"{type(error).__name__}: {error}")])
            else:
                lines = lines_of(diary)
                verdict = judge(lines, contents, probes=probes)
                verdict.violations += remains(lines, contents, (self.folder / STORE).read_bytes())
            (self.folder / _VERDICT).write_bytes(msgspec.json.encode(verdict))

        code = self.live(life)
        struck = [line for line in lines_of(diary) if isinstance(line, Struck)][self._struck :]
        if code != 0:
            words = f"the process that was to read the store ended with code {code}"
            return Result(Verdict([Violation("no verdict", words)]), struck)
        return Result(msgspec.json.decode((self.folder / _VERDICT).read_bytes(), type=Verdict), struck)


async def act(talker: Talker, plan: Sequence[Step] | Callable[[list[str]], Sequence[Step]]) -> None:
    """Take the steps of a plan, which may be made of the threads that there are; then close the store."""
    if callable(plan):
        plan = plan([info.id for info in (await talker.store.list(limit=1000)).threads])
    await talker.do(plan)
    talker.close()


def lines_of(diary: Path) -> list[AnyLine]:
    """What was written down."""
    return list(read_lines(diary, AnyLine))  # type: ignore[arg-type]


class Scratch:
    """A place for the files of a campaign, in memory if there is such a place: with what each plan begins with."""

    def __init__(self) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="holdfast-", dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None)
        )
        try:
            self._bases = {plan: self._base(plan) for plan in PLANS}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def fresh(self, plan: str) -> Path:
        """A new folder, with the files that the plan begins with."""
        folder = Path(tempfile.mkdtemp(prefix=f"{plan}-", dir=self.folder))
        if plan in self._bases:
            shutil.copytree(self._bases[plan], folder, dirs_exist_ok=True)
        return folder

    def lines(self, plan: str) -> list[AnyLine]:
        """What was written down while the files were made that a plan begins with."""
        return lines_of(self._bases[plan] / DIARY) if plan in self._bases else []

    def _base(self, plan: str) -> Path:
        folder = self.folder / f"base-{plan}"
        folder.mkdir()

        def life(talker: Talker, pen: Pen) -> None:
            disk()  # from the first connection on
            asyncio.run(talker.do(BEFORE))
            disk().watch(Killer(pen, 1, "before", "seal"), str(folder / STORE))
            asyncio.run(talker.take(Step("say", "c")))

        if plan != "new":
            ended = Lives(folder, Plant()).live(life)
            refused = [line for line in lines_of(folder / DIARY) if isinstance(line, Refused)]
            if ended != -signal.SIGKILL or refused:
                raise RuntimeError(f"the file with a history could not be made: ended with {ended}, {refused[:1]}")
        return folder
