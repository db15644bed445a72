"""Scenes with tools, each to be cancelled at every await: runs and streams, what comes to wait, and answers to it.

Rule of this file: nothing is judged here, and the library is used as its users use it; but for a run that a dead
process has left, which is made by a seal that fails (as in `rigs.cancel_stage`).
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from holdfast import (
    AgentRunResponse,
    ApprovalError,
    ChatAgent,
    ChatMessage,
    HoldfastError,
    Limits,
    SQLiteStore,
    ToolCallContent,
)
from holdfast.conversation import journal
from holdfast.conversation.records import encode_messages
from holdfast.conversation.updates import AgentRunResponseUpdate, FinishUpdate, ToolCallUpdate
from holdfast.ports.clients import ChatRequest
from holdfast.ports.stores import Head, OpenRun
from rigs.cancel_model import Model, moment
from rigs.cancel_stage import Distant, Hurried
from rigs.tools_contents import read_store
from rigs.tools_evidence import Answers, Evidence, Exchanged, LedgerLine, Says, Turned
from rigs.tools_judge import CANCELLED
from rigs.tools_marks import ToolBoard, ToolSlot
from rigs.tools_service import exchanged
from rigs.tools_stage import Noting, Till, current
from rigs.tools_talk import answered_next, calls_of, text_of
from rigs.tools_workers import told

KINDS = ("distant", "sqlite", "slow")
_NOWHERE = Head(branch=2**40, seq=1)
_NEVER_FAST = 1e9  # seconds that a commit is made to seem to take
_TOO_LONG = 0.004


class TillModel(Model):
    """A chat client that calls for what the text asks for; as strict as the one that it is made from."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Exchanged] = []

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        asked = msgspec.json.decode(bytes(request.body))
        self.asked.append([])
        number, refused = len(self.asked), len(self.refused)
        try:
            self._check(asked)
        finally:
            self.requests.append(exchanged(asked, "; ".join(self.refused[refused:]) or None))
        self.open += 1
        try:
            found = answered_next(asked["messages"], may_call=asked.get("tool_choice") != "none")
            await moment()
            if isinstance(found, str):
                yield [AgentRunResponseUpdate(found)]
            else:
                yield [_call(number, index, *call) for index, call in enumerate(found)]
            await moment()
            reason = "stop" if isinstance(found, str) else "tool_calls"
            yield [FinishUpdate(finish_reason=reason, model="till", response_id=f"r{number}")]
        finally:
            self.open -= 1
            await moment()  # to close a connection takes its time


def _call(number: int, index: int, name: str, arguments: Mapping[str, Any]) -> ToolCallUpdate:
    told = msgspec.json.encode(arguments).decode()
    return ToolCallUpdate(index=index, call_id=f"call_{number}_{index}", name=name, arguments=told)


class _DistantStore(Noting, Distant):
    """A store in memory whose every answer takes its time."""


class _FileStore(Noting, SQLiteStore):
    """A store in a file."""


class Place(Struct):
    """What all stages on one kind of store share. `lines` takes what is written down."""

    kind: str
    store: Any
    agent: ChatAgent
    model: TillModel
    slot: ToolSlot
    diary: list[Any]
    ledger: list[LedgerLine]
    runtime: Hurried
    numbers: int = 0


@contextlib.contextmanager
def world_of(kind: str, folder: Path, till: type[Till]) -> Iterator[Place]:
    """A store of this kind, an agent with tools, and where they write down what happens."""
    runtime, model = Hurried(), TillModel()
    store: Any = _DistantStore(runtime=runtime) if kind == "distant" else _FileStore(folder / f"{kind}.db")
    if kind == "slow":
        store._shared.database._commit_seconds = _NEVER_FAST
    diary: list[Any] = []
    ledger: list[Any] = []
    store.write, store.worker = diary.append, 1
    tools = till(1, ledger.append, _naps, _TOO_LONG).tools()
    limits = Limits(parallel_calls=2)
    agent = ChatAgent(model, name="Till", thread_store=store, tools=tools, limits=limits, runtime=runtime)
    slot = ToolBoard(1, 1).slot(0, 0)
    current.set(slot)
    try:
        yield Place(kind, store, agent, model, slot, diary, ledger, runtime)
    finally:
        store.close()


def _naps(what: str) -> tuple[float, float]:
    """Hardly any time, and not the same for each call."""
    before, after = hashlib.blake2b(what.partition(".")[2].encode(), digest_size=2).digest()
    return before / 255 * 0.001, after / 255 * 0.001


