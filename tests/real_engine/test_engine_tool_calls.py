"""Tool calls out of random weights: a grammar makes them, the loop answers them, and every call has its result."""

from __future__ import annotations

import json
from typing import Literal

import pytest
from talking import WORDS_WITHOUT_END, answered, calling, pairs, roles, said

from holdfast import ChatAgent, Limits, OpenAIChatClient, ToolCallUpdate, ToolContext

both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
ROUNDS = 10
LIMITS = Limits(rounds=ROUNDS - 1)  # and once more, when it is told not to
CITIES = [{"city": "Paris"}, {"city": "Oslo"}]


@both
async def test_a_tool_that_nobody_has(agent: ChatAgent, stream: bool) -> None:
    thread = agent.get_new_thread()
    response = await said(agent, "hello", thread, stream=stream, max_tokens=100, extra=calling(), limits=LIMITS)
    assert (response.status, response.finish_reason, response.text) == ("completed", "tool_calls", "")
    assert roles(response.messages) == ["assistant", "tool"] * ROUNDS
    made = pairs(response.messages)
    assert len({call.call_id for call, _ in made}) == ROUNDS
    for call, result in made:
        assert call.name == "get_weather"
        assert json.loads(call.arguments) in CITIES
        assert result.is_error
    assert {result.result for _, result in made[:-2]} == {"There is no tool named 'get_weather'. Answer without it."}
    assert all("limit of tool calls" in result.result for _, result in made[-2:])
    # Each round is the one before with something added.
    assert response.usage
    assert response.usage.cached_tokens > response.usage.input_tokens / 2

    assert (await said(agent, "hello?", thread, stream=stream, extra=WORDS_WITHOUT_END)).text
    first, _ = await thread.turns()
    assert first.output == response.messages
    messages = await thread.messages()
    assert pairs(messages) == made
    assert roles(messages) == ["user", *["assistant", "tool"] * ROUNDS, "user", "assistant"]


async def test_a_call_that_comes_letter_by_letter(agent: ChatAgent) -> None:
    async with agent.run_stream("hello", thread=agent.get_new_thread(), max_tokens=100, extra=calling()) as stream:
        pieces = []
        async for update in stream:
            if isinstance(update, ToolCallUpdate):
                pieces.append(update)
                if "".join(piece.arguments for piece in pieces).endswith("}"):
                    break
    assert len(pieces) > 8
    assert {piece.index for piece in pieces} == {0}
    assert [piece.name for piece in pieces] == ["get_weather"] + [""] * (len(pieces) - 1)
    assert pieces[0].call_id
    assert json.loads("".join(piece.arguments for piece in pieces)) in CITIES


@both
async def test_several_calls_at_once_the_last_of_them_cut_off(client: OpenAIChatClient, stream: bool) -> None:
    answer = await answered(client, "hello", stream=stream, max_tokens=150, extra=calling(without_end=True))
    assert answer.finish_reason == "length"
    message = answer.message(lambda index: f"no id for {index}")
    assert message is not None
    assert len(message.contents) == len(message.tool_calls) == 2
    assert [call.name for call in message.tool_calls] == ["get_weather"] * 2
    assert all(json.loads(call.arguments) in CITIES for call in message.tool_calls)
    assert all("no id" not in call.call_id for call in message.tool_calls)


@both
async def test_a_call_that_is_cut_off_was_never_made(agent: ChatAgent, stream: bool) -> None:
    thread = agent.get_new_thread()
    response = await said(agent, "hello", thread, stream=stream, max_tokens=45, extra=calling())
    assert (response.status, response.finish_reason, response.messages) == ("completed", "length", ())
    assert (await said(agent, "hello?", thread, stream=stream, extra=WORDS_WITHOUT_END)).text
    assert roles(await thread.messages()) == ["user", "user", "assistant"]


@both
async def test_a_function_that_is_there_is_called(client: OpenAIChatClient, stream: bool) -> None:
    asked: list[str] = []

    def get_weather(city: Literal["Paris", "Oslo"], ctx: ToolContext[str]) -> str:
        """The weather in a city."""
        asked.append(f"{city} for {ctx.deps}")
        return f"It is sunny in {city}."

    # The grammar in every question: these weights cannot choose for themselves.
    bias = {"logit_bias": calling()["logit_bias"], "tool_choice": "required"}
    agent = client.create_agent(tools=[get_weather], parallel_tool_calls=False)
    thread = agent.get_new_thread()
    options = {"max_tokens": 100, "extra": bias, "limits": Limits(rounds=2), "deps": "Ada"}
    response = await said(agent, "hello", thread, stream=stream, **options)
    (first, result), *others = pairs(response.messages)
    city = json.loads(first.arguments)["city"]
    assert (first.name, result.result, result.is_error) == ("get_weather", f"It is sunny in {city}.", False)
    assert asked[0] == f"{city} for Ada"
    # At the limit the model is told so, and asked once more.
    assert all("limit of tool calls" in other.result for _, other in others)
    assert len(asked) == 1
    assert (await said(agent, "hello?", thread, stream=stream, tool_choice="none", extra=WORDS_WITHOUT_END)).text
