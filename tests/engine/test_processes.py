"""Several processes, one thread: killed, forked, at the same time. Real processes, real files, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import AgentThread, SQLiteStore, ThreadBusyError
from holdfast.testing.openai_chat import ChatCompletionsStandIn
from holdfast.testing.scripted import ScriptedChatClient

# Says numbered things on a thread until it is killed, and tells its parent what was acknowledged.
TALKER = """
import asyncio, sys
from holdfast import OpenAIChatClient, SQLiteStore
async def main(path, base_url, name, turns, stream):
    agent = OpenAIChatClient("gpt-4o-mini", base_url=base_url).create_agent(thread_store=SQLiteStore(path))
    thread = agent.get_thread("common", create=True)
    for n in range(int(turns)):
        text = f"{name} says {n}"
        print("asks", text, flush=True)
        if stream == "stream":
            async with agent.run_stream(text, thread=thread) as s:
                async for _ in s: pass
                done = await s.response()
        else:
            done = await agent.run(text, thread=thread)
        print("acked", done.turn_id, text, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


def talker(
    path: Path, service: ChatCompletionsStandIn, name: str, turns: int, stream: str = ""
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TALKER, str(path), service.base_url, name, str(turns), stream]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def service() -> Iterator[ChatCompletionsStandIn]:
    with ChatCompletionsStandIn(chunk_delay=0.005) as made:
        yield made


@pytest.fixture
def slow_service() -> Iterator[ChatCompletionsStandIn]:
    """One whose answer takes a second or so: there is time to do something in the middle of it."""
    with ChatCompletionsStandIn(reply=lambda _: "a slow answer of quite some words", chunk_delay=0.2) as made:
        yield made


async def history(path: Path) -> list[tuple[str, str, str]]:
    """(turn id, how it ended, what was said) of the common thread, read by a store of its own."""
    store = SQLiteStore(path)
    thread = AgentThread(store, "common", intent="existing")
    found = [(turn.id, turn.status, turn.input[0].text) for turn in await thread.turns()]
    store.close()
    return found


def acked(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.startswith("acked")]


async def test_killed_at_any_moment_nothing_acknowledged_is_lost(
    tmp_path: Path, service: ChatCompletionsStandIn
) -> None:
    path = tmp_path / "threads.db"
    chance = random.Random(7)
    acknowledged: list[str] = []
    slowest = 0.0
    for kill in range(12):
        process = talker(path, service, f"p{kill}", 50, chance.choice(["stream", ""]))
        assert process.stdout is not None
        first = process.stdout.readline()  # it has begun; wherever it is a moment later, there it dies
        await asyncio.sleep(chance.uniform(0, 0.25))
        process.kill()
        rest, _ = process.communicate()
        acknowledged += acked(first + rest)

        store = SQLiteStore(path)
        agent = ScriptedChatClient().create_agent(thread_store=store)
        began = time.monotonic()
        response = await agent.run(f"after {kill}", thread=agent.get_thread("common", create=True))
        slowest = max(slowest, time.monotonic() - began)
        acknowledged.append(response.turn_id)
        store.close()

    turns = await history(path)
    ids = [turn_id for turn_id, _, _ in turns]
    assert [turn_id for turn_id in ids if turn_id in set(acknowledged)] == acknowledged
    assert len(ids) == len(set(ids))
    assert {status for _, status, _ in turns} <= {"completed", "interrupted"}
    # A turn may have been sealed and its process killed before it could say so; at most one a kill.
    assert len([1 for turn_id, status, _ in turns if status == "completed" and turn_id not in acknowledged]) <= 12
    assert slowest < 1.0
    assert service.refused == []


async def test_two_processes_on_one_thread_take_turns(tmp_path: Path, service: ChatCompletionsStandIn) -> None:
    path = tmp_path / "threads.db"
    processes = [talker(path, service, name, 20, "stream") for name in ("a", "b")]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    turns = await history(path)
    assert len(turns) == 40
    for name, output in zip("ab", outputs, strict=True):
        assert [text for _, _, text in turns if text.startswith(name)] == [f"{name} says {n}" for n in range(20)]
        assert [turn_id for turn_id, _, text in turns if text.startswith(name)] == acked(output)
    # Every request held a whole conversation: user and assistant in turns, none left out, none in between.
    for request in service.requests:
        messages = json.loads(request.body)["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
        assert [m["content"] for m in messages[::2]] == [text for _, _, text in turns][: len(messages) // 2 + 1]


async def test_reject_against_another_process(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    with ChatCompletionsStandIn(reply=lambda _: "slow", chunk_delay=5) as service:
        process = talker(path, service, "a", 1, "stream")
        await service.wait_for_requests(1)
        store = SQLiteStore(path)
        agent = ScriptedChatClient("mine").create_agent(thread_store=store)
        with pytest.raises(ThreadBusyError, match="is taken by turn"):
            await agent.run("x", thread=agent.get_thread("common"), on_conflict="reject")
        waiting = asyncio.create_task(agent.run("x", thread=agent.get_thread("common")))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        process.kill()
        process.communicate()
        began = time.monotonic()
        assert (await waiting).text == "mine"
        assert time.monotonic() - began < 1.0
        store.close()
    assert [status for _, status, _ in await history(path)] == ["interrupted", "completed"]


async def test_a_process_that_ends_in_the_middle_of_a_run_leaves_a_thread_that_goes_on(tmp_path: Path) -> None:
    """Not killed: it simply returns from main with a stream half read, or calls sys.exit."""
    for number, ending in enumerate(("return", "sys.exit(3)", "raise KeyError('x')", "os._exit(4)")):
        path = tmp_path / f"threads{number}.db"
        script = f"""
import asyncio, os, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
async def main():
    agent = ScriptedChatClient(["one ", "two "]).create_agent(thread_store=SQLiteStore({str(path)!r}))
    async for update in agent.run_stream("x", thread=agent.get_thread("common", create=True)):
        {ending}
asyncio.run(main())
"""
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        status = "interrupted" if "_exit" in ending else "cancelled"
        store = SQLiteStore(path)
        agent = ScriptedChatClient("fine").create_agent(thread_store=store)
        await agent.run("y", thread=agent.get_thread("common"))
        store.close()
        assert [s for _, s, _ in await history(path)] == [status, "completed"], ending


def test_two_event_loops_one_after_the_other(tmp_path: Path) -> None:
    with ChatCompletionsStandIn() as service:
        store = SQLiteStore(tmp_path / "threads.db")
        from holdfast import OpenAIChatClient

        agent = OpenAIChatClient("gpt-4o-mini", base_url=service.base_url).create_agent(thread_store=store)
        thread = agent.get_new_thread()
        for n in range(3):
            asyncio.run(agent.run(f"loop {n}", thread=thread))  # type: ignore[arg-type]
        assert len(asyncio.run(thread.turns())) == 3
        assert len(service.messages()) == 5
        store.close()


def test_a_forked_child_and_its_parent_use_one_store(tmp_path: Path) -> None:
    """In a process of its own: forking one that runs a test framework with threads is asking for trouble."""
    path = tmp_path / "threads.db"
    script = f"""
import asyncio, os, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
store = SQLiteStore({str(path)!r})
agent = ScriptedChatClient().create_agent(thread_store=store)
def say(text):
    asyncio.run(agent.run(text, thread=agent.get_thread("common", create=True)))
say("before")
child = os.fork()
if child == 0:
    for n in range(10):
        say(f"child {{n}}")
    sys.exit(0)
for n in range(10):
    say(f"parent {{n}}")
_, status = os.waitpid(child, 0)
say("after")
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    turns = asyncio.run(history(path))
    assert [status for _, status, _ in turns] == ["completed"] * 22
    for who in ("parent", "child"):
        assert [text for _, _, text in turns if text.startswith(who)] == [f"{who} {n}" for n in range(10)]


async def test_a_stopped_process_is_not_taken_for_dead(tmp_path: Path, slow_service: ChatCompletionsStandIn) -> None:
    path = tmp_path / "threads.db"
    process = talker(path, slow_service, "a", 3, "stream")
    await slow_service.wait_for_requests(1)
    os.kill(process.pid, signal.SIGSTOP)
    store = SQLiteStore(path)
    agent = ScriptedChatClient("mine").create_agent(thread_store=store)
    try:
        waiting = asyncio.create_task(agent.run("x", thread=agent.get_thread("common")))
        await asyncio.sleep(0.5)
        assert not waiting.done()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert (await waiting).text == "mine"
    output, _ = process.communicate(timeout=30)
    store.close()
    turns = await history(path)
    assert {status for _, status, _ in turns} == {"completed"}
    assert len(turns) == 4
    assert set(acked(output)) < {turn_id for turn_id, _, _ in turns}


async def test_a_writer_that_comes_back_after_its_lease_writes_nothing(
    tmp_path: Path, slow_service: ChatCompletionsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite_line.LEASE_SECONDS", 0.4)  # for this process; ten seconds otherwise
    path = tmp_path / "threads.db"
    process = talker(path, slow_service, "zombie", 1, "stream")
    await slow_service.wait_for_requests(1)
    os.kill(process.pid, signal.SIGSTOP)
    store = SQLiteStore(path)
    agent = ScriptedChatClient("mine").create_agent(thread_store=store)
    try:
        assert (await agent.run("x", thread=agent.get_thread("common"))).text == "mine"
    finally:
        os.kill(process.pid, signal.SIGCONT)
    output, _ = await asyncio.to_thread(process.communicate, timeout=30)
    store.close()
    assert process.returncode != 0  # it was told that its turn was not recorded
    assert acked(output) == []
    assert [(status, text) for _, status, text in await history(path)] == [
        ("interrupted", "zombie says 0"),
        ("completed", "x"),
    ]


async def test_a_thread_deleted_under_another_processs_run_stays_deleted(
    tmp_path: Path, slow_service: ChatCompletionsStandIn
) -> None:
    path = tmp_path / "threads.db"
    process = talker(path, slow_service, "a", 1, "stream")
    await slow_service.wait_for_requests(1)
    store = SQLiteStore(path)
    thread = AgentThread(store, "common", intent="existing")
    with pytest.raises(ThreadBusyError):
        await thread.delete()
    await thread.delete(interrupt=True)
    output, _ = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode != 0
    assert acked(output) == []
    assert await store.get("common") is None
    store.close()


@pytest.mark.parametrize("change", ["rewind", "delete", "fork"])
async def test_what_a_killed_process_left_open_forbids_nothing(tmp_path: Path, change: str) -> None:
    path = tmp_path / "threads.db"
    with ChatCompletionsStandIn(reply=lambda _: "slow", chunk_delay=5) as service:
        process = talker(path, service, "a", 1, "stream")
        await service.wait_for_requests(1)
        process.kill()
        await asyncio.to_thread(process.communicate)
    store = SQLiteStore(path)
    thread = AgentThread(store, "common", intent="existing")
    await getattr(thread, change)()
    if change == "rewind":
        assert await thread.turns() == []
    assert (await store.get("common") is None) == (change == "delete")
    store.close()
