"""Appenders: processes that append to common threads as fast as they can, and one that reads all the time.

Most turns go through the store's port, as an engine's would: open, wait in line, take over from the dead, seal. The
others are whole runs of an agent; since an agent tells its model the whole conversation, they are made as long as
the threads are short.

Rule of this file: a line is written down before a thing is begun and after it is done, with the time of that moment;
in between nothing is known of it.
"""

from __future__ import annotations

import asyncio
import mmap
import random
import struct
import time
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from holdfast import ChatAgent, ChatMessage, SQLiteStore
from holdfast.conversation.records import decode_turn, encode_messages, encode_turn
from holdfast.conversation.turns import TurnStatus
from holdfast.ports.runtime import SYSTEM
from holdfast.ports.stores import Busy, NewTurn, OpenRun, Segment, StoredTurn, ThreadStore
from holdfast.testing.scripted import ScriptedChatClient
from rigs.evidence import STORE, Pen
from rigs.linear import Done, Invoked, Read, Refused, digest_after
from rigs.marks import IDLE, OPEN, Board
from rigs.talk import token_in
from rigs.workers import MarkedStore
from rigs.workers import _slot as current_slot

LINES = "lines.jsonl"

AGENTS_UPTO = 300  # turns on a thread, after which agents no longer speak on it
AGENTS_PART = 0.25  # of the appends until then
_OVERLAP = 20  # turns that a read begins before the end of the one before it
_WHOLE_EVERY = 1.0  # seconds between two reads of a whole thread
_REST = 0.002  # seconds between two reads

_COUNT = struct.Struct("<Q")


class Counters:
    """How much was acknowledged in each seat, in memory that outlives its processes. Made before the forks."""

    def __init__(self, seats: int) -> None:
        self._seats = seats
        self._memory = mmap.mmap(-1, _COUNT.size * seats)

    def add(self, seat: int) -> None:
        _COUNT.pack_into(self._memory, _COUNT.size * seat, self._of(seat) + 1)

    @property
    def total(self) -> int:
        return sum(map(self._of, range(self._seats)))

    def _of(self, seat: int) -> int:
        return int(_COUNT.unpack_from(self._memory, _COUNT.size * seat)[0])


class Job(Struct, frozen=True):
    """What a process is to do. A `last` one takes a turn on every thread and ends.

    The board shows where each of its appends stands, and when it is enough.
    """

    folder: Path
    round_: int
    worker: int
    seat: int
    seed: str
    lanes: int
    threads: tuple[str, ...]
    board: Board
    counters: Counters
    last: bool = False


class Appender:
    """Appends until it is enough. Planted faults are subclasses (`rigs.append_plants`)."""

    store_class: type[SQLiteStore] = MarkedStore

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pen = Pen(job.folder / LINES)
        self.store: ThreadStore = self.store_class(job.folder / STORE)
        self.client = ScriptedChatClient()
        self.agent: ChatAgent = self.client.create_agent(name="Rig", thread_store=self.store)
        self.slots = [job.board.slot(job.seat, lane) for lane in range(job.lanes)]
        self._lengths: dict[str, int] = {}
        self._numbers = 0

    async def work(self) -> None:
        if self.job.last:
            for thread in self.job.threads:
                await self._append(0, thread, agent=False)
        else:
            await asyncio.gather(*[self._lane(lane) for lane in range(self.job.lanes)])
        self.store.close()

    async def _lane(self, lane: int) -> None:
        chance = random.Random(f"{self.job.seed}/{lane}")
        while not self.job.board.over:
            thread = chance.choice(self.job.threads)
            by_agent = self._lengths.get(thread, 0) < AGENTS_UPTO and chance.random() < AGENTS_PART
            await self._append(lane, thread, agent=by_agent)
            if chance.random() < 0.1:
                await asyncio.sleep(chance.uniform(0, 0.002))

    async def _append(self, lane: int, thread: str, *, agent: bool) -> None:
        job, slot = self.job, self.slots[lane]
        self._numbers += 1
        token = f"r{job.round_}.w{job.worker}.n{self._numbers}"
        current_slot.set(slot)
        slot.begin(OPEN, token, thread)
        self.pen.write(Invoked(job.worker, time.monotonic(), thread, token))
        try:
            turn, seq = await (self.by_agent(thread, token) if agent else self.by_port(thread, token))
        except Exception as error:
            self.refuse(token, error)
            return
        self.pen.write(Done(job.worker, time.monotonic(), thread, token, turn, seq, agent))
        slot.mark(IDLE)
        self._lengths[thread] = max(self._lengths.get(thread, 0), seq)
        job.counters.add(job.seat)

    def refuse(self, what: str, error: BaseException) -> None:
        """Write down what should have worked."""
        self.pen.write(Refused(self.job.worker, time.monotonic(), what, f"{type(error).__name__}: {error}"))

    # --- two ways to append ----------------------------------------------------------------------------------------

    async def by_agent(self, thread: str, token: str) -> tuple[str, int]:
        """A whole run; the turn's id. Its place is not told."""
        response = await self.agent.run(token, thread=self.agent.get_thread(thread, create=True))
        self.client.requests.clear()
        return response.turn_id, 0

    async def by_port(self, thread: str, token: str) -> tuple[str, int]:
        """What an engine asks of a store for one turn; the turn's id and its place."""
        said = encode_messages((ChatMessage("user", text=token),))
        run = await self._opened(thread, SYSTEM.new_id("turn"), said)
        turn = self._turn(run, "completed", encode_turn(said, [ChatMessage("assistant", text=f"Noted: {token}")]))
        head = await self.store.seal(run, (turn,))
        return run.turn_id, head.seq

    async def _opened(self, thread: str, turn_id: str, said: bytes) -> OpenRun:
        while True:
            found = await self.store.open_run(thread, turn_id, said, self.now_us(), in_line=True)
            if isinstance(found, OpenRun):
                return found
            assert isinstance(found, Busy)
            if found.run is None or found.alive:
                await self.store.wait(thread, turn_id, seconds=1.0)
            elif (left := await self.store.take_over(found.run)) is not None:
                await self.store.seal(left, (self._turn(left, "interrupted", encode_turn(left.input)),))

    def _turn(self, run: OpenRun, status: TurnStatus, record: bytes) -> NewTurn:
        return NewTurn(run.turn_id, status, record, run.started_us, self.now_us())

    def now_us(self) -> int:
        """What this process's clock says."""
        return SYSTEM.now_us()


