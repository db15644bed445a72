"""Threads: kept, moved, forked, rewound, deleted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import (
    ChatMessage,
    InvalidInputError,
    SchemaVersionError,
    SQLiteStore,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadNotFoundError,
    ThreadStore,
    ToolCallContent,
    ToolResultContent,
    TurnNotFoundError,
)
from holdfast.testing.scripted import ScriptedChatClient

CALL = ChatMessage("assistant", contents=[ToolCallContent("c1", "look", "{}")])
RESULT = ChatMessage("tool", contents=[ToolResultContent("c1", "seen")])


def user(text: str) -> ChatMessage:
    return ChatMessage("user", text=text)


def told(text: str) -> ChatMessage:
    return ChatMessage("assistant", text=text)


async def test_a_thread_in_memory_goes_through_json_whole() -> None:
    client = ScriptedChatClient("ahoy", "squawk")
    agent = client.create_agent()
    thread = agent.get_new_thread()
    await agent.run("pirate?", thread=thread)
    state = json.loads(json.dumps(await thread.serialize()))
    again = await client.create_agent().deserialize_thread(state)
    assert again.id == thread.id
    assert await again.turns() == await thread.turns()
    await agent.run("parrot?", thread=again)
    assert client.said() == [("user", "pirate?"), ("assistant", "ahoy"), ("user", "parrot?")]
    assert len(await thread.turns()) == 1


async def test_a_serialized_thread_is_known_in_a_new_process(tmp_path: Path) -> None:
    script = """
import asyncio, json, sys
from holdfast import OfflineChatClient
async def main():
    agent = OfflineChatClient().create_agent()
    thread = await agent.deserialize_thread(json.load(sys.stdin))
    print((await agent.run("What is my name?", thread=thread)).text)
