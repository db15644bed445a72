"""Situations: what stands around a turn, cancelled: middleware, providers, spans, and views of the conversation.

Rule of this file: the middleware is such as users write: it waits for a moment, and knows nothing of the rig.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from holdfast import (
    ChatMessage,
    ContextTooLongError,
    HoldfastError,
    LastTurns,
    ModelCallContext,
    RunContext,
    ServiceUnavailableError,
    ToolCallContext,
    Turn,
    TurnContext,
    tool,
)
from holdfast.engine.span_content import VARIABLE
from holdfast.engine.spans import Watch
from rigs.cancel_model import BEFORE, HESITATES, LOOKS, moment
from rigs.cancel_stage import Stage, situation
from rigs.cancel_tools import TOOLS, aside, find

RUN = "ChatAgent.run"
AGAIN = "again"


# --- middleware and providers ----------------------------------------------------------------------------------------


async def _around_run(context: RunContext, call_next: Callable[[RunContext], Awaitable[Any]]) -> Any:
    await context.history()
    return await call_next(context)


async def _around_question(
    context: ModelCallContext, call_next: Callable[[ModelCallContext], Awaitable[ChatMessage]]
) -> ChatMessage:
    await moment()
    return await call_next(context)


async def _around_call(context: ToolCallContext, call_next: Callable[[ToolCallContext], Awaitable[Any]]) -> Any:
    await moment()
    return await call_next(context)


AROUND: Sequence[Any] = (_around_run, _around_question, _around_call)


class _Memory:
    """Remembers something, after a moment."""

    async def provide(self, context: RunContext) -> TurnContext:
        await moment()
        return TurnContext(instructions="The user is called Ada.")


@situation(RUN, "FunctionTool.call")
async def a_run_within_middleware(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, LOOKS))
    return stage.run(LOOKS, tools=TOOLS, middleware=AROUND, context_providers=[_Memory()])


@situation("ChatAgent.run_stream", "AgentRunStream.__anext__")
async def a_stream_within_middleware(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, LOOKS))
    return stage.read_all(stage.stream(LOOKS, tools=TOOLS, middleware=AROUND), LOOKS, lazy=True)


@situation(RUN)
async def a_run_that_middleware_asks_again(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (HESITATES,))
    stage.model.within = _unavailable

    async def again(context: ModelCallContext, call_next: Callable[[ModelCallContext], Awaitable[Any]]) -> Any:
        with contextlib.suppress(HoldfastError):
            return await call_next(context)
        return await call_next(context)

    return stage.run(HESITATES, middleware=again)


async def _unavailable() -> None:
    await moment()
    raise ServiceUnavailableError("Not now.", service="rig")


@situation(RUN)
async def a_run_that_middleware_answers(stage: Stage) -> Awaitable[Any]:
    """In place of the model, after a tool has taken too long."""
    stage.may_become((), (LOOKS,))

    limit = asyncio.timeout(None)

    @tool(name="soon")
    async def never() -> str:
        limit.reschedule(0)
        await asyncio.sleep(60)
        return "never"

    async def limited(context: RunContext, call_next: Callable[[RunContext], Awaitable[Any]]) -> Any:
        with contextlib.suppress(TimeoutError):
            async with limit:
                return await call_next(context)
        return "Found it."

    return stage.run(LOOKS, tools=[never, aside, find], middleware=limited)


@situation(RUN)
async def a_run_whose_question_fails_and_middleware_answers(stage: Stage) -> Awaitable[Any]:
    stage.may_become((), (HESITATES,))
    stage.model.within = _unavailable

    async def answers(context: ModelCallContext, call_next: Callable[[ModelCallContext], Awaitable[Any]]) -> Any:
        with contextlib.suppress(HoldfastError):
            return await call_next(context)
        return "now."

    return stage.run(HESITATES, middleware=answers)


# --- spans ---------------------------------------------------------------------------------------------------------


@situation(RUN)
async def a_run_that_is_watched(stage: Stage) -> Awaitable[Any]:
    """With all that is said in it."""
    await stage.before()
    stage.may_become((BEFORE,), (BEFORE, LOOKS))
    watch = Watch(TracerProvider(shutdown_on_exit=False), None)
    os.environ[VARIABLE] = "true"

    async def tell_no_more() -> None:
        os.environ.pop(VARIABLE, None)

    stage.afterwards.append(tell_no_more)
    return stage.run(LOOKS, tools=TOOLS, middleware=[watch._run, watch._question, watch._call])


@situation(RUN)
async def a_run_that_is_watched_and_forgotten(stage: Stage) -> Awaitable[Any]:
    watch = Watch(TracerProvider(shutdown_on_exit=False), None)

    async def forget(context: RunContext, call_next: Callable[[RunContext], Awaitable[Any]]) -> Any:
        context.state.clear()
        return await call_next(context)

    return stage.run(middleware=[watch._run, forget, watch._question])


# --- how much is told ----------------------------------------------------------------------------------------------


@situation(RUN)
async def a_run_that_is_told_the_last_turns(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    return stage.run(history=LastTurns(1))


@situation(RUN)
async def a_run_that_is_told_what_a_function_chooses(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)

    def last(turns: list[Turn]) -> list[Turn]:
        return turns[-1:]

    return stage.run(history=last)


@situation(RUN)
async def a_run_that_is_told_less_the_second_time(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, AGAIN)
    stage.may_become((BEFORE, AGAIN), (BEFORE, AGAIN, HESITATES))
    stage.model.within = _too_long
    return stage.run(HESITATES, history=LastTurns(2))


async def _too_long() -> None:
    await moment()
    raise ContextTooLongError("Too long.", service="rig")
