"""Actors: tasks that run, fork, rewind, switch, cancel, delete, follow and retry on common threads, as they like.

Several of them share a process, over two store objects on one file; other processes do the same on the same file.
Rule of this file: the library is used as its users use it, and what is about to be done and what came of it are written
down (`rigs.moves_diary`). Nothing is judged here; but what takes too long is written down with where every task stood.
"""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from holdfast import (
    AgentRunStream,
    AgentThread,
    ChatAgent,
    ChatMessage,
    DamagedError,
    EndUpdate,
    HoldfastError,
    IdempotencyKeyError,
    RestartUpdate,
    ThreadStore,
)
from rigs.evidence import Pen
from rigs.moves_diary import Done, Hung, Tries
from rigs.moves_model import Model
from rigs.moves_talk import text_of

PATIENCE = 30.0  # seconds; whatever takes longer has hung
MAX_THREADS = 10
BASE = ("t0", "t1", "d0")  # those that begin with "d" are deleted now and then
OF_THE_KILLED = ("x0", "x1")  # threads of the process that is killed, which others only go on with
_CONFLICTS = ("enqueue",) * 6 + ("reject", "interrupt", "interrupt", "rollback")

_WEIGHTS = {
    "run": 40,
    "retry": 10,
    "regenerate": 6,
    "fork": 5,
    "rewind": 6,
    "switch": 6,
    "stop": 7,
    "resume": 5,
    "follow": 12,
    "adopt": 4,
    "look": 5,
    "delete": 2,
}


class Reader:
    """What was read of an answer. What is void is taken back."""

    def __init__(self, begun: str = "") -> None:
        self.text = begun
        self.ends: list[str] = []

    def take(self, update: Any) -> None:
        if isinstance(update, RestartUpdate):
            self.text = self.text[: update.n]
        elif isinstance(update, EndUpdate):
            self.ends.append(update.status)
        else:
            self.text += update.text


class Outcome(Struct):
    """What came of something, as far as it is known when an error strikes."""

    turn: str | None = None
    text: str = ""
    status: str | None = None
    turns: tuple[str, ...] = ()
    yes: bool = False