def _token_of(stored: StoredTurn) -> str:
    place: dict[str, Any] = {"turn_id": stored.turn_id, "seq": stored.seq, "status": stored.status}
    turn = decode_turn(stored.record, started_us=stored.started_us, ended_us=stored.ended_us, **place)
    return token_in(turn.input[0].text)


class Process(Protocol):
    """What a process of the campaign is made from."""

    def __init__(self, job: Job) -> None: ...

    async def work(self) -> None: ...

    def refuse(self, what: str, error: BaseException) -> None: ...


class Reader:
    """Reads all threads all the time: as a rule what is new, and a little before it; now and then all of them."""

    store_class: type[SQLiteStore] = SQLiteStore

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pen = Pen(job.folder / LINES)
        self.store: ThreadStore = self.store_class(job.folder / STORE)
        self._digests: dict[str, list[str]] = {thread: [""] for thread in job.threads}

    async def work(self) -> None:
        next_whole = time.monotonic()
        while not self.job.board.over:
            whole = time.monotonic() >= next_whole
            for thread in self.job.threads:
                await self._read(thread, whole=whole)
                await asyncio.sleep(_REST)
            if whole:
                next_whole = time.monotonic() + _WHOLE_EVERY
        self.store.close()

    async def _read(self, thread: str, *, whole: bool) -> None:
        began = time.monotonic()
        known = self._digests[thread]
        digests = known[: 1 if whole else max(1, len(known) - _OVERLAP)]
        info = await self.store.get(thread)
        seqs: list[int] = []
        for segment in await self.store.lineage(info.head) if info is not None else ():
            wanted = Segment(segment.branch, max(segment.after, len(digests) - 1), segment.upto)
            for turn in await self.store.read(wanted) if wanted.upto > wanted.after else ():
                seqs.append(turn.seq)
                digests.append(digest_after(digests[-1], _token_of(turn)))
        ended = time.monotonic()
        if seqs != list(range(len(digests) - len(seqs), len(digests))):
            self.refuse(f"reading {thread}", ValueError(f"its turns are numbered {seqs[:3]}... to {seqs[-3:]}"))
        self._digests[thread] = digests
        turns = info.head.seq if info is not None else 0
        self.pen.write(Read(self.job.worker, ended, began, thread, turns, digests[-1], whole))

    def refuse(self, what: str, error: BaseException) -> None:
        """Write down what should have worked."""
        self.pen.write(Refused(self.job.worker, time.monotonic(), what, f"{type(error).__name__}: {error}"))


def run_process(kind: type[Process], job: Job) -> None:
    """The life of a process; its end with an error is written down."""
    process = kind(job)
    try:
        asyncio.run(process.work())
    except BaseException as error:
        process.refuse(f"worker {job.worker} itself", error)
