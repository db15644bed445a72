"""Turns on a watched disk: plans of what is done, the talker that does it, and what it writes down.

A plan is a list of steps on a few threads: turns (streamed and not), a fork, a rewind, a delete, a checkpoint that is
forced to fall in, a store that is closed and opened again. Every step has a token, unique in its campaign, and is
written down twice: before it begins and when its outcome is known (`rigs.disk_judge` reads that).

Rule of this file: the library is used as its users use it. `MomentStore` is a subclass that says which of its methods
was called last; the checkpoint alone is asked for behind its back, for nobody else can ask for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from holdfast import AgentThread, SQLiteStore
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine import runs
from holdfast.ports.clients import ChatRequest
from holdfast.ports.runtime import Runtime
from holdfast.stores import sqlite_db
from holdfast.testing.runtime import SeededRuntime
from holdfast.testing.scripted import ScriptedChatClient
from rigs.disk_vfs import Moment
from rigs.talk import answer_to, pieces_of, text_of, token_in, token_of

# How long a write waits for somebody else's lock; a call that takes much longer hangs.
BUSY_SECONDS, HANGS_SECONDS = 0.05, 5.0
_HANGS_AGAIN = 1.0  # and the calls after one that did: nobody waits for more than one of them for long


# --- what is written down --------------------------------------------------------------------------------------------


class Line(Struct, frozen=True, tag_field="is"):
    """Of one step: its token, and the machine's monotonic time."""

    token: str
    at: float


class Began(Line, frozen=True, tag="began"):
    """A step is about to be taken.

    `stand` is the token of the turn that a fork or rewind goes to ("": to none), or that is said once more.
    """

    kind: str
    thread: str
    stand: str = ""
    new: str = ""


class Heard(Line, frozen=True, tag="heard"):
    """The service was asked: the turn is open."""


class Kept(Line, frozen=True, tag="kept"):
    """So many characters of the answer were read, and the run has written them down."""

    characters: int


class Answered(Line, frozen=True, tag="answered"):
    """The service has said all: the turn can be sealed from now on."""


class Told(Line, frozen=True, tag="told"):
    """The step is acknowledged; a turn with its id and answer."""

    turn: str = ""
    answer: str = ""


class Refused(Line, frozen=True, tag="refused"):
    """The step ended in an error: its type, whether that is one of holdfast's own kinds, and its words."""

    error: str
    kinds: tuple[str, ...]
    words: str


class Struck(Line, frozen=True, tag="struck"):
    """The process was killed here, or the call failed: which call it was."""

    kind: str
    file: str
    moment: str
    stage: str


AnyLine: TypeAlias = Began | Heard | Kept | Answered | Told | Refused | Struck
Note: TypeAlias = Callable[[AnyLine], None]


# --- plans -----------------------------------------------------------------------------------------------------------


class Step(Struct, frozen=True):
    """Something to do: say, stream, fork, rewind, delete, checkpoint, reopen; retry, resume.

    `token` is what a retry says once more; every turn is said with its token as idempotency key.
    """

    kind: str
    thread: str = ""
    new: str = ""
    back: int = 1
    size: int = 0
    token: str = ""


# A new file: three turns, and all that can be done beside them.
NEW: tuple[Step, ...] = (
    Step("say", "a"),
    Step("fork", "a", new="b"),
    Step("stream", "b", size=5000),
    Step("checkpoint"),
    Step("rewind", "b"),
    Step("stream", "a"),
    Step("delete", "b"),
)

# A file with a history, left by a process that was killed in the middle of a turn.
BEFORE: tuple[Step, ...] = (
    Step("say", "a"),
    Step("stream", "a", size=3000),
    Step("say", "c", size=6000),
    Step("checkpoint"),
    Step("say", "a"),
    Step("fork", "a", new="b"),
    Step("say", "b"),
    Step("stream", "c"),
)
HISTORY: tuple[Step, ...] = (
    Step("stream", "a"),
    Step("rewind", "a", back=2),
    Step("say", "a", size=2000),
    Step("delete", "c"),
    Step("reopen"),
    Step("fork", "a", new="d"),
    Step("checkpoint"),
    Step("stream", "d"),
)

# On the same file: what was left open is gone on with, or closed by the next turn.
RESUMED: tuple[Step, ...] = (Step("resume", "c"), Step("stream", "c"))
CLOSED: tuple[Step, ...] = (Step("say", "c"), Step("stream", "a"))

_KINDS = {"say": 8, "stream": 8, "new": 2, "fork": 2, "rewind": 3, "delete": 1, "checkpoint": 2, "reopen": 1}


