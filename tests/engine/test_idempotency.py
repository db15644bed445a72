"""Retry is safe: an idempotency key stands for one turn of one thread."""

from __future__ import annotations

import asyncio

import pytest

from holdfast import (
    BadRequestError,
    HoldfastError,
    IdempotencyKeyError,
    InvalidInputError,
    ServiceUnavailableError,
    SQLiteStore,
    StoreUnavailableError,
    ThreadStore,
    ToolCallUpdate,
)
from holdfast.testing.scripted import ScriptedChatClient


async def test_the_same_key_gives_the_recorded_turn(store: ThreadStore) -> None:
    client = ScriptedChatClient("once", "never")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("x", thread=thread, idempotency_key="k")
    again = await agent.run("x", thread=agent.get_thread(thread.id), idempotency_key="k")
    assert (again.turn_id, again.text, again.status) == (first.turn_id, "once", "completed")
    assert len(client.requests) == len(await thread.turns()) == 1


async def test_streamed_the_recorded_turn_is_told_again(store: ThreadStore) -> None:
    client = ScriptedChatClient(["on", "ce"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("x", thread=thread, idempotency_key="k")
    stream = agent.run_stream("x", thread=thread, idempotency_key="k")
    assert "".join([update.text async for update in stream]) == "once"
    assert stream.turn_id == first.turn_id
    assert (await stream.response()).text == "once"
    assert len(client.requests) == 1


@pytest.mark.parametrize("on_disconnect", ["cancel", "continue"])
async def test_in_flight_the_second_gets_the_firsts_turn_and_its_stream(store: ThreadStore, on_disconnect: str) -> None:
    steps = [asyncio.Event(), asyncio.Event()]
    client = ScriptedChatClient(["one ", steps[0].wait, "two ", steps[1].wait, "three"])
    agent = client.create_agent(thread_store=store, on_disconnect=on_disconnect)  # type: ignore[arg-type]
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("x", thread=thread, idempotency_key="k"))
    while not client.requests:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(agent.run("x", thread=agent.get_thread(thread.id), idempotency_key="k"))
    stream = agent.run_stream("x", thread=agent.get_thread(thread.id), idempotency_key="k")
    assert (await anext(stream)).text == "one "
    steps[0].set()
    assert (await anext(stream)).text == "two "
    steps[1].set()
    assert "".join([update.text async for update in stream]) == "three"
    responses = await asyncio.gather(first, second)
    assert [response.text for response in responses] == ["one two three"] * 2
    assert len({response.turn_id for response in responses} | {stream.turn_id}) == 1
    assert len(client.requests) == 1


async def test_a_key_that_waits_in_line_is_in_flight_too(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient([go.wait, "first"], "second")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.02)
    waiting = [asyncio.create_task(agent.run("b", thread=thread, idempotency_key="k")) for _ in range(3)]
    await asyncio.sleep(0.05)
    go.set()
    await first
    assert {response.text for response in await asyncio.gather(*waiting)} == {"second"}
    assert len(await thread.turns()) == 2


async def test_fifty_at_once_are_one_turn(store: ThreadStore) -> None:
    client = ScriptedChatClient("once")
    agent = client.create_agent(thread_store=store)
    runs = [
        agent.run("x", thread=agent.get_thread("t", create=True), idempotency_key="k", timeout=60) for _ in range(50)
    ]
    responses = await asyncio.gather(*runs)
    assert len({response.turn_id for response in responses}) == 1
    assert len(client.requests) == 1


@pytest.mark.parametrize("in_flight", [False, True])
async def test_the_same_key_with_another_input_is_refused(store: ThreadStore, in_flight: bool) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient([go.wait, "once"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("x", thread=thread, idempotency_key="k"))
    while not client.requests:
        await asyncio.sleep(0.001)
    if not in_flight:
        go.set()
        await first
    with pytest.raises(IdempotencyKeyError, match="another input"):
        await agent.run("y", thread=agent.get_thread(thread.id), idempotency_key="k")
    go.set()
    assert (await first).text == "once"
    assert len(await thread.turns()) == 1


async def test_a_failed_turn_in_which_nothing_happened_frees_its_key(store: ThreadStore) -> None:
    client = ScriptedChatClient([ServiceUnavailableError("down")], "up again")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("x", thread=thread, idempotency_key="k")
    assert (await agent.run("x", thread=thread, idempotency_key="k")).text == "up again"
    assert (await agent.run("x", thread=thread, idempotency_key="k")).text == "up again"
    assert client.said() == [("user", "x")]


async def test_a_failed_turn_in_which_something_happened_keeps_it(store: ThreadStore) -> None:
    client = ScriptedChatClient(["half", ServiceUnavailableError("cut")])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("x", thread=thread, idempotency_key="k")
    with pytest.raises(IdempotencyKeyError, match="failed") as caught:
        await agent.run("x", thread=thread, idempotency_key="k")
    assert caught.value.response.text == "half"
    stream = agent.run_stream("x", thread=thread, idempotency_key="k")
    assert (await anext(stream)).text == "half"
    with pytest.raises(IdempotencyKeyError):
        await anext(stream)
    assert len(client.requests) == 1


async def test_a_turn_that_was_rewound_is_still_returned(store: ThreadStore) -> None:
    client = ScriptedChatClient("one", "two", "three")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    second = await agent.run("b", thread=thread, idempotency_key="k")
    await thread.rewind()
    await agent.run("c", thread=thread)
    again = await agent.run("b", thread=thread, idempotency_key="k")
    assert again.turn_id == second.turn_id
    assert [turn.input[0].text for turn in await thread.turns()] == ["a", "c"]


async def test_keys_belong_to_one_thread_and_a_fork_starts_with_none(store: ThreadStore) -> None:
    client = ScriptedChatClient("one", "two", "three")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("x", thread=thread, idempotency_key="k")
    other = await agent.run("x", thread=agent.get_new_thread(), idempotency_key="k")
    fork = await thread.fork()
    third = await agent.run("x", thread=fork, idempotency_key="k")
    assert len({first.turn_id, other.turn_id, third.turn_id}) == 3


async def test_a_new_life_of_a_thread_knows_no_old_keys(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one", "two").create_agent(thread_store=store)
    thread = agent.get_new_thread("t")
    await agent.run("x", thread=thread, idempotency_key="k")
    await thread.delete()
    again = agent.get_new_thread("t")
    assert (await agent.run("x", thread=again, idempotency_key="k")).text == "two"


async def test_a_retry_after_the_file_was_reopened(sqlite: SQLiteStore) -> None:
    agent = ScriptedChatClient("one").create_agent(thread_store=sqlite)
    first = await agent.run("x", thread=agent.get_thread("t", create=True), idempotency_key="k")
    sqlite.close()
    client = ScriptedChatClient("two")
    reopened = SQLiteStore(sqlite.location)
    again = client.create_agent(thread_store=reopened)
    assert (await again.run("x", thread=again.get_thread("t"), idempotency_key="k")).turn_id == first.turn_id
    assert client.requests == []
    reopened.close()


async def test_a_commit_whose_word_was_lost_is_settled_by_the_turns_id(
    sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is done, and then the store says that it failed: as a connection does that breaks too late."""

    class Lost:
        def __init__(self, handed: object) -> None:
            self._handed = handed

        def __await__(self):  # type: ignore[no-untyped-def]
            yield from self._handed.__await__()  # type: ignore[attr-defined]
            raise StoreUnavailableError("the connection broke after the commit")

        def then(self, call: object) -> None:
            self._handed.then(call)  # type: ignore[attr-defined]

    seal = SQLiteStore.seal
    monkeypatch.setattr(SQLiteStore, "seal", lambda self, *args, **options: Lost(seal(self, *args, **options)))
    agent = ScriptedChatClient("one").create_agent(thread_store=sqlite)
    thread = agent.get_new_thread()
    response = await agent.run("x", thread=thread)
    assert response.status == "completed"
    assert [turn.id for turn in await thread.turns()] == [response.turn_id]


@pytest.mark.parametrize("key", ["", "x" * 257, 7, "\ud800"])
async def test_keys_that_cannot_be(store: ThreadStore, key: object) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    with pytest.raises(InvalidInputError):
        await agent.run("x", thread=agent.get_new_thread(), idempotency_key=key)  # type: ignore[arg-type]


async def test_hostile_keys_are_data(store: ThreadStore) -> None:
    agent = ScriptedChatClient(*[str(n) for n in range(10)]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    keys = ["'; DROP TABLE turns; --", "%", "*", " ", "k", "K", "é", "e\u0301", "\u202eevil"]
    first = [(await agent.run("x", thread=thread, idempotency_key=key)).turn_id for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [(await agent.run("x", thread=thread, idempotency_key=key)).turn_id for key in keys]


async def test_a_retry_of_a_failed_call_is_one_turn_whatever_the_service_did(store: ThreadStore) -> None:
    call = ToolCallUpdate(index=0, call_id="c", name="fly", arguments="{}")
    for script in ([BadRequestError("no")], [call, ServiceUnavailableError("cut")], ["half", BadRequestError("no")]):
        client = ScriptedChatClient(script, "whole")
        agent = client.create_agent(thread_store=store)
        thread = agent.get_new_thread()
        with pytest.raises(HoldfastError):
            await agent.run("x", thread=thread, idempotency_key="k")
        await asyncio.gather(
            *(agent.run("x", thread=thread, idempotency_key="k") for _ in range(3)), return_exceptions=True
        )
        told = await thread.messages()
        assert [message.text for message in told if message.role == "user"] == ["x"]
