"""Cancel is not disconnect: who stops a run, from where, and what goes on when a reader goes away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast import AgentThread, EndUpdate, RunCancelledError, SQLiteStore, ThreadBusyError, ThreadStore
from holdfast.testing.scripted import ScriptedChatClient


async def forever() -> None:
    await asyncio.sleep(600)


async def ends(thread: AgentThread) -> list[tuple[str, str]]:
    return [(turn.status, "".join(message.text for message in turn.output)) for turn in await thread.turns()]


async def test_thread_cancel_ends_a_run_of_another_task(store: ThreadStore) -> None:
    client = ScriptedChatClient(["begun ", forever], "next")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    running = asyncio.create_task(agent.run("x", thread=thread))
    while not client.requests:
        await asyncio.sleep(0.001)
    assert await thread.cancel()
    assert await ends(thread) == [("cancelled", "begun ")]  # it is recorded when cancel returns
    with pytest.raises(RunCancelledError) as caught:
        await running
    assert caught.value.response.text == "begun "
    assert client.open == 0
    assert not await thread.cancel()
    assert (await agent.run("y", thread=thread)).text == "next"


async def test_thread_cancel_ends_a_stream_that_is_being_read(store: ThreadStore) -> None:
    client = ScriptedChatClient(["begun ", forever])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    read: list[str] = []

    async def reader() -> None:
        async for update in stream:
            read.append(update.text)

    task = asyncio.create_task(reader())
    while not read:
        await asyncio.sleep(0.001)
    other = agent.get_thread(thread.id)  # another handle, as in another request
    assert not await other.cancel("another turn")
    assert await other.cancel(stream.turn_id)
    with pytest.raises(RunCancelledError):
        await task
    assert read == ["begun "]
    assert stream.status == "cancelled"
    with pytest.raises(RunCancelledError):
        await stream.response()


async def test_thread_cancel_of_a_thread_that_nobody_runs_on(store: ThreadStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=store)
    thread = agent.get_new_thread()
    assert not await thread.cancel()
    await agent.run("x", thread=thread)
    assert not await thread.cancel()


def test_thread_cancel_reaches_another_process(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    script = f"""
import asyncio, sys
from holdfast import SQLiteStore, RunCancelledError
from holdfast.testing.scripted import ScriptedChatClient
async def forever(): await asyncio.sleep(600)
agent = ScriptedChatClient(["begun ", forever]).create_agent(thread_store=SQLiteStore({str(path)!r}))
async def main():
    try:
        async for update in agent.run_stream("x", thread=agent.get_thread("t", create=True)):
            print(update.text, flush=True)
    except RunCancelledError as error:
        print("stopped with", error.response.text, flush=True)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun \n"

        async def cancel() -> list[tuple[str, str]]:
            store = SQLiteStore(path)
            thread = AgentThread(store, "t", intent="existing")
            assert await thread.cancel()
            found = await ends(thread)
            store.close()
            return found

        assert asyncio.run(cancel()) == [("cancelled", "begun ")]
        assert worker.stdout.readline() == "stopped with begun \n"