asyncio.run(main())
"""
    agent = ScriptedChatClient("hello").create_agent()
    thread = agent.get_new_thread()
    await agent.run("My name is Ada.", thread=thread)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script],
        input=json.dumps(await thread.serialize()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Ada" in done.stdout
    assert done.stderr == ""


async def test_a_stored_thread_goes_as_its_id(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread("x")
    unused = await agent.deserialize_thread(json.loads(json.dumps(await thread.serialize())))
    await agent.run("first", thread=unused)
    state = json.loads(json.dumps(await unused.serialize()))
    assert "first" not in json.dumps(state)
    again = await agent.deserialize_thread(state)
    assert len(await again.turns()) == 1
    await again.delete()
    with pytest.raises(ThreadDeletedError):
        await (await agent.deserialize_thread(state)).turns()
    with pytest.raises(InvalidInputError, match="thread_store"):
        await ScriptedChatClient().create_agent().deserialize_thread(state)


@pytest.mark.parametrize(
    "state",
    [None, {}, {"type": "other"}, {"type": "holdfast.thread", "version": 1, "id": "x"}]
    + [{"type": "holdfast.thread", "version": 1, "id": "x", "turns": t} for t in (1, [1], [{}], [{"id": "t"}])]
    + [
        {
            "type": "holdfast.thread",
            "version": 1,
            "id": "x",
            "turns": [{"id": "t", "status": "completed", "started_us": 1, "ended_us": 1, "record": r}],
        }
        for r in (None, [], {"v": "x"}, {"input": "x"})
    ],
)
async def test_what_is_no_serialized_thread_is_refused(state: object) -> None:
    with pytest.raises((InvalidInputError, Exception)) as caught:
        await ScriptedChatClient().create_agent().deserialize_thread(state)  # type: ignore[arg-type]
    assert caught.type.__module__.startswith("holdfast"), caught.value


async def test_a_newer_form_is_refused_in_clear_words() -> None:
    with pytest.raises(SchemaVersionError, match="Update holdfast"):
        await ScriptedChatClient().create_agent().deserialize_thread({"type": "holdfast.thread", "version": 99})


async def test_a_transcript_is_adopted_as_turns(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    transcript = [ChatMessage("system", text="Be kind."), user("a"), told("b"), user("c"), CALL, RESULT, told("d")]
    added = await thread.add_messages(transcript)
    assert added.mended == ()
    turns = await thread.turns()
    assert [turn.id for turn in turns] == list(added.turn_ids)
    assert [(len(turn.input), len(turn.output), turn.status) for turn in turns] == [
        (2, 1, "completed"),
        (1, 3, "completed"),
    ]
    assert await thread.messages() == transcript
    await agent.run("e", thread=thread)
    roles = [role for role, _ in client.said()]
    assert roles == ["system", "user", "assistant", "user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize(
    "broken",
    [
        [user("a"), CALL],
        [user("a"), CALL, user("b"), RESULT],
        [user("a"), RESULT],
        [user("a"), CALL, RESULT, RESULT],
        [user("a"), CALL, ChatMessage("tool", contents=[ToolResultContent("other", "x")])],
    ],
)
async def test_unpaired_calls_are_refused_or_mended(store: ThreadStore, broken: list[ChatMessage]) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(InvalidInputError, match="repair=True"):
        await thread.add_messages(broken)
    assert await thread.turns() == []
    added = await thread.add_messages(broken, repair=True)
    assert added.mended
    await agent.run("go on", thread=thread)  # the scripted client refuses what is unpaired


async def test_a_transcript_of_nothing_is_nothing(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread()
    assert (await thread.add_messages([])).turn_ids == ()
    assert (await thread.add_messages([told("  ")])).turn_ids == ()
    with pytest.raises(InvalidInputError, match="ChatMessage"):
        await thread.add_messages(["text"])  # type: ignore[list-item]


async def test_a_fork_and_its_source_go_separate_ways(store: ThreadStore) -> None:
    client = ScriptedChatClient("1", "2", "3", "4")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("a", thread=thread)
    await agent.run("b", thread=thread)
    fork = await thread.fork(at=first.turn_id, thread_id="fork")
    await agent.run("c", thread=fork)
    await agent.run("d", thread=thread)
    assert [t.input[0].text for t in await fork.turns()] == ["a", "c"]
    assert [t.input[0].text for t in await thread.turns()] == ["a", "b", "d"]
    with pytest.raises(TurnNotFoundError):
        await thread.fork(at="turn_nowhere")
    with pytest.raises(TurnNotFoundError):
        await agent.get_new_thread().fork(at=first.turn_id)


async def test_a_fork_of_a_thread_in_memory(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent()
    thread = agent.get_new_thread()
    empty = await thread.fork()
    assert await empty.turns() == []
    await agent.run("a", thread=thread)
    fork = await thread.fork()
    await agent.run("b", thread=fork)
    assert [len(await t.turns()) for t in (thread, fork)] == [1, 2]
    state = await fork.serialize()
    assert len(state["turns"]) == 2


async def test_rewinding_and_saying_something_else(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    ids = [(await agent.run(text, thread=thread)).turn_id for text in ("a", "poison", "c")]
    await thread.rewind(2)
    await agent.run("d", thread=thread)
    assert [text for role, text in client.said() if role == "user"] == ["a", "d"]
    await thread.rewind(to=ids[0])
    assert [t.id for t in await thread.turns()] == [ids[0]]
    with pytest.raises(TurnNotFoundError):
        await thread.rewind(to=ids[2])
    await thread.rewind()
    assert await thread.turns() == []
    for wrong in ({"turns": 1}, {"turns": 0}, {"turns": 1, "to": ids[0]}):
        with pytest.raises(InvalidInputError):
            await thread.rewind(**wrong)  # type: ignore[arg-type]
    await agent.run("e", thread=thread)
    assert client.said() == [("user", "e")]


async def test_the_last_turns_alone(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread()
    for n in range(4):
        await agent.run(str(n), thread=thread)
    fork = await thread.fork()
    await agent.run("4", thread=fork)
    assert [t.input[0].text for t in await fork.turns(last=2)] == ["3", "4"]
    assert len(await fork.turns(last=99)) == 5
    with pytest.raises(InvalidInputError):
        await fork.turns(last=0)


async def test_a_deleted_thread_stays_deleted(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread("gone")
    await agent.run("a", thread=thread)
    other = agent.get_thread("gone")
    assert len(await other.turns()) == 1
    await thread.delete()
    for handle in (thread, other):
        for use in (
            handle.turns,
            handle.messages,
            handle.fork,
            handle.rewind,
            lambda h=handle: agent.run("b", thread=h),
        ):
            with pytest.raises(ThreadDeletedError, match="gone"):
                await use()
    with pytest.raises(ThreadNotFoundError):
        await agent.get_thread("gone").turns()
    again = agent.get_new_thread("gone")
    await agent.run("new life", thread=again)
    assert len(await again.turns()) == 1
    with pytest.raises(ThreadDeletedError):
        await agent.run("zombie", thread=thread)


async def test_a_thread_in_the_middle_of_a_run_is_not_moved(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", ["x", "y"]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    async with agent.run_stream("b", thread=thread) as stream:
        await anext(stream)
        for move in (thread.rewind, thread.delete):
            with pytest.raises(ThreadBusyError):
                await move()
        assert len(await (await thread.fork()).turns()) == 1
    await thread.delete()


async def test_metadata_and_titles_are_the_stores(sqlite: SQLiteStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=sqlite)
    thread = agent.get_new_thread("x")
    await agent.run("a", thread=thread)
    await sqlite.update("x", title="About a", metadata={"user": 7})
    info = await sqlite.get("x")
    assert info is not None
    assert (info.title, info.metadata, info.turns) == ("About a", {"user": 7}, 1)
    assert [i.id for i in (await sqlite.list()).threads] == ["x"]


async def test_two_runs_at_once_on_a_fresh_thread(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    for n in range(100):
        thread = agent.get_new_thread(f"fresh {n}")
        await asyncio.gather(*(agent.run(f"say {i}", thread=thread) for i in range(3)))
        assert len(await thread.turns()) == 3


async def test_a_first_run_that_is_cancelled_leaves_a_handle_that_works(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    for slow in (False, True):
        if slow and isinstance(store, SQLiteStore):
            store._shared.database._commit_seconds = 1e9
        for n in range(60):
            thread = agent.get_new_thread(f"{slow} {n}")
            task = asyncio.create_task(agent.run("first", thread=thread))
            for _ in range(n % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (await agent.run("second", thread=thread)).text == "You said: second"


async def test_a_handles_own_title(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ThreadNotFoundError):
        await thread.update(title="too early")
    await agent.run("x", thread=thread)
    assert (await thread.update(title="About x", metadata={"k": 1})).title == "About x"
    assert (await thread.update(title=None)).metadata == {"k": 1}


async def test_what_another_service_was_told_and_this_one_cannot_be_is_named() -> None:
    from holdfast import FileContent, MemoryStore, OfflineChatClient

    store = MemoryStore()
    offline = OfflineChatClient().create_agent(thread_store=store)
    thread = offline.get_new_thread()
    said = await offline.run(
        ChatMessage("user", contents=["see", FileContent("https://x.invalid/a.pdf")]), thread=thread
    )
    with pytest.raises(InvalidInputError, match=said.turn_id):
        await ScriptedChatClient().create_agent(thread_store=store).run("and?", thread=thread)
    await offline.run("and?", thread=thread)
