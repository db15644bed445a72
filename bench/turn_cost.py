"""What a turn costs: CPU of the whole process per turn, at histories of 10 to 10,000 messages.

    a   the wire alone: aiohttp posts the same bytes and reads the answer
    b   a, and one durable SQLite commit (WAL, synchronous=FULL) of the same record
    c   holdfast: OpenAIChatClient and SQLiteStore, the thread opened by its id for every turn

All three are measured in turns in one process against one stub in another, so that the noise of the machine falls
on each alike; the figure that counts is the ratio c/b. `--statements` counts what a turn writes.

    python bench/turn_cost.py [--rounds N] [--lengths 10,100] [--statements] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
import apsw
from stub import StubProcess

from holdfast import ChatAgent, ChatMessage, OpenAIChatClient, SQLiteStore

MESSAGE = "A message of about two hundred characters, such as people write them when they explain to somebody what "
MESSAGE += "it is that they want, why they want it, and what they have tried so far without any success at all."
ASK = "And what do you say to this?"
TURNS = 24  # measured in one block

Turn = Callable[[], Awaitable[None]]


def transcript(messages: int) -> list[ChatMessage]:
    return [ChatMessage("user" if n % 2 == 0 else "assistant", text=f"{n} {MESSAGE}") for n in range(messages)]


def body_of(messages: int) -> bytes:
    told = [{"role": m.role, "content": m.text} for m in transcript(messages)]
    told.append({"role": "user", "content": ASK})
    return json.dumps({"messages": told, "model": "one", "stream": False}, separators=(",", ":")).encode()


class Wire:
    """a: aiohttp as a careful program would use it."""

    def __init__(self, base_url: str) -> None:
        self.url = base_url + "/chat/completions"

    async def __aenter__(self) -> Wire:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=600),
            headers={"Authorization": "Bearer key", "Content-Type": "application/json"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def post(self, body: bytes) -> Any:
        async with self.session.post(self.url, data=body) as response:
            return json.loads(await response.read())


class Commit:
    """b's commit: one row, durable."""

    def __init__(self, path: str) -> None:
        self.connection = apsw.Connection(path)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("CREATE TABLE turns (n INTEGER PRIMARY KEY, thread TEXT, seq INTEGER, record BLOB)")
        self.record = json.dumps({"v": 1, "input": [ASK], "output": [MESSAGE]}).encode()

    def turn(self, number: int) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        values = ("thread", number, self.record)
        self.connection.execute("INSERT INTO turns (thread, seq, record) VALUES (?, ?, ?)", values)
        self.connection.execute("COMMIT")


async def cpu_per_turn(turn: Turn, count: int) -> float:
    """Milliseconds of CPU of this process, all its threads, per turn."""
    began = time.process_time()
    for _ in range(count):
        await turn()
    return (time.process_time() - began) / count * 1e3


async def prepared(agent: ChatAgent, messages: int) -> list[str]:
    """Threads with so many messages, each used once, so that a measured turn is one of a server that is running."""
    threads = []
    for _ in range(TURNS if messages <= 1000 else 4):
        thread = agent.get_new_thread()
        await thread.add_messages(transcript(messages - 2))
        await agent.run(ASK, thread=thread)
        threads.append(thread.id)
    return threads


async def measure(base_url: str, folder: str, messages: int, rounds: int) -> dict[str, Any]:
    store = SQLiteStore(os.path.join(folder, f"{messages}.db"))
    client = OpenAIChatClient("one", base_url=base_url, api_key="key")
    agent = client.create_agent(thread_store=store)
    threads = await prepared(agent, messages)
    commit = Commit(os.path.join(folder, f"{messages}-bare.db"))
    body = body_of(messages)
    numbers = iter(range(10**9))

    async with Wire(base_url) as wire:

        async def a() -> None:
            await wire.post(body)

        async def b() -> None:
            await wire.post(body)
            commit.turn(next(numbers))

        async def c() -> None:
            await agent.run(ASK, thread=agent.get_thread(threads[next(numbers) % len(threads)]))

        found: dict[str, list[float]] = {"a": [], "b": [], "c": []}
        for turn in (a, b, c):
            await cpu_per_turn(turn, TURNS)
        for _ in range(rounds):
            for name, turn in (("a", a), ("b", b), ("c", c)):
                found[name].append(await cpu_per_turn(turn, TURNS))
            if messages <= 100:  # a short history would not stay short
                threads[:] = await prepared(agent, messages)
    await client.aclose()
    store.close()
    middle = {name: statistics.median(values) for name, values in found.items()}
    ratios = [c_ / b_ for b_, c_ in zip(found["b"], found["c"], strict=True)]
    return {"messages": messages, **middle, "c/b": statistics.median(ratios)}


async def written(base_url: str, folder: str, messages: int) -> dict[str, Any]:
    """Statements and bytes that one turn writes, and what a fork and a rewind cost, at this length."""
    store = SQLiteStore(os.path.join(folder, f"{messages}-written.db"))
    agent = OpenAIChatClient("one", base_url=base_url, api_key="key").create_agent(thread_store=store)
    thread = agent.get_thread((await prepared(agent, messages))[0])
    connection = store._shared.database._writing()
    statements: list[str] = []
    connection.set_exec_trace(lambda _, sql, __: statements.append(sql) or True)

    async def frames(work: Callable[[], Awaitable[object]]) -> tuple[int, float]:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        began = time.perf_counter()
        await work()
        took = time.perf_counter() - began
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return os.path.getsize(store.location + "-wal") // 4120, took * 1e6

    async def turn() -> None:
        await agent.run(ASK, thread=thread)

    async def fork() -> None:
        await store.fork(thread.id, f"fork {len(statements)} of {messages}")

    async def rewind() -> None:
        await thread.rewind(1)

    await turn()
    statements.clear()
    turn_pages = [(await frames(turn))[0] for _ in range(20)]
    wrote = [sql for sql in statements if "wal_checkpoint" not in sql]
    forks = [await frames(fork) for _ in range(20)]
    rewinds = []
    for _ in range(20):
        rewinds.append(await frames(rewind))
        await turn()
    connection.set_exec_trace(None)
    store.close()
    return {
        "messages": messages,
        "statements": len(wrote) / 20,
        "pages": statistics.median(turn_pages),
        "fork pages": statistics.median(pages for pages, _ in forks),
        "fork us": statistics.median(took for _, took in forks),
        "rewind pages": statistics.median(pages for pages, _ in rewinds),
        "rewind us": statistics.median(took for _, took in rewinds),
    }


def show(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    print("  ".join(f"{name:>12}" for name in names))
    for row in rows:
        print("  ".join(f"{value:>12,.3f}" if isinstance(value, float) else f"{value:>12,}" for value in row.values()))


async def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--lengths", default="10,100,1000,10000")
    options.add_argument("--statements", action="store_true", help="count what is written instead")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    rows = []
    with StubProcess() as base_url, tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        for messages in [int(length) for length in given.lengths.split(",")]:
            print(f"{messages:,} messages ...", file=sys.stderr)
            if given.statements:
                rows.append(await written(base_url, folder, messages))
            else:
                rows.append(await measure(base_url, folder, messages, given.rounds))
    if given.json:
        print(json.dumps(rows))
    else:
        show(rows)


if __name__ == "__main__":
    warnings.simplefilter("ignore", ResourceWarning)  # aiohttp's, for a's large bodies
    asyncio.run(main())
