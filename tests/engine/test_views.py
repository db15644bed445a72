"""Views: a conversation that is longer than what the service is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from holdfast import (
    ChatMessage,
    ContextTooLongError,
    InvalidInputError,
    LastTurns,
    SQLiteStore,
    ThreadStore,
    TokenBudget,
    Turn,
    Usage,
    UsageUpdate,
)
from holdfast.testing.scripted import ScriptedChatClient, calling


def users(client: ScriptedChatClient) -> list[str]:
    return [text for role, text in client.said() if role == "user"]


async def test_the_last_turns_are_told_and_the_log_keeps_all(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent("Be brief.", history=LastTurns(2), thread_store=store)
    thread = agent.get_new_thread()
    for n in range(6):
        await agent.run(f"m{n}", thread=thread)
        assert users(client) == [f"m{k}" for k in range(max(0, n - 2), n + 1)]
        assert client.said()[0] == ("system", "Be brief.")
    assert len(await thread.turns()) == 6
    # For one run another view, or all of it.
    await agent.run("all", thread=thread, history=None)
    assert users(client) == [*(f"m{k}" for k in range(6)), "all"]
    await agent.run("one", thread=thread, history=LastTurns(1))
    assert users(client) == ["all", "one"]


@pytest.mark.parametrize("turns", [1, 3, 40, 100])
async def test_an_agent_that_comes_anew_is_told_the_same(sqlite: SQLiteStore, turns: int) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=sqlite)
    thread = agent.get_thread("t", create=True)
    await thread.add_messages([ChatMessage("user", text=f"m{n}") for n in range(90)])
    warm = client.create_agent(history=LastTurns(turns), thread_store=sqlite)
    await warm.run("x", thread=warm.get_thread("t"))
    cold_store = SQLiteStore(sqlite.location)
    other = ScriptedChatClient()
    cold = other.create_agent(history=LastTurns(turns), thread_store=cold_store)
    await cold.run("y", thread=cold.get_thread("t"))
    await warm.run("z", thread=warm.get_thread("t"))
    all_of_it = [*(f"m{n}" for n in range(90)), "x", "y", "z"]
    assert users(other) == all_of_it[:-1][-turns - 1 :]
    assert users(client) == all_of_it[-turns - 1 :]
    cold_store.close()


async def test_failed_turns_that_are_not_told_take_no_place(store: ThreadStore) -> None:
    client = ScriptedChatClient("one", [InvalidInputError("no")], [InvalidInputError("no")], "two", "three")
    agent = client.create_agent(history=LastTurns(1), thread_store=store)
    thread = agent.get_new_thread()
    for text in ("a", "b", "c", "d"):
        try:
            await agent.run(text, thread=thread)
        except InvalidInputError:
            continue
    assert client.said() == [("user", "a"), ("assistant", "one"), ("user", "d")]


async def test_turns_with_calls_are_told_whole_or_not_at_all(store: ThreadStore) -> None:
    def look() -> str:
        return "seen"

    client = ScriptedChatClient(*[part for _ in range(5) for part in (calling(("look", {})), "ok")])
    agent = client.create_agent(tools=[look], history=LastTurns(2), thread_store=store)
    thread = agent.get_new_thread()
    for n in range(5):
        await agent.run(f"m{n}", thread=thread)
    roles = [role for role, _ in client.said()]
    assert roles == ["user", "assistant", "tool", "assistant"] * 2 + ["user", "assistant", "tool"]


async def test_a_budget_holds_as_many_turns_as_fit(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(history=TokenBudget(100), thread_store=store)
    thread = agent.get_new_thread()
    for n in range(12):
        await agent.run(f"message number {n:02}", thread=thread)
    told = client.requests[-1]["messages"]
    size = len(str(told[:-1]))
    assert 2 < len(told) < 12
    assert size / 4 < 140  # about a quarter of the bytes
    assert users(client)[-1] == "message number 11"


async def test_a_budget_counts_as_the_service_counts(store: ThreadStore) -> None:
    def answer(tokens: int) -> Any:
        return ["ok", UsageUpdate(usage=Usage(tokens, 1, tokens + 1))]

    async def told_with(per_request: int) -> int:
        client = ScriptedChatClient(*[answer(per_request) for _ in range(9)])
        agent = client.create_agent(history=TokenBudget(120), thread_store=store)
        thread = agent.get_new_thread()
        for n in range(9):
            await agent.run(f"message number {n:02}", thread=thread)
        return len(client.requests[-1]["messages"])

    assert await told_with(400) < await told_with(40)


async def test_ones_own_function_chooses(store: ThreadStore) -> None:
    def with_parrots(turns: list[Turn]) -> list[Turn | ChatMessage]:
        chosen: list[Turn | ChatMessage] = [turn for turn in turns if re.search("parrot", turn.input[0].text)]
        return [ChatMessage("system", text=f"{len(turns)} turns so far"), *chosen]

    client = ScriptedChatClient()
    agent = client.create_agent(history=with_parrots, thread_store=store)
    thread = agent.get_new_thread()
    for text in ("a parrot", "a cat", "another parrot", "and?"):
        await agent.run(text, thread=thread)
    assert users(client) == ["a parrot", "another parrot", "and?"]
    assert client.said()[0] == ("system", "3 turns so far")


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_a_service_cannot_read_is_told_once_more_and_shorter(store: ThreadStore, streamed: bool) -> None:
    client = ScriptedChatClient(*"abcdefgh", [ContextTooLongError("too long", service="x", status=400)], "at last")
    agent = client.create_agent(history=LastTurns(8), thread_store=store)
    thread = agent.get_new_thread()
    for n in range(8):
        await agent.run(f"m{n}", thread=thread)
    if streamed:
        stream = agent.run_stream("now", thread=thread)
        assert "".join([update.text async for update in stream]) == "at last"
    else:
        assert (await agent.run("now", thread=thread)).text == "at last"
    assert users(client) == ["m4", "m5", "m6", "m7", "now"]


async def test_what_is_still_too_long_is_an_error_and_the_thread_goes_on(store: ThreadStore) -> None:
    too_long = [ContextTooLongError("too long", service="x", status=400)]
    client = ScriptedChatClient("a", "b", too_long, too_long, "fine")
    agent = client.create_agent(history=LastTurns(2), thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("one", thread=thread)
    await agent.run("two", thread=thread)
    with pytest.raises(ContextTooLongError):
        await agent.run("three", thread=thread)
    assert (await agent.run("four", thread=thread)).text == "fine"


async def test_forks_and_rewinds_show_their_own_past(store: ThreadStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(history=LastTurns(2), thread_store=store)
    thread = agent.get_new_thread()
    for n in range(5):
        await agent.run(f"m{n}", thread=thread)
    fork = await thread.fork()
    await agent.run("f1", thread=fork)
    assert users(client) == ["m3", "m4", "f1"]
    await thread.rewind(2)
    await agent.run("r1", thread=thread)
    assert users(client) == ["m1", "m2", "r1"]
    await agent.run("f2", thread=fork)
    assert users(client) == ["m4", "f1", "f2"]


@pytest.mark.parametrize("wrong", [0, -1, True, "5", 2.5])
def test_a_view_that_makes_no_sense_is_refused(wrong: Any) -> None:
    for view in (LastTurns, TokenBudget):
        with pytest.raises(InvalidInputError):
            view(wrong)
    with pytest.raises(InvalidInputError):
        ScriptedChatClient().create_agent(history=wrong)


async def test_opening_a_long_thread_reads_what_the_window_shows(sqlite: SQLiteStore) -> None:
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=sqlite)
    read = []
    for length in (200, 4000):
        thread = agent.get_thread(f"t{length}", create=True)
        await thread.add_messages([ChatMessage("user", text=f"m{n}") for n in range(length)])
        store = SQLiteStore(sqlite.location)
        rows: list[int] = []
        real = store.read

        def reading(segment: Any, *, limit: int | None = None, rows: list[int] = rows, real: Any = real) -> Any:
            rows.append(segment.upto - segment.after)
            return real(segment, limit=limit)

        store.read = reading  # type: ignore[method-assign]
        cold = ScriptedChatClient().create_agent(history=LastTurns(50), thread_store=store)
        await cold.run("x", thread=cold.get_thread(f"t{length}"))
        read.append(sum(rows))
        store.close()
    assert read[0] == read[1] <= 64
