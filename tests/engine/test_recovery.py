"""A process dies in the middle of a turn: what is kept, and how others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import (
    AgentThread,
    EndUpdate,
    RestartUpdate,
    ServiceUnavailableError,
    SQLiteStore,
    ThreadBusyError,
    ToolCallUpdate,
)
from holdfast.testing.scripted import ScriptedChatClient

WORKER = """
import asyncio, sys
from holdfast import FinishUpdate, SQLiteStore, ToolCallUpdate
from holdfast.testing.scripted import ScriptedChatClient

async def forever():
    await asyncio.sleep(600)

async def written_down():
    await asyncio.sleep(0.8)
    print("written", flush=True)

call = ToolCallUpdate(index=0, call_id="c1", name="fly", arguments="{}")
SCRIPTS = {
    "said": [["Ahoy ", "matey", written_down, forever]],
    "silent": [[written_down, forever]],
    "called": [["I try. ", call, FinishUpdate(finish_reason="tool_calls")], ["No ", "wings", written_down, forever]],
}
agent = ScriptedChatClient(*SCRIPTS[sys.argv[2]]).create_agent(thread_store=SQLiteStore(sys.argv[1]))

async def main():
    thread = agent.get_thread("t", create=True)
    stream = agent.run_stream("Tell me", thread=thread, idempotency_key="k1")
    print(stream.turn_id, flush=True)
    async for update in stream:
        pass

asyncio.run(main())
"""


def killed_in(path: Path, script: str) -> str:
    """Have a process run a turn, and kill it when its journal is written; the turn's id."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), script], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        turn_id = worker.stdout.readline().strip()
        assert worker.stdout.readline() == "written\n"
        os.kill(worker.pid, signal.SIGKILL)
    return turn_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "threads.db"


