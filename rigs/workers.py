"""Workers: the processes that are killed. Each runs turns on several threads, as a program of a user's would.

A worker is a fork of the campaign, which has imported everything and used nothing: the store, the client and the
event loop are first used here. Several talkers speak at once, on the same threads or on different ones, with streams
and without, fork and rewind now and then, and write down what they are told.

Rule of this file: the library is not changed. `MarkedStore` is a subclass of the store that says in shared memory
when a turn passes it (`rigs.marks`), then does what the store does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import random
import signal
import time
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from msgspec import Struct

from holdfast import AgentThread, ChatAgent, HoldfastError, OpenAIChatClient, SQLiteStore
from holdfast.conversation.errors import ThreadBusyError, TurnNotFoundError
from holdfast.ports.stores import Busy, Earlier, Handed, Head, NewTurn, OpenRun
from rigs.evidence import DIARY, STORE, Acked, Asks, Failed, Moved, Moves, Pen
from rigs.marks import ASK, IDLE, MOVE, OPEN, SEAL, SEALED, TAKEOVER, Board, Slot
from rigs.service import KEY
from rigs.talk import MODEL, text_of, token_of

MAX_THREADS = 6
_DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG

# Of the talker whose task runs. In the store's own threads there is none: what is sealed there is another's left-over.
_slot: ContextVar[Slot | None] = ContextVar("slot", default=None)


class MarkedStore(SQLiteStore):
    """The store; it marks where the talker's own run passes it. What is done about other runs' left-overs is not."""

    def open_run(self, thread_id: str, turn_id: str, *args: Any, **kwargs: Any) -> Handed[OpenRun | Busy | Earlier]:
        slot = _slot.get()
        if slot is None or not slot.in_turn:
            return super().open_run(thread_id, turn_id, *args, **kwargs)
        slot.turn_id = turn_id

        def opened(result: OpenRun | Busy | Earlier) -> None:
            if isinstance(result, OpenRun):
                slot.mark(ASK)

        handed = super().open_run(thread_id, turn_id, *args, **kwargs)
        handed.then(opened)
        return handed

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        slot = _slot.get()
        if slot is not None and slot.in_turn:
            slot.mark(TAKEOVER)
        return super().take_over(holder)

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        slot = _slot.get()
        if slot is None or run.turn_id != slot.turn_id:
            return super().seal(run, turns, **options)
        slot.mark(SEAL)
        handed = super().seal(run, turns, **options)
        handed.then(lambda _: slot.mark(SEALED))
        return handed


class Errand(Struct, frozen=True):
    """What a worker is to do: go on with the threads that were touched by a death, then talk until it is killed.

    A `probe` only takes a turn or two on every thread there is, and ends.
    """

    folder: Path
    address: str
    round_: int
    worker: int
    seat: int
    talkers: int
    seed: str
    touched: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()
    probe: bool = False


class Worker:
    """One process's part. Planted faults are subclasses (`rigs.plants`)."""

    store_class: type[SQLiteStore] = MarkedStore

    def __init__(self, errand: Errand, board: Board) -> None:
        self.errand = errand
        self.board = board
        self.chance = random.Random(errand.seed)
        self.pen = Pen(errand.folder / DIARY)
        self.store = self.store_class(errand.folder / STORE)
        client = OpenAIChatClient(MODEL, base_url=errand.address, api_key=KEY)
        self.agent: ChatAgent = client.create_agent(name="Rig", thread_store=self.store)
        self.slots = [board.slot(errand.seat, talker) for talker in range(errand.talkers)]
        self._numbers = 0
        self._moves = 0

    async def work(self) -> None:
        """All talkers, until the round is over."""
        if self.errand.probe:
            await self._probe()
        else:
            await asyncio.gather(*[self._talk(talker) for talker in range(self.errand.talkers)])
        self.store.close()

    async def _talk(self, talker: int) -> None:
        _slot.set(self.slots[talker])
        for thread in self.errand.touched[talker :: self.errand.talkers]:
            await self.say(talker, thread, streamed=self.chance.random() < 0.5)
        threads = list(self.errand.threads)
        while not self.board.over:
            what = self.chance.random()
            thread = self.chance.choice(threads)
            if what < 0.06:
                await self._move(talker, thread, None)
            elif what < 0.10:
                await self._fork(talker, thread)
                listed = {info.id for info in (await self.store.list(limit=MAX_THREADS)).threads}
                threads = sorted(listed.union(self.errand.threads))
            else:
                await self.say(talker, thread, streamed=self.chance.random() < 0.5)
            await asyncio.sleep(self.chance.choice((0, self.chance.uniform(0, 0.006))))

    async def _probe(self) -> None:
        _slot.set(self.slots[0])
        for info in (await self.store.list(limit=1000)).threads:
            for streamed in (True, False):
                await self.say(0, info.id, streamed=streamed)

    # --- what a talker does ----------------------------------------------------------------------------------------

    async def say(self, talker: int, thread_id: str, *, streamed: bool) -> None:
        """One turn; the acknowledgement is written down after `run` has returned."""
        errand, slot, chance = self.errand, self.slots[talker], self.chance
        self._numbers += 1
        size = chance.randrange(2_000, 12_000) if chance.random() < 0.1 else 0
        token = token_of(round_=errand.round_, worker=errand.worker, talker=talker, number=self._numbers, size=size)
        slot.begin(OPEN, token, thread_id)
        self.pen.write(Asks(errand.worker, time.monotonic(), talker, thread_id, token, streamed))
        try:
            turn, answer = await self.run(token, thread_id, streamed=streamed)
        except Exception as error:
            self.fail(token, error)
        else:
            self.pen.write(Acked(errand.worker, time.monotonic(), thread_id, token, turn, answer))
        slot.mark(IDLE)

    async def run(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        """The turn itself: its id and the answer."""
        thread = self.agent.get_thread(thread_id, create=True)
        if not streamed:
            response = await self.agent.run(text_of(token), thread=thread)
            return response.turn_id, response.text
        async with self.agent.run_stream(text_of(token), thread=thread) as stream:
            async for _ in stream:
                pass
            response = await stream.response()
        return response.turn_id, response.text

    async def _fork(self, talker: int, thread_id: str) -> None:
        if len((await self.store.list(limit=MAX_THREADS)).threads) < MAX_THREADS:
            await self._move(talker, thread_id, f"fork-{self.errand.round_}-{self.errand.worker}-{self._moves + 1}")

    async def _move(self, talker: int, thread_id: str, new: str | None) -> None:
        """Fork a thread at one of its turns, or rewind it to there."""
        thread = AgentThread(self.store, thread_id, intent="either")
        turns = await thread.turns(last=4)
        if not turns:
            return
        self._moves += 1
        move, target, worker = self._moves, self.chance.choice(turns).id, self.errand.worker
        self.slots[talker].begin(MOVE, "", thread_id)
        self.pen.write(Moves(worker, time.monotonic(), move, thread_id, target, new))
        refused: str | None = None
        try:
            if new is None:
                await thread.rewind(to=target)
            else:
                await thread.fork(at=target, thread_id=new)
        except (ThreadBusyError, TurnNotFoundError) as error:
            refused = error.code  # somebody else runs on it, or has rewound it meanwhile
        except HoldfastError as error:
            self.fail(f"{'fork' if new else 'rewind'} of {thread_id}", error)
            refused = error.code
        self.pen.write(Moved(worker, time.monotonic(), move, refused))
        self.slots[talker].mark(IDLE)

    def fail(self, what: str, error: BaseException) -> None:
        """Write down what should have worked."""
        self.pen.write(Failed(self.errand.worker, time.monotonic(), what, f"{type(error).__name__}: {error}"))


def begin(errand: Errand, board: Board, kind: type[Worker]) -> int:
    """Fork a worker; its process id. The caller must have used no store, no event loop and no thread."""
    board.clear(errand.seat)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Who hangs is asked where, before it is killed.
        faulthandler.register(signal.SIGUSR1, open(errand.folder / f"stack-{errand.worker}.txt", "w"))  # noqa: SIM115
        worker = kind(errand, board)
        try:
            asyncio.run(worker.work())
            code = 0
        except BaseException as error:
            worker.fail("the worker itself", error)
    finally:
        os._exit(code)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the campaign is gone, so that nothing is left running."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)
