"""Recordings for power cuts: what the lives of one file wrote, in order, and what was acknowledged between it.

Rule of this file: an event is recorded when it has happened, so that one that a kill prevented is in no recording. A
sync is recorded with the place at which it began. Only one thread of a process that is to be killed writes at a time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from holdfast.stores import sqlite_db
from rigs.disk_pool import in_child
from rigs.disk_turns import AnyLine, Talker, commit_in_writer, random_plan
from rigs.disk_vfs import Call, disk, moment
from rigs.evidence import STORE
from rigs.power_images import Event

# The files whose bytes count. The log's index does not outlive the machine, the owners' file is empty.
FILES = ("database", "log", "journal")
_KINDS = ("open", "write", "sync", "sync folder", "truncate", "delete")
_LIVES, _STEPS, _LANES = (1, 1, 2, 3), (5, 15), (1, 1, 3)
_SLOW_SYNC = 0.002  # seconds: more than a store commits in on the caller's thread
_EVENTS = msgspec.msgpack.Decoder(list[Event])


class Life(Struct, frozen=True):
    """How one process uses the file."""

    number: int
    seed: str
    steps: int
    lanes: int = 1
    deadline: int = 0
    slow: bool = False
    checkpoints: bool = False  # they fall in by themselves, in the writer's thread, beside the turns


class Recorder:
    """Writes down what happens to the disk, from event `first` on; kills its own process at the life's deadline."""

    def __init__(self, path: Path, first: int, life: Life) -> None:
        self.events: list[Event] = []
        self._path, self._first = path, first
        self._deadline, self._calls = life.deadline, 0
        self._slow = life.slow
        self._lock = threading.Lock()
        self._made: set[str] = set()
        self._began: dict[int, int] = {}  # by thread: at which event its sync began

    def note(self, line: AnyLine) -> None:
        """A line of the diary."""
        self._add(Event("line", line=line))

    def dump(self) -> None:
        self._path.write_bytes(msgspec.msgpack.encode(self.events))

    # --- the watcher -------------------------------------------------------------------------------------------------

    def before(self, call: Call) -> int:
        self._calls += 1
        if self._calls == self._deadline:
            self.dump()
            os.kill(os.getpid(), signal.SIGKILL)
        if call.kind == "open" and call.file in FILES and not os.path.exists(call.path):
            self._made.add(call.path)
        elif call.kind == "sync":
            self._began[threading.get_ident()] = self.place(call)
            if self._slow:
                time.sleep(_SLOW_SYNC)
        return 0

    def after(self, call: Call) -> None:
        if call.kind == "sync folder":
            self.synced(Event("folder", at=self._first + len(self.events)))
        elif call.file not in FILES:
            return
        elif call.kind == "open":
            if call.path in self._made:
                self._made.discard(call.path)
                self._add(Event("create", call.file))
        elif call.kind == "sync":
            self.synced(Event("sync", call.file, self._began.pop(threading.get_ident()), moment=moment()))
        else:
            self._add(Event(call.kind, call.file, call.at, call.data))

    # --- what planted faults change ----------------------------------------------------------------------------------

    def place(self, call: Call) -> int:
        """What a sync that begins now is to cover: everything before this event."""
        return self._first + len(self.events)

    def synced(self, event: Event) -> None:
        """A sync of a file, or of the folder, has ended."""
        self._add(event)

    def _add(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)


class Recording(Struct, frozen=True):
    """What was recorded, by how many lives of the file, and how many turns ran at a time."""

    events: list[Event]
    lives: int
    lanes: int


def record(folder: Path, seed: str, talker: type[Talker], recorder: type[Recorder]) -> Recording:
    """Let a file live, and return what was written to it. Everything follows from the seed, but for threads' timing."""
    chance = random.Random(seed)
    lives, lanes = chance.choice(_LIVES), chance.choice(_LANES)
    events: list[Event] = []
    for number in range(1, lives + 1):
        dies = number < lives
        steps = chance.randint(*_STEPS)
        life = Life(
            number,
            f"{seed}/{number}",
            steps,
            lanes if lives == 1 else 1,
            deadline=chance.randint(30, 30 + 30 * steps) if dies else 0,
            slow=lives == 1 and chance.random() < 0.5,
            checkpoints=lives == 1 and chance.random() < 0.5,
        )
        dump = folder / f"events-{number}"
        code = in_child(partial(_live, folder, life, talker, recorder(dump, len(events), life)))
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"life {number} of the recording ended with code {code}")
        events += _EVENTS.decode(dump.read_bytes())
    return Recording(events, lives, lanes if lives == 1 else 1)


def _live(folder: Path, life: Life, kind: type[Talker], recorder: Recorder) -> None:
    if life.checkpoints:
        sqlite_db.COMMITS_PER_LOOK, sqlite_db.CHECKPOINT_BYTES = 3, 60_000
    commit_in_writer(life.slow)
    disk().watch(recorder, str(folder / STORE), _KINDS)
    talker = kind(folder / STORE, recorder.note, life=life.number)
    talker.in_step = life.deadline > 0
    asyncio.run(_talk(talker, life))
    talker.close()
    recorder.dump()


async def _talk(talker: Talker, life: Life) -> None:
    chance = random.Random(life.seed)
    there = [info.id for info in (await talker.store.list(limit=1000)).threads]
    without: Sequence[str] = ("checkpoint", "reopen") if life.lanes > 1 else ()
    plans = [
        random_plan(chance, life.steps, there[lane :: life.lanes], prefix=f"t{life.number}-{lane}-", without=without)
        for lane in range(life.lanes)
    ]
    await asyncio.gather(*[talker.do(plan) for plan in plans])
