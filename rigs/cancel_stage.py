"""The stage: one thread on one store, with one model, on which a situation is played and cancelled at one point.

A situation prepares the thread and gives what is to be driven. The stage keeps what its players were told: what was
acknowledged, what was read, who else is at work; so that a judge can say afterwards what may be in the log.

Rule of this file: nothing is judged here, and the library is used as its users use it; but for a run that a dead
process has left, which is made by a seal that fails (the store's port says what becomes of that).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any

from msgspec import Struct

from holdfast import (
    AgentRunResponse,
    AgentRunStream,
    AgentThread,
    ChatAgent,
    ChatMessage,
    HoldfastError,
    MemoryStore,
    StoreUnavailableError,
    ThreadStore,
)
from holdfast.conversation import journal
from holdfast.conversation.records import encode_messages
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.runtime import SystemRuntime
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun, RunLog, Terms, ThreadDirectory
from holdfast.testing.openai_chat import BrokenJSON, CutStream, Fail, FailInStream, Hang
from rigs.cancel_model import AFTER, BEFORE, DRIVEN, HELD, Model, moment

_NOWHERE = Head(branch=2**40, seq=1)
PORT = sorted(
    name for port in (RunLog, ThreadDirectory) for name in vars(port) if not name.startswith("_") and name != "verify"
)


class Hurried(SystemRuntime):
    """The real world, but that nobody sleeps for long."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.001))


class Distant(MemoryStore):
    """A store whose every answer takes its time, as one behind a network does. What it is told is done at the call.

    `lose` lets the word of the next seal be lost after it was done, `fail` lets the next seal fail.
    """

    lose = fail = False

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], *, stand: Head | None = None) -> Handed[Head]:
        lose, fail, self.lose, self.fail = self.lose, self.fail, False, False
        handed = super().seal(run, turns, stand=_NOWHERE if fail else stand)
        return _Later(handed, StoreUnavailableError("The connection broke after the commit.") if lose else None)


class _Later:
    """An answer that was given, and is on its way."""

    def __init__(self, answer: Any, lost: Exception | None = None) -> None:
        self._answer = answer
        self._lost = lost

    def __await__(self) -> Any:
        yield from moment().__await__()
        value = yield from self._answer.__await__()
        if self._lost is not None:
            raise self._lost
        return value

    def then(self, call: Callable[[Any], object]) -> None:
        try:
            asyncio.get_running_loop().call_soon(self._answer.then, call)
        except RuntimeError:  # a finalizer asks, and there is no loop
            self._answer.then(call)


def _from_afar(name: str) -> Callable[..., Any]:
    method = getattr(MemoryStore, name)

    @functools.wraps(method)
    def called(self: Distant, *args: Any, **options: Any) -> Any:
        return _Later(method(self, *args, **options))

    return called


for _name in PORT:
    # Coroutines take their time by themselves.
    if _name != "seal" and not inspect.iscoroutinefunction(getattr(MemoryStore, _name)):
        setattr(Distant, _name, _from_afar(_name))


class World(Struct):
    """What all stages on one kind of store share."""

    kind: str
    store: ThreadStore | None  # None: each thread has one of its own
    agent: ChatAgent
    model: Model
    runtime: SystemRuntime
    service: Any = None  # the stand-in, where the client goes over HTTP
    revoke: Callable[[], None] | None = None  # makes the token bad that the client has


