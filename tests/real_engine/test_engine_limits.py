"""Where a real engine ends: the context is full, or nobody listens any more. Nothing that was said is lost."""

from __future__ import annotations

import asyncio

import pytest
from engine_process import CONTEXT_SIZE, Engine
from talking import BYTES_WITHOUT_END, WORDS_WITHOUT_END, calling, pairs, roles, said, words

from holdfast import AgentRunResponseUpdate, ChatAgent, ContextTooLongError, Turn

both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def check_recorded(error: ContextTooLongError, turn: Turn, question: str) -> None:
    """The failed turn is in the log, and the error says where."""
    assert (error.service, error.status, error.service_code) == ("openai", 400, "exceed_context_size_error")
    assert str(CONTEXT_SIZE) in str(error)  # the engine's own words
    assert error.turn_id == turn.id
    assert error.response is not None
    assert (error.response.status, error.response.messages) == (turn.status, turn.output)
    assert turn.error is not None
    assert (turn.status, turn.error.code, turn.input[0].text) == ("failed", error.code, question)


@both
async def test_a_question_that_is_too_long(agent: ChatAgent, stream: bool) -> None:
    thread = agent.get_new_thread()
    first = await said(agent, "hello", thread, stream=stream, extra=WORDS_WITHOUT_END)
    before = await thread.messages()
    question = words(CONTEXT_SIZE)
    with pytest.raises(ContextTooLongError) as caught:
        await said(agent, question, thread, stream=stream)
    turns = await thread.turns()
    assert [turn.status for turn in turns] == ["completed", "failed"]
    assert caught.value.thread_id == thread.id
    check_recorded(caught.value, turns[-1], question)
    assert await thread.messages() == before

    # Nothing was said by it, so the thread goes on as if it had not been asked.
    response = await said(agent, "hello", thread, stream=stream)
    assert first.usage
    assert response.usage
    assert response.usage.cached_tokens == first.usage.total_tokens - 1
    assert (await thread.messages())[:2] == before


@both
async def test_a_conversation_that_has_filled_the_context(agent: ChatAgent, stream: bool) -> None:
    thread = agent.get_new_thread()
    question = words(CONTEXT_SIZE // 2 - 150)
    kept = [
        await said(agent, question, thread, stream=stream, extra=WORDS_WITHOUT_END),
        # This answer goes on until the context is full.
        await said(agent, question, thread, stream=stream, max_tokens=None, extra=WORDS_WITHOUT_END),
    ]
    assert kept[1].finish_reason == "length"
    assert kept[1].usage
    assert kept[1].usage.total_tokens == CONTEXT_SIZE
    before = await thread.messages()
    for n in range(2):
        with pytest.raises(ContextTooLongError) as caught:
            await said(agent, f"And {n}?", thread, stream=stream)
        check_recorded(caught.value, (await thread.turns())[-1], f"And {n}?")
    assert [turn.status for turn in await thread.turns()] == ["completed"] * 2 + ["failed"] * 2
    assert await thread.messages() == before

    # From an earlier turn on, it goes on: in a fork, and on the thread itself.
    fork = await thread.fork(at=kept[0].turn_id)
    response = await said(agent, question, fork, stream=stream)
    assert [turn.id for turn in await fork.turns()] == [kept[0].turn_id, response.turn_id]
    assert await thread.messages() == before
    await thread.rewind(to=kept[0].turn_id)
    response = await said(agent, question, thread, stream=stream)
    assert [turn.id for turn in await thread.turns()] == [kept[0].turn_id, response.turn_id]
    assert (await thread.messages())[:3] == before[:3]


@both
async def test_a_context_that_is_full_in_the_middle_of_a_turn(agent: ChatAgent, stream: bool) -> None:
    """The tool calls of the turn so far are kept, each with its result; so the thread can be sent again."""
    thread = agent.get_new_thread()
    question = words(CONTEXT_SIZE - 900)
    with pytest.raises(ContextTooLongError) as caught:
        await said(agent, question, thread, stream=stream, max_tokens=100, extra=calling())
    (turn,) = await thread.turns()
    check_recorded(caught.value, turn, question)
    made = pairs(turn.output)
    assert 1 <= len(made) < 10
    assert await thread.messages() == list(turn.messages)
    assert turn.usage
    assert turn.usage.output_tokens > 0

    await thread.rewind()
    response = await said(agent, "hello", thread, stream=stream)
    assert [turn.id for turn in await thread.turns()] == [response.turn_id]


@pytest.mark.parametrize("leave", ["break", "cancel the task"])
async def test_a_stream_that_is_left_stops_the_engine(agent: ChatAgent, engine: Engine, leave: str) -> None:
    thread = agent.get_new_thread()
    asked_for = CONTEXT_SIZE - 200
    before = engine.steps()
    seen: list[str] = []
    begun = asyncio.Event()

    async def read() -> None:
        async with agent.run_stream("hello", thread=thread, max_tokens=asked_for, extra=BYTES_WITHOUT_END) as stream:
            async for update in stream:
                assert type(update) is AgentRunResponseUpdate or not seen
                seen.append(update.text)
                if len(seen) == 20:
                    begun.set()
                    if leave == "break":
                        break

    task = asyncio.create_task(read())
    await begun.wait()
    if leave != "break":
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() == (leave != "break")

    # The engine answers one at a time: this would have to wait for the end of the other answer.
    response = await said(agent, "hello", thread, max_tokens=5)
    assert engine.steps() - before < asked_for / 2
    first, second = await thread.turns()
    assert (first.status, second.id) == ("cancelled", response.turn_id)
    assert [message.text for message in first.output] == ["".join(seen)]
    assert roles(await thread.messages()) == ["user", "assistant"] * 2
