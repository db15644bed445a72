"""The model of the rig of moves: it takes its time, fails now and then, and writes down what it is told.

Rule of this file: it refuses what a strict service refuses, by the stand-in's rules.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from holdfast.clients.base import AgentMaker
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.conversation.errors import BadRequestError, ServiceUnavailableError
from holdfast.conversation.updates import AgentRunResponseUpdate, FinishUpdate, ToolCallUpdate
from holdfast.ports.clients import ChatRequest
from holdfast.testing.openai_chat_messages import text_of as text_in
from holdfast.testing.openai_chat_rules import STRICT
from holdfast.testing.openai_checks import Field, RequestRefused
from rigs.evidence import Pen
from rigs.moves_diary import Told
from rigs.moves_talk import CALLS, answer, fingerprints, pieces

MODEL = "rig-model"
_FAILS = 0.01  # at each piece
_NAP = 0.004  # seconds at most, between two pieces


class Model(AgentMaker):
    """A chat client. `numbers` counts the requests of its process."""

    service = "rig"
    keeps_history = False
    codec = ChatCompletionsCodec(MODEL)

    def __init__(self, worker: int, pen: Pen, chance: random.Random) -> None:
        self._worker = worker
        self._pen = pen
        self._chance = chance
        self._numbers = itertools.count(1)
        self.open = 0

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        told = msgspec.json.decode(bytes(request.body))
        number = f"w{self._worker}-{next(self._numbers)}"
        messages = [(str(one["role"]), text_in(one.get("content"))) for one in told["messages"]]
        text = next(said for role, said in reversed(messages) if role == "user")
        refusal = _refusal(told)
        self._pen.write(Told(self._worker, time.monotonic(), number, text, fingerprints(messages), refusal))
        if refusal is not None:
            raise BadRequestError(refusal, service=self.service, status=400)
        self.open += 1
        try:
            async for updates in self._answer(number, text, asks_for_tool=messages[-1][0] == "user"):
                yield updates
        finally:
            self.open -= 1

    async def _answer(
        self, number: str, text: str, *, asks_for_tool: bool
    ) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        for piece in pieces(answer(number, text)):
            await asyncio.sleep(self._chance.choice((0, 0, self._chance.uniform(0, _NAP))))
            if self._chance.random() < _FAILS:
                raise ServiceUnavailableError("The rig's model broke off.", service=self.service)
            yield [AgentRunResponseUpdate(piece)]
        calls = CALLS in text and asks_for_tool
        if calls:  # without arguments, so that what was said is all text
            yield [ToolCallUpdate(index=0, call_id="call_1", name="look", arguments="")]
        yield [FinishUpdate(finish_reason="tool_calls" if calls else "stop", model=MODEL)]


def _refusal(told: dict[str, Any]) -> str | None:
    try:
        for rule in STRICT:
            rule(Field(told))
    except RequestRefused as refused:
        return refused.message
    return None