class Stage:
    """One thread, and those who are at work on it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.agent = world.agent
        self.model = world.model
        self.thread = world.agent.get_new_thread()
        self.hold = asyncio.Event()
        self.others: list[asyncio.Task[Any]] = []
        self.acked: dict[str, AgentRunResponse] = {}
        self.read: dict[str, list[str]] = {}
        # How many turns a text may have become, the histories that the thread may have, and texts that must be there.
        self.times: dict[str, int] = {}
        self.histories: list[tuple[str, ...]] = [(), (DRIVEN,)]
        self.must: list[str] = []
        self.may_be_gone = False
        self.left_open = self.somebody_died = self.troubled = False
        self.afterwards: list[Callable[[], Awaitable[object]]] = []

    @property
    def store(self) -> ThreadStore:
        return self.thread.store

    def other_handle(self) -> AgentThread:
        """Another handle on the thread, as in another request."""
        return self.thread if self.world.store is None else self.agent.get_thread(self.thread.id, create=True)

    # --- what may be there afterwards --------------------------------------------------------------------------

    def may_become(self, *histories: tuple[str, ...]) -> None:
        """The histories that the thread may have, as the texts of their inputs."""
        self.histories = list(histories)

    # --- what is said ------------------------------------------------------------------------------------------

    async def before(self, *texts: str) -> None:
        """Turns that are there before: the driven one comes after them."""
        given = texts or (BEFORE,)
        for text in given:
            self.acked[text] = await self.agent.run(text, thread=self.thread)
        self.may_become(given, (*given, DRIVEN))

    async def run(self, text: str = DRIVEN, **options: Any) -> AgentRunResponse:
        """A run as a user makes it, who then knows the answer."""
        return self.told(text, await self.agent.run(text, thread=self.thread, **options))

    def told(self, text: str, response: AgentRunResponse) -> AgentRunResponse:
        """The response of a run was given to whoever asked for it."""
        self.acked[text] = response
        return response

    def stream(self, text: str = DRIVEN, **options: Any) -> AgentRunStream:
        return self.agent.run_stream(text, thread=self.thread, **options)

    async def read_all(self, stream: AgentRunStream, text: str = DRIVEN, *, lazy: bool = False) -> None:
        """Read a stream to its end. A lazy reader does something else after each update."""
        read = self.read.setdefault(text, [])
        async for update in stream:
            read.append(update.text)
            if lazy:
                await asyncio.sleep(0)

    # --- others ------------------------------------------------------------------------------------------------

    def beside(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Somebody else's work, which goes on beside what is driven."""
        task = asyncio.get_running_loop().create_task(work, name="beside", context=Context())
        self.others.append(task)
        return task

    async def held(self, text: str = HELD, **options: Any) -> asyncio.Task[Any]:
        """Another run, in the middle of its answer until `hold` is set."""
        self.model.hold = self.hold
        before = len(self.model.waiting)
        task = self.beside(self.agent.run(text, thread=self.thread, **options))
        await until(lambda: len(self.model.waiting) > before, "the other run waits in the middle of its answer")
        base = self.histories[0]
        self.may_become((*base, text), (*base, text, DRIVEN))
        return task

    def let_go_when_somebody_waits(self) -> None:
        """End the other run as soon as what is driven stands in line for a while."""

        async def let_go() -> None:
            await until(self.somebody_waits, None)
            for _ in range(3):
                await asyncio.sleep(0)
            self.hold.set()

        self.beside(let_go())

    def somebody_waits(self) -> bool:
        return self.hold.is_set() or bool(calls_of(self.store)._waiting)

    async def left_over(self, *said: str, key: str | None = None) -> OpenRun:
        """A run that a dead process has left open in the middle of what it said."""
        store, handle = self.store, self.thread
        turn_id = self.world.runtime.new_id("turn")
        stored = encode_messages((ChatMessage("user", text=DRIVEN),))
        opened = await self._open(turn_id, stored, key)
        if said:
            await store.journal(opened, [journal.said(opened.epoch, 0, [AgentRunResponseUpdate(x) for x in said])])
        with contextlib.suppress(HoldfastError):
            await store.seal(opened, (), stand=_NOWHERE)
        handle.incarnation = opened.incarnation
        self.left_open = self.somebody_died = True
        self.model.continues.add(DRIVEN)
        base = self.histories[0]
        self.may_become((*base, DRIVEN))
        return opened

    async def _open(self, turn_id: str, stored: bytes, key: str | None) -> OpenRun:
        opened = await self.store.open_run(
            self.thread.id,
            turn_id,
            stored,
            self.world.runtime.now_us(),
            intent="either",
            incarnation=self.thread.incarnation,
            terms=Terms(key),
        )
        assert isinstance(opened, OpenRun)
        return opened

    def trouble(self, chance: random.Random) -> None:
        """From now on, until the stage is finished, the service fails now and then."""
        self.troubled = True
        service = self.world.service
        if service is None:
            self.model.trouble = chance
            return
        kinds = (CutStream(chance.randrange(8)), BrokenJSON(chance.randrange(8)), FailInStream(chance.randrange(8)))
        more = (Hang(0.002, chance.randrange(8)), Fail(503, headers={"retry-after": "0.001"}), Fail(400))
        service.script(*(chance.choice((*kinds, *more)) for _ in range(chance.randint(1, 3))))

    async def finish(self) -> list[str]:
        """Let all others come to their ends; what is wrong with them."""
        self.model.trouble = None
        if self.world.service is not None:
            self.world.service._script.clear()
        self.hold.set()
        wrong: list[str] = []
        if self.others:
            _, late = await asyncio.wait(self.others, timeout=10)
            for task in late:
                wrong.append(f"somebody else hangs: {task.get_coro()}")
                task.cancel()
        for task in self.others:
            error = None if not task.done() or task.cancelled() else task.exception()
            if error is not None and not isinstance(error, HoldfastError):
                wrong.append(f"somebody else got {type(error).__name__}: {error}")
        for call in self.afterwards:
            await call()
        return wrong

    async def after(self) -> AgentRunResponse:
        """The next run on the thread."""
        return await self.agent.run(AFTER, thread=self.other_handle(), timeout=5)


def calls_of(store: Any) -> Any:
    """Where a store keeps those of its process who wait."""
    shared = store._shared
    return shared.calls if isinstance(store, MemoryStore) else shared.line.calls


async def until(ready: Callable[[], bool], what: str | None, seconds: float = 10.0) -> None:
    """Wait until something holds. AssertionError if it never does; without a `what` it just returns."""
    end = time.monotonic() + seconds
    for turn in range(1_000_000):
        if ready():
            return
        if time.monotonic() > end:
            break
        await asyncio.sleep(0 if turn < 50 else 0.001)
    if what is not None:
        raise AssertionError(f"after {seconds:g} s it does not hold that {what}")


Play = Callable[[Stage], Awaitable[Awaitable[Any]]]


class Situation(Struct, frozen=True):
    """Something that a user does. `covers` names the public coroutines, `on` the kinds of worlds it is played in."""

    name: str
    covers: tuple[str, ...]
    play: Play
    on: tuple[str, ...]


STORES = ("memory", "distant", "sqlite", "slow")
SITUATIONS: dict[str, Situation] = {}


def situation(*covers: str, on: tuple[str, ...] = STORES) -> Callable[[Play], Play]:
    """Add a situation, under the name of the function that plays it."""

    def added(play: Play) -> Play:
        name = play.__name__
        assert name not in SITUATIONS, name
        SITUATIONS[name] = Situation(name, covers, play, on)
        return play

    return added


def covered() -> Mapping[str, list[str]]:
    """The public coroutines that situations cover, and by which."""
    found: dict[str, list[str]] = {}
    for one in SITUATIONS.values():
        for name in one.covers:
            found.setdefault(name, []).append(one.name)
    return found
