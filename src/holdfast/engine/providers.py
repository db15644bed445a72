"""Context providers: what a run is told beside the conversation: memories, documents found, tools for one turn.

    class Memory:
        async def provide(self, context: RunContext) -> TurnContext:
            return TurnContext(instructions=f"The user is {await name_of(context.thread_id)}.")

Rule of this file: a provider belongs to the agent and keeps nothing of a thread in itself; it is asked anew for each
turn. What it gives goes right before what was said (instructions) or right after it (messages), so that the bytes of
the conversation before stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import ChatMessage
from holdfast.engine.middleware import RunContext
from holdfast.engine.toolkits import NO_TOOLS, Callee, Toolkit, toolkit


class TurnContext(Struct, frozen=True, kw_only=True):
    """What a provider adds to one turn.

    `messages` are told after what was said; with `recorded` they become part of the turn and are told again in later
    ones, else they are gone after it. `instructions` and `tools` are never recorded.
    """

    instructions: str | None = None
    messages: Sequence[ChatMessage] = ()
    tools: Sequence[Callee] = ()
    recorded: bool = False


class ContextProvider(Protocol):
    """Adds to what a turn is told. `provide` is asked when the turn is open, before the model is."""

    async def provide(self, context: RunContext) -> TurnContext | None: ...


class Provided(Struct):
    """All that the providers of a run gave."""

    instructions: list[ChatMessage] = []
    fleeting: list[ChatMessage] = []
    recorded: list[ChatMessage] = []
    kit: Toolkit = NO_TOOLS


def providers(given: object) -> tuple[ContextProvider, ...]:
    """The providers that a caller gave. Raises InvalidInputError for what is none."""
    if given is None:
        return ()
    found: list[Any] = [given] if hasattr(given, "provide") else list(given) if isinstance(given, Iterable) else [given]
    if not all(hasattr(item, "provide") for item in found):
        raise InvalidInputError("context_providers= takes a list of objects with an async method provide(context).")
    return tuple(found)


async def gathered(given: Sequence[ContextProvider], context: RunContext) -> Provided:
    """Ask all providers, in their order. Raises what they raise, and InvalidInputError for what is no TurnContext."""
    all_of_it = Provided()
    for provider in given:
        added = await provider.provide(context)
        if added is None:
            continue
        if not isinstance(added, TurnContext):
            raise InvalidInputError(
                f"{type(provider).__name__}.provide() gave {type(added).__name__}; give a TurnContext, or None."
            )
        if added.instructions:
            all_of_it.instructions.append(ChatMessage("system", text=added.instructions))
        (all_of_it.recorded if added.recorded else all_of_it.fleeting).extend(added.messages)
        all_of_it.kit = all_of_it.kit.joined(toolkit(added.tools) if added.tools else NO_TOOLS)
    return all_of_it
