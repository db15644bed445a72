"""The same engine through Anthropic's Messages, which llama.cpp speaks too: turns, cache, calls of tools, overflow."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from engine_process import Engine
from talking import roles, said, words
from tiny_model import NAME

from holdfast import (
    AnthropicChatClient,
    ChatAgent,
    ChatMessage,
    ContextTooLongError,
    OpenAIChatClient,
    SQLiteStore,
    ToolCallContent,
    ToolResultContent,
)

both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture
async def agent(engine: Engine, sqlite: SQLiteStore) -> AsyncIterator[ChatAgent]:
    async with AnthropicChatClient(NAME, base_url=engine.base_url.removesuffix("/v1"), max_tokens=40) as client:
        yield client.create_agent("You talk nonsense.", thread_store=sqlite)


async def test_several_turns_of_random_bytes(agent: ChatAgent) -> None:
    thread = agent.get_new_thread()
    for n in range(4):
        response = await said(agent, f"Frage {n}: wofür? 🦜", thread, stream=n % 2 == 1)
        assert response.status == "completed"
        assert response.usage
        assert 0 < response.usage.output_tokens <= 40
    assert roles(await thread.messages()) == ["user", "assistant"] * 4


@both
async def test_what_was_sent_before_is_read_from_the_cache(agent: ChatAgent, stream: bool) -> None:
    """The dialect takes no bias, so that answers hold bytes which come back as others: the question is in the cache."""
    thread = agent.get_new_thread()
    before = 0
    for n in range(3):
        response = await said(agent, f"hello {n}", thread, stream=stream)
        assert response.usage
        if before:
            assert before <= response.usage.cached_tokens < response.usage.input_tokens
        # The last token of a question may become another one when an answer follows it.
        before = response.usage.input_tokens - 1


@both
async def test_calls_and_their_results_are_taken(agent: ChatAgent, stream: bool) -> None:
    """Calls cannot be forced out of random weights in this dialect, so they come from a transcript."""
    thread = agent.get_new_thread()
    calls = [ToolCallContent(f"functions.get_weather:{n}", "get_weather", '{"city": "Oslo"}') for n in range(2)]
    await thread.add_messages(
        [
            ChatMessage("user", text="And in Oslo?"),
            ChatMessage("assistant", calls),
            *[ChatMessage("tool", [ToolResultContent(call.call_id, "Rain.")]) for call in calls],
        ]
    )
    response = await said(agent, "hello", thread, stream=stream)
    assert response.status == "completed"


@both
async def test_a_conversation_that_is_too_long(agent: ChatAgent, stream: bool) -> None:
    with pytest.raises(ContextTooLongError):
        await said(agent, words(9000), agent.get_new_thread(), stream=stream)


async def test_a_thread_goes_to_the_other_dialect_and_back(
    agent: ChatAgent, engine: Engine, sqlite: SQLiteStore
) -> None:
    async with OpenAIChatClient(NAME, base_url=engine.base_url) as client:
        other = client.create_agent("You talk nonsense.", thread_store=sqlite, max_tokens=40)
        thread = agent.get_new_thread()
        for each in (agent, other, agent):
            assert (await said(each, "hello", thread)).text
        assert {turn.service for turn in await thread.turns()} == {"openai", "anthropic"}
