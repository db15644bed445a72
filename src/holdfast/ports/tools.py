"""Tools: what the engine asks of anything that a model may call.

Rule of this file: a tool is told exactly what the model wrote, and answers with the text that the model is to read, or
raises. What becomes of a call that fails, and what is written down before and after, is the engine's.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from holdfast.conversation.messages import ChatMessage
from holdfast.ports.stores import ThreadStore

D = TypeVar("D")


class ToolError(Exception):
    """Raised by a tool to tell the model, in these very words, why there is no result: it may mend its call.

    Any other exception is told as well, with its type; raise this one where the words are meant for the model.
    """


class ToolSpec(Struct, frozen=True):
    """What a model is told of a tool: its name, what it is for, and the JSON Schema of its arguments (an object).

    With `strict` a service that can do so holds the model to the schema; then every property is required and nothing
    else is allowed.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False


class ToolAnswer(Struct, frozen=True):
    """A result with something beside it: `properties` is kept with it in the log, and told to no model."""

    text: str
    properties: Mapping[str, Any]


# Finds the latest message of the conversation, this turn's included, for which a function is true.
LookBack: TypeAlias = Callable[[Callable[[ChatMessage], bool]], Awaitable[ChatMessage | None]]


class ToolContext(Generic[D]):
    """What a tool is told of the call that it answers. A parameter of this type is filled in, and not in the schema.

    `idempotency_key` is the same if this call is made again after a crash, and never that of another call: pass it on
    to what should happen once. `call_id` is the call's name within its turn, as the log and the updates have it;
    `thread_id` and `turn_id` say where it was called. `deps` is what the caller gave the run (`deps=`).
    """

    __slots__ = ("_cancelled", "_look_back", "_store", "call_id", "deps", "shared", "thread_id", "tool", "turn_id")

    def __init__(
        self,
        tool: str,
        call_id: str,
        turn_id: str,
        thread_id: str,
        deps: D,
        *,
        store: ThreadStore | None = None,
        look_back: LookBack | None = None,
        shared: dict[object, Any] | None = None,
    ) -> None:
        self.tool = tool
        self.call_id = call_id
        self.turn_id = turn_id
        self.thread_id = thread_id
        self.deps = deps
        self._store = store
        self._look_back = look_back
        # What tools of one kind share among the calls of one answer.
        self.shared: dict[object, Any] = {} if shared is None else shared
        self._cancelled = threading.Event()

    @property
    def idempotency_key(self) -> str:
        """A name for this call and no other, also after a crash."""
        return f"{self.turn_id}.{self.call_id}"

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled, or the call's time is over. Who works in a thread should look now and then."""
        return self._cancelled.is_set()

    @property
    def store(self) -> ThreadStore | None:
        """Where the thread is kept; for tools that keep threads of their own."""
        return self._store

    async def look_back(self, fits: Callable[[ChatMessage], bool]) -> ChatMessage | None:
        """The latest message of the conversation, this turn's included, for which `fits` is true."""
        return None if self._look_back is None else await self._look_back(fits)

    def cancel(self) -> None:
        """Say that nobody waits for the result any more. Called by the engine."""
        self._cancelled.set()


class Tool(Protocol):
    """Something that a model may call.

    `timeout` is in seconds, None for none. `idempotent` says that a call may be made twice under the same call id, so
    one that a crash has cut off is made again. `in_thread` says that it cannot be cancelled, only waited for.
    `approval_seconds` is how long somebody has to approve a call; None for as long as it takes.
    """

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def timeout(self) -> float | None: ...

    @property
    def idempotent(self) -> bool: ...

    @property
    def in_thread(self) -> bool: ...

    @property
    def approval_seconds(self) -> float | None: ...

    def needs_approval(self, arguments: str) -> bool:
        """Whether a human must allow a call with these arguments (the JSON text as the model wrote it).

        Never raises: what cannot be read needs none, for it will not be done.
        """
        ...

    async def call(self, arguments: str, context: ToolContext[Any]) -> str | ToolAnswer:
        """Do it; the text of the result. Raises ToolError, and whatever goes wrong."""
        ...


class ToolSource(Protocol):
    """Something that has tools to offer, and may offer others later: the tools of a server, say.

    `name` is put before the names of its tools where they clash with others.
    """

    @property
    def name(self) -> str: ...

    async def tools(self) -> Sequence[Tool]:
        """What it offers now: the identical sequence for as long as that has not changed.

        Raises HoldfastError if it cannot be learned.
        """
        ...
