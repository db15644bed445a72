"""Surrounding: how middleware is put around a run and around a question to the model.

Rule of this file: whatever middleware does, a turn has one answer to each question, and what is recorded is what it
let through.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

from msgspec.structs import replace

from holdfast.conversation.cursors import updates_of
from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.middleware import ModelCallContext, RunContext, chained, hand_on
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun

Steps: TypeAlias = AsyncGenerator[Iterator[AgentRunResponseUpdate], None]


async def surrounded(run: TurnRun, rounds: Callable[[TurnRun], Steps]) -> None:
    """The rounds of a run, within its middleware. For `middleware.driven`."""
    context = run.surroundings()
    was_called = False
    response: AgentRunResponse | None = None

    async def innermost(context: RunContext) -> AgentRunResponse:
        nonlocal was_called, response
        if was_called:
            raise RuntimeError("call_next was called twice around a run: a turn is made once.")
        was_called = True
        run.takes(context)
        with _explained(run):
            async with aclosing(rounds(run)) as steps:
                async for updates in steps:
                    await hand_on(updates)
        response = replace(run.response(), status=run.status or "completed")
        return response

    result = await chained(run.spec.around.run, innermost)(context)
    if response is None:  # it was not called, or has failed
        await _say(run, _message(result, "a run"))
        run.answered()
        run.reads_form()
    elif not isinstance(result, AgentRunResponse):
        raise InvalidInputError(
            f"Middleware around a run returned {type(result).__name__} when the run was done: what was said is said. "
            "Put it around questions to the model (ModelCallContext) to change answers, or return what call_next gave."
        )
    else:
        run.refuse_if_stopped()


async def asked(run: TurnRun) -> None:
    """One question to the model and its answer, within its middleware. For `middleware.driven`."""
    context = ModelCallContext(run.surroundings(), run.messages_so_far(), run.options, run.rounds + 1)
    answer: ChatMessage | None = None
    is_answered = False

    async def innermost(context: ModelCallContext) -> ChatMessage | None:
        nonlocal answer, is_answered
        if is_answered:
            raise RuntimeError("call_next was called again after it had answered: a question is asked once.")
        with _explained(run):
            await run.ask(context)
            began = run.spec.runtime.monotonic()
            while (updates := await run.next_updates()) is not None:
                if context.seconds_to_first is None:
                    context.seconds_to_first = run.spec.runtime.monotonic() - began
                await hand_on(updates)
        is_answered, answer = True, run.answer_to(context)
        return answer

    result = await chained(run.spec.around.model, innermost)(context)
    if not is_answered:
        await _say(run, _message(result, "a question to the model"))
    else:
        run.refuse_if_stopped()
        if result is not answer:
            run.answers_with(_message(result, "a question to the model"))


@contextmanager
def _explained(run: TurnRun) -> Iterator[None]:
    """What is raised in here reaches middleware as it would reach whoever called the run."""
    try:
        yield
    except Exception as error:
        told = run.explained(error)
        if told is error:
            raise
        raise told from None


async def _say(run: TurnRun, message: ChatMessage) -> None:
    """Have a message that no model gave be the answer."""
    await run.leaves_off()
    run.answers_with(message)
    await hand_on(iter(updates_of([message])))


def _message(result: Any, what: str) -> ChatMessage:
    if isinstance(result, str):
        return ChatMessage("assistant", text=result)
    if isinstance(result, AgentRunResponse):
        result = result.messages[-1] if result.messages else None
    if not isinstance(result, ChatMessage) or result.role != "assistant" or not result.contents:
        raise InvalidInputError(
            f"Middleware around {what} returned {type(result).__name__}. It returns what call_next gave it, or, as an "
            "answer of its own, a text or a ChatMessage of the assistant."
        )
    return result
