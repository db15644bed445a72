"""The model of the rig of cancellations: what it says follows from what it was told last.

Rule of this file: it is as strict as a real service: it refuses what the rules of the strict stand-in refuse, and
writes that down. It counts the answers that were begun and not closed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, TypeAlias

import msgspec

from holdfast.clients.base import AgentMaker
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.conversation.errors import BadRequestError, ServiceUnavailableError
from holdfast.conversation.updates import AgentRunResponseUpdate, FinishUpdate, ReasoningUpdate, ToolCallUpdate
from holdfast.ports.clients import ChatRequest
from holdfast.testing.openai_chat import CallTools, Fail, ParsedRequest, Say
from holdfast.testing.openai_chat_messages import text_of
from holdfast.testing.openai_chat_rules import STRICT
from holdfast.testing.openai_checks import Field, RequestRefused
from holdfast.testing.standin_tapes import Answer

# What is said in the rig, and what the model makes of it.
BEFORE, DRIVEN, HELD, AFTER = "before", "driven", "held", "after"
CALLS, FAILS, STALLS, CHATTERS, GUSHES = "calls", "fails", "stalls", "chatters", "gushes"
LOOKS, PAYS, ASKS, ASKS_TO_PAY, HESITATES = "looks", "pays", "asks", "asks to pay", "hesitates"
MODEL = "rig-model"
_TROUBLE = 0.08


class Act(Enum):
    """What the model does besides saying something."""

    WAIT = "it thinks for a moment"
    HOLD = "it says nothing until `hold` is set"
    FAIL = "the service fails"


# What it does next; a pair is a call of a tool, by name and arguments, a list is what comes in one piece.
Step: TypeAlias = str | tuple[str, str] | list[str] | Act

_SCRIPTS: dict[str, list[list[Step]]] = {
    DRIVEN: [["one ", Act.WAIT, "two ", Act.WAIT, "three"]],
    HELD: [["begun ", Act.HOLD, "ended"]],
    CALLS: [["I ", "try. ", ("fly", "{}"), Act.WAIT], ["No ", Act.WAIT, "wings."]],
    FAILS: [["half ", Act.WAIT, Act.FAIL]],
    STALLS: [["begun ", Act.HOLD]],
    CHATTERS: [["said "] * 300],
    LOOKS: [["I ", "look. ", ("soon", "{}"), ("aside", "{}"), ("find", "{}"), Act.WAIT], ["Found ", Act.WAIT, "it."]],
    PAYS: [["I pay. ", ("pay", '{"amount": 5}')], ["It is ", Act.WAIT, "paid."]],
    ASKS: [["I ask. ", *[("helper", f'{{"task": "{DRIVEN}"}}')] * 2], ["It ", Act.WAIT, "said so."]],
    ASKS_TO_PAY: [["I ask. ", ("helper", f'{{"task": "{PAYS}"}}')], ["It ", Act.WAIT, "may not."]],
    HESITATES: [[Act.WAIT, "now."]],
    GUSHES: [[["one ", "two ", "three "], Act.WAIT, ["four ", "five"]]],
}


class Model(AgentMaker):
    """A chat client."""

    service = "rig"
    keeps_history = False
    codec = ChatCompletionsCodec(MODEL)

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []
        self.refused: list[str] = []
        self.waiting: list[str] = []
        self.open = 0
        self.hold: asyncio.Event | None = None
        self.within: Callable[[], Awaitable[object]] | None = None  # what is done in the middle of an answer
        self.trouble: random.Random | None = None  # it fails now and then, by this chance
        # Of these texts, turns may hold what another process had said before.
        self.continues: set[str] = set()

    def whole(self, text: str) -> str:
        """All that the model says to a text."""
        return "".join(_pieces(text))

    def begins(self, text: str, said: str) -> bool:
        """Whether that may have been read of what it says to a text when it was broken off."""
        whole = self.whole(text)
        pieces = _pieces(text)
        edges = {"".join(pieces[:n]) for n in range(len(pieces) + 1)}
        return said in edges if text not in self.continues else whole.startswith(said)

    async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
        told = msgspec.json.decode(bytes(request.body))
        self.asked.append(plain(told["messages"]))
        self._check(told)
        self.open += 1
        try:
            calls = 0
            for step in script(told["messages"]):
                if step is Act.FAIL or (self.trouble is not None and self.trouble.random() < _TROUBLE):
                    raise ServiceUnavailableError("The rig's model broke off.", service=self.service)
                if step == Act.WAIT or step == Act.HOLD:
                    await self._wait(told["messages"], step)
                    continue
                together = step if isinstance(step, list) else [step]
                yield [_update(one, calls, len(self.asked)) for one in together]
                calls += isinstance(step, tuple)
            reason = "tool_calls" if calls else "stop"
            yield [FinishUpdate(finish_reason=reason, model=MODEL, response_id=f"r{len(self.asked)}")]
        finally:
            self.open -= 1
            await moment()  # to close a connection takes its time

    async def _wait(self, messages: list[dict[str, Any]], step: Step) -> None:
        if step == Act.WAIT:
            within, self.within = self.within or moment, None
            await within()
            return
        assert self.hold is not None
        self.waiting.append(_last_said(messages))
        await self.hold.wait()

    def _check(self, told: dict[str, Any]) -> None:
        try:
            for rule in STRICT:
                rule(Field(told))
        except RequestRefused as refusal:
            self.refused.append(refusal.message)
            raise BadRequestError(refusal.message, service=self.service, status=400) from None


async def moment() -> None:
    """Wait for something that comes very soon."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def arrive() -> None:
        if not arrived.done():
            arrived.set_result(None)

    loop.call_soon(arrive)
    await arrived


