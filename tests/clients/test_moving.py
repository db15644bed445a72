"""A conversation with tools at Anthropic's Messages, and threads that move between services and come back.

What a thread holds when it moves: texts, calls with ids that only one service takes, arguments that are no JSON, an
image, a refusal, a turn that was cancelled, one that failed amid an answer, and one whose process died.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic import BaseModel, Field

from holdfast import (
    AgentThread,
    AnthropicChatClient,
    ChatAgent,
    ChatMessage,
    ImageContent,
    OpenAIChatClient,
    ServiceError,
    SQLiteStore,
    TextContent,
    ThreadStore,
    tool,
)
from holdfast.testing import anthropic_messages, openai_chat
from holdfast.testing.anthropic_messages import AnthropicStandIn
from holdfast.testing.openai_chat import ChatCompletionsStandIn
from holdfast.testing.openai_chat_answers import CallTools, Refuse, Say, ToolCall
from holdfast.testing.standin_tapes import CutStream, Hang

PNG = base64.b64encode(b"\x89PNG nothing more").decode()
SERVICES = ("openai", "anthropic")
Services: TypeAlias = dict[str, Any]

# A process of its own: its turn has a call with a result, and a few words after it, when it is killed.
WORKER = """
import asyncio, sys
from holdfast import AnthropicChatClient, OpenAIChatClient, SQLiteStore, tool

@tool
def weather(city: str) -> str:
    "Tells the weather."
    return f"Rain in {city}."

path, kind, base_url = sys.argv[1:]
made = {"openai": OpenAIChatClient, "anthropic": AnthropicChatClient}[kind]
agent = made("m", base_url=base_url, api_key="k").create_agent(tools=[weather], thread_store=SQLiteStore(path))

async def main():
    said = ""
    async for update in agent.run_stream("And in Lima?", thread=agent.get_thread("t")):
        said += update.text
        if said.endswith("in Lima "):
            await asyncio.sleep(0.8)  # until the journal has it
            print("written", flush=True)

