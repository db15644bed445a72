"""Cut the power at random moments of turns; then look at what may be left on the disk.

    python -m rigs.power --images 200000 [--seed N] [--turn-every 10]

Turns run on a watched disk (`rigs.disk_vfs`), which records every write, sync, truncation and deletion, and between
them what was acknowledged (`rigs.power_recording`). From a recording disks are built as a power cut may leave them
(`rigs.power_images`). The library opens each of them and reads every thread, hashes and all; on every tenth it also
takes a turn on every thread, and the tables are looked at. What was acknowledged before the cut must be there, whole;
of what was not, any whole part may be there.

A recording is one to three lives of a file, all but the last ended by kill -9: what a dead process wrote and did not
sync is as uncertain as anything else. Plans are random; in some several tasks run at once, on a slow disk, so that
commits are grouped.

Rule of this file: recordings are made in processes of their own, with the watched disk; images are opened without it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import msgspec
from msgspec import Struct, field

from holdfast import AgentThread, HoldfastError, SQLiteStore
from holdfast.conversation.turns import Turn
from rigs.contents import read_contents
from rigs.disk_judge import Verdict, judge, to_retry
from rigs.disk_plants import POWER_PLANTS
from rigs.disk_pool import Pool
from rigs.disk_report import Tally, keep, parser, seed_of
from rigs.disk_turns import AnyLine, Began, Talker, Told
from rigs.evidence import STORE, Contents, ThreadSeen, TurnSeen
from rigs.oracle import Violation
from rigs.power_images import Event, Shadow
from rigs.power_recording import Recording, record

IMAGES = 500  # of one recording
_AT_AN_ACKNOWLEDGEMENT = 0.25  # the part of images that are cut right after one
_ENDS = {"database": "", "log": "-wal", "journal": "-journal", "index": "-shm", "owners": "-owners"}
_LAST_LIFE = 9  # of the talker that takes a turn on an image
_PATIENCE = 300.0
_SHARED_MEMORY = Path("/dev/shm")


class Cut(Struct, frozen=True):
    """One image: its number, the place in the recording at which the power is cut, and the mode, if it is fixed."""

    image: int
    place: int
    mode: str = ""


class Result(Struct):
    """What the images of a recording came to."""

    images: int = 0
    open_fates: int = 0  # images in which something was not synced
    turns_taken: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    moments: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0  # turns that had been acknowledged, over all images
    told: int = 0  # turns of the recording,
    syncs: dict[str, int] = field(default_factory=dict)  # its syncs, by file and moment,
    lives: int = 1
    lanes: int = 1
    violations: list[tuple[int, Violation]] = field(default_factory=list)
    slowest: float = 0.0


class Campaign:
    """Recordings, and the images of each."""

    def __init__(self, given: argparse.Namespace, seed: str, evidence: Path) -> None:
        self.seed, self.evidence = seed, evidence
        self.plant = POWER_PLANTS[given.plant]
        self.turn_every = given.turn_every
        self.recording: Path | None = given.recording
        self.images = IMAGES
        self.only: int | None = None
        self._scratch = Path(
            tempfile.mkdtemp(prefix="holdfast-", dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None)
        )

    def close(self) -> None:
        shutil.rmtree(self._scratch)

    def work(self, number: int) -> Result:
        """One recording and all its images."""
        folder = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=self._scratch))
        if self.plant.prepare is not None:
            self.plant.prepare()
        if self.recording is not None:
            recording = msgspec.msgpack.decode(self.recording.read_bytes(), type=Recording)
        else:
            recording = record(folder, f"{self.seed}/{number}", self.plant.talker, self.plant.recorder)
        result = _figures(recording)
        inspector = Inspector(folder / "image", result, self.turn_every)
        events = iter(recording.events)
        shadow = Shadow()
        for cut in self._cuts(number, recording.events):
            while shadow.events < cut.place:
                shadow.go_on(next(events))
            before = len(result.violations)
            inspector.inspect(cut, shadow, random.Random(f"{self.seed}/{number}/{cut.image}/disk"))
            if len(result.violations) > before:
                (folder / "image" / "recording").write_bytes(msgspec.msgpack.encode(recording))
                keep(folder / "image", self.evidence / f"{number}-{cut.image}")
        shutil.rmtree(folder)
        return result

    def _cuts(self, number: int, events: Sequence[Event]) -> list[Cut]:
        """Where the power is cut, in the order of the recording.

        First right after every acknowledgement, with nothing left that was not synced; the rest by chance.
        """
        told = [place for place, event in enumerate(events, 1) if isinstance(event.line, Told)]
        cuts = [Cut(image, place, "nothing") for image, place in enumerate(told)]
        for image in range(len(told), self.images):
            chance = random.Random(f"{self.seed}/{number}/{image}/cut")
            place = chance.choice(told) if chance.random() < _AT_AN_ACKNOWLEDGEMENT else chance.randint(1, len(events))
            cuts.append(Cut(image, place))
        if self.only is not None:
            cuts = [cuts[self.only]]
        return sorted(cuts, key=lambda cut: cut.place)


def _figures(recording: Recording) -> Result:
    syncs = Counter(f"{event.file}, {event.moment}" for event in recording.events if event.kind == "sync")
    told = sum(isinstance(event.line, Told) and bool(event.line.turn) for event in recording.events)
    return Result(told=told, syncs=dict(syncs), lives=recording.lives, lanes=recording.lanes)


class Inspector:
    """Builds images in a folder, has the library read them, and judges."""

    def __init__(self, folder: Path, result: Result, turn_every: int) -> None:
        folder.mkdir()
        self._path = folder / STORE
        self._result = result
        self._turn_every = turn_every

    def inspect(self, cut: Cut, shadow: Shadow, chance: random.Random) -> None:
        """One image."""
        result = self._result
        mode, files = shadow.image(chance, cut.mode)
        self._build(files)
        with_turn = bool(self._turn_every) and cut.image % self._turn_every == 0
        result.images += 1
        result.open_fates += shadow.unsynced > 0
        result.turns_taken += with_turn
        result.modes[mode] = result.modes.get(mode, 0) + 1
        where = _moment_of(shadow.lines)
        result.moments[where] = result.moments.get(where, 0) + 1
        try:
            verdict = asyncio.run(self._judged(shadow.lines, cut.image, with_turn))
        except (HoldfastError, apsw.Error) as error:
            verdict = Verdict([Violation("store cannot be read", f"{mode}: {type(error).__name__}: {error}")])
        result.acknowledged += verdict.told
        result.slowest = max(result.slowest, verdict.next_turn)
        result.violations += [(cut.image, violation) for violation in verdict.violations]

    def _build(self, files: dict[str, bytes]) -> None:
        for name, end in _ENDS.items():
            path = Path(f"{self._path}{end}")
            if name in files:
                path.write_bytes(files[name])
            else:
                path.unlink(missing_ok=True)

    async def _judged(self, lines: list[AnyLine], image: int, with_turn: bool) -> Verdict:
        store = SQLiteStore(self._path)
        try:
            verdict = judge(lines, await _told(store), power_cut=True, in_part=True)
        finally:
            store.close()
        if not with_turn or verdict.violations:
            return verdict
        after: list[AnyLine] = []
        talker = Talker(self._path, after.append, life=_LAST_LIFE)
        probes = await talker.probe(resumed=image % 3 == 0, retries=to_retry(lines) if image % 2 == 0 else ())
        talker.close()
        return judge([*lines, *after], await read_contents(self._path), probes=probes, power_cut=True)


def _moment_of(lines: Sequence[AnyLine]) -> str:
    """What was going on when the power was cut, by what was written down last."""
    last = lines[-1] if lines else None
    if last is None:
        return "make file"
    if isinstance(last, Began):
        return "open" if last.kind in ("say", "stream") else last.kind
    return {"Heard": "ask", "Answered": "seal"}.get(type(last).__name__, "idle")


async def _told(store: SQLiteStore) -> Contents:
    """What the library reads, with its own checks of hashes and order."""
    turns: dict[str, TurnSeen] = {}
    threads: list[ThreadSeen] = []
    for info in (await store.list(limit=1000)).threads:
        try:
            on_it = await AgentThread(store, info.id, intent="existing").turns()
        except HoldfastError as error:
            threads.append(ThreadSeen(info.id, None, flaw=f"{type(error).__name__}: {error}"))
            continue
        turns.update((turn.id, turn) for turn in _seen(info.id, on_it))
        ids = tuple(turn.id for turn in on_it)
        threads.append(ThreadSeen(info.id, ids[-1] if ids else None, ids))
    return Contents(tuple(turns.values()), tuple(threads))


def _seen(thread: str, turns: Sequence[Turn]) -> Iterator[TurnSeen]:
    before: str | None = None
    for order, turn in enumerate(turns):
        said = tuple((message.role, message.text) for message in turn.input)
        answered = tuple((message.role, message.text) for message in turn.output)
        yield TurnSeen(turn.id, order, thread, before, turn.status, said, answered)
        before = turn.id


# --- the command -----------------------------------------------------------------------------------------------------


class _Totals:
    """What all recordings came to."""

    def __init__(self, tally: Tally, campaign: Campaign) -> None:
        self.tally = tally
        self._campaign = campaign
        self._turns: Counter[int] = Counter()  # turns, and syncs of the log at their seals, by how many ran at a time
        self._seals: Counter[int] = Counter()

    def done(self, number: int, result: Result) -> None:
        tally = self.tally
        tally.faults.update(result.modes)
        tally.moments.update(result.moments)
        tally.count("recordings")
        tally.count("images with something unsynced", result.open_fates)
        tally.count("next turns taken on", result.turns_taken)
        tally.count("turns to be found", result.acknowledged)
        tally.at_most("slowest next turn, s", result.slowest)
        for name, syncs in result.syncs.items():
            tally.count(f"  syncs of {name}", syncs)
        if result.lives == 1:
            self._turns[result.lanes] += result.told
            self._seals[result.lanes] += result.syncs.get("log, seal", 0)
            for lanes, turns in self._turns.items():
                tally.figures[f"syncs a turn, {lanes} at a time"] = self._seals[lanes] / turns
        for image, violation in result.violations:
            tally.found([violation], f"{number}:{image}")
        tally.tick(result.images)

    def stuck(self, number: int, why: str) -> None:
        self.tally.found([Violation("stuck", why)], f"{number}:")
        self.tally.tick(self._campaign.images)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. 1 if there was a violation."""
    options = parser("power", __doc__, list(POWER_PLANTS)[1:])
    options.add_argument("--images", type=int, default=5000, help="5000 by default")
    options.add_argument("--turn-every", type=int, default=10, metavar="N", help="a next turn on every N-th image; 10")
    options.add_argument("--recording", type=Path, help="of kept evidence, instead of a new one; with --only")
    given = options.parse_args(argv)
    seed = seed_of(given)
    evidence = given.folder or Path(tempfile.gettempdir()) / f"holdfast-power-{os.getpid()}"
    campaign = Campaign(given, seed, evidence)
    numbers: Sequence[int] = range(-(-given.images // IMAGES))
    if given.only:
        number, _, image = given.only.partition(":")
        numbers = [int(number)]
        campaign.only = int(image) if image else None
    tally = Tally("images", 1 if campaign.only is not None else IMAGES * len(numbers))
    totals = _Totals(tally, campaign)
    try:
        pool = Pool(campaign.work, Result, done=totals.done, stuck=totals.stuck, patience=_PATIENCE)
        pool.run(numbers, jobs=given.jobs, batch=1)
    finally:
        campaign.close()
    plant = f" --plant {given.plant}" if given.plant != "none" else ""

    def again(where: str) -> str:
        kept = given.recording or evidence / where.replace(":", "-") / "recording"
        return f"python -m rigs.power --seed {seed} --only {where}{plant} --recording {kept}"

    return tally.conclude(seed, given, again, evidence)


if __name__ == "__main__":
    sys.exit(main())
