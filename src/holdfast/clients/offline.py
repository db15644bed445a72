"""The offline partner: a chat client that is no language model and needs no key, no network and no money.

Rule of this file: it answers from nothing but the bytes of the request, as a real service would. So every example
runs without a key, and a conversation that lost its context shows at once.

The body of a request is JSON, one line each for the instructions (if any), every message, and the options:

    {"instructions": "You are good at telling jokes."}
    {"role": "user", "text": "Tell me a joke about a pirate."}
    {"options": {}, "stream": false}

Calls, their results, and the tools that may be called stand in these lines too. What it says, its jokes, and when it
calls a tool, are in the folder `offline_partner`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from holdfast.clients.base import AgentMaker
from holdfast.clients.offline_partner.calls import Wishes
from holdfast.clients.offline_partner.rules import NO_WISHES, answer
from holdfast.clients.offline_partner.sent import Called, Result, Said
from holdfast.conversation.errors import BadRequestError, ConfigurationError, InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    FileContent,
    ImageContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
)
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    FinishUpdate,
    ToolCallUpdate,
    Usage,
    UsageUpdate,
)
from holdfast.ports.clients import ChatOptions, ChatRequest, Codec
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.tools import ToolSpec

MODEL = "offline-rules"


class _Line(Said, frozen=True, omit_defaults=True):
    """Any line of a body: a message has a role, the instructions and the options have not."""

    role: str = ""
    instructions: str | None = None
    options: Wishes | None = None


_LINES = msgspec.json.Decoder(_Line)
_WORD = re.compile(r"\s*\S+\s*\Z|\s*\S+")


class OfflineCodec:
    """Messages as lines of JSON. Of images and files it tells how many there are, and names: enough to say."""

    name = "offline/2"

    def head(self, instructions: str | None) -> bytes:
        return _line({"instructions": instructions}) + b"\n" if instructions else b""

    def message(self, message: ChatMessage) -> bytes:
        parts = message.contents
        said = Said(
            message.role,
            "".join(part.text for part in parts if isinstance(part, (TextContent, RefusalContent))),
            sum(isinstance(part, ImageContent) for part in parts),
            tuple(part.name or "unnamed" for part in parts if isinstance(part, FileContent)),
            tuple(Called(part.call_id, part.name) for part in parts if isinstance(part, ToolCallContent)),
            tuple(
                Result(part.call_id, part.result, part.is_error) for part in parts if type(part) is ToolResultContent
            ),
        )
        return b"" if said == Said(message.role) else _line(said) + b"\n"

    def tools(self, specs: Sequence[ToolSpec]) -> bytes:
        return _line([{"name": spec.name, "parameters": spec.parameters} for spec in specs])

    def tail(self, options: ChatOptions, *, stream: bool, tools: bytes = b"") -> bytes:
        chosen = {name: getattr(options, name) for name in options.__struct_fields__}
        told: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        if tools:
            told["tools"] = msgspec.Raw(tools)
        return b"\n" + _line({"options": told, "stream": stream})


class OfflineChatClient(AgentMaker):
    """A partner made of rules: NO language model. For first steps, examples and tests, without a key.

        agent = OfflineChatClient().create_agent(instructions="You are good at telling jokes.")

    It tells jokes, tells the last one again with emojis or in another's voice, remembers a name, and says what was
    said before; otherwise it says what it heard. It calls a tool whose name it reads in a message ("use get_weather
    with city Paris") and tells the result; an answer that is to have a form it makes of the words of the message. The
    same messages get the same answer. `delay` is the number of seconds between the words of a streamed answer, so that
    a person sees it stream. Options such as `temperature` or `max_tokens` mean nothing to rules and are ignored.
    Raises ConfigurationError for a delay that is negative or no finite number.
    """

    service = "offline"
    keeps_history = False
    codec: Codec = OfflineCodec()

    def __init__(self, *, delay: float = 0.0, runtime: Runtime = SYSTEM) -> None:
        if not (math.isfinite(delay) and delay >= 0):
            raise ConfigurationError(f"The delay between pieces is a number of seconds, 0 or more; got {delay!r}.")
        self._delay = delay
        self._runtime = runtime

    async def ask(self, request: ChatRequest) -> AsyncIterator[Sequence[AgentRunResponseUpdate]]:
        """Answer from the body, word by word if it asks for a stream, in one batch if not."""
        said, facts = _answered(bytes(request.body))
        if not request.stream:
            yield [*said, *facts]
            return
        for number, piece in enumerate(piece for update in said for piece in _pieces(update)):
            if number and self._delay:
                await self._runtime.sleep(self._delay)
            yield [piece]
        yield facts


def _pieces(update: AgentRunResponseUpdate) -> Iterator[AgentRunResponseUpdate]:
    """The same as a stream has it: a word at a time; of a call first the name, then its arguments."""
    if isinstance(update, ToolCallUpdate):
        yield ToolCallUpdate(index=update.index, call_id=update.call_id, name=update.name)
        for piece in re.findall(_WORD, update.arguments):
            yield ToolCallUpdate(index=update.index, arguments=piece)
        return
    for piece in re.findall(_WORD, update.text):
        yield AgentRunResponseUpdate(piece)


def _line(told: object) -> bytes:
    try:
        return msgspec.json.encode(told)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInputError(f"This cannot be written as JSON, so it cannot be sent: {error}.") from None


def _answered(body: bytes) -> tuple[list[AgentRunResponseUpdate], list[AgentRunResponseUpdate]]:
    """The whole answer to a body, and the facts about it.

    Tokens are words: of all that was sent, so that people see what a turn sends.
    """
    try:
        lines = _LINES.decode_lines(body)
    except msgspec.DecodeError as error:
        raise BadRequestError(
            f"The body of the request is not what OfflineCodec writes: {error}", service="offline"
        ) from None
    instructions = next((line.instructions for line in lines if line.instructions), None)
    messages = [line for line in lines if line.role]
    wishes = next((line.options for line in reversed(lines) if line.options), NO_WISHES)
    text, calls = answer(instructions, messages, wishes)
    # The last line, the options, is left out: a streamed and an unstreamed answer are one answer.
    mark = hashlib.sha256(body[: body.rfind(b"\n") + 1]).hexdigest()[:24]
    said: list[AgentRunResponseUpdate] = [AgentRunResponseUpdate(text)] if text else []
    for number, call in enumerate(calls):
        update = ToolCallUpdate(index=number, call_id=f"call_{mark}_{number}", name=call.name, arguments=call.arguments)
        said.append(update)
    read = _words(instructions or "", *(line.text for line in messages))
    read += _words(*(result.text for line in messages for result in line.results))
    written = _words(text, *(call.arguments for call in calls))
    finish = FinishUpdate(finish_reason="tool_calls" if calls else "stop", model=MODEL, response_id=f"offline-{mark}")
    return said, [UsageUpdate(usage=Usage(read, written, read + written)), finish]


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
