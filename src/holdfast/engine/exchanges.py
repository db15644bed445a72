"""Exchanges: one question to the service and what came of it, as far as the reader has had it.

Rule of this file: what counts as said is what was handed on. Updates that arrived but that nobody asked for are
not part of an answer that was broken off.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from holdfast.conversation.updates import AgentRunResponseUpdate, Answer
from holdfast.ports.clients import ChatClient, ChatRequest


class Exchange:
    """A request under way. `next` brings what came; `heard` folds what was handed on; `end` closes the connection."""

    __slots__ = ("_answer", "_batch", "_batches", "_rest")

    def __init__(self, client: ChatClient, request: ChatRequest) -> None:
        self._batches = cast(AsyncGenerator[Sequence[AgentRunResponseUpdate], None], client.ask(request))
        self._answer = Answer()
        self._batch: Sequence[AgentRunResponseUpdate] = ()
        self._rest: Iterator[AgentRunResponseUpdate] = iter(())

    async def next(self, deadline: float | None) -> Iterator[AgentRunResponseUpdate] | None:
        """The next updates, to be handed on one by one; None at the end. Asking for more means: all before was read.

        `deadline` is in the event loop's time; TimeoutError after it.
        """
        self._answer.add(self._batch)
        self._batch = ()
        if deadline is None:
            batch = await anext(self._batches, None)
        else:
            async with asyncio.timeout_at(deadline):
                batch = await anext(self._batches, None)
        if batch is None:
            return None
        self._batch = batch
        self._rest = iter(batch)
        return self._rest

    def heard(self) -> Answer:
        """The answer as far as it was handed on. Nothing can be handed on afterwards."""
        seen = len(self._batch) - operator.length_hint(self._rest)
        self._answer.add(self._batch[:seen])
        self._batch = ()
        self._rest = iter(())
        return self._answer

    async def end(self) -> None:
        """Close the connection, if it is still open."""
        await self._batches.aclose()