def test_thread_cancel_of_a_process_that_is_stopped_takes_its_run_over(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    script = f"""
import asyncio, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
async def forever(): await asyncio.sleep(600)
agent = ScriptedChatClient(["begun ", forever]).create_agent(thread_store=SQLiteStore({str(path)!r}))
async def main():
    async for update in agent.run_stream("x", thread=agent.get_thread("t", create=True)):
        print(update.text, flush=True)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        os.kill(worker.pid, signal.SIGSTOP)
        try:

            async def cancel() -> list[tuple[str, str]]:
                store = SQLiteStore(path)
                thread = AgentThread(store, "t", intent="existing")
                assert await asyncio.wait_for(thread.cancel(), 60)
                found = await ends(thread)
                store.close()
                return found

            assert [status for status, _ in asyncio.run(cancel())] == ["interrupted"]
        finally:
            os.kill(worker.pid, signal.SIGKILL)


# --- on_disconnect ---------------------------------------------------------------------------------------------


async def settled(thread: AgentThread) -> list[tuple[str, str]]:
    for _ in range(500):
        info = await thread.store.get(thread.id)
        if info is not None and info.busy is None and info.turns:
            return await ends(thread)
        await asyncio.sleep(0.01)
    raise AssertionError("the run never ended")


@pytest.mark.parametrize("how", ["break", "close", "task", "drop"])
async def test_a_reader_that_goes_away_does_not_end_a_run_that_is_to_continue(store: ThreadStore, how: str) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient(["one ", go.wait, "two ", "three"])
    agent = client.create_agent(thread_store=store, on_disconnect="continue")
    thread = agent.get_new_thread()

    async def read() -> None:
        stream = agent.run_stream("x", thread=thread)
        if how == "close":
            async with stream:
                assert (await anext(stream)).text == "one "
            return
        async for update in stream:
            assert update.text == "one "
            if how in ("break", "drop"):
                break
        if how == "drop":
            del stream
            gc.collect()

    reader = asyncio.create_task(read())
    if how == "task":
        while not client.requests:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    go.set()
    assert await settled(thread) == [("completed", "one two three")]
    assert client.open == 0


async def test_the_rest_is_followed_from_the_cursor_where_the_reader_left(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient(["one ", "two ", go.wait, "three"])
    agent = client.create_agent(thread_store=store, on_disconnect="continue")
    thread = agent.get_new_thread()
    async with agent.run_stream("x", thread=thread) as stream:
        assert (await anext(stream)).text == "one "
        cursor, turn_id = stream.cursor, stream.turn_id
    follower = thread.follow(turn_id, after=cursor)
    assert (await anext(follower)).text == "two "
    go.set()
    rest = [update async for update in follower]
    assert "".join(update.text for update in rest) == "three"
    assert isinstance(rest[-1], EndUpdate)
    assert rest[-1].status == "completed"


async def test_a_run_that_is_to_continue_outlives_the_task_that_awaits_it(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient(["one ", go.wait, "two"])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    task = asyncio.create_task(agent.run("x", thread=thread, on_disconnect="continue"))
    while not client.requests:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await settled(thread) == [("completed", "one two")]


async def test_cancel_ends_also_a_run_that_is_to_continue(store: ThreadStore) -> None:
    client = ScriptedChatClient(["one ", forever], "next")
    agent = client.create_agent(thread_store=store, on_disconnect="continue")
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    assert (await anext(stream)).text == "one "
    await stream.cancel()
    assert await ends(thread) == [("cancelled", "one ")]
    assert [update async for update in stream] == []
    assert client.open == 0
    with pytest.raises(RunCancelledError):
        await stream.response()


async def test_cancel_of_a_run_that_is_to_continue_and_still_waits(store: ThreadStore) -> None:
    go = asyncio.Event()
    client = ScriptedChatClient([go.wait, "first"], "third")
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = asyncio.create_task(agent.run("a", thread=thread))
    await asyncio.sleep(0.01)
    stream = agent.run_stream("b", thread=thread, on_disconnect="continue")
    reading = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0.05)
    await stream.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    go.set()
    await first
    await agent.run("c", thread=thread)
    assert [turn.input[0].text for turn in await thread.turns()] == ["a", "c"]


async def test_a_detached_run_that_fails_tells_its_reader(store: ThreadStore) -> None:
    client = ScriptedChatClient(["half ", ValueError("no")])
    agent = client.create_agent(thread_store=store, on_disconnect="continue")
    thread = agent.get_new_thread()
    stream = agent.run_stream("x", thread=thread)
    assert (await anext(stream)).text == "half "
    with pytest.raises(ValueError, match="no"):
        await anext(stream)
    assert await ends(thread) == [("failed", "half ")]


# --- heads that are moved while a run goes on ------------------------------------------------------------------


@pytest.mark.parametrize("change", ["rewind", "switch", "delete"])
async def test_a_head_is_moved_under_a_run_only_if_asked_to_interrupt_it(store: ThreadStore, change: str) -> None:
    client = ScriptedChatClient("one", ["begun ", forever])
    agent = client.create_agent(thread_store=store)
    thread = agent.get_new_thread()
    first = await agent.run("a", thread=thread)
    running = asyncio.create_task(agent.run("b", thread=thread))
    while len(client.requests) < 2:
        await asyncio.sleep(0.001)
    other = agent.get_thread(thread.id)
    arguments = (first.turn_id,) if change == "switch" else ()
    with pytest.raises(ThreadBusyError):
        await getattr(other, change)(*arguments)
    await getattr(other, change)(*arguments, interrupt=True)
    with pytest.raises(RunCancelledError):
        await running
    if change != "delete":
        assert await ends(thread) == [("completed", "one")]
    else:
        assert await store.get(thread.id) is None
    assert client.open == 0
