"""The short path: from `agent.run` to the wire a reader passes few functions and few files."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from pathlib import Path
from types import FrameType

import pytest

import holdfast
from holdfast import OpenAIChatClient, SQLiteStore
from holdfast.testing.openai_chat import ChatCompletionsStandIn

ROOT = str(Path(holdfast.__file__).parent)


async def way_of(running: Awaitable[object]) -> list[tuple[str, str]]:
    """Our functions that are passed until something is sent; [] if nothing is."""
    seen: dict[tuple[str, str], None] = {}
    sent = False

    def profiler(frame: FrameType, event: str, _: object) -> None:
        nonlocal sent
        code = frame.f_code
        if event != "call" or sent:
            return
        if "aiohttp" in code.co_filename and code.co_name == "_request":
            sent = True
        elif code.co_filename.startswith(ROOT) and not code.co_name.startswith("<"):
            seen[code.co_filename.removeprefix(ROOT), code.co_qualname] = None

    sys.setprofile(profiler)
    try:
        await running
    finally:
        sys.setprofile(None)
    return list(seen) if sent else []


async def test_from_the_call_to_the_wire(sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # The path of a program that knows nothing of OpenTelemetry, whatever other tests have imported.
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    with ChatCompletionsStandIn() as service:
        client = OpenAIChatClient("gpt-4o-mini", base_url=service.base_url, api_key="key")
        agent = client.create_agent("Be brief.", thread_store=sqlite)
        thread = agent.get_new_thread()
        await agent.run("first", thread=thread)

        # The shortest of some, on a fast disk: else a commit goes by way of the writer's thread.
        ways = []
        for _ in range(5):
            sqlite._shared.database._commit_seconds = 0.0
            ways.append(await way_of(agent.run("again", thread=thread)))
        await client.aclose()

    assert all(ways)
    seen = min(ways, key=len)
    functions = [f"{file} {name}" for file, name in seen]
    files = sorted({file for file, _ in seen})
    # All of our functions count. Of the files, those of the floors that do something: the ground and the first
    # floor only say what a message, an update or a stored turn is.
    definitions = [file for file in files if file.startswith(("/conversation/", "/ports/"))]
    steps = [file for file in files if file not in definitions]
    assert len(functions) <= 40, "\n".join([f"{len(functions)} functions:", *functions])
    assert len(steps) <= 10, "\n".join([f"{len(steps)} files:", *steps])
    assert len(definitions) <= 5, "\n".join([f"{len(definitions)} files of definitions:", *definitions])