class Stage:
    """One thread, and what was said and answered there."""

    def __init__(self, place: Place) -> None:
        self.place = place
        place.numbers += 1
        place.diary.clear()
        place.ledger.clear()
        place.model.requests.clear()
        self.thread = place.agent.get_thread(f"thread-{place.numbers}", create=True)
        self._under_way: str | None = None

    # --- what is said ------------------------------------------------------------------------------------------

    def says(self, plan: str) -> str:
        """The text with a plan; it is written down that it is said."""
        self.place.numbers += 1
        by = f"s{self.place.numbers}"
        text = text_of(by, plan)
        self._begins("says", by)
        self.place.diary.append(Says(1, time.monotonic(), 0, self.thread.id, by, text))
        return text

    async def run(self, text: str) -> AgentRunResponse:
        return self._told(await self.place.agent.run(text, thread=self.thread))

    async def stream(self, said: Any) -> AgentRunResponse:
        """The same as a stream whose reader does something else now and then."""
        async with self.place.agent.run_stream(said, thread=self.thread) as stream:
            async for _ in stream:
                await moment()
            return self._told(await stream.response())

    def answers(self, response: AgentRunResponse, *allowed: bool) -> list[Any]:
        """Answers to the first requests of a response; it is written down that they are given."""
        self.place.numbers += 1
        by = f"a{self.place.numbers}"
        chosen = list(zip(response.approvals, allowed, strict=False))
        self._begins("answers", by)
        approved = tuple(one.call_id for one, yes in chosen if yes)
        rejected = tuple(one.call_id for one, yes in chosen if not yes)
        line = Answers(1, time.monotonic(), 0, self.thread.id, by, response.turn_id, approved, rejected)
        self.place.diary.append(line)
        return [one.approve(by=by) if yes else one.reject("no", by=by) for one, yes in chosen]

    async def answer(self, answers: Sequence[Any]) -> AgentRunResponse:
        return self._told(await self.place.agent.run(list(answers), thread=self.thread))

    async def resume(self) -> AgentRunResponse | None:
        self._begins("resumes", "resumed")
        response = await self.place.agent.resume(self.thread)
        return None if response is None else self._told(response)

    def _begins(self, mode: str, by: str) -> None:
        self._under_way = by
        self.place.slot.at_work(mode, by, self.thread.id)

    def _told(self, response: AgentRunResponse) -> AgentRunResponse:
        self.place.diary.append(told(1, self.thread.id, self._under_way or "", response))
        self._under_way = None
        return response

    def cut(self) -> None:
        """Who was driven was cancelled, unless it had been told already what came of it."""
        if self._under_way is not None:
            self.place.diary.append(Turned(1, time.monotonic(), self.thread.id, self._under_way, CANCELLED))
            self._under_way = None

    # --- what is there before, and after -------------------------------------------------------------------------

    async def waiting(self, plan: str) -> AgentRunResponse:
        """A run that waits to be allowed its calls."""
        response = await self.run(self.says(plan))
        assert response.status == "waiting"
        return response

    async def left_by_the_dead(self, plan: str, begun: int) -> None:
        """A run whose process died when so many of its calls were begun."""
        text, store = self.says(plan), self.place.store
        number = len(self.place.model.asked) + 1
        self.place.model.asked.append([])
        calls = [_call(number, index, *call) for index, call in enumerate(calls_of(text)[0])]
        stored = encode_messages((ChatMessage("user", text=text),))
        turn_id, now = self.place.runtime.new_id("turn"), self.place.runtime.now_us()
        opened = await store.open_run(self.thread.id, turn_id, stored, now)
        assert isinstance(opened, OpenRun)
        contents = [ToolCallContent(one.call_id, one.name, one.arguments) for one in calls]
        done = journal.done(opened.epoch, 0, [ChatMessage("assistant", contents)], None, 1)
        started = journal.started(opened.epoch, 0, [one.call_id for one in calls[:begun]], {})
        await store.journal(opened, [done, started], durable=True)
        with contextlib.suppress(HoldfastError):
            await store.seal(opened, (), stand=_NOWHERE)
        self.cut()

    async def afterwards(self) -> None:
        """What waits is answered now and then; and the next turn is made."""
        if self.place.numbers % 2:
            await self._answer_what_waits()
        await self.run(self.says(""))

    async def _answer_what_waits(self) -> None:
        requests = await self.thread.approvals()
        if requests:
            waits = AgentRunResponse((), requests[0].turn_id, self.thread.id, "waiting", approvals=tuple(requests))
            with contextlib.suppress(ApprovalError):
                await self.answer(self.answers(waits, *[True] * len(requests)))
            self.cut()

    async def evidence(self) -> Evidence:
        """All that is judged."""
        place = self.place
        kept = await read_store(place.store, self.thread.id)
        return Evidence(tuple(place.ledger), tuple(place.diary), tuple(place.model.requests), kept)


# --- scenes --------------------------------------------------------------------------------------------------------

Scene = Callable[[Stage], Awaitable[Awaitable[Any]]]


async def _a_run(stage: Stage) -> Awaitable[Any]:
    return stage.run(stage.says("sup|c"))


async def _a_run_with_many_calls(stage: Stage) -> Awaitable[Any]:
    return stage.run(stage.says("spcdxms"))


async def _a_stream(stage: Stage) -> Awaitable[Any]:
    return stage.stream(stage.says("psu|dl"))


async def _a_run_that_comes_to_wait(stage: Stage) -> Awaitable[Any]:
    return stage.run(stage.says("sbp"))


async def _an_answer(stage: Stage) -> Awaitable[Any]:
    response = await stage.waiting("bsgr")
    return stage.answer(stage.answers(response, True, True, True))


async def _an_answer_to_some(stage: Stage) -> Awaitable[Any]:
    response = await stage.waiting("bgr")
    return stage.answer(stage.answers(response, True, False))


async def _a_stream_of_an_answer(stage: Stage) -> Awaitable[Any]:
    response = await stage.waiting("gb|s")
    return stage.stream(stage.answers(response, False, True))


async def _something_else_while_it_waits(stage: Stage) -> Awaitable[Any]:
    await stage.waiting("sb")
    return stage.run(stage.says("p"))


async def _what_a_dead_process_left(stage: Stage) -> Awaitable[Any]:
    await stage.left_by_the_dead("sucpr", 3)
    return stage.resume()


SCENES: Mapping[str, Scene] = {
    "run": _a_run,
    "many": _a_run_with_many_calls,
    "stream": _a_stream,
    "waits": _a_run_that_comes_to_wait,
    "answer": _an_answer,
    "some": _an_answer_to_some,
    "answer-stream": _a_stream_of_an_answer,
    "else": _something_else_while_it_waits,
    "resume": _what_a_dead_process_left,
}