class Company:
    """The actors of one process. Planted faults are subclasses (`rigs.moves_plants`), or are put into its stores."""

    model_class: type[Model] = Model

    def __init__(
        self, worker: int, stores: list[ThreadStore], pen: Pen, seed: str, steps: int, *, may_be_killed: bool = False
    ) -> None:
        self.worker = worker
        self.pen = pen
        self.chance = random.Random(seed)
        self.model = self.model_class(worker, pen, self.chance)
        self.agents: list[ChatAgent] = [self.model.create_agent(thread_store=store) for store in stores]
        self.threads = [*BASE, *(OF_THE_KILLED if may_be_killed else ())]
        # On these only others run; here they are gone on with, followed and read.
        self.others = () if may_be_killed else OF_THE_KILLED
        self.known: list[tuple[str, str, str]] = []  # thread, turn, what was read of it
        self.keyed: list[tuple[str, str, str]] = []  # thread, key, text
        self.left = steps
        self._ops = 0

    async def act(self, actors: int) -> None:
        """All actors, until so many steps are done."""
        await asyncio.gather(*(self._actor() for _ in range(actors)))

    async def _actor(self) -> None:
        moves: dict[str, Callable[[], Awaitable[None]]] = {what: getattr(self, f"_{what}") for what in _WEIGHTS}
        while self.left > 0:
            self.left -= 1
            what = self.chance.choices(list(moves), list(_WEIGHTS.values()))[0]
            await moves[what]()
            await asyncio.sleep(self.chance.choice((0, 0, self.chance.uniform(0, 0.004))))

    async def probe(self, names: list[str]) -> None:
        """A turn on every thread, when nobody else is at work."""
        for name in names:
            await self.say(name, streamed=self.chance.random() < 0.5)

    # --- how something is tried --------------------------------------------------------------------------------

    async def _try(self, tries: Tries, work: Callable[[Outcome], Awaitable[object]]) -> Outcome:
        """Do something, and write down what came of it."""
        self.pen.write(tries)
        found, error = Outcome(), None
        try:
            async with asyncio.timeout(PATIENCE) as patience:
                await work(found)
        except HoldfastError as refused:
            error = refused.code if not isinstance(refused, DamagedError) else f"Damaged: {refused}"
            if found.turn is None or isinstance(refused, IdempotencyKeyError):
                found.turn = refused.turn_id
        except asyncio.CancelledError:
            error = "cancelled"
        except BaseException as other:
            error = f"{type(other).__name__}: {other}"
            if patience.expired():
                self.pen.write(Hung(self.worker, time.monotonic(), tries.op, stacks()))
        told = (found.turn, found.text, found.status, found.turns, found.yes)
        self.pen.write(Done(self.worker, time.monotonic(), tries.op, error, *told))
        return found

    def _tries(self, what: str, thread: str, **more: Any) -> Tries:
        self._ops += 1
        return Tries(self.worker, time.monotonic(), self._ops, what, thread, **more)

    def _agent(self) -> ChatAgent:
        return self.chance.choice(self.agents)

    def _handle(self) -> AgentThread:
        return self._agent().get_thread(self.chance.choice(self.threads), create=True)

    def _knows(self, thread: str, turn: str, read: str = "") -> None:
        self.known.append((thread, turn, read))
        del self.known[:-40]

    # --- runs --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Say something new."""
        chance = self.chance
        name = chance.choice(self.threads)
        options: dict[str, Any] = {"on_conflict": chance.choice(_CONFLICTS)}
        if chance.random() < 0.25:
            options["idempotency_key"] = f"k{self.worker}-{self._ops}"
        if chance.random() < 0.12:
            options["on_disconnect"] = "continue"
        if chance.random() < 0.1:
            options["enqueue_timeout"] = chance.uniform(0.001, 0.05)
        if chance.random() < 0.08 and (turns := await self._turns(name)):
            options["after"] = chance.choice(turns)
        await self.say(name, streamed=chance.random() < 0.6, leaves=chance.random() < 0.2, **options)

    async def _retry(self) -> None:
        """Say something once more under its key: once, or several times at once."""
        if not self.keyed:
            return
        name, key, text = self.chance.choice(self.keyed[-8:])
        leaves = self.chance.random() < 0.3
        again = [
            self.say(name, text=text, streamed=self.chance.random() < 0.5, idempotency_key=key, leaves=leaves)
            for _ in range(self.chance.choice((1, 1, 2, 3)))
        ]
        await asyncio.gather(*again)

    async def say(
        self, name: str, *, streamed: bool, text: str | None = None, leaves: bool = False, **options: Any
    ) -> None:
        """One run. `leaves`: whoever reads it goes away in its middle, or is cancelled."""
        said = text or text_of(self.worker, self._ops + 1, calls=self.chance.random() < 0.15)
        agent, key = self._agent(), options.get("idempotency_key")
        thread = agent.get_thread(name, create=True)
        if key is not None and text is None:
            self.keyed.append((name, key, said))
        how = f"{options.get('on_conflict', '')} {options.get('on_disconnect', '')} {'leaves' if leaves else ''}"
        stream = agent.run_stream(said, thread=thread, **options) if streamed else None
        turn = options.get("after")
        tries = self._tries("run", name, text=said, key=key, how=how.strip(), turn=turn)

        async def work(found: Outcome) -> None:
            if stream is None:
                await self._whole(agent.run(said, thread=thread, **options), found, leaves=leaves)
            else:
                found.turn = stream.turn_id
                self._knows(name, stream.turn_id)
                await self._read(name, stream, found, leaves=leaves)

        await self._try(tries, work)

    async def _whole(self, run: Any, found: Outcome, *, leaves: bool) -> None:
        task = asyncio.ensure_future(run)
        if leaves:
            await asyncio.sleep(self.chance.uniform(0, 0.02))
            task.cancel()
        response = await task
        found.turn, found.text, found.status = response.turn_id, response.text, response.status

    async def _read(self, name: str, stream: AgentRunStream, found: Outcome, *, leaves: bool) -> None:
        leave_after = self.chance.randrange(6) if leaves else None
        reader, updates = Reader(), 0
        async with stream:
            async for update in stream:
                reader.take(update)
                updates += 1
                found.turn, found.text = stream.turn_id, reader.text
                if updates == leave_after:
                    break
            else:
                response = await stream.response()
                found.turn, found.status = response.turn_id, response.status
        found.turn = stream.turn_id
        if found.status is None:
            self._knows(name, stream.turn_id, f"{stream.cursor} {reader.text}")

    async def _regenerate(self) -> None:
        """Have the last answer made anew."""
        agent, thread = self._agent(), self._handle()

        async def work(found: Outcome) -> None:
            stream = agent.regenerate_stream(thread)
            found.turn = stream.turn_id
            await self._read(thread.id, stream, found, leaves=self.chance.random() < 0.2)

        await self._try(self._tries("regenerate", thread.id), work)

    async def _resume(self) -> None:
        """Go on with what a dead process has left, if it has."""
        agent = self._agent()
        thread = agent.get_thread(self.chance.choice((*self.threads, *self.others * 3)), create=True)

        async def work(found: Outcome) -> None:
            response = await agent.resume(thread)
            if response is not None:
                found.turn, found.text, found.status = response.turn_id, response.text, response.status
                found.yes = True

        await self._try(self._tries("resume", thread.id), work)

    # --- moves -------------------------------------------------------------------------------------------------

    async def _turns(self, name: str) -> list[str]:
        """The last turns of a thread; none if it cannot be read at this moment."""
        try:
            return [turn.id for turn in await self._agent().get_thread(name, create=True).turns(last=5)]
        except HoldfastError:
            return []

    async def _fork(self) -> None:
        if len(self.threads) >= MAX_THREADS:
            return
        source = self._handle()
        turns = await self._turns(source.id)
        at = self.chance.choice(turns) if turns and self.chance.random() < 0.7 else None
        new = f"f{self.worker}-{self._ops + 1}"

        async def work(found: Outcome) -> None:
            fork = await source.fork(at=at, thread_id=new)
            last = await fork.turns(last=1)
            found.turn = last[0].id if last else None
            self.threads.append(new)

        await self._try(self._tries("fork", source.id, turn=at, new=new), work)

    async def _rewind(self) -> None:
        thread = self._handle()
        turns = await self._turns(thread.id)
        to = self.chance.choice(turns) if turns and self.chance.random() < 0.5 else None
        interrupt = self.chance.random() < 0.3
        move: dict[str, Any] = {"to": to} if to is not None else {"turns": self.chance.choice((1, 1, 2))}
        tries = self._tries("rewind", thread.id, turn=to, how="interrupt" if interrupt else "")
        await self._try(tries, lambda found: thread.rewind(**move, interrupt=interrupt))

    async def _switch(self) -> None:
        """Go to a branch that was left."""
        thread = self._handle()

        async def work(found: Outcome) -> None:
            branches = await thread.branches()
            if branches:
                found.turn = self.chance.choice(branches).turn_id
                await thread.switch(found.turn, interrupt=self.chance.random() < 0.3)

        await self._try(self._tries("switch", thread.id), work)

    async def _stop(self) -> None:
        """End whatever is being made on a thread."""
        thread = self._handle()

        async def work(found: Outcome) -> None:
            info = await thread.info()
            found.turn = info.busy if info is not None else None
            if found.turn is not None:
                found.yes = await thread.cancel(found.turn)

        await self._try(self._tries("stop", thread.id), work)

    async def _delete(self) -> None:
        names = [name for name in self.threads if name.startswith("d")]
        thread = self._agent().get_thread(self.chance.choice(names), create=True)
        interrupt = self.chance.random() < 0.6
        tries = self._tries("delete", thread.id, how="interrupt" if interrupt else "")
        await self._try(tries, lambda found: thread.delete(interrupt=interrupt))

    async def _adopt(self) -> None:
        """Take a transcript over."""
        thread = self._handle()
        texts = [f"{text_of(self.worker, self._ops + 1, calls=False)}-a{n}" for n in range(self.chance.choice((1, 2)))]
        messages = [
            message
            for text in texts
            for message in (ChatMessage("user", text=text), ChatMessage("assistant", text=f"adopted {text}"))
        ]

        async def work(found: Outcome) -> None:
            found.turns = (await thread.add_messages(messages)).turn_ids

        await self._try(self._tries("adopt", thread.id, text=texts[0]), work)

    # --- reading -----------------------------------------------------------------------------------------------

    async def _read_on(self, name: str, turn: str, read: str) -> None:
        cursor, _, begun = read.partition(" ")
        thread = self._agent().get_thread(name, create=True)

        async def work(found: Outcome) -> None:
            reader = Reader(begun)
            found.turn = turn
            async for update in thread.follow(turn, after=cursor or None, grace=self.chance.choice((0.2, 1.0))):
                reader.take(update)
                found.text = reader.text
            found.status = " ".join(reader.ends)

        await self._try(self._tries("follow", name, turn=turn, how=cursor), work)

    async def _follow(self) -> None:
        if self.known:
            await self._read_on(*self.chance.choice(self.known[-12:]))

    async def _read_thread(self, thread: AgentThread, found: Outcome) -> None:
        found.turns = tuple(turn.id for turn in await thread.turns())

    async def _look(self) -> None:
        thread = self._agent().get_thread(self.chance.choice((*self.threads, *self.others)), create=True)
        await self._try(self._tries("look", thread.id), lambda found: self._read_thread(thread, found))


def stacks() -> str:
    """Where every task of this event loop stands."""
    told = io.StringIO()
    for task in asyncio.all_tasks():
        task.print_stack(file=told)
    return told.getvalue()
