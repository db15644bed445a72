"""What is flipped: two small stores with a bit of everything, written by the library itself.

Rule of this file: the same seed gives the same bytes, as far as SQLite and the library let it: ids and times come
from a seeded runtime, what is of this process is made a constant afterwards, and the file is packed anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from holdfast import (
    AgentThread,
    AuthenticationError,
    ChatAgent,
    ChatMessage,
    ImageContent,
    SQLiteStore,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
)
from holdfast.conversation.journal import said
from holdfast.conversation.records import encode_messages
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.stores import NewTurn, OpenRun
from holdfast.stores.sqlite_db import check_of
from holdfast.stores.sqlite_log import COLUMNS
from holdfast.testing.runtime import SeededRuntime
from holdfast.testing.scripted import ScriptedChatClient

TENANTS = ("", "acme")
# Whoever wrote it: one who is dead in every process.
_OWNER = 0x0123456789ABCD
# Small pages, so that a small store has trees of some depth.
_PAGE_SIZE = 512
_FILLER = "the quick brown fox jumps over the lazy dog; "


class Base(Struct, frozen=True):
    """A store as bytes: the database, and the log beside it (empty if it was closed)."""

    database: bytes
    log: bytes = b""


async def make_bases(folder: Path, seed: str) -> tuple[Base, Base]:
    """A store that was closed, and one whose process died with turns in the log."""
    written, packed, logged = (folder / f"{name}.db" for name in ("written", "packed", "logged"))
    await _write(written, seed)
    _make_constant(written)
    _pack(written, packed)
    closed = Base(packed.read_bytes())
    logged.write_bytes(closed.database)
    return closed, await _write_log(logged, seed)


def _store(path: Path, seed: str) -> tuple[SQLiteStore, SeededRuntime]:
    runtime = SeededRuntime(int.from_bytes(seed.encode(), "big") % 2**32)
    return SQLiteStore(path, runtime=runtime), runtime


def _agent(store: SQLiteStore, runtime: SeededRuntime, *answers: Any) -> ChatAgent:
    return ChatAgent(ScriptedChatClient(*answers), thread_store=store, runtime=runtime)


# --- a store that was closed ---------------------------------------------------------------------------------------


async def _write(path: Path, seed: str) -> None:
    store, runtime = _store(path, seed)
    agent = _agent(store, runtime)

    async def talk(thread: AgentThread, *texts: str) -> AgentThread:
        for text in texts:
            runtime.advance(1.5)
            await agent.run(text, thread=thread)
        return thread

    try:
        plain = await talk(agent.get_new_thread("plain"), *(f"Question {n}? {_FILLER * n}" for n in range(6)))
        turns = await plain.turns()
        await talk(await plain.fork(turns[3].id, "forked"), "Elsewhere", "And on")
        await plain.fork(turns[4].id, "bare")
        await talk(agent.get_new_thread("long"), _FILLER * 300, "Short", _FILLER * 120)
        rewound = await talk(agent.get_new_thread("rewound"), *(f"Step {n}" for n in range(5)))
        await rewound.rewind(2)
        await talk(rewound, "Another way")
        trunk = await talk(agent.get_new_thread("trunk"), "One", "Two", "Three")
        await trunk.fork((await trunk.turns())[1].id, "branch of the deleted")
        await trunk.delete()
        await (await talk(agent.get_new_thread("deleted"), "Never mind")).delete()
        await _adopt(agent)
        await _endings(store, runtime)
        named = await talk(agent.get_new_thread("named"), "What is in a name?")
        await named.update(title="Names and numbers", metadata={"customer": 17, "tags": ["a", "b"]})
        other = _agent(store.for_tenant("acme"), runtime)
        await other.run("The other tenant's secret", thread=other.get_new_thread("plain"))
        await other.run("And another", thread=other.get_new_thread("theirs"))
        await _leave_open(store, runtime)
    finally:
        store.close()


async def _adopt(agent: ChatAgent) -> None:
    """Transcripts with all kinds of content."""
    call = ToolCallContent("call_1", "weather", '{"city": "Oslo"}')
    image = ImageContent("data:image/png;base64," + "iVBORw0KGgo" * 40)
    hologram = UnknownContent("hologram", b'{"type":"hologram","uri":"https://example.org/a.holo"}')
    await agent.get_new_thread("tools").add_messages(
        [
            ChatMessage("user", [TextContent("How cold is it in Oslo?")], author_name="Ada"),
            ChatMessage("assistant", [call]),
            ChatMessage("tool", [ToolResultContent("call_1", "-4 degrees")]),
            ChatMessage("assistant", [TextContent("Four below zero.")], additional_properties={"mood": "cold"}),
            ChatMessage("user", [TextContent("And this?"), image]),
            ChatMessage("assistant", [TextContent("A picture.")]),
        ]
    )
    said = [ChatMessage("user", text="Show me"), ChatMessage("assistant", [hologram, TextContent("There it is.")])]
    await agent.get_new_thread("unknown").add_messages(said)


async def _endings(store: SQLiteStore, runtime: SeededRuntime) -> None:
    """Turns that ended otherwise, and one under a key."""
    agent = _agent(store, runtime, [AuthenticationError("no such key")], ["Half of ", "an answer"], "All of it")
    thread = agent.get_new_thread("endings")
    with contextlib.suppress(AuthenticationError):
        await agent.run("Will this fail?", thread=thread)
    async with agent.run_stream("Will this be cut?", thread=thread) as stream:
        async for _ in stream:
            break
    await agent.run("Will this be whole?", thread=thread)
    run = await store.open_run("endings", "turn_under_a_key", encode_messages([ChatMessage("user", text="Once")]), 1)
    assert isinstance(run, OpenRun)
    record = b'{"v":1,"input":' + run.input + b',"output":[{"role":"assistant","contents":[]}]}'
    await store.seal(run, [NewTurn("turn_under_a_key", "completed", record, 1, 2, key="key-1", reference="ref-1")])


async def _leave_open(store: SQLiteStore, runtime: SeededRuntime) -> None:
    """What a process leaves that dies in the middle of a turn, while others wait."""
    agent = _agent(store, runtime)
    await agent.run("Are you there?", thread=agent.get_new_thread("open"))
    stored = encode_messages([ChatMessage("user", text="Tell me a long story.")])
    run = await store.open_run("open", "turn_left_open", stored, runtime.now_us())
    assert isinstance(run, OpenRun)
    for n in range(4):
        piece = AgentRunResponseUpdate(f"Chapter {n}. {_FILLER}")
        await store.journal(run, [said(run.epoch, n * 60, [piece])])
    for n in range(5):
        waiting = encode_messages([ChatMessage("user", text=f"Me too, says {n}.")])
        await store.open_run("open", f"turn_in_line_{n}", waiting, runtime.now_us(), in_line=True)


# --- bytes ---------------------------------------------------------------------------------------------------------


def _make_constant(path: Path) -> None:
    """Put a constant in the place of all that is of this process."""
    connection = apsw.Connection(str(path))
    connection.execute(
        "UPDATE owners SET id = ?, process = 'somewhere:4711', since = 1, beat = 3, address = '@holdfast-x'", (_OWNER,)
    )
    rows: list[Any] = connection.execute(f"SELECT n, {COLUMNS} FROM threads WHERE owner IS NOT NULL").fetchall()
    for n, *columns in rows:
        columns[COLUMNS.split(", ").index("owner")] = _OWNER
        connection.execute('UPDATE threads SET owner = ?, "check" = ? WHERE n = ?', (_OWNER, check_of(columns), n))
    names = "tenant, thread, turn, state, owner, key, input"
    rows = connection.execute(f"SELECT ticket, {names} FROM runs").fetchall()
    for ticket, *columns in rows:
        columns[4] = _OWNER
        connection.execute(
            'UPDATE runs SET owner = ?, "check" = ? WHERE ticket = ?', (_OWNER, check_of(columns), ticket)
        )
    connection.close()


def _pack(source: Path, target: Path) -> None:
    """The same rows in the same places, whatever the way in which they came; and some free pages."""
    connection = apsw.Connection(str(source))
    connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")
    connection.execute("VACUUM INTO ?", (str(target),))
    connection.close()
    connection = apsw.Connection(str(target))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA secure_delete=ON")
    row = "(tenant, branch, seq, id, status, started, ended, hash, record)"
    connection.execute(f"INSERT INTO turns {row} VALUES ('', 1, 99, 'gone', '', 0, 0, x'', zeroblob(20000))")
    connection.execute("DELETE FROM turns WHERE id = 'gone'")
    connection.close()


async def _write_log(path: Path, seed: str) -> Base:
    """Some turns that are in the log alone; the files as a crash leaves them."""
    store, runtime = _store(path, f"{seed}/log")
    agent = _agent(store, runtime)
    try:
        for n in range(3):
            await agent.run(f"In the log {n}", thread=agent.get_thread("plain"))
            await agent.run(f"In the log too {n}", thread=agent.get_thread("log", create=True))
        await agent.get_thread("log").fork(thread_id="fork in the log")
        await agent.get_thread("named").update(title="Renamed")
        return Base(path.read_bytes(), Path(f"{path}-wal").read_bytes())
    finally:
        store.close()
        for ending in ("-wal", "-shm", "-owners"):
            if os.path.exists(f"{path}{ending}"):
                os.unlink(f"{path}{ending}")


def turns_in(path: Path) -> frozenset[tuple[str, int, int]]:
    """All turns of a store, also those that no thread stands on: id, depth and when they ended."""
    connection = apsw.Connection(str(path))
    try:
        rows: list[Any] = connection.execute("SELECT id, seq, ended FROM turns").fetchall()
        return frozenset(rows)
    finally:
        connection.close()


def commits_in(log: bytes) -> Sequence[int]:
    """The lengths at which a log ends with a whole transaction."""
    page_size = int.from_bytes(log[8:12], "big")
    ends = []
    for start in range(32, len(log) - 23, 24 + page_size):
        if int.from_bytes(log[start + 4 : start + 8], "big"):
            ends.append(start + 24 + page_size)
    return ends
