"""Workers of the rig of tools: processes that let a model call tools, answer what waits to be allowed, and are killed.

A worker is a fork of the campaign (see `rigs.workers`). Whoever comes after a dead one goes on with the threads that
it had touched as chance will have it: says something else, resumes, or answers what waits there.

Rule of this file: a talker does nothing that a program of a user's could not do, and writes down what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from holdfast import (
    AgentRunResponse,
    ApprovalError,
    ApprovalRequest,
    ChatAgent,
    Limits,
    OpenAIChatClient,
    SQLiteStore,
    ToolResultContent,
)
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.clients import ChatRequest
from rigs.evidence import Pen
from rigs.service import KEY
from rigs.talk import MODEL
from rigs.tools_evidence import LEDGER, Answers, Resumes, Says, Told, Turned
from rigs.tools_marks import ToolBoard, ToolSlot
from rigs.tools_stage import Noting, Till, current, passes
from rigs.tools_talk import LETTERS, plan_of, text_of
from rigs.workers import Errand, Worker

# What is done with the threads that a dead process had touched.
_SLOW = 0.3  # the part of processes that find the disk slow
AFTERWARDS = ("says", "resumes", "resumes", "answers", "answers")


class ToolStore(Noting, SQLiteStore):
    """The store; it says where a talker is, and writes down what it has acknowledged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)


class MarkedClient(OpenAIChatClient):
    """The client; it says when the service is asked, and when it has begun to answer."""

    async def ask(self, request: ChatRequest) -> AsyncGenerator[list[AgentRunResponseUpdate], None]:
        passes("ask")
        async with contextlib.aclosing(cast(Any, super().ask(request))) as answer:
            async for updates in answer:
                passes("told")
                yield updates