asyncio.run(main())
"""


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return f"Rain in {city}."


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with AsyncExitStack() as opened:
        yield {
            "openai": await opened.enter_async_context(ChatCompletionsStandIn()),
            "anthropic": await opened.enter_async_context(AnthropicStandIn()),
        }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "moving.db"


@pytest.fixture
def kept(path: Path) -> Iterator[SQLiteStore]:
    made = SQLiteStore(path)
    yield made
    made.close()


def agent_of(kind: str, services: Services, store: ThreadStore) -> ChatAgent:
    made: Any = {"openai": OpenAIChatClient, "anthropic": AnthropicChatClient}[kind]
    client = made("m", base_url=services[kind].base_url, api_key="k", max_retries=0)
    agent: ChatAgent = client.create_agent("Be kind.", tools=[weather], thread_store=store)
    return agent


async def streamed(agent: ChatAgent, said: Any, thread: AgentThread) -> str:
    return "".join([update.text async for update in agent.run_stream(said, thread=thread)])


# --- one service -----------------------------------------------------------------------------------------------


async def talked(stream: bool, store: ThreadStore) -> tuple[list[Any], AnthropicStandIn]:
    """The messages of a conversation with tools."""
    async with AnthropicStandIn() as service:
        agent = agent_of("anthropic", {"anthropic": service}, store)
        thread = agent.get_new_thread()
        both = CallTools([("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})], text="Let me see.")
        service.script("Hello!", both, CallTools([("weather", {})]), Say("Wet.", reasoning="Hm."), Refuse("No."))
        for said in ("Hello", "The weather?", "Something bad"):
            if stream:
                await streamed(agent, said, thread)
            else:
                await agent.run(said, thread=thread)
        return [message for turn in await thread.turns() for message in (*turn.input, *turn.output)], service


async def test_a_conversation_with_tools_streamed_and_not_leaves_the_same_log(store: ThreadStore) -> None:
    whole, service = await talked(False, store)
    pieces, other = await talked(True, store)
    assert whole == pieces
    assert service.refused == other.refused == []
    bodies = [[record.json["messages"] for record in each.requests] for each in (service, other)]
    assert bodies[0] == bodies[1]
    results = [message.contents[0] for message in whole if message.role == "tool"]
    assert [result.result for result in results[:2]] == ["Rain in Oslo.", "Rain in Rome."]
    assert results[2].is_error
    told = service.messages(-1)
    roles = [message["role"] for message in told]
    assert roles == ["user", "assistant"] * 2 + ["user", "user", "assistant", "user", "assistant", "user"]


async def test_what_was_sent_is_the_beginning_of_what_is_sent_next(store: ThreadStore) -> None:
    _, service = await talked(False, store)
    bodies = [record.body.partition(b'],"model"')[0] for record in service.requests]
    assert len(bodies) == 5
    for before, after in pairwise(bodies):
        assert after.startswith(before)


async def test_instructions_in_the_middle_and_names_are_taken(store: ThreadStore) -> None:
    async with AnthropicStandIn() as service:
        agent = agent_of("anthropic", {"anthropic": service}, store)
        thread = agent.get_new_thread()
        await thread.add_messages([ChatMessage("user", text="Hi"), ChatMessage("assistant", text="Ahoy ")])
        said = [ChatMessage("system", text="Be brief."), ChatMessage("user", text="Go", author_name="anna")]
        await agent.run(said, thread=thread)
        await agent.run("on", thread=thread)
        assert service.refused == []
        assert {"role": "user", "content": "<system>\nBe brief.\n</system>"} in service.messages()


async def test_an_answer_in_a_form(store: ThreadStore) -> None:
    class Weather(BaseModel):
        city: str
        degrees: int = Field(ge=-90, le=60)
        words: list[str]

    async with AnthropicStandIn() as service:
        service.script('{"city": "Oslo", "degrees": 3, "words": ["wet"]}')
        agent = agent_of("anthropic", {"anthropic": service}, store)
        response = await agent.run("Weather?", thread=agent.get_new_thread(), response_format=Weather)
        assert response.value == Weather(city="Oslo", degrees=3, words=["wet"])
        assert service.refused == []
        form = service.last.json["output_config"]["format"]["schema"]
        assert form["properties"]["degrees"] == {"type": "integer", "description": "maximum: 60, minimum: -90"}
        assert form["additionalProperties"] is False


# --- several services ------------------------------------------------------------------------------------------


async def eventful(kind: str, services: Services, thread: AgentThread, store: SQLiteStore) -> None:
    """Everything that a thread may hold, said to one service."""
    service = services[kind]
    agent = agent_of(kind, services, store)
    fail: Any = {"openai": openai_chat.FailInStream, "anthropic": anthropic_messages.FailInStream}[kind]
    calls = [
        ToolCall("weather", {"city": "Oslo"}, f"functions.weather:{kind}"),
        ToolCall("weather", '{"city": "Rom', f"call {kind} ü"),
        ToolCall("no such tool!", {}, kind + "-" * 60),
    ]
    service.script(f"Hello from {kind}!", CallTools(calls, text="I look. "), "Rain.", "A picture.", Refuse("Never."))
    await agent.run(f"Hello {kind}", thread=thread)
    await streamed(agent, f"Weather {kind}?", thread)
    picture = [TextContent(f"What is this, {kind}?"), ImageContent(f"data:image/png;base64,{PNG}")]
    await agent.run(ChatMessage("user", picture), thread=thread)
    await agent.run(f"Something bad, {kind}", thread=thread)

    service.script(Hang(after=6, answer=Say("begun and never ended")))
    async with agent.run_stream(f"Count, {kind}", thread=thread) as stream:
        async for update in stream:
            if update.text:
                break
        await thread.cancel()

    service.script(CutStream(after=5, answer=Say("cut off in the middle")), fail(after=5))
    for said in (f"Cut, {kind}", f"Fail, {kind}"):
        with pytest.raises(ServiceError):
            await streamed(agent, said, thread)


def killed(kind: str, services: Services, path: Path) -> None:
    """A process runs a turn of the thread, and dies when it has called a tool and said something."""
    base_url = services[kind].base_url
    call = CallTools([ToolCall("weather", {"city": "Lima"}, f"lima:{kind}")])
    services[kind].script(call, Hang(after=8, answer=Say(pieces=["It rains ", "in Lima ", "and ", "then ", "some"])))
    command = [sys.executable, "-c", WORKER, str(path), kind, base_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "written\n"
        os.kill(worker.pid, signal.SIGKILL)


async def test_a_thread_moves_and_comes_back(path: Path, kept: SQLiteStore, services: Services) -> None:
    await moved(path, kept, services, "openai", "anthropic")


async def test_a_thread_moves_the_other_way_and_comes_back(path: Path, kept: SQLiteStore, services: Services) -> None:
    await moved(path, kept, services, "anthropic", "openai")


async def moved(path: Path, store: SQLiteStore, services: Services, *kinds: str) -> None:
    thread = agent_of(kinds[0], services, store).get_thread("t", create=True)
    for kind in (*kinds, kinds[0]):
        agent = agent_of(kind, services, store)
        services[kind].script("Here I am.")
        assert (await agent.run(f"Are you there, {kind}?", thread=thread)).text == "Here I am."
        if len(await thread.turns()) < 15:
            await eventful(kind, services, thread, store)
            await asyncio.to_thread(killed, kind, services, path)
        services[kind].script("Still here.")
        assert (await agent.run("And now?", thread=thread)).text == "Still here."
        assert services[kind].refused == []
        assert services[kind].unused == 0
    turns = await thread.turns()
    assert {turn.status for turn in turns} == {"completed", "cancelled", "interrupted", "failed"}
    # No turn is missing from what the last service was sent.
    told = str(services[kinds[0]].messages())
    for turn in turns[:-1]:
        if turn.status != "failed" or turn.output:
            assert turn.input[0].text in told, turn.input[0].text
    for kind in kinds:
        for words in (
            f"Hello from {kind}!",
            "Never.",
            "I look. ",
            "Rain in Oslo.",
            "Rain in Lima.",
            "It rains in Lima",
        ):
            assert words in told