@pytest.fixture
def reopened(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    yield store
    store.close()


async def test_the_next_run_keeps_what_the_dead_one_had_said(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "said")
    client = ScriptedChatClient("next")
    agent = client.create_agent(thread_store=reopened)
    began = time.monotonic()
    await agent.run("go on", thread=agent.get_thread("t"))
    assert time.monotonic() - began < 5  # it is done in milliseconds; a lease would take ten seconds
    turns = await agent.get_thread("t").turns()
    assert [(turn.id == turn_id, turn.status) for turn in turns] == [(True, "interrupted"), (False, "completed")]
    assert turns[0].output[0].text == "Ahoy matey"
    assert client.said() == [("user", "Tell me"), ("assistant", "Ahoy matey"), ("user", "go on")]


async def test_nothing_said_is_an_interrupted_turn_without_output(path: Path, reopened: SQLiteStore) -> None:
    killed_in(path, "silent")
    client = ScriptedChatClient("next")
    agent = client.create_agent(thread_store=reopened)
    await agent.run("go on", thread=agent.get_thread("t"))
    assert client.said() == [("user", "Tell me"), ("user", "go on")]


async def test_calls_and_results_of_a_dead_run_stay_pairs(path: Path, reopened: SQLiteStore) -> None:
    killed_in(path, "called")
    client = ScriptedChatClient("next")
    agent = client.create_agent(thread_store=reopened)
    await agent.run("go on", thread=agent.get_thread("t"))
    assert [role for role, _ in client.said()] == ["user", "assistant", "tool", "assistant", "user"]


async def test_resume_is_the_same_turn_and_asks_only_for_what_is_missing(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "called")
    client = ScriptedChatClient("No wings, sorry.")
    agent = client.create_agent(thread_store=reopened)
    thread = agent.get_thread("t")
    response = await agent.resume(thread)
    assert response is not None
    assert (response.turn_id, response.status) == (turn_id, "completed")
    assert response.text == "I try. No wings, sorry."
    assert len(client.requests) == 1
    assert [role for role, _ in client.said()] == ["user", "assistant", "tool"]  # the call was not asked for again
    assert [turn.id for turn in await thread.turns()] == [turn_id]
    assert await agent.resume(thread) is None


async def test_a_resumed_stream_tells_all_of_the_turn(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "called")
    agent = ScriptedChatClient(["No ", "wings."]).create_agent(thread_store=reopened)
    stream = agent.resume_stream(agent.get_thread("t"))
    assert "".join([update.text async for update in stream]) == "I try. No wings."
    assert stream.turn_id == turn_id
    assert (await stream.response()).text == "I try. No wings."


async def test_nothing_is_resumed_where_nothing_was_left(path: Path, reopened: SQLiteStore) -> None:
    agent = ScriptedChatClient().create_agent(thread_store=reopened)
    thread = agent.get_thread("t", create=True)
    assert await agent.resume(thread) is None
    await agent.run("x", thread=thread)
    assert await agent.resume(thread) is None
    assert [update async for update in agent.resume_stream(thread)] == []


async def test_a_run_that_is_alive_is_not_resumed(path: Path, reopened: SQLiteStore) -> None:
    go = asyncio.Event()
    agent = ScriptedChatClient([go.wait, "one"]).create_agent(thread_store=reopened)
    thread = agent.get_thread("t", create=True)
    running = asyncio.create_task(agent.run("x", thread=thread))
    await asyncio.sleep(0.05)
    assert await agent.resume(agent.get_thread("t")) is None
    go.set()
    assert (await running).text == "one"


async def test_a_resume_that_is_cancelled_leaves_a_thread_that_works(path: Path, reopened: SQLiteStore) -> None:
    killed_in(path, "said")

    async def forever() -> None:
        await asyncio.sleep(600)

    client = ScriptedChatClient(["Ahoy ", forever], "next")
    agent = client.create_agent(thread_store=reopened)
    resuming = asyncio.create_task(agent.resume(agent.get_thread("t")))
    while not client.requests:
        await asyncio.sleep(0.001)
    resuming.cancel()
    await asyncio.gather(resuming, return_exceptions=True)
    assert (await agent.run("y", thread=agent.get_thread("t"))).text == "next"
    assert [turn.status for turn in await agent.get_thread("t").turns()] == ["cancelled", "completed"]


async def test_a_retry_with_the_dead_runs_key_goes_on_with_it(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "said")
    client = ScriptedChatClient("Ahoy matey, once more")
    agent = client.create_agent(thread_store=reopened)
    response = await agent.run("Tell me", thread=agent.get_thread("t"), idempotency_key="k1")
    assert (response.turn_id, response.text) == (turn_id, "Ahoy matey, once more")
    assert client.said() == [("user", "Tell me")]
    again = await agent.run("Tell me", thread=agent.get_thread("t"), idempotency_key="k1")
    assert (again.turn_id, again.text, len(client.requests)) == (turn_id, "Ahoy matey, once more", 1)


# --- followers -------------------------------------------------------------------------------------------------


async def test_a_follower_is_told_where_the_text_restarts_after_a_takeover(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "said")
    agent = ScriptedChatClient("Shiver me timbers").create_agent(thread_store=reopened)
    thread = agent.get_thread("t")
    follower = thread.follow(turn_id, grace=60)
    assert "".join([(await anext(follower)).text]) == "Ahoy matey"
    cursor = follower.cursor
    await agent.resume(agent.get_thread("t"))
    rest = [update async for update in follower]
    assert isinstance(rest[0], RestartUpdate)
    assert rest[0].n == 0
    assert "".join(update.text for update in rest) == "Shiver me timbers"
    assert isinstance(rest[-1], EndUpdate)
    # Who comes back with an old cursor, also long afterwards, is told the same.
    late = [update async for update in thread.follow(turn_id, after=cursor)]
    assert isinstance(late[0], RestartUpdate)
    assert "".join(update.text for update in late) == "Shiver me timbers"
    # And who comes back with a new one is not.
    assert [type(update) for update in [update async for update in thread.follow(turn_id, after=follower.cursor)]] == [
        EndUpdate
    ]


async def test_what_was_read_before_the_first_record_restarts_too(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "silent")  # nothing is written down; a reader may all the same have read something
    agent = ScriptedChatClient("0123456789XYZ").create_agent(thread_store=reopened)
    thread = agent.get_thread("t")
    await agent.resume(thread)
    told = [update async for update in thread.follow(turn_id, after="1.10")]
    assert isinstance(told[0], RestartUpdate)
    assert told[0].n == 0
    assert "".join(update.text for update in told) == "0123456789XYZ"


async def test_a_second_death_keeps_what_was_written_down_before_the_first(path: Path, reopened: SQLiteStore) -> None:
    killed_in(path, "said")
    script = """
import asyncio, os, signal, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
async def die():
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
agent = ScriptedChatClient([die]).create_agent(thread_store=SQLiteStore(sys.argv[1]))
asyncio.run(agent.resume(agent.get_thread("t")))
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)
    agent = ScriptedChatClient("next").create_agent(thread_store=reopened)
    await agent.run("y", thread=agent.get_thread("t"))
    assert [turn.output[0].text for turn in await agent.get_thread("t").turns()] == ["Ahoy matey", "next"]


async def test_a_follower_ends_though_nobody_goes_on_with_the_turn(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "said")
    thread = AgentThread(reopened, "t", intent="existing")
    told = [update async for update in thread.follow(turn_id, grace=0.1)]
    assert "".join(update.text for update in told) == "Ahoy matey"
    assert isinstance(told[-1], EndUpdate)
    assert told[-1].status == "interrupted"
    assert sum(isinstance(update, EndUpdate) for update in told) == 1


async def test_a_call_in_the_journal_is_followed(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "called")
    thread = AgentThread(reopened, "t", intent="existing")
    told = [update async for update in thread.follow(turn_id, grace=0.1)]
    assert [update.name for update in told if isinstance(update, ToolCallUpdate)] == ["fly"]
    assert "".join(update.text for update in told) == "I try. No wings"


def test_another_process_follows_while_the_turn_is_made(path: Path) -> None:
    script = """
import asyncio, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
async def pause(): await asyncio.sleep(0.3)
agent = ScriptedChatClient(["one ", pause, "two ", pause, "three ", pause, "four"]).create_agent(
    thread_store=SQLiteStore(sys.argv[1]))
async def main():
    stream = agent.run_stream("x", thread=agent.get_thread("t", create=True))
    print(stream.turn_id, flush=True)
    async for update in stream:
        print("read", flush=True)
asyncio.run(main())
"""

    async def follow(turn_id: str) -> list[str]:
        store = SQLiteStore(path)
        thread = AgentThread(store, "t", intent="existing")
        told = [update.text async for update in thread.follow(turn_id)]
        store.close()
        return told

    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        turn_id = worker.stdout.readline().strip()
        worker.stdout.readline()
        told = asyncio.run(follow(turn_id))
    assert "".join(told) == "one two three four"
    assert len([text for text in told if text]) > 1  # it came while it was made


def test_a_regeneration_whose_process_dies_before_it_says_anything_leaves_the_old_answer(path: Path) -> None:
    script = """
import asyncio, os, signal, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
async def die():
    os.kill(os.getpid(), signal.SIGKILL)
agent = ScriptedChatClient("old", [die]).create_agent(thread_store=SQLiteStore(sys.argv[1]))
async def main():
    thread = agent.get_thread("t", create=True)
    await agent.run("x", thread=thread)
    await agent.regenerate(thread)
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=60)

    async def go_on() -> list[tuple[str, str]]:
        store = SQLiteStore(path)
        agent = ScriptedChatClient("next").create_agent(thread_store=store)
        await agent.run("y", thread=agent.get_thread("t"))
        told = [(turn.status, turn.output[0].text) for turn in await agent.get_thread("t").turns()]
        store.close()
        return told

    assert asyncio.run(go_on()) == [("completed", "old"), ("completed", "next")]


