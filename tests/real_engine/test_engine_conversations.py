"""Conversations with a real engine: what it says becomes sound messages, and what was said stays as it was sent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_process import Engine
from talking import BYTES_WITHOUT_END, SILENCE, WORDS_WITHOUT_END, roles, said
from tiny_model import NAME

from holdfast import ChatAgent, OpenAIChatClient, SQLiteStore, TextContent

both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


async def test_several_turns_of_random_bytes(agent: ChatAgent, client: OpenAIChatClient, tmp_path: Path) -> None:
    thread = agent.get_new_thread("nonsense")
    responses = [
        await said(agent, f"Frage {n}: wofür? 🦜", thread, stream=n % 2 == 1, extra=BYTES_WITHOUT_END) for n in range(6)
    ]
    for response in responses:
        assert (response.status, response.finish_reason, response.model) == ("completed", "length", NAME)
        assert response.response_id
        (message,) = response.messages
        assert (message.role, message.author_name) == ("assistant", "Parrot")
        assert [type(part) for part in message.contents] == [TextContent]
        assert response.usage
        assert response.usage.output_tokens == 40
        assert response.usage.total_tokens == response.usage.input_tokens + 40
    # Some of it was no UTF-8, and some no character that can be seen.
    nonsense = "".join(response.text for response in responses)
    assert "\ufffd" in nonsense
    assert not nonsense.replace("\ufffd", "").isprintable()

    # Another store reads from the disk what happened.
    store = SQLiteStore(tmp_path / "threads.db")
    again = client.create_agent(agent.instructions, thread_store=store).get_thread("nonsense")
    turns = await again.turns()
    assert [(turn.id, turn.status, turn.output, turn.usage, turn.model, turn.finish_reason) for turn in turns] == [
        (r.turn_id, r.status, r.messages, r.usage, r.model, r.finish_reason) for r in responses
    ]
    assert {turn.service for turn in turns} == {"openai"}
    messages = await again.messages()
    assert messages == await thread.messages()
    assert roles(messages) == ["user", "assistant"] * 6
    assert [message.text for message in messages[::2]] == [f"Frage {n}: wofür? 🦜" for n in range(6)]
    store.close()


async def test_random_bytes_come_back_as_they_were_told(agent: ChatAgent) -> None:
    """The cache ends where U+FFFD stands in for bytes that the engine had said; all before that is in it."""
    thread = agent.get_new_thread()
    first = await said(agent, "hello", thread, extra=BYTES_WITHOUT_END)
    second = await said(agent, "hello", thread, extra=BYTES_WITHOUT_END)
    assert first.usage
    assert second.usage
    # The last token of a question may become another one when an answer follows it.
    assert second.usage.cached_tokens >= first.usage.input_tokens - 1


@pytest.mark.parametrize(
    "streams", [[False] * 4, [True] * 4, [False, True, False, True]], ids=["whole", "streamed", "mixed"]
)
async def test_what_was_sent_before_is_read_from_the_cache(
    agent: ChatAgent, engine: Engine, tmp_path: Path, streams: list[bool]
) -> None:
    """Requests are append-only: the engine has to compute nothing twice."""
    thread = agent.get_new_thread("common")
    before = 0
    for n, stream in enumerate(streams):
        response = await said(agent, f"hello {n}", thread, stream=stream, extra=WORDS_WITHOUT_END)
        assert response.usage
        if before:
            assert before <= response.usage.cached_tokens < response.usage.input_tokens
        # Question and answer, but for the last token: nothing was computed from that one.
        before = response.usage.total_tokens - 1

    # What is encoded from the log, after a restart say, is the same again.
    store = SQLiteStore(tmp_path / "threads.db")
    async with OpenAIChatClient(NAME, base_url=engine.base_url) as client:
        restarted = client.create_agent(agent.instructions, thread_store=store, max_tokens=5)
        response = await said(restarted, "hello again", restarted.get_thread("common"))
        assert response.usage
        assert response.usage.cached_tokens >= before
        # And this is what it looks like when it is not the same.
        response = await said(restarted, "hello", restarted.get_thread("common"), instructions="Be brief.")
        assert response.usage
        assert response.usage.cached_tokens < 30
    store.close()


@both
async def test_an_answer_without_a_word(agent: ChatAgent, stream: bool) -> None:
    thread = agent.get_new_thread()
    response = await said(agent, "hello", thread, stream=stream, extra=SILENCE)
    assert (response.text, response.messages, response.finish_reason) == ("", (), "stop")
    assert response.status == "completed"
    assert response.usage
    assert (await said(agent, "hello?", thread, stream=stream, extra=WORDS_WITHOUT_END)).text
    assert roles(await thread.messages()) == ["user", "user", "assistant"]


@both
async def test_an_answer_of_limited_length(agent: ChatAgent, stream: bool) -> None:
    thread = agent.get_new_thread()
    response = await said(agent, "hello", thread, stream=stream, max_tokens=7, extra=WORDS_WITHOUT_END)
    assert response.finish_reason == "length"
    assert response.usage
    assert response.usage.output_tokens == 7
    assert len(response.text.split()) == 7
    (turn,) = await thread.turns()
    assert (turn.status, turn.finish_reason, turn.output) == ("completed", "length", response.messages)


async def test_two_threads_at_once_on_an_engine_that_answers_one_at_a_time(agent: ChatAgent) -> None:
    async def talk(name: str, stream: bool) -> None:
        thread = agent.get_new_thread(name)
        for n in range(3):
            response = await said(agent, f"{name} says {n}", thread, stream=stream, extra=WORDS_WITHOUT_END)
            assert (response.status, len(response.text.split())) == ("completed", 40)

    await asyncio.gather(talk("anna", False), talk("bert", True))
    for name in ("anna", "bert"):
        messages = await agent.get_thread(name).messages()
        assert roles(messages) == ["user", "assistant"] * 3
        assert [message.text for message in messages[::2]] == [f"{name} says {n}" for n in range(3)]