def _update(step: Step, calls: int, number: int) -> AgentRunResponseUpdate:
    if isinstance(step, tuple):
        return ToolCallUpdate(index=calls, call_id=f"call_{number}_{calls}", name=step[0], arguments=step[1])
    assert isinstance(step, str)
    return ReasoningUpdate(reasoning=step[1:]) if step.startswith("~") else AgentRunResponseUpdate(step)


def plain(messages: Sequence[Any]) -> list[tuple[str, str]]:
    """Messages as the service was told them: role and text."""
    return [(str(message["role"]), text_of(message.get("content"))) for message in messages]


def script(messages: Sequence[Any]) -> list[Step]:
    """What the model does, given all that it was told."""
    rounds = _rounds(_last_said(messages))
    answered = 0
    for message in reversed(messages):
        if message["role"] == "user":
            break
        answered += message["role"] == "assistant"
    return rounds[min(answered, len(rounds) - 1)]


def _last_said(messages: Sequence[Any]) -> str:
    return next((text for role, text in reversed(plain(messages)) if role == "user"), "")


def _rounds(text: str) -> list[list[Step]]:
    return _SCRIPTS.get(text) or [[f"You said: {text}"]]


def _pieces(text: str) -> list[str]:
    return [piece for round_ in _rounds(text) for piece in _texts(round_)]


def _texts(steps: Sequence[Step]) -> list[str]:
    """What of these steps is text, in the pieces in which it is handed on."""
    found: list[str] = []
    for step in steps:
        found += [step] if isinstance(step, str) else step if isinstance(step, list) else []
    return found


def over_http(request: ParsedRequest) -> Answer:
    """The same, as an answer of the stand-in."""
    steps = script(request.messages)
    pieces = _texts(steps)
    calls = [step for step in steps if isinstance(step, tuple)]
    if Act.FAIL in steps:
        return Fail(400, message="The rig's model broke off.")
    if calls:
        return CallTools(calls, text="".join(pieces) or None)
    return Say(pieces=pieces, sloppy="batched" if any(isinstance(step, list) for step in steps) else ())
