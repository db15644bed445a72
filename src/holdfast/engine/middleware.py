"""Middleware: what a caller puts around a run, a question to the model, or a tool call.

    async def log_calls(context: ToolCallContext, call_next):
        print(context.tool, context.arguments)
        return await call_next(context)

One signature for all. What a function is put around is said by the annotation of its first parameter: `RunContext`,
`ModelCallContext`, `ToolCallContext`, or a union of them; without one it is put around all three. It may change what
it is given, answer itself without calling on, or raise.

Rule of this file: without middleware a run does not come here. With it, updates are still handed on one by one in the
task of whoever reads them; nothing runs beside it.
"""

from __future__ import annotations

import asyncio
import inspect
import types
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import AgentRunResponseUpdate, Usage
from holdfast.ports.clients import ChatOptions
from holdfast.ports.tools import ToolContext

C = TypeVar("C")
R = TypeVar("R")
CallNext: TypeAlias = Callable[[C], Awaitable[R]]
Middleware: TypeAlias = Callable[[Any, Callable[[Any], Awaitable[Any]]], Awaitable[Any]]


class RunContext:
    """A run whose turn is open, before anything is asked. `call_next(context)` gives its AgentRunResponse.

    `messages` are what was said; `instructions`, `messages` and `options` may be changed: that is what is sent, while
    the log keeps what was said. To return a text or an assistant's ChatMessage without calling on is the answer then.
    `state` is a dict for whoever wants to keep something from one context of the run to another. `history()` gives
    the messages of the conversation before this turn.
    """

    def __init__(
        self,
        *,
        agent: str | None,
        service: str,
        thread_id: str,
        turn_id: str,
        messages: Sequence[ChatMessage],
        instructions: str | None,
        options: ChatOptions,
        deps: Any,
        stream: bool,
        history: Callable[[], Awaitable[list[ChatMessage]]],
        agent_id: str = "",
        model: str | None = None,
        address: str | None = None,
    ) -> None:
        self.agent = agent
        self.service = service
        self.thread_id = thread_id
        self.turn_id = turn_id
        self.messages = messages
        self.instructions = instructions
        self.options = options
        self.deps = deps
        self.stream = stream
        self.state: dict[str, Any] = {}
        self.history = history
        self.agent_id = agent_id
        # The client's own model, and where it asks, if it says so.
        self.model = model
        self.address = address


class ModelCallContext:
    """One question to the model. `call_next(context)` gives the ChatMessage of the answer, or None if it was empty.

    `messages` are this turn's messages so far, as the service is told them after those of the conversation; they and
    `options` may be changed for this question. To return a text or a ChatMessage without calling on is the answer
    then. After an error before the first update, `call_next` may be called again.
    """

    def __init__(self, run: RunContext, messages: Sequence[ChatMessage], options: ChatOptions, number: int) -> None:
        self.run = run
        self.messages = messages
        self.options = options
        self.number = number
        # What the answer said of itself; set when call_next has returned.
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.response_id: str | None = None
        self.usage: Usage | None = None
        # How long its first update took to come.
        self.seconds_to_first: float | None = None


class ToolCallContext:
    """One tool call, which is begun. `call_next(context)` gives the text of its result.

    `arguments` is the JSON text as the model wrote it; it may be changed, unless somebody has approved the call. To
    return a text without calling on is the result then; raise ToolError to refuse.
    """

    def __init__(self, run: RunContext | None, tool: str, arguments: str, context: ToolContext[Any]) -> None:
        self.run = run
        self.tool = tool
        self.call_id = context.call_id
        self.arguments = arguments
        self.context = context


class Around(Struct, frozen=True):
    """Middleware by what it is put around, the outermost first."""

    run: tuple[Middleware, ...] = ()
    model: tuple[Middleware, ...] = ()
    tool: tuple[Middleware, ...] = ()

    def within(self, others: Around) -> Around:
        """These, with others inside them."""
        return Around(self.run + others.run, self.model + others.model, self.tool + others.tool)

    def __bool__(self) -> bool:
        return bool(self.run or self.model or self.tool)


NOTHING_AROUND = Around()


def around(given: object) -> Around:
    """The middleware that a caller gave. Raises InvalidInputError for what is none."""
    if given is None:
        return NOTHING_AROUND
    if callable(given):
        given = [given]
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise InvalidInputError(f"middleware= takes a list of async functions; got {type(given).__name__}.")
    kinds: dict[type, list[Middleware]] = {RunContext: [], ModelCallContext: [], ToolCallContext: []}
    for item in given:
        for kind in _kinds_of(item):
            kinds[kind].append(item)
    return Around(*(tuple(found) for found in kinds.values()))


_KINDS = (RunContext, ModelCallContext, ToolCallContext)


def _kinds_of(item: Any) -> tuple[type, ...]:
    """What a function is put around, by the annotation of its first parameter."""
    called = item if inspect.isroutine(item) else getattr(type(item), "__call__", None)  # noqa: B004
    if called is None or not inspect.iscoroutinefunction(called):
        raise InvalidInputError(
            f"Middleware is an async function of (context, call_next); {getattr(item, '__name__', item)!r} is none."
        )
    try:
        hints = typing.get_type_hints(called)
    except NameError:  # named where only its module's own functions see it
        hints = {}
    names = list(inspect.signature(item).parameters)
    hint = hints.get(names[0]) if names else None
    told = [kind for kind in _KINDS if hint is kind or kind in typing.get_args(hint)]
    return tuple(told) or _KINDS


def chained(
    middleware: Sequence[Middleware], innermost: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    """The functions around the innermost one, each given the next as `call_next`."""
    call = innermost
    for outer in reversed(middleware):
        call = _bound(outer, call)
    return call


def _bound(outer: Middleware, call: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    async def bound(context: Any) -> Any:
        return await outer(context, call)

    return bound


# --- a coroutine that hands updates on ------------------------------------------------------------------------------


class _Handed(Struct):
    """What goes up through the awaits of a coroutine beside the futures that it waits for."""

    updates: Iterator[AgentRunResponseUpdate]


@types.coroutine
def hand_on(updates: Iterator[AgentRunResponseUpdate]) -> Generator[Any, None, None]:
    """Hand updates on to whoever reads the run; goes on when they were read. Only within `driven`."""
    yield _Handed(updates)


@types.coroutine
def _wait(future: Any) -> Generator[Any, Any, Any]:
    return (yield future)


async def driven(work: Coroutine[Any, Any, None]) -> AsyncGenerator[Iterator[AgentRunResponseUpdate], None]:
    """Run a coroutine, and yield what it hands on: in this very task, one step at a time.

    If this generator is closed, or its task cancelled, that is a cancellation for the coroutine where it stands; it
    may await something as it ends.
    """
    value: Any = None
    error: BaseException | None = None
    is_closing = False
    while True:
        try:
            what = work.send(value) if error is None else work.throw(error)
        except StopIteration:
            return
        except asyncio.CancelledError:
            if is_closing:
                return
            raise
        value = error = None
        if not isinstance(what, _Handed):
            try:
                value = await _wait(what)
            except BaseException as raised:
                error = raised
        elif not is_closing:
            try:
                yield what.updates
            except GeneratorExit:  # which nothing may be awaited after
                error, is_closing = asyncio.CancelledError(), True
            except BaseException as raised:
                error = raised
