"""Two at once on one thread: what the second one does, and how the first one learns of it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from holdfast import (
    InvalidInputError,
    Limits,
    QueueFullError,
    RunCancelledError,
    SQLiteStore,
    ThreadBusyError,
    ThreadStore,
)
from holdfast.testing.scripted import ScriptedChatClient


async def forever() -> None:
    await asyncio.sleep(600)


async def statuses(thread: object) -> list[tuple[str, str]]:
    return [(turn.status, "".join(message.text for message in turn.output)) for turn in await thread.turns()]  # type: ignore[attr-defined]


async def heard(stream: object, text: str) -> None:
    async for update in stream:  # type: ignore[attr-defined]
        if update.text == text:
            return


async def test_interrupt_ends_the_run_before_it_and_goes_on_after_what_was_said(store: ThreadStore) -> None:
    client = ScriptedChatClient(["Once upon ", forever], "short")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    long = asyncio.create_task(agent.run("a long story", thread=thread))
    while len(client.requests) < 1:
        await asyncio.sleep(0.001)
    response = await agent.run("shorter", thread=thread, on_conflict="interrupt")
    with pytest.raises(RunCancelledError, match="interrupt") as caught:
        await long
    assert caught.value.response.text == "Once upon "
    assert caught.value.response.status == "cancelled"
    assert response.text == "short"
    assert await statuses(thread) == [("cancelled", "Once upon "), ("completed", "short")]
    assert client.said() == [("user", "a long story"), ("assistant", "Once upon "), ("user", "shorter")]
    assert client.open == 0


async def test_rollback_goes_on_as_if_the_run_before_it_had_not_been(store: ThreadStore) -> None:
    client = ScriptedChatClient("before", ["Once upon ", forever], "short")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("hello", thread=thread)
    long = asyncio.create_task(agent.run("a long story", thread=thread))
    while len(client.requests) < 2:
        await asyncio.sleep(0.001)
    await agent.run("shorter", thread=thread, on_conflict="rollback")
    with pytest.raises(RunCancelledError, match="rolled back") as caught:
        await long
    assert await statuses(thread) == [("completed", "before"), ("completed", "short")]
    assert client.said() == [("user", "hello"), ("assistant", "before"), ("user", "shorter")]
    # Nothing is lost: the turn stays on a branch of its own.
    assert caught.value.turn_id in [branch.turn_id for branch in await thread.branches()]


async def test_rollback_of_a_threads_first_turn(store: ThreadStore) -> None:
    client = ScriptedChatClient(["half", forever], "whole")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("x", thread=thread))
    while not client.requests:
        await asyncio.sleep(0.001)
    await agent.run("y", thread=thread, on_conflict="rollback")
    await asyncio.gather(first, return_exceptions=True)
    assert await statuses(thread) == [("completed", "whole")]
    assert len(await thread.branches()) == 2


async def test_the_newest_of_several_that_interrupt_is_answered_and_nothing_said_is_lost(store: ThreadStore) -> None:
    client = ScriptedChatClient(*[[f"{n} ", forever] for n in range(4)], "the end")
    agent = client.create_agent(thread_store=store, on_conflict="interrupt")
    thread = agent.get_new_thread()
    runs = []
    for n in range(5):
        runs.append(asyncio.create_task(agent.run(f"m{n}", thread=thread)))
        await asyncio.sleep(0.03)
    *others, last = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 20)
    assert all(isinstance(other, RunCancelledError) for other in others)
    assert not isinstance(last, BaseException)
    said = [turn.input[0].text for turn in await thread.turns()]
    assert said == [f"m{n}" for n in range(5)]


async def test_interrupt_reaches_a_run_of_another_store_on_the_same_file(tmp_path: Path) -> None:
    stores = [SQLiteStore(tmp_path / "threads.db") for _ in range(2)]
    clients = [ScriptedChatClient(["long ", forever]), ScriptedChatClient("short")]
    a, b = (client.create_agent(thread_store=store) for client, store in zip(clients, stores, strict=True))
    first = asyncio.create_task(a.run("x", thread=a.get_thread("t", create=True)))
    while not clients[0].requests:
        await asyncio.sleep(0.001)
    assert (await b.run("y", thread=b.get_thread("t"), on_conflict="interrupt", timeout=20)).text == "short"
    with pytest.raises(RunCancelledError):
        await first
    assert clients[0].open == 0
    for store in stores:
        store.close()


async def test_a_run_whose_event_loop_is_blocked_is_interrupted_all_the_same(store: ThreadStore) -> None:
    go = threading.Event()
    client = ScriptedChatClient(["said ", "unsaid"], "next")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    errors: list[BaseException] = []

    async def read() -> None:
        async for update in agent.run_stream("x", thread=thread):
            if update.text == "said ":
                go.wait(30)  # user code that never should: it blocks the loop

    def loop_of_its_own() -> None:
        try:
            asyncio.run(read())
        except BaseException as error:
            errors.append(error)

    blocked = threading.Thread(target=loop_of_its_own)
    blocked.start()
    while not client.requests:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert (await agent.run("y", thread=thread, on_conflict="interrupt", timeout=30)).text == "next"
    go.set()
    await asyncio.to_thread(blocked.join)
    assert isinstance(errors[0], RunCancelledError)
    assert await statuses(thread) == [("cancelled", "said "), ("completed", "next")]


async def test_enqueue_timeout_bounds_the_waiting_and_leaves_no_ticket(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient([go.wait, "one"], "three")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.01)
    with pytest.raises(ThreadBusyError, match="enqueue_timeout"):
        await agent.run("b", thread=thread, enqueue_timeout=0.05)
    go.set()
    await first
    assert (await agent.run("c", thread=thread, enqueue_timeout=5)).text == "three"
    assert [turn.input[0].text for turn in await thread.turns()] == ["a", "c"]


async def test_more_runs_than_may_wait_are_refused(store: ThreadStore) -> None:
    go = asyncio.Event()
    agent = ScriptedChatClient([go.wait, "one"]).create_agent(thread_store=store, limits=Limits(waiting_runs=2))
    thread = agent.get_new_thread()
    runs = [asyncio.create_task(agent.run("a", thread=thread))]
    await asyncio.sleep(0.01)
    for n in range(2):
        runs.append(asyncio.create_task(agent.run(f"b{n}", thread=thread)))
        await asyncio.sleep(0.01)
    with pytest.raises(QueueFullError, match="2"):
        await agent.run("too many", thread=thread)
    go.set()
    await asyncio.gather(*runs)
    assert len(await thread.turns()) == 3


async def test_a_run_from_within_its_own_threads_turn_is_refused_at_once(store: ThreadStore) -> None:
    raised: list[BaseException] = []

    async def nested() -> None:
        try:
            await agent.run("inner", thread=thread)
        except ThreadBusyError as error:
            raised.append(error)

    async def nested_in_a_task() -> None:
        await asyncio.create_task(nested())

    client = ScriptedChatClient([nested, nested_in_a_task, "outer"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    began = time.monotonic()
    assert (await agent.run("x", thread=thread)).text == "outer"
    assert time.monotonic() - began < 10
    assert len(raised) == 2
    assert "from within turn" in str(raised[0])
    assert len(await thread.turns()) == 1


async def test_what_began_within_a_turn_may_run_after_it(store: ThreadStore) -> None:
    later: list[asyncio.Task[object]] = []
    ended = asyncio.Event()

    async def afterwards() -> object:
        await ended.wait()
        return await agent.run("later", thread=thread)

    async def begin() -> None:
        later.append(asyncio.create_task(afterwards()))

    client = ScriptedChatClient([begin, "outer"], "second")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("x", thread=thread)
    ended.set()
    assert str(await later[0]) == "second"


async def test_another_threads_run_within_a_turn_is_nobodys_business(store: ThreadStore) -> None:
    async def nested() -> None:
        await agent.run("inner", thread=agent.get_new_thread())

    client = ScriptedChatClient([nested, "outer"])
    agent = client.create_agent(thread_store=store)
    assert (await agent.run("x", thread=agent.get_new_thread())).text == "outer"


@pytest.mark.parametrize(
    "wrong", [{"on_conflict": "merge"}, {"on_disconnect": "sleep"}, {"enqueue_timeout": 0}, {"limits": 3}]
)
async def test_options_that_make_no_sense(wrong: dict[str, object]) -> None:
    agent = ScriptedChatClient().create_agent()
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        await agent.run("x", **wrong)  # type: ignore[arg-type]