def random_plan(
    chance: random.Random, steps: int, threads: Sequence[str] = (), *, prefix: str = "t", without: Sequence[str] = ()
) -> tuple[Step, ...]:
    """Some steps, on threads that are there and on new ones. Now and then a name of a deleted one comes again."""
    kinds = [kind for kind, weight in _KINDS.items() for _ in range(weight) if kind not in without]
    here, gone, plan = list(threads), list[str](), list[Step]()
    while len(plan) < steps:
        kind = chance.choice(kinds) if here else "new"
        thread = chance.choice(here) if here else ""
        new = gone.pop() if gone and chance.random() < 0.3 else f"{prefix}{len(plan)}"
        size = chance.choice((0, 0, 0, chance.randrange(200, 4000), chance.randrange(4000, 30_000)))
        if kind in ("new", "fork"):
            here.append(new)
        if kind == "delete":
            here.remove(thread)
            gone.append(thread)
        if kind == "new":
            plan.append(Step("say", new, size=size))
        elif kind == "fork":
            plan.append(Step("fork", thread, new=new))
        elif kind in ("checkpoint", "reopen"):
            plan.append(Step(kind))
        else:
            plan.append(Step(kind, thread, back=chance.randint(1, 3), size=size if kind in ("say", "stream") else 0))
    return tuple(plan)


# --- the store and the service ---------------------------------------------------------------------------------------

# What a turn's moments are called, by the method of the store; other methods are called what they are.
_MOMENTS = {
    "open_run": "open",
    "take_over": "take over",
    "seal": "seal",
    "journal": "journal",
    "fork": "fork",
    "move_head": "rewind",
    "delete": "delete",
    "list": "read",
    "get": "read",
    "lineage": "read",
    "read": "read",
}


class MomentStore(SQLiteStore):
    """The store; it says which moment of a turn it is (`disk_vfs.Moment`)."""


def _saying(name: str, moment: str) -> Any:
    def method(self: MomentStore, *args: Any, **kwargs: Any) -> Any:
        Moment.now = moment
        return getattr(super(MomentStore, self), name)(*args, **kwargs)

    return method


for _name, _moment in _MOMENTS.items():
    if hasattr(SQLiteStore, _name):
        setattr(MomentStore, _name, _saying(_name, _moment))


def commit_in_writer(threaded: bool) -> None:
    """Have this process's stores commit in the writer's thread, as on a slow disk; or on the caller's."""
    sqlite_db.FAST_COMMIT_SECONDS = 0.0 if threaded else 60.0


def force_checkpoint(store: SQLiteStore) -> None:
    """Have the store's writer make a checkpoint, as it does when the log is long, and wait for it."""
    database, done = store._shared.database, threading.Event()
    database._call_in_writer(database._checkpoint)
    if database._call_in_writer(done.set) and not done.wait(HANGS_SECONDS):
        raise RuntimeError("a checkpoint does not end")


