"""Edit and regenerate: to answer again, to say something else from an earlier point, and to go back."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import InvalidInputError, ServiceUnavailableError, ThreadStore, TurnNotFoundError
from holdfast.testing.scripted import ScriptedChatClient


async def said(thread: object) -> list[str]:
    return [message.text for message in await thread.messages()]  # type: ignore[attr-defined]


async def test_regenerate_answers_the_last_input_again_and_keeps_the_old_answer(store: ThreadStore) -> None:
    client = ScriptedChatClient("one", "two", "two again")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    old = await agent.run("b", thread=thread)
    new = await agent.regenerate(thread=thread)
    assert new.text == "two again"
    assert client.requests[2] == client.requests[1]
    assert await said(thread) == ["a", "one", "b", "two again"]
    branches = await thread.branches()
    assert [(branch.turn_id, branch.current, branch.turns) for branch in branches] == [
        (new.turn_id, True, 2),
        (old.turn_id, False, 2),
    ]
    await thread.switch(old.turn_id)
    assert await said(thread) == ["a", "one", "b", "two"]


async def test_the_only_turn_can_be_regenerated(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", ["one ", "again"]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    stream = agent.regenerate_stream(thread)
    assert "".join([update.text async for update in stream]) == "one again"
    assert await said(thread) == ["a", "one again"]
    assert len(await thread.branches()) == 2


async def test_a_regeneration_that_fails_leaves_the_old_answer_in_place(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", [ServiceUnavailableError("down")], "next").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    with pytest.raises(ServiceUnavailableError):
        await agent.regenerate(thread)
    assert await said(thread) == ["a", "one"]
    await agent.run("b", thread=thread)
    assert await said(thread) == ["a", "one", "b", "next"]


async def test_a_regeneration_that_is_cancelled_before_anything_came_changes_nothing(store: ThreadStore) -> None:
    async def forever() -> None:
        await asyncio.sleep(600)

    client = ScriptedChatClient("one", [forever])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    task = asyncio.create_task(agent.regenerate(thread))
    while len(client.requests) < 2:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await said(thread) == ["a", "one"]


async def test_nothing_to_regenerate(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    with pytest.raises(InvalidInputError):
        await agent.regenerate(agent.get_new_thread())


async def test_a_failed_turn_is_tried_again(store: ThreadStore) -> None:
    client = ScriptedChatClient([ServiceUnavailableError("down")], "up")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("a", thread=thread)
    assert (await agent.regenerate(thread)).text == "up"
    assert await said(thread) == ["a", "up"]


async def test_after_begins_at_an_earlier_turn_in_one_call(store: ThreadStore) -> None:
    client = ScriptedChatClient("one", "two", "three", "other")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("a", thread=thread)
    await agent.run("b", thread=thread)
    last = await agent.run("c", thread=thread)
    await agent.run("B", thread=thread, after=first.turn_id)
    assert client.said() == [("user", "a"), ("assistant", "one"), ("user", "B")]
    assert await said(thread) == ["a", "one", "B", "other"]
    assert [branch.turn_id for branch in await thread.branches() if not branch.current] == [last.turn_id]
    assert [branch.parts_after for branch in await thread.branches() if branch.current] == [first.turn_id]


async def test_after_the_last_turn_is_an_ordinary_run(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", "two").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("a", thread=thread)
    await agent.run("b", thread=thread, after=first.turn_id)
    assert await said(thread) == ["a", "one", "b", "two"]
    assert len(await thread.branches()) == 1


async def test_after_a_turn_that_is_not_on_the_history_changes_nothing(store: ThreadStore) -> None:
    client = ScriptedChatClient("one", "two")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    left = await agent.run("b", thread=thread)
    await thread.rewind()
    for wrong in (left.turn_id, "turn_nobody"):
        with pytest.raises(TurnNotFoundError):
            await agent.run("c", thread=thread, after=wrong)
    assert await said(thread) == ["a", "one"]
    assert (await agent.run("c", thread=thread)).status == "completed"


async def test_branches_of_a_fork_and_back(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", "two", "fork", "fork again").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    await agent.run("b", thread=thread)
    fork = await thread.fork()
    await agent.run("c", thread=fork)
    await agent.regenerate(fork)
    assert await said(fork) == ["a", "one", "b", "two", "c", "fork again"]
    others = [branch for branch in await fork.branches() if not branch.current]
    await fork.switch(others[0].turn_id)
    assert (await said(fork))[-1] in ("fork", "two")
    assert await said(thread) == ["a", "one", "b", "two"]
    assert len(await thread.branches()) == 1


async def test_switching_to_a_turn_of_another_thread_is_refused(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", "two").create_agent(thread_store=store)
    thread, other = agent.get_new_thread(), agent.get_new_thread()
    await agent.run("a", thread=thread)
    foreign = await agent.run("b", thread=other)
    with pytest.raises(TurnNotFoundError):
        await thread.switch(foreign.turn_id)
    with pytest.raises(TurnNotFoundError):
        await agent.get_new_thread().switch(foreign.turn_id)


async def test_an_unused_thread_has_no_branches(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    assert await agent.get_new_thread().branches() == []
