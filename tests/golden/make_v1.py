"""Makes the golden files of version 1. It was run once, with the first holdfast whose tables are of version 1:

    git worktree add /tmp/v1 2561f3a
    PYTHONPATH=/tmp/v1/src python tests/golden/make_v1.py

It is kept to show how the files came to be, and no test runs it: what matters is that *these* files can be read.
Two stores: one that was closed, and one whose process was killed in the middle of turns, with runs in line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from holdfast import (
    AgentThread,
    AuthenticationError,
    ChatAgent,
    ChatMessage,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    SQLiteStore,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    UnknownContent,
)
from holdfast.conversation.records import encode_messages
from holdfast.conversation.updates import Usage, UsageUpdate
from holdfast.ports.stores import NewTurn, OpenRun
from holdfast.testing.runtime import SeededRuntime
from holdfast.testing.scripted import ScriptedChatClient

HERE = Path(__file__).parent
socket.gethostname = lambda: "a-ship"  # a store notes who has it open
TENANTS = ("", "acme")


class World:
    """A store and agents on it, in a time that only moves when it is told to."""

    def __init__(self, path, seed):
        self.runtime = SeededRuntime(seed)
        self.store = SQLiteStore(path, runtime=self.runtime)

    def agent(self, *answers, tenant=""):
        store = self.store.for_tenant(tenant)
        return ChatAgent(ScriptedChatClient(*answers), thread_store=store, runtime=self.runtime, name="Parrot")

    async def talk(self, agent, thread, *texts):
        for text in texts:
            self.runtime.advance(1.25)
            await agent.run(text, thread=thread)
        return thread


# --- a store that was closed ---------------------------------------------------------------------------------------


async def closed(path):
    world = World(path, 1)
    agent = world.agent()
    plain = await world.talk(agent, agent.get_new_thread("plain"), "Ahoy", "Who are you?", "Schöne Grüße, 你好 🦜")
    turns = await plain.turns()
    await world.talk(agent, await plain.fork(turns[0].id, "fork at the first"), "Another way")
    await plain.fork(turns[1].id, "fork without a turn of its own")
    rewound = await world.talk(agent, agent.get_new_thread("rewound"), "One", "Two", "Three", "Four")
    await rewound.rewind(3)
    await world.talk(agent, rewound, "Two again")
    await rewound.rewind(to=(await rewound.turns())[0].id)
    emptied = await world.talk(agent, agent.get_new_thread("rewound to the beginning"), "Never mind")
    await emptied.rewind()
    trunk = await world.talk(agent, agent.get_new_thread("deleted, with a fork"), "One", "Two", "Three")
    await trunk.fork((await trunk.turns())[1].id, "fork of a deleted thread")
    await trunk.delete()
    again = await world.talk(agent, agent.get_new_thread("deleted, and begun again"), "The first life")
    await again.delete()
    await world.talk(agent, agent.get_new_thread("deleted, and begun again"), "The second life")
    await (await world.talk(agent, agent.get_new_thread("deleted"), "Forget this")).delete()
    named = await world.talk(agent, agent.get_new_thread("named"), "x" * 9000)
    await named.update(title="A title: “é”", metadata={"n": 1.5, "tags": ["a", None, True], "deep": {"é": []}})
    await contents(agent)
    await endings(world)
    other = world.agent(tenant="acme")
    await world.talk(other, other.get_new_thread("plain"), "The other tenant's")
    await world.talk(other, other.get_new_thread("theirs"), "And another")
    await world.store.for_tenant("acme").update("theirs", title="Theirs")
    world.store.close()


async def contents(agent):
    """Every kind of content."""
    hologram = UnknownContent("hologram", '{"type":"hologram","uri":"https://example.org/a.holo","é":[1,{}]}'.encode())
    calls = [ToolCallContent("call_1", "weather", '{"city": "Oslo"}'), ToolCallContent("call_2", "time", "no JSON")]
    await agent.get_new_thread("contents").add_messages(
        [
            ChatMessage("system", [TextContent("Speak like a pirate.")]),
            ChatMessage("user", [TextContent("How cold is it?")], author_name="Ada", message_id="m-1"),
            ChatMessage("assistant", [ReasoningContent("They want to know."), *calls], author_name="Parrot"),
            ChatMessage("tool", [ToolResultContent("call_1", "-4 degrees")]),
            ChatMessage("tool", [ToolResultContent("call_2", "No such clock", is_error=True)]),
            ChatMessage("assistant", [TextContent("Four below, arr.")], additional_properties={"mood": ["cold", 1]}),
            ChatMessage(
                "user",
                [
                    TextContent("And these?"),
                    ImageContent("https://example.org/a.png", detail="low"),
                    ImageContent("data:image/gif;base64,R0lGODlhAQABAAAAACw="),
                    FileContent("data:text/plain;base64,QWhveQ==", name="a.txt"),
                ],
            ),
            ChatMessage("assistant", [RefusalContent("I will not look."), hologram]),
        ]
    )


async def endings(world):
    """Turns that ended otherwise, one with usage, and columns that nobody of that time could fill from outside."""
    usage = [UsageUpdate(usage=Usage(input_tokens=7, output_tokens=2, total_tokens=9, cached_tokens=3))]
    agent = world.agent([AuthenticationError("no such key")], ["Half of ", "an answer"], ["All ", "of it", usage])
    thread = agent.get_new_thread("endings")
    with contextlib.suppress(AuthenticationError):
        await agent.run("Will this fail?", thread=thread)
    world.runtime.advance(2)
    async with agent.run_stream("Will this be cut?", thread=thread) as stream:
        async for _ in stream:
            break
    world.runtime.advance(2)
    await agent.run("Will this be whole?", thread=thread)
    run = await world.store.open_run("endings", "turn_with_a_key", b"[]", world.runtime.now_us())
    record = b'{"v":1,"input":[{"role":"user","contents":[{"type":"text","text":"Once"}]}],"later":{"field":1}}'
    await world.store.seal(run, [NewTurn("turn_with_a_key", "interrupted", record, 5, 6, key="k-1", reference="ref-1")])


# --- a store whose process was killed ------------------------------------------------------------------------------


async def killed(path):
    world = World(path, 2)
    agent = world.agent()
    for name in ("idle", "cut", "waited for"):
        await world.talk(agent, agent.get_new_thread(name), f"Hello, {name}")
    other = world.agent(tenant="acme")
    await world.talk(other, other.get_new_thread("cut"), "Hello from elsewhere")
    world.store.close()
    world = World(path, 3)
    agent, other = world.agent(), world.agent(tenant="acme")
    await world.talk(agent, agent.get_thread("idle"), "This is in the log alone")
    open_runs = [(agent, "cut"), (agent, "waited for"), (other, "cut")]
    for number, (whose, name) in enumerate(open_runs):
        said = encode_messages([ChatMessage("user", [TextContent(f"Cut off {number}")], author_name="Ada")])
        opened = await whose.thread_store.open_run(name, f"turn_cut_{number}", said, world.runtime.now_us())
        assert isinstance(opened, OpenRun)
    for number in range(3):
        await agent.thread_store.open_run("waited for", f"turn_in_line_{number}", b"[]", 1, in_line=True)
    # A thread that is made by the very run that is cut off.
    said = encode_messages([ChatMessage("user", text="The first words")])
    await agent.thread_store.open_run("begun", "turn_cut_first", said, world.runtime.now_us())
    os.kill(os.getpid(), signal.SIGKILL)


# --- what is in them -----------------------------------------------------------------------------------------------


async def seen(path):
    """What is read from a store, by the holdfast that wrote it. Reads a copy."""
    store = SQLiteStore(path)
    found = {}
    for tenant in TENANTS:
        view = store.for_tenant(tenant)
        page = await view.list(limit=100)
        found[tenant] = [await told(view, info) for info in page.threads]
    store.close()
    return found


async def told(view, info):
    thread = AgentThread(view, info.id, intent="existing")
    stored = []
    for segment in await view.lineage(info.head):
        stored += await view.read(segment)
    return {
        "id": info.id,
        "title": info.title,
        "metadata": info.metadata,
        "incarnation": info.incarnation,
        "created_us": info.created_us,
        "updated_us": info.updated_us,
        "busy": info.busy,
        "head": info.head.hash.hex(),
        "turns": [turn_told(turn, row) for turn, row in zip(await thread.turns(), stored, strict=True)],
    }


def turn_told(turn, row):
    return {
        "id": turn.id,
        "seq": turn.seq,
        "status": turn.status,
        "input": json.loads(encode_messages(turn.input)),
        "output": json.loads(encode_messages(turn.output)),
        "usage": None if turn.usage is None else [turn.usage.input_tokens, turn.usage.output_tokens],
        "model": turn.model,
        "service": turn.service,
        "finish": turn.finish_reason,
        "error": None if turn.error is None else [turn.error.code, turn.error.message],
        "times": [turn.started_us, turn.ended_us],
        "key": row.key,
        "reference": row.reference,
        "hash": row.hash.hex(),
    }


def make(name, write):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.db"
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(write(path))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        files = {}
        for ending in ("", "-wal"):
            file = Path(f"{path}{ending}")
            if file.exists() and file.stat().st_size:
                data = file.read_bytes()
                (HERE / file.name).write_bytes(data)
                files[file.name] = hashlib.sha256(data).hexdigest()
        for file in Path(folder).iterdir():
            if file.name not in files:
                file.unlink()
        contents = asyncio.run(seen(path))
    state = {"version": 1, "files": files, "tenants": contents}
    (HERE / f"{name}.json").write_text(json.dumps(state, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(name, {file: (HERE / file).stat().st_size for file in files})


if __name__ == "__main__":
    import holdfast.stores.sqlite

    print("made by", holdfast.__file__, file=sys.stderr)
    make("v1-closed", closed)
    make("v1-killed", killed)
