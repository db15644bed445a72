"""Plants for the rig of service faults: clients and stores that it must report.

Rule of this file: a plant is a subclass of a client, or changes a booth; the judge is told nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from holdfast import (
    AgentRunResponseUpdate,
    BadRequestError,
    ChatMessage,
    OpenAIChatClient,
    ServiceProtocolError,
    ServiceUnavailableError,
    UsageUpdate,
)
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.conversation.records import decode_turn, encode_messages, encode_turn
from holdfast.ports.clients import ChatRequest
from holdfast.ports.runtime import SystemRuntime
from holdfast.ports.stores import NewTurn, OpenRun
from rigs.faults_play import Booth

Updates = AsyncGenerator[list[AgentRunResponseUpdate], None]


class Plant(Struct, frozen=True):
    """The kind of client, and what is done to a booth before anything is said in it."""

    client: type[OpenAIChatClient] = OpenAIChatClient
    change: Callable[[Booth], None] = lambda booth: None


# --- clients -------------------------------------------------------------------------------------------------------


class _Stubborn(OpenAIChatClient):
    """Asks again, though something of the answer was handed on."""

    async def ask(self, request: ChatRequest) -> Updates:
        try:
            async for updates in super().ask(request):
                yield updates
            return
        except ServiceUnavailableError:
            pass
        async for updates in super().ask(request):
            yield updates


class _Credulous(OpenAIChatClient):
    """Takes an answer that was cut off for a whole one."""

    async def ask(self, request: ChatRequest) -> Updates:
        handed_on = False
        try:
            async for updates in super().ask(request):
                handed_on = True
                yield updates
        except ServiceUnavailableError:
            if not handed_on:
                raise


class _Raw(OpenAIChatClient):
    """Lets errors through that are not ours."""

    async def ask(self, request: ChatRequest) -> Updates:
        try:
            async for updates in super().ask(request):
                yield updates
        except ServiceProtocolError as error:
            raise ValueError(str(error)) from None


class _Vain(OpenAIChatClient):
    """Asks again what was refused for good."""

    async def ask(self, request: ChatRequest) -> Updates:
        try:
            async for updates in super().ask(request):
                yield updates
            return
        except BadRequestError:
            pass
        async for updates in super().ask(request):
            yield updates


class _Uncounted(OpenAIChatClient):
    """Says nothing of the tokens of an answer in one piece."""

    async def ask(self, request: ChatRequest) -> Updates:
        async for updates in super().ask(request):
            yield [update for update in updates if request.stream or not isinstance(update, UsageUpdate)]


class _Deaf(SystemRuntime):
    async def sleep(self, seconds: float) -> None:
        """However long a service asks to wait."""


class _Hurried(OpenAIChatClient):
    """Does not wait before it asks again."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "runtime": _Deaf()})


class _Tireless(OpenAIChatClient):
    """Asks again more often than it was told to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "max_retries": 6})


class _Resigned(OpenAIChatClient):
    """Never asks again."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "max_retries": 0})


class _ForgetfulCodec(ChatCompletionsCodec):
    """Tells the service nothing of what it has said itself, unless it asked for tools."""

    __slots__ = ()

    def message(self, message: ChatMessage) -> bytes:
        return b"" if message.role == "assistant" and not message.tool_calls else super().message(message)


class _Forgetful(OpenAIChatClient):
    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(model, **options)
        self.codec = _ForgetfulCodec(model)


# --- stores --------------------------------------------------------------------------------------------------------


def _at_seal(change: Callable[[NewTurn], NewTurn]) -> Callable[[Booth], None]:
    """A store that keeps something else than it was told."""

    def changed(booth: Booth) -> None:
        store: Any = booth.store
        sealed = store.seal

        def seal(run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Any:
            return sealed(run, [change(turn) for turn in turns], **options)

        store.seal = seal

    return changed


def _as_cancelled(turn: NewTurn) -> NewTurn:
    """What failed is kept as if its caller had stopped it, so that it counts though nothing happened."""
    return replace(turn, status="cancelled") if turn.status == "failed" else turn


def _without_what_was_said(turn: NewTurn) -> NewTurn:
    """Of what failed nothing is kept but the question."""
    if turn.status != "failed":
        return turn
    was = decode_turn(turn.record, turn_id=turn.turn_id, seq=1, status=turn.status, started_us=0, ended_us=0)
    return replace(turn, record=encode_turn(encode_messages(was.input), (), error=was.error))


PLANTS: Mapping[str, Plant] = {
    "none": Plant(),
    "asks-again-amid-an-answer": Plant(_Stubborn),
    "half-taken-for-whole": Plant(_Credulous),
    "untyped-error": Plant(_Raw),
    "asks-in-vain": Plant(_Vain),
    "asks-too-often": Plant(_Tireless),
    "never-asks-again": Plant(_Resigned),
    "does-not-wait": Plant(_Hurried),
    "tokens-of-streams-alone": Plant(_Uncounted),
    "answers-not-told": Plant(_Forgetful),
    "failed-counts": Plant(change=_at_seal(_as_cancelled)),
    "failed-says-nothing": Plant(change=_at_seal(_without_what_was_said)),
}
