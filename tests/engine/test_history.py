"""What is sent is always what the log says, whatever happened and whoever has cached what."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import AgentThread, BadRequestError, DamagedError, MemoryStore, ServiceUnavailableError, SQLiteStore
from holdfast.conversation.turns import what_is_sent
from holdfast.engine.history import Encoded
from holdfast.testing.scripted import ScriptedChatClient

SCRIPTS: dict[str, Any] = {
    "run": ["fine"],
    "fail": [BadRequestError("no")],
    "cut": ["half ", ServiceUnavailableError("cut")],
    "leave": ["one ", "two ", "three"],
}

steps = st.lists(
    st.tuples(
        st.sampled_from([*SCRIPTS, "fork", "rewind", "reopen", "other agent", "other process"]), st.integers(0, 3)
    ),
    max_size=14,
)


async def sent_by_the_log(thread: AgentThread) -> list[tuple[str, str]]:
    return [(m.role, m.text) for turn in await thread.turns() for m in what_is_sent(turn)]


@settings(max_examples=60, deadline=None)
@given(steps)
def test_a_request_holds_what_the_log_says(plan: list[tuple[str, int]]) -> None:
    asyncio.run(_follow(plan))


async def _follow(plan: list[tuple[str, int]]) -> None:
    store = MemoryStore()
    client = ScriptedChatClient()
    agents = [client.create_agent("One.", thread_store=store), client.create_agent("Two.", thread_store=store)]
    agent = agents[0]
    threads = [agent.get_new_thread()]
    for number, (step, which) in enumerate(plan):
        thread = threads[which % len(threads)]
        if step == "fork":
            threads.append(await thread.fork())
        elif step == "rewind":
            if await thread.turns():
                await thread.rewind(min(which + 1, len(await thread.turns())))
        elif step == "reopen":
            threads[which % len(threads)] = agent.get_thread(thread.id, create=True)
        elif step == "other agent":
            agent = agents[which % 2]
        elif step == "other process":
            store.cache.clear()  # nothing is cached there
        else:
            before = await sent_by_the_log(thread)
            client._answers = [SCRIPTS[step]]
            await _run(agent, thread, f"say {number}", leave=step == "leave")
            assert client.said() == [("system", agent.instructions), *before, ("user", f"say {number}")]


async def _run(agent: Any, thread: AgentThread, text: str, *, leave: bool) -> None:
    try:
        async with agent.run_stream(text, thread=thread) as stream:
            async for update in stream:
                if leave and update.text == "two ":
                    return
    except (BadRequestError, ServiceUnavailableError):
        pass


async def test_what_another_process_said_is_sent_too(tmp_path: Path) -> None:
    """Two stores on one file, as two processes have them: each has its own cache."""
    stores = [SQLiteStore(tmp_path / "threads.db") for _ in range(2)]
    clients = [ScriptedChatClient() for _ in stores]
    agents = [c.create_agent(thread_store=s) for c, s in zip(clients, stores, strict=True)]
    for n in range(6):
        await agents[n % 2].run(f"say {n}", thread=agents[n % 2].get_thread("common", create=True))
    assert [text for role, text in clients[1].said() if role == "user"] == [f"say {n}" for n in range(6)]
    for store in stores:
        store.close()


async def test_a_long_history_is_read_in_pieces_and_sent_whole(sqlite: SQLiteStore) -> None:
    from holdfast import ChatMessage

    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=sqlite)
    thread = agent.get_new_thread()
    await thread.add_messages([ChatMessage("user" if n % 2 == 0 else "assistant", text=str(n)) for n in range(1501)])
    await agent.run("last", thread=agent.get_thread(thread.id))
    assert [text for _, text in client.said()] == [*map(str, range(1501)), "last"]


async def test_a_warm_turn_reads_nothing(sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=sqlite)
    thread = agent.get_new_thread()
    await agent.run("one", thread=thread)
    for name in ("lineage", "read"):
        monkeypatch.setattr(type(sqlite), name, None)
    await agent.run("two", thread=agent.get_thread(thread.id))


async def test_a_damaged_turn_is_never_sent(sqlite: SQLiteStore) -> None:
    import apsw

    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=sqlite)
    thread = agent.get_new_thread("precious")
    turns = [(await agent.run(f"say {n}", thread=thread)).turn_id for n in range(4)]
    apsw.Connection(sqlite.location).execute(
        "UPDATE turns SET record = CAST(replace(CAST(record AS TEXT), 'say 2', 'pay 2') AS BLOB) WHERE id = ?",
        (turns[2],),
    )
    sqlite.cache.clear()
    asked = len(client.requests)
    with pytest.raises(DamagedError, match=turns[1]) as caught:
        await agent.run("go on", thread=thread)
    assert turns[2] in str(caught.value)
    assert len(client.requests) == asked
    # The error names the fork that goes on, and that one does.
    fork = await thread.fork(at=turns[1])
    await agent.run("go on", thread=fork)
    assert [text for role, text in client.said() if role == "user"] == ["say 0", "say 1", "go on"]


def test_a_buffer_that_is_still_being_sent_is_copied_not_broken() -> None:
    encoded = Encoded(b"[")
    encoded.append(b'"a",')
    body = encoded.body(b'"b",', b"]")
    assert json.loads(bytes(body)) == ["a", "b"]
    with memoryview(body):
        encoded.restore()
    assert encoded.buffer is not body
    assert bytes(body) == b'["a","b"]'
    assert json.loads(bytes(encoded.body(b'"c",', b"]"))) == ["a", "c"]


async def test_slots_that_are_too_many_are_dropped_and_made_again() -> None:
    store = MemoryStore(max_cache_bytes=5_000)
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    threads = [agent.get_new_thread() for _ in range(20)]
    for n in range(3):
        for thread in threads:
            await agent.run(f"say {n} {'x' * 300}", thread=thread)
            assert store.cache._size <= 5_000
            assert len([1 for role, _ in client.said() if role == "user"]) == n + 1