async def test_a_resume_that_never_begins_keeps_what_the_dead_process_had_said(
    path: Path, reopened: SQLiteStore
) -> None:
    killed_in(path, "said")
    client = ScriptedChatClient([ServiceUnavailableError("down")], "next")
    agent = client.create_agent(thread_store=reopened)
    thread = agent.get_thread("t")
    with pytest.raises(ServiceUnavailableError):
        await agent.resume(thread)
    assert [(turn.status, turn.output[0].text) for turn in await thread.turns()] == [("failed", "Ahoy matey")]
    await agent.run("y", thread=thread)
    assert client.said() == [("user", "Tell me"), ("assistant", "Ahoy matey"), ("user", "y")]


async def test_cancel_closes_what_a_dead_process_left(path: Path, reopened: SQLiteStore) -> None:
    turn_id = killed_in(path, "said")
    thread = AgentThread(reopened, "t", intent="existing")
    assert await thread.cancel()
    assert [(turn.id, turn.status) for turn in await thread.turns()] == [(turn_id, "interrupted")]
    assert not await thread.cancel()


async def test_cancel_gives_up_on_a_process_that_is_alive_and_does_not_react(
    reopened: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.engine.threads.PATIENCE_SECONDS", 0.2)
    await reopened.open_run("t", "turn_x", b"[]", 1)  # of this process, and nobody drives it
    thread = AgentThread(reopened, "t", intent="existing")
    with pytest.raises(ThreadBusyError, match="does not react"):
        await thread.cancel()
