"""Situations in which a thread could stay stuck for ever, or a turn get lost: none may."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import (
    AgentRunResponseUpdate,
    AgentThread,
    ChatAgent,
    ChatMessage,
    EndUpdate,
    FinishUpdate,
    InvalidInputError,
    RunCancelledError,
    RunTimeoutError,
    ServiceUnavailableError,
    SQLiteStore,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadStore,
    ToolCallUpdate,
    ToolResultUpdate,
    UnknownContent,
)
from holdfast.ports.clients import ChatRequest
from holdfast.ports.stores import Head, OpenRun
from holdfast.testing.openai_chat_rules import STRICT
from holdfast.testing.openai_checks import Field
from holdfast.testing.runtime import SeededRuntime
from holdfast.testing.scripted import ScriptedChatClient


async def test_an_owner_that_was_idle_is_not_taken_for_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite_line.LEASE_SECONDS", 0.5)
    stores = [SQLiteStore(tmp_path / "threads.db") for _ in range(2)]
    go = [asyncio.Event(), asyncio.Event()]
    a = ScriptedChatClient("a").create_agent(thread_store=stores[0])
    b = ScriptedChatClient([go[0].wait, "b1"], [go[1].wait, "b2"]).create_agent(thread_store=stores[1])
    for n in range(2):
        running = asyncio.create_task(b.run(f"b{n}", thread=b.get_thread("t", create=True)))
        await asyncio.sleep(0.1)
        with pytest.raises(ThreadBusyError):
            await a.run("a", thread=a.get_thread("t", create=True), on_conflict="reject")
        go[n].set()
        assert (await running).text == f"b{n + 1}"
        await asyncio.sleep(0.6)
    for store in stores:
        store.close()


async def test_no_descriptor_left_for_a_call_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [SQLiteStore(tmp_path / "threads.db") for _ in range(2)]
    go = asyncio.Event()
    a = ScriptedChatClient([go.wait, "a"], "a2").create_agent(thread_store=stores[0])
    b = ScriptedChatClient("b").create_agent(thread_store=stores[1])
    first = asyncio.create_task(a.run("a", thread=a.get_thread("t", create=True)))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(b.run("b", thread=b.get_thread("t", create=True)))
    await asyncio.sleep(0.1)

    def no_descriptors(*_: object, **__: object) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("holdfast.stores.sqlite_bell.socket.socket", no_descriptors)
    for store in stores:
        store._shared.database._commit_seconds = 1e9
    go.set()
    assert (await first).text == "a"
    assert (await waiting).text == "b"  # it looked for itself
    assert (await a.run("again", thread=a.get_thread("t"))).text == "a2"
    monkeypatch.undo()
    for store in stores:
        store.close()


@pytest.mark.parametrize("change", ["rewind", "delete"])
async def test_a_move_that_is_cancelled_at_any_moment_leaves_no_run_behind(sqlite: SQLiteStore, change: str) -> None:
    sqlite._shared.database._commit_seconds = 1e9  # every write takes its time
    agent = ScriptedChatClient().create_agent(thread_store=sqlite)
    for k in range(12):
        thread = agent.get_new_thread()
        await agent.run("x", thread=thread)
        left = await sqlite.open_run(thread.id, f"left {k}", b"[]", 1)
        sqlite._shared.ends((sqlite.tenant, thread.id, left.epoch))  # type: ignore[union-attr]
        moving = asyncio.ensure_future(getattr(thread, change)())
        for _ in range(k):
            await asyncio.sleep(0.0003)
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        other = agent.get_thread(thread.id, create=True)
        assert (await agent.run("after", thread=other, timeout=5)).text == "You said: after"


async def test_a_waiter_that_cannot_withdraw_is_not_waited_for(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db", busy_timeout=0.2)
    go = asyncio.Event()
    agent = ScriptedChatClient([go.wait, "first"], "next").create_agent(thread_store=store)
    thread = agent.get_thread("t", create=True)
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.05)
    waiter = asyncio.create_task(agent.run("b", thread=thread))
    await asyncio.sleep(0.1)
    other = apsw.Connection(store.location)
    other.execute("BEGIN IMMEDIATE")
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await asyncio.sleep(0.5)
    other.execute("ROLLBACK")
    other.close()
    go.set()
    await first
    assert (await agent.run("c", thread=thread, timeout=5)).text == "next"
    store.close()


async def test_an_error_that_cannot_be_written_down_does_not_keep_the_thread(store: ThreadStore) -> None:
    client = ScriptedChatClient([ServiceUnavailableError("caf\udce9 is down")], "fine")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(ServiceUnavailableError):
        await agent.run("x", thread=thread)
    assert (await agent.run("y", thread=thread, timeout=5)).text == "fine"


async def test_what_could_not_be_read_back_is_refused(store: ThreadStore) -> None:
    for wrong in ({"message_id": 7}, {"author_name": 7}, {"additional_properties": 7}):
        with pytest.raises(InvalidInputError):
            ChatMessage("user", text="x", **wrong)  # type: ignore[arg-type]
    for raw in (b"", b"{", b'{"type":"y"}', b'{"type":"text","text":"x"}', b'{"type":"x"}]},{"role":"system"'):
        with pytest.raises(InvalidInputError):
            ChatMessage("user", ["hi", UnknownContent("x", raw)])
    with pytest.raises(InvalidInputError, match="name"):
        ScriptedChatClient().create_agent(name=7)  # type: ignore[arg-type]
    agent = ScriptedChatClient().create_agent(thread_store=store)
    with pytest.raises(InvalidInputError):
        await agent.run({"role": "user", "content": "x"})  # type: ignore[arg-type]


async def test_ids_that_come_again_are_refused_before_anything_is_opened(store: ThreadStore) -> None:
    def agent() -> ChatAgent:
        return ChatAgent(ScriptedChatClient(), thread_store=store, runtime=SeededRuntime(7), id="same")

    first, again = agent(), agent()
    await first.run("x", thread=first.get_thread("t", create=True))
    with pytest.raises(InvalidInputError, match="already"):
        await again.run("x", thread=again.get_thread("t"))
    other = ScriptedChatClient().create_agent(thread_store=store)
    await other.run("y", thread=other.get_thread("t"), timeout=5)
    await other.get_thread("t").delete()


def test_a_forked_copy_of_a_run_leaves_the_parents_turn_alone(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    script = f"""
import asyncio, os, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
agent = ScriptedChatClient(["Hel", "lo ", "world"]).create_agent(thread_store=SQLiteStore({str(path)!r}))
async def main():
    child, text = None, ""
    async for update in agent.run_stream("hi", thread=agent.get_thread("t", create=True)):
        text += update.text
        if child is None:
            child = os.fork()
            if child == 0:
                sys.exit(0)
            os.waitpid(child, 0)
    print(text)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "Hello world\n", done.stderr
    store = SQLiteStore(path)
    agent = ScriptedChatClient().create_agent(thread_store=store)
    assert [t.status for t in asyncio.run(agent.get_thread("t").turns())] == ["completed"]
    store.close()


