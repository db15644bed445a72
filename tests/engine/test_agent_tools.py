"""Agents as tools: one-off questions, and conversations that last with the thread that holds them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast import (
    AgentRunResponse,
    ChatAgent,
    InvalidInputError,
    ServiceUnavailableError,
    SQLiteStore,
    ThreadStore,
    ToolContext,
    ToolResultContent,
    tool,
)
from holdfast.testing.scripted import ScriptedChatClient, calling


def results(response: AgentRunResponse) -> list[str]:
    return [
        part.result for message in response.messages for part in message.contents if isinstance(part, ToolResultContent)
    ]


def a_pair(store: ThreadStore, *asks: Any, conversation: Any = "lasting") -> tuple[ChatAgent, ScriptedChatClient]:
    """An agent that asks another one for each of these, and the other one's client, which repeats what it hears."""
    inner = ScriptedChatClient()
    helper = inner.create_agent(name="Helper", description="Helps.")
    outer = ScriptedChatClient(*[part for ask in asks for part in (calling(*ask), "done")])
    return outer.create_agent(tools=[helper.as_tool(conversation=conversation)], thread_store=store), inner


def ask(text: str) -> list[tuple[str, dict[str, str]]]:
    return [("Helper", {"task": text})]


async def test_an_agent_answers_as_a_tool(store: ThreadStore) -> None:
    agent, inner = a_pair(store, ask("one"), ask("two"), conversation="new")
    thread = agent.get_new_thread()
    for text in ("one", "two"):
        assert results(await agent.run("x", thread=thread)) == [f"You said: {text}"]
        assert inner.said() == [("user", text)]
    assert len((await store.list()).threads) == 1


async def test_a_lasting_conversation_remembers(store: ThreadStore) -> None:
    agent, inner = a_pair(store, ask("one"), [*ask("two")], ask("three"))
    thread, other = agent.get_new_thread(), agent.get_new_thread()
    await agent.run("x", thread=thread)
    await agent.run("x", thread=thread)
    assert [text for role, text in inner.said() if role == "user"] == ["one", "two"]
    await agent.run("x", thread=other)
    assert inner.said() == [("user", "three")]


async def test_it_is_forked_and_rewound_with_its_thread(store: ThreadStore) -> None:
    agent, inner = a_pair(store, *[ask(text) for text in ("one", "two", "fork", "main", "again", "fork 2")])
    thread = agent.get_new_thread()

    async def heard(on: Any) -> list[str]:
        await agent.run("x", thread=on)
        return [text for role, text in inner.said() if role == "user"]

    assert await heard(thread) == ["one"]
    fork = await thread.fork()
    assert await heard(thread) == ["one", "two"]
    assert await heard(fork) == ["one", "fork"]
    assert await heard(thread) == ["one", "two", "main"]
    await thread.rewind(2)
    assert await heard(thread) == ["one", "again"]
    assert await heard(fork) == ["one", "fork", "fork 2"]


async def test_called_twice_at_once_it_is_one_conversation(store: ThreadStore) -> None:
    agent, inner = a_pair(store, ask("one"), [*ask("two"), *ask("three")], ask("four"))
    thread = agent.get_new_thread()
    await agent.run("x", thread=thread)
    both = await agent.run("x", thread=thread)
    assert results(both) == ["You said: two", "You said: three"]
    await agent.run("x", thread=thread)
    assert [text for role, text in inner.said() if role == "user"] == ["one", "two", "three", "four"]


async def test_a_call_that_a_crash_cut_off_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    inside, stay = asyncio.Event(), asyncio.Event()

    async def stays() -> str:
        inside.set()
        await stay.wait()
        return "never"

    inner = ScriptedChatClient()
    helper = inner.create_agent(name="Helper")
    asked = calling(("Helper", {"task": "one"}), ("stays", {}))
    store = SQLiteStore(path)
    agent = ScriptedChatClient(asked).create_agent(
        tools=[helper.as_tool(conversation="lasting"), stays], thread_store=store
    )
    task = asyncio.create_task(agent.run("x", thread=agent.get_thread("t", create=True)))
    await inside.wait()
    await asyncio.sleep(0.05)
    store._shared.die()

    again = SQLiteStore(path)
    tools = [helper.as_tool(conversation="lasting"), tool(name="stays", idempotent=True)(lambda: "at last")]
    agent = ScriptedChatClient("done", calling(("Helper", {"task": "two"})), "done").create_agent(
        tools=tools, thread_store=again
    )
    thread = agent.get_thread("t")
    response = await agent.resume(thread)
    assert response is not None
    assert results(response) == ["You said: one", "at last"]
    assert len(inner.requests) == 1
    await agent.run("y", thread=thread)
    assert [text for role, text in inner.said() if role == "user"] == ["one", "two"]
    task.cancel()
    again.close()


async def test_agents_that_call_each_other_in_a_circle_are_stopped(store: ThreadStore) -> None:
    first_client = ScriptedChatClient(calling(("Second", {"task": "you do it"})), "first is done")
    second_client = ScriptedChatClient(calling(("First", {"task": "no, you"})), "second is done")
    first = first_client.create_agent(name="First", thread_store=store)
    second = second_client.create_agent(name="Second", tools=[first.as_tool()])
    response = await first.run("x", thread=first.get_new_thread(), tools=[second.as_tool()])
    assert results(response) == ["second is done"]
    told = second_client.requests[1]["messages"][-1]["content"]
    assert "at work already" in told


async def test_agents_do_not_call_each_other_too_deep(store: ThreadStore) -> None:
    agent = ScriptedChatClient("bottom").create_agent(name="A0")
    for n in range(1, 8):
        client = ScriptedChatClient(calling((f"A{n - 1}", {"task": "down"})), f"up {n}")
        agent = client.create_agent(name=f"A{n}", tools=[agent.as_tool()])
    assert (await agent.run("x")).text == "up 7"


async def test_what_goes_wrong_in_the_called_agent_is_a_result(store: ThreadStore) -> None:
    inner = ScriptedChatClient([ServiceUnavailableError("down", service="x")])
    helper = inner.create_agent(name="Helper")
    outer = ScriptedChatClient(calling(("Helper", {"task": "x"}), ("Helper", {"job": 1}), ("Helper", "no JSON")), "ok")
    agent = outer.create_agent(tools=[helper.as_tool()], thread_store=store)
    first, *others = results(await agent.run("x", thread=agent.get_new_thread()))
    assert "has failed: ServiceUnavailableError" in first
    assert all("was not asked" in other for other in others)


async def test_the_callers_things_are_handed_on(store: ThreadStore) -> None:
    def who(ctx: ToolContext[str]) -> str:
        return ctx.deps

    inner = ScriptedChatClient(calling(("who", {})), "It is Ada.")
    helper = inner.create_agent(name="Helper", tools=[who])
    agent = ScriptedChatClient(calling(*ask("who?")), "ok").create_agent(tools=[helper.as_tool()], thread_store=store)
    await agent.run("x", thread=agent.get_new_thread(), deps="Ada")
    assert inner.said()[-1] == ("tool", "Ada")


def test_an_agent_without_a_name_is_no_tool() -> None:
    with pytest.raises(InvalidInputError, match="needs a name"):
        ScriptedChatClient().create_agent().as_tool()
    assert ScriptedChatClient().create_agent(name="My Helper").as_tool().spec.name == "My_Helper"
