"""ChatClient: what the engine asks of a chat service.

Rule of this file: a client translates purely and sends once. The engine builds the body of a request from bytes
that the client's codec made, by appending what is new to what was sent before; the client never sees history
as objects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.tools import ToolSpec


class AnswerFormat(Struct, frozen=True):
    """The form that an answer is to have: a name for it, and the JSON Schema of a JSON text.

    With `strict` a service that can do so holds the model to the schema (see `ToolSpec`).
    """

    name: str
    schema: Mapping[str, Any]
    strict: bool = False


class ChatOptions(Struct, frozen=True, kw_only=True):
    """What a caller may ask of the model; None means that the service decides.

    `tool_choice` is "auto", "none", "required" or the name of the tool to be called; `parallel_tool_calls` allows
    several calls in one answer. `extra` is merged into the request's body as it is, for what only one service knows.
    """

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    answer_format: AnswerFormat | None = None
    extra: Mapping[str, Any] | None = None


class ChatRequest(Struct, frozen=True):
    """One question to the service.

    `body` is the whole encoded request. It is lent: the client may read it until it hands on the first updates
    (so that it can retry), and keeps no view of it afterwards, for the engine goes on writing in it.
    `stream` says which kind of answer the body asks for.
    """

    body: bytes | bytearray
    options: ChatOptions
    stream: bool


class Codec(Protocol):
    """Messages to bytes, purely. A request's body is `head`, then each `message`, then `tail`.

    The bytes of a message do not depend on what stands around it, so what was encoded once is never encoded again.
    Every message ends with a separator of one byte, which `tail` replaces after the last one; so does what `head`
    says of instructions.
    """

    @property
    def name(self) -> str:
        """Says which bytes these are; two codecs of the same name make the same bytes of the same message."""
        ...

    def head(self, instructions: str | None) -> bytes:
        """The beginning of a body, up to and including the instructions."""
        ...

    def message(self, message: ChatMessage) -> bytes:
        """One message, with its separator; b"" if nothing in it can be told to this service.

        Raises InvalidInputError if it holds something that this service cannot take, such as a kind of file.
        """
        ...

    def tools(self, specs: Sequence[ToolSpec]) -> bytes:
        """The tools as they stand in a body, for `tail`; encoded once for as long as they are the same."""
        ...

    def tail(self, options: ChatOptions, *, stream: bool, tools: bytes = b"") -> bytes:
        """The end of a body: the options and what `tools` made. It takes the place of the last separator.

        Raises InvalidInputError for options that cannot be encoded, ConfigurationError if no model is named.
        """
        ...


class ChatClient(Protocol):
    """One kind of chat service.

    `service` is its name in errors and in the log. `keeps_history` says whether the service itself stores
    conversations; where it is False the whole conversation goes over the wire on each call.
    """

    @property
    def service(self) -> str: ...

    @property
    def keeps_history(self) -> bool: ...

    @property
    def codec(self) -> Codec: ...

    def ask(self, request: ChatRequest) -> AsyncIterator[Sequence[AgentRunResponseUpdate]]:
        """Send the request and yield the answer in batches: what came together is handed on together.

        A streamed and an unstreamed answer come as the same updates. The iterator is an async generator: closing
        it ends the connection. Nothing is sent again once a batch was handed on.
        Raises ServiceError in one of its forms; an answer that is cut off raises ServiceUnavailableError after
        what came before it was handed on.
        """
        ...