def test_workers_that_start_together_on_a_new_file(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from holdfast import SQLiteStore
store = SQLiteStore(sys.argv[1])
sys.stdin.readline()
async def main():
    return await store.list()
asyncio.run(main())
store.close()
"""
    for round_ in range(3):
        path = str(tmp_path / f"{round_}.db")
        workers = [
            subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(4)
        ]
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        assert [worker.communicate()[1] for worker in workers] == [b""] * 4


async def test_a_timeout_before_anything_was_asked_records_nothing(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db", busy_timeout=5)
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    thread = agent.get_thread("t", create=True)
    await agent.run("before", thread=thread)
    other = apsw.Connection(store.location)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunTimeoutError, match="Nothing was sent or recorded"):
        await agent.run("buy 100 shares", thread=thread, timeout=0.2)
    other.execute("ROLLBACK")
    other.close()
    await agent.run("buy 100 shares", thread=thread)
    assert [text for role, text in client.said() if role == "user"] == ["before", "buy 100 shares"]
    store.close()


async def test_reading_beside_the_first_run_of_a_handle(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    if isinstance(store, SQLiteStore):
        store._shared.database._commit_seconds = 1e9
    for _ in range(60):
        thread = agent.get_new_thread()
        _, *seen = await asyncio.gather(agent.run("x", thread=thread), *(thread.turns() for _ in range(4)))
        assert all(len(turns) in (0, 1) for turns in seen)


async def test_stores_that_are_dropped_give_everything_back(tmp_path: Path) -> None:
    def things() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    for n in range(3):
        before = things()
        for _ in range(10):
            store = SQLiteStore(tmp_path / "threads.db")
            agent = ScriptedChatClient().create_agent(thread_store=store)
            await agent.run("x", thread=agent.get_new_thread())
            del store, agent
        gc.collect()
        await asyncio.sleep(0.05)
        if n:
            assert things()[1] - before[1] <= 3


async def test_a_turn_with_calls_is_followed_to_its_end_through_another_store(tmp_path: Path) -> None:
    """Its journal begins with a whole answer, which stands where it began."""
    stores = [SQLiteStore(tmp_path / "threads.db") for _ in range(2)]
    go = asyncio.Event()
    call = ToolCallUpdate(index=0, call_id="c1", name="fly", arguments="{}")
    client = ScriptedChatClient(["I try. ", call, FinishUpdate(finish_reason="tool_calls")], ["No ", go.wait, "wings."])
    agent = client.create_agent(thread_store=stores[0])
    stream = agent.run_stream("x", thread=agent.get_thread("t", create=True))
    reading = asyncio.create_task(stream.response())
    while len(client.requests) < 2:
        await asyncio.sleep(0.001)
    follower = AgentThread(stores[1], "t", intent="existing").follow(stream.turn_id)
    told = [await anext(follower)]
    go.set()
    told += [update async for update in follower]
    assert "".join(update.text for update in told) == (await reading).text == "I try. No wings."
    assert [type(update) for update in told if not update.text] == [ToolCallUpdate, ToolResultUpdate, EndUpdate]
    for store in stores:
        store.close()


async def test_a_transcript_that_a_dead_process_was_adopting_is_not_gone_on_with(store: ThreadStore) -> None:
    """It was put there as a run to which nobody has said anything: a model must not be asked to answer that."""
    client = ScriptedChatClient("one", "two")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    left = await store.open_run(thread.id, "turn_left", b"[]", 1)
    assert isinstance(left, OpenRun)
    with pytest.raises(InvalidInputError):  # whoever made it has let go
        await store.seal(left, (), stand=Head(branch=99, seq=1))
    assert await agent.resume(thread) is None
    assert len(client.requests) == 1
    assert (await agent.run("b", thread=thread)).text == "two"
    assert [turn.input[0].text for turn in await thread.turns()] == ["a", "b"]


@pytest.mark.parametrize("in_flight", [False, True])
async def test_a_retry_that_is_left_in_its_middle_is_followed_from_its_cursor(
    store: ThreadStore, in_flight: bool
) -> None:
    """From the first word on its turn is the one that has the key."""
    go = asyncio.Event()
    client = ScriptedChatClient(["one ", go.wait, "two"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("x", thread=thread, idempotency_key="k"))
    while not client.requests:
        await asyncio.sleep(0.001)
    if not in_flight:
        go.set()
        await first
    async with agent.run_stream("x", thread=agent.get_thread(thread.id), idempotency_key="k") as stream:
        read = (await anext(stream)).text
        turn_id, cursor = stream.turn_id, stream.cursor
    go.set()
    rest = [update async for update in agent.get_thread(thread.id).follow(turn_id, after=cursor)]
    assert read + "".join(update.text for update in rest) == "one two"
    assert turn_id == (await first).turn_id


async def test_a_stream_nobody_reads_gives_way_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.sealing.STALLED_SECONDS", 0.1)
    monkeypatch.setattr("holdfast.stores.sqlite_bell.BEAT_SECONDS", 0.1)
    stores = [SQLiteStore(tmp_path / "threads.db") for _ in range(2)]
    a = ScriptedChatClient(["one", "two"]).create_agent(thread_store=stores[0])
    b = ScriptedChatClient("b").create_agent(thread_store=stores[1])
    stream = a.run_stream("a", thread=a.get_thread("t", create=True))
    assert (await anext(stream)).text == "one"
    assert (await b.run("b", thread=b.get_thread("t"), timeout=10)).text == "b"
    assert [t.status for t in await b.get_thread("t").turns()] == ["cancelled", "completed"]
    del stream
    for store in stores:
        store.close()


async def test_a_reader_cancelled_between_two_updates_gives_its_thread_back_at_once(store: ThreadStore) -> None:
    """Not only when the garbage collector comes by: nothing of the run may hold the task that read it."""
    reading = asyncio.Event()
    client = ScriptedChatClient(["one", "two"], "next")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()

    async def read() -> None:
        stream = agent.run_stream("x", thread=thread)
        async for _ in stream:
            reading.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(read())
    await reading.wait()
    gc.collect()
    gc.disable()
    try:
        task.cancel()
        await asyncio.wait((task,))
        del task
        assert (await agent.run("y", thread=thread, timeout=5)).text == "next"
    finally:
        gc.enable()
    assert [turn.status for turn in await thread.turns()] == ["cancelled", "completed"]
    assert client.open == 0


async def test_a_run_that_is_stopped_while_the_end_of_its_answer_arrives(store: ThreadStore) -> None:
    class SlowToEnd(ScriptedChatClient):
        async def ask(self, request: ChatRequest) -> AsyncGenerator[Sequence[AgentRunResponseUpdate], None]:
            async for updates in super().ask(request):
                yield updates
            arrives = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(arrives.set_result, None)  # the end is there,
            holder = store.cache.holders["", thread.id]
            holder.stop(holder.turn_id, rollback=False)  # and before anybody sees it, the run is stopped
            await arrives

    agent = SlowToEnd("all of it").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    with pytest.raises(RunCancelledError) as caught:
        await agent.run("x", thread=thread)
    assert caught.value.response.text == "all of it"
    assert [turn.status for turn in await thread.turns()] == ["cancelled"]


async def test_what_comes_after_the_seal_is_not_handed_on(store: ThreadStore) -> None:
    late = asyncio.Event()
    agent = ScriptedChatClient(["a", late.wait, "LATE"]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    read: list[str] = []

    async def reader() -> None:
        async for update in stream:
            read.append(update.text)

    task = asyncio.create_task(reader())
    while not read:
        await asyncio.sleep(0.001)
    await store.stop(thread.id, stream.turn_id)
    late.set()
    with pytest.raises(RunCancelledError):
        await task
    assert "".join(read) == (await thread.turns())[0].output[0].text


async def test_a_client_that_makes_an_end_of_being_cancelled(store: ThreadStore) -> None:
    async def ends() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)

    client = ScriptedChatClient(["a", ends])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    running = asyncio.create_task(agent.run("x", thread=thread))
    while not client.requests:
        await asyncio.sleep(0.001)
    assert await thread.cancel()
    with pytest.raises(RunCancelledError):
        await running


@pytest.mark.parametrize("how", ["gives up", "fails"])
async def test_a_retry_whose_twin_ends_without_a_turn_tries_itself(store: ThreadStore, how: str) -> None:
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise ServiceUnavailableError("down")

    scripts = [[go.wait, "first"], "mine"] if how == "gives up" else [[fail], "mine"]
    agent = ScriptedChatClient(*scripts).create_agent(thread_store=store)  # type: ignore[arg-type]
    thread = agent.get_new_thread()
    runs: list[asyncio.Task[Any]] = []
    if how == "gives up":
        runs.append(asyncio.create_task(agent.run("before", thread=thread)))
        await asyncio.sleep(0.02)
    twin = agent.run("x", thread=thread, idempotency_key="k", enqueue_timeout=0.3)
    runs.append(asyncio.create_task(twin))
    await asyncio.sleep(0.05)
    retry = asyncio.create_task(agent.run("x", thread=thread, idempotency_key="k"))
    await asyncio.sleep(0.6)
    go.set()
    assert (await retry).text == "mine"
    await asyncio.gather(*runs, return_exceptions=True)


async def test_the_timeout_of_a_retry_that_waits_for_its_twin(store: ThreadStore) -> None:
    go = asyncio.Event()
    agent = ScriptedChatClient([go.wait, "first"]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("x", thread=thread, idempotency_key="k"))
    await asyncio.sleep(0.05)
    with pytest.raises(RunTimeoutError):
        await agent.run("x", thread=thread, idempotency_key="k", timeout=0.2)
    go.set()
    assert (await first).text == "first"


async def test_a_stream_does_not_wait_for_its_journal(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")

    async def pause() -> None:
        await asyncio.sleep(0.1)

    pieces: list[Any] = [piece for n in range(15) for piece in (f"{n} ", pause)]
    agent = ScriptedChatClient(pieces).create_agent(thread_store=store)
    locked = apsw.Connection(store.location)
    loop, gaps, last = asyncio.get_running_loop(), [0.0], 0.0
    async for update in agent.run_stream("x", thread=agent.get_thread("t", create=True)):
        now = loop.time()
        if update.text == "0 ":
            locked.execute("BEGIN IMMEDIATE")
        elif update.text:
            gaps.append(now - last)
        if update.text == "14 ":
            locked.execute("ROLLBACK")
        last = now
    locked.close()
    store.close()
    assert max(gaps) < 1.0, gaps  # the journal was held up for a second and a half


async def test_rewinding_with_interrupt_ends_all_that_stand_in_line(store: ThreadStore) -> None:
    async def forever() -> None:
        await asyncio.sleep(600)

    agent = ScriptedChatClient("one", *[[f"{n} ", forever] for n in range(12)]).create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("a", thread=thread)
    runs = [asyncio.create_task(agent.run(f"b{n}", thread=thread)) for n in range(6)]
    await asyncio.sleep(0.1)
    await agent.get_thread(thread.id).rewind(to=first.turn_id, interrupt=True)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)


async def test_a_reader_in_the_middle_of_a_batch_is_reading(
    store: ThreadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.sealing.STALLED_SECONDS", 0.3)
    monkeypatch.setattr("holdfast.engine.leases.LOOK_SECONDS", 0.02)
    batch = [AgentRunResponseUpdate(f"{n} ") for n in range(8)]
    agent = ScriptedChatClient([batch], "next").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    await anext(stream)
    waiting = asyncio.create_task(agent.run("y", thread=thread))
    for n in range(1, 8):
        await asyncio.sleep(0.1)
        assert (await anext(stream)).text == f"{n} "
    await stream.response()
    assert (await waiting).text == "next"


async def test_a_handle_that_only_got_a_recorded_turn_does_not_bring_its_thread_back(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one").create_agent(thread_store=store)
    await agent.run("x", thread=agent.get_thread("t", create=True), idempotency_key="k")
    handle = agent.get_thread("t", create=True)
    await agent.run("x", thread=handle, idempotency_key="k")
    await agent.get_thread("t").delete()
    with pytest.raises(ThreadDeletedError):
        await agent.run("again", thread=handle)


async def test_a_stream_that_is_cancelled_from_within_its_turn(store: ThreadStore) -> None:
    async def cancel() -> None:
        await stream.cancel()

    agent = ScriptedChatClient(["a", cancel, "b"], "next").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    assert [update.text async for update in stream] == ["a"]
    assert [turn.status for turn in await thread.turns()] == ["cancelled"]


async def test_values_that_make_no_sense(store: ThreadStore) -> None:
    agent = ScriptedChatClient("one").create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("x", thread=thread)
    for wrong in ([], object(), 10**400, "\ud800", ""):
        for change in (
            lambda value: thread.switch(value),
            lambda value: thread.rewind(to=value),
            lambda value: thread.fork(at=value),
            lambda value: thread.cancel(value),
        ):
            with pytest.raises(InvalidInputError):
                await change(wrong)
    for grace in ([], float("nan"), -1, "", True):
        with pytest.raises(InvalidInputError):
            thread.follow("turn", grace=grace)  # type: ignore[arg-type]
    for options in ({"timeout": 10**400}, {"timeout": True}, {"enqueue_timeout": float("nan")}):
        with pytest.raises(InvalidInputError):
            await agent.run("x", thread=thread, **options)  # type: ignore[arg-type]
    for options in ({"idempotency_key": "k"}, {"after": "turn"}):
        with pytest.raises(InvalidInputError):
            ChatAgent(ScriptedChatClient(), **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError):
            await agent.regenerate(thread, **options)  # type: ignore[arg-type]


async def test_calls_that_came_without_names_get_some_that_services_take_back(store: ThreadStore) -> None:
    """They are told of in every later turn: one that is too long would have them all refused."""
    calls = [ToolCallUpdate(index=n, name="fly", arguments="{}") for n in range(3)]
    script = [calls, FinishUpdate(finish_reason="tool_calls")]
    client = ScriptedChatClient(script, script, "I cannot.", "fine")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    await agent.run("fly", thread=thread)
    await agent.run("well?", thread=thread)
    for rule in STRICT:
        rule(Field(client.requests[-1]))
    named = [call["id"] for told in client.requests[-1]["messages"] for call in told.get("tool_calls", ())]
    assert len(set(named)) == 6