class _Service(ScriptedChatClient):
    """Answers as `rigs.talk` says, and writes down when it was asked and when it had said all."""

    def __init__(self, note: Note, pause: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._note, self._pause = note, pause

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        messages = msgspec.json.decode(bytes(request.body))["messages"]
        text = messages[-1]["content"]
        token = token_in(text)
        self._note(Heard(token, time.monotonic()))
        pieces = pieces_of(answer_to(text, len(messages)))
        middle = len(pieces) // 2

        async def pause() -> None:
            await self._pause()
            self._note(Kept(token, time.monotonic(), sum(map(len, pieces[:middle]))))

        self._answers[:] = [[*pieces[:middle], pause, *pieces[middle:]]]
        self.requests.clear()
        async with contextlib.aclosing(super().ask(request)) as batches:
            async for batch in batches:
                yield batch
        self._note(Answered(token, time.monotonic()))


# --- the talker ------------------------------------------------------------------------------------------------------


class Talker:
    """Takes steps on a store, one after another, and writes them down. Faults that are planted are subclasses."""

    store_class: type[SQLiteStore] = MomentStore
    hangs_after = HANGS_SECONDS
    in_step = True  # no two calls of the disk at a time, so that the k-th one is the same in every run

    def __init__(self, path: Path, note: Note, *, life: int = 0, seed: int = 0) -> None:
        """`life` tells the talkers of a campaign apart, the seed makes the ids."""
        self.note = note
        self.path = path
        self.runtime: Runtime = SeededRuntime(seed * 1000 + life, start_us=1_700_000_000_000_000 + life * 1_000_000)
        self._life = life
        self._number = 0
        runs.JOURNAL_SECONDS = 0.0  # type: ignore[attr-defined]  # at the next pause of an answer, and not when half a second has gone
        self._client = _Service(note, self._pause)
        self.store = self._opened()

    def _opened(self) -> SQLiteStore:
        store = self.store_class(self.path, runtime=self.runtime, busy_timeout=BUSY_SECONDS)
        self.agent = self._client.create_agent(thread_store=store, runtime=self.runtime)
        return store

    async def _pause(self) -> None:
        """In the middle of an answer: what has been said is written down now, and on the disk if we go in step."""
        for _ in range(3):
            await asyncio.sleep(0)
        while self.in_step and self.store._shared.database._waiting:
            await asyncio.sleep(0.0002)

    async def do(self, plan: Sequence[Step]) -> None:
        """All steps. What fails is written down, and the next one is taken."""
        for step in plan:
            await self.take(step)

    async def take(self, step: Step) -> None:
        """One step."""
        self._number += 1
        token = self._token(self._number, step.size)
        began = False
        try:
            turns = await self._thread(step).turns() if step.kind in ("fork", "rewind") else []
            if step.kind == "rewind" and len(turns) < 2:
                return
            place = -1 if step.kind == "fork" else max(-1 - step.back, -len(turns))
            stand = turns[place] if turns else None
            stood = token_in(stand.input[0].text) if stand is not None else step.token
            self.note(Began(token, time.monotonic(), step.kind, step.thread, stood, step.new))
            began = True
            async with asyncio.timeout(self.hangs_after):
                turn, answer = await self._step(step, token, stand.id if stand is not None else "")
        except Exception as error:
            if isinstance(error, TimeoutError):
                self.hangs_after = _HANGS_AGAIN
            if not began:
                self.note(Began(token, time.monotonic(), "look", step.thread))
            self.note(_refusal(token, error))
        else:
            self.note(Told(token, time.monotonic(), turn, answer))

    def _thread(self, step: Step) -> AgentThread:
        return AgentThread(self.store, step.thread, intent="existing", runtime=self.runtime)

    async def _step(self, step: Step, token: str, stand: str) -> tuple[str, str]:
        if step.kind in ("say", "stream"):
            return await self.say(token, step.thread, streamed=step.kind == "stream")
        if step.kind == "retry":
            return await self.say(step.token, step.thread, streamed=False)
        if step.kind == "resume":
            response = await self.agent.resume(self._thread(step))
            return (response.turn_id, response.text) if response is not None else ("", "")
        await self._other(step, stand)
        return "", ""

    async def _other(self, step: Step, stand: str) -> None:
        if step.kind == "checkpoint":
            force_checkpoint(self.store)
        elif step.kind == "reopen":
            try:
                self.store.close()
            finally:
                self.store = self._opened()
        elif step.kind == "fork":
            await self._thread(step).fork(thread_id=step.new)
        elif step.kind == "rewind":
            await self._thread(step).rewind(to=stand)
        elif step.kind == "delete":
            await self._thread(step).delete()
        else:
            raise ValueError(f"a plan holds no {step.kind!r}")

    async def say(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        """One turn: its id and the answer."""
        thread = self.agent.get_thread(thread_id, create=True)
        if not streamed:
            response = await self.agent.run(text_of(token), thread=thread, idempotency_key=token)
            return response.turn_id, response.text
        async with self.agent.run_stream(text_of(token), thread=thread, idempotency_key=token) as stream:
            async for _ in stream:
                pass
            response = await stream.response()
        return response.turn_id, response.text

    async def probe(self, *, resumed: bool = False, retries: Sequence[tuple[str, str]] = ()) -> list[str]:
        """A turn on every thread there is; the tokens of these turns.

        Before it what was left open is resumed, if so asked, and some turns (thread, token) are said once more.
        """
        there = [info.id for info in (await self.store.list(limit=1000)).threads]
        for name in there if resumed else ():
            await self.take(Step("resume", name))
        for name, token in retries:
            if name in there:
                await self.take(Step("retry", name, token=token))
        tokens = []
        for name in there:
            tokens.append(self._token(self._number + 1, 0))
            await self.take(Step("say", name))
        return tokens

    def _token(self, number: int, size: int) -> str:
        return token_of(round_=0, worker=self._life, talker=0, number=number, size=size)

    def close(self) -> None:
        self.store.close()


def _refusal(token: str, error: Exception) -> Refused:
    kinds = tuple(kind.__name__ for kind in type(error).__mro__)
    return Refused(token, time.monotonic(), type(error).__name__, kinds, str(error))