class ToolWorker(Worker):
    """One process's part. Planted faults are subclasses (`rigs.tools_plants`)."""

    store_class: type[SQLiteStore] = ToolStore
    till_class: type[Till] = Till
    letters = LETTERS  # the calls that are asked for, by the letters of a plan
    afterwards = AFTERWARDS
    store: ToolStore
    board: ToolBoard

    def __init__(self, errand: Errand, board: ToolBoard) -> None:
        super().__init__(errand, board)
        ledger = Pen(errand.folder / LEDGER)
        self.store.worker, self.store.write = errand.worker, self.pen.write
        if self.chance.random() < _SLOW:
            self.store._shared.database._commit_seconds = 1e9  # every write goes through the writer's thread
        self.agent = ChatAgent(
            MarkedClient(MODEL, base_url=errand.address, api_key=KEY),
            name="Till",
            thread_store=self.store,
            tools=self.till_class(errand.worker, ledger.write).tools(),
            limits=Limits(
                parallel_calls=self.chance.choice((1, 2, 8, 8)), tool_calls=self.chance.choice((2, 4, 250, 250, 250))
            ),
        )
        self.marks: list[ToolSlot] = [board.slot(errand.seat, talker) for talker in range(errand.talkers)]
        self._number = 0

    async def _talk(self, talker: int) -> None:
        current.set(self.marks[talker])
        for thread in self.errand.touched[talker :: self.errand.talkers]:
            await self.do(self.chance.choice(self.afterwards), talker, thread)
        while not self.board.over:
            thread = self.chance.choice(self.errand.threads)
            waiting = await self.agent.get_thread(thread, create=True).approvals()
            what = self.chance.choice(("answers", "answers", "answers", "says", "resumes")) if waiting else "says"
            await self.do(what, talker, thread)
            await asyncio.sleep(self.chance.choice((0, self.chance.uniform(0, 0.004))))

    async def _probe(self) -> None:
        """Leave some of what waits; answer the rest; then a turn on every thread that does not wait."""
        current.set(self.marks[0])
        for info in (await self.store.list(limit=1000)).threads:
            if info.waiting and self.chance.random() < 0.5:
                continue
            for _ in range(20):
                requests = await self.agent.get_thread(info.id).approvals()
                if not requests:
                    break
                by = self._name()
                await self._answer(0, info.id, [request.approve(by=by) for request in requests])
            await self.do("says", 0, info.id)

    # --- what a talker does ------------------------------------------------------------------------------------

    async def do(self, what: str, talker: int, thread_id: str) -> None:
        """One thing."""
        if what == "says":
            await self._say(talker, thread_id)
        elif what == "resumes":
            by = self._name()
            self.pen.write(Resumes(self.errand.worker, time.monotonic(), talker, thread_id, by))
            await self._told(talker, "resumes", by, thread_id, self._resumed(thread_id))
        else:
            await self._answer_somehow(talker, thread_id)

    def _name(self) -> str:
        self._number += 1
        return f"r{self.errand.round_}.w{self.errand.worker}.n{self._number}"

    async def _say(self, talker: int, thread_id: str) -> None:
        by = self._name()
        text = text_of(by, plan_of(self.chance, self.letters))
        self.pen.write(Says(self.errand.worker, time.monotonic(), talker, thread_id, by, text))
        await self._told(talker, "says", by, thread_id, self._run(thread_id, text))

    async def _answer_somehow(self, talker: int, thread_id: str) -> None:
        chance = self.chance
        requests = await self.agent.get_thread(thread_id, create=True).approvals()
        if not requests:
            await self._say(talker, thread_id)
            return
        way = chance.choice(("all", "all", "some", "mixed", "none", "twice", "at once", "forged"))
        chosen = requests if way not in ("some", "twice") else chance.sample(requests, chance.randint(1, len(requests)))
        allow = {"none": 0.0, "mixed": 0.5, "some": 0.8}.get(way, 1.0)
        by = self._name()
        answers = [one.approve(by=by) if chance.random() < allow else one.reject("no", by=by) for one in chosen]
        if way == "forged":
            other = [replace(one, arguments=one.arguments.replace("r", "q")) for one in chosen]
            forger = self._name()
            await self._answer(talker, thread_id, [one.approve(by=forger) for one in other], forged=True)
        elif way == "at once":
            second = self._name()
            others = [one.approve(by=second) if chance.random() < 0.5 else one.reject(by=second) for one in chosen]
            await asyncio.gather(self._answer(talker, thread_id, answers), self._answer(talker, thread_id, others))
            return
        await self._answer(talker, thread_id, answers)
        if way == "twice":
            again = self._name()
            await self._answer(talker, thread_id, [replace(one, by=again) for one in answers])

    async def _answer(self, talker: int, thread_id: str, answers: Sequence[Any], *, forged: bool = False) -> None:
        by = answers[0].by
        approved = tuple(one.call_id for one in answers if one.approved)
        rejected = tuple(one.call_id for one in answers if not one.approved)
        place = (talker, thread_id, by, answers[0].turn_id)
        self.pen.write(Answers(self.errand.worker, time.monotonic(), *place, approved, rejected, forged))
        await self._told(talker, "answers", by, thread_id, self._run(thread_id, list(answers)))

    async def _told(
        self, talker: int, mode: str, by: str, thread_id: str, work: Awaitable[AgentRunResponse | None]
    ) -> None:
        """Do it, and write down what came of it."""
        slot = self.marks[talker]
        slot.at_work(mode, by, thread_id)
        worker = self.errand.worker
        try:
            response = await work
        except ApprovalError as error:
            if mode != "answers":
                self.fail(by, error)
            self.pen.write(Turned(worker, time.monotonic(), thread_id, by, error.code))
        except Exception as error:
            self.fail(by, error)
        else:
            if response is None:
                self.pen.write(Turned(worker, time.monotonic(), thread_id, by, "nothing"))
            else:
                self.pen.write(told(worker, thread_id, by, response))
        slot.done()

    async def _run(self, thread_id: str, said: Any) -> AgentRunResponse:
        thread = self.agent.get_thread(thread_id, create=True)
        if self.chance.random() < 0.5:
            return await self.agent.run(said, thread=thread)
        async with self.agent.run_stream(said, thread=thread) as stream:
            async for _ in stream:
                pass
            return await stream.response()

    async def _resumed(self, thread_id: str) -> AgentRunResponse | None:
        return await self.agent.resume(self.agent.get_thread(thread_id, create=True))


def told(worker: int, thread_id: str, by: str, response: AgentRunResponse) -> Told:
    """What a caller was told."""
    parts = [part for message in response.messages for part in message.contents if isinstance(part, ToolResultContent)]
    results = tuple((part.call_id, part.result) for part in parts)
    requests: Sequence[ApprovalRequest] = response.approvals
    waits = tuple(request.call_id for request in requests)
    return Told(worker, time.monotonic(), thread_id, by, response.turn_id, response.status, results, waits)
