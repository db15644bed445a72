"""Agents: what they accept, what they refuse, and that nothing in them ever changes."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from holdfast import (
    ChatAgent,
    ChatMessage,
    ConfigurationError,
    ImageContent,
    InvalidInputError,
    SQLiteStore,
    ThreadExistsError,
    ThreadNotFoundError,
    ThreadStore,
    run_sync,
)
from holdfast.testing.scripted import ScriptedChatClient


def state_of(agent: ChatAgent) -> dict[str, object]:
    return {name: repr(getattr(agent, name)) for name in ChatAgent.__slots__}


async def test_a_string_a_message_and_a_list_of_both_are_input() -> None:
    client = ScriptedChatClient("a", "b", "c")
    agent = client.create_agent()
    await agent.run("one")
    await agent.run(ChatMessage(role="user", text="two"))
    await agent.run(["three", ChatMessage(role="user", contents=["four"])])
    assert [client.said(n) for n in range(3)] == [
        [("user", "one")],
        [("user", "two")],
        [("user", "three"), ("user", "four")],
    ]


async def test_images_go_along_and_are_not_fetched() -> None:
    client = ScriptedChatClient("nice")
    image = ImageContent("https://example.invalid/cat.png", detail="low")
    await client.create_agent().run(ChatMessage(role="user", contents=["What is this?", image]))
    content = client.requests[0]["messages"][0]["content"]
    assert content[1]["image_url"] == {"url": "https://example.invalid/cat.png", "detail": "low"}


@pytest.mark.parametrize("nothing", ["", "   \n", [], [""], ChatMessage(role="user", contents=[]), None, 7, b"bytes"])
async def test_nothing_to_say_is_refused_and_nothing_happens(nothing: object) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent()
    thread = agent.get_new_thread()
    with pytest.raises(InvalidInputError):
        await agent.run(nothing, thread=thread)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        agent.run_stream(nothing, thread=thread)  # type: ignore[arg-type]
    assert client.requests == []
    assert await thread.turns() == []


async def test_half_a_surrogate_pair_is_refused_with_its_position() -> None:
    with pytest.raises(InvalidInputError, match="position 3"):
        await ScriptedChatClient().create_agent().run("abc\ud800")


async def test_the_runs_options_win_over_the_agents() -> None:
    client = ScriptedChatClient()
    agent = client.create_agent("Be brief.", temperature=0.1, max_tokens=10)
    await agent.run("x", temperature=0.9, model="other", instructions="Be long.")
    await agent.run("x")
    first, second = client.requests
    assert (first["temperature"], first["model"], first["max_completion_tokens"]) == (0.9, "other", 10)
    assert first["messages"][0]["content"] == "Be long."
    assert (second["temperature"], second["model"]) == (0.1, "scripted-model")
    assert second["messages"][0]["content"] == "Be brief."


async def test_an_unknown_option_is_named_with_those_that_exist() -> None:
    agent = ScriptedChatClient().create_agent()
    with pytest.raises(InvalidInputError, match=r"'temprature'.*temperature"):
        await agent.run("x", temprature=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidInputError, match="on_conflict"):
        await agent.run("x", on_conflict="fight")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="timeout"):
        await agent.run("x", timeout=0)


@pytest.mark.parametrize(
    "wrong", [{"temperature": "hot"}, {"max_tokens": 1.5}, {"model": 5}, {"seed": True}, {"extra": 5}]
)
async def test_an_option_of_another_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        await ScriptedChatClient().create_agent().run("x", **wrong)
    with pytest.raises(InvalidInputError):
        ScriptedChatClient().create_agent(**wrong)


async def test_an_agent_never_changes(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent("Hi.", name="Same", thread_store=store)
    before = state_of(agent)
    thread = agent.get_new_thread()
    for n in range(5):
        await agent.run(f"turn {n}", thread=thread)
        async for _ in agent.run_stream(f"stream {n}", thread=agent.get_new_thread()):
            pass
    assert state_of(agent) == before
    assert set(dir(agent)) & {"__dict__"} == set()


async def test_a_run_without_a_thread_is_a_one_off() -> None:
    client = ScriptedChatClient()
    agent = client.create_agent()
    await agent.run("one")
    await agent.run("two")
    assert client.said() == [("user", "two")]


async def test_a_thread_in_memory_is_only_its_handles() -> None:
    agent = ScriptedChatClient().create_agent()
    thread = agent.get_new_thread("mine")
    await agent.run("one", thread=thread)
    other = agent.get_new_thread("mine")
    assert (len(await thread.turns()), len(await other.turns())) == (1, 0)
    with pytest.raises(ConfigurationError, match="thread_store"):
        agent.get_thread("mine")


async def test_ids_are_checked_on_first_use(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    await agent.run("x", thread=agent.get_new_thread("taken"))
    with pytest.raises(ThreadExistsError, match="taken"):
        await agent.run("x", thread=agent.get_new_thread("taken"))
    with pytest.raises(ThreadNotFoundError, match="nobody"):
        await agent.run("x", thread=agent.get_thread("nobody"))
    await agent.run("x", thread=agent.get_thread("fresh", create=True))
    await agent.run("y", thread=agent.get_thread("fresh", create=True))
    assert len(await agent.get_thread("fresh").turns()) == 2


async def test_a_handle_touches_no_disk(sqlite: SQLiteStore) -> None:
    import os

    agent = ScriptedChatClient().create_agent(thread_store=sqlite)
    agent.get_new_thread()
    agent.get_thread("x")
    assert not os.path.exists(sqlite.location)


async def test_a_thread_of_something_else_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="get_new_thread"):
        await ScriptedChatClient().create_agent().run("x", thread="thread-1")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="open_store"):
        ScriptedChatClient().create_agent(thread_store="sqlite:///x.db")  # type: ignore[arg-type]


def test_run_sync_in_a_script() -> None:
    client = ScriptedChatClient("one", "two")
    agent = client.create_agent()
    thread = agent.get_new_thread()
    assert agent.run_sync("x", thread=thread).text == "one"
    assert agent.run_sync("y", thread=thread).text == "two"
    assert client.said() == [("user", "x"), ("assistant", "one"), ("user", "y")]
    assert len(run_sync(thread.turns())) == 2


async def test_run_sync_inside_a_running_loop() -> None:
    assert ScriptedChatClient("here").create_agent().run_sync("x").text == "here"


async def test_run_sync_from_what_it_runs_says_what_to_do() -> None:
    async def nested() -> str:
        return ScriptedChatClient("x").create_agent().run_sync("x").text

    with pytest.raises(RuntimeError, match="await it instead"):
        await asyncio.to_thread(lambda: run_sync(nested()))


def test_messages_are_values() -> None:
    message = ChatMessage(role="user", text="hi", author_name="Ada")
    assert message == ChatMessage(role="user", text="hi", author_name="Ada")
    assert pickle.loads(pickle.dumps(message)) == message
    with pytest.raises(AttributeError, match="cannot be changed"):
        message.role = "assistant"  # type: ignore[misc]
