"""`holdfast mcp`: the real program, spoken with by the official client, through stdio and at an address."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, RequestParamsMeta

from holdfast import AgentThread, SQLiteStore, Turn
from holdfast.testing.openai_chat import ChatCompletionsStandIn, Fail

Open = Callable[..., Any]


@pytest.fixture
def by_stdio(home: dict[str, str], tmp_path: Path) -> Open:
    """A client of `holdfast mcp ARGUMENTS` in a child process. What it says on stderr is in the file `err`."""

    @asynccontextmanager
    async def opened(*arguments: str, mode: str = "auto") -> AsyncIterator[Client]:
        command = ["-m", "holdfast", "mcp", *arguments]
        parameters = StdioServerParameters(command=sys.executable, args=command, env=home, cwd=tmp_path)
        with open(tmp_path / "err", "a") as err:
            async with Client(stdio_client(parameters, err), cache=None, mode=mode) as client:
                yield client

    return opened


Started = tuple["subprocess.Popen[str]", str]


@pytest.fixture
def by_http(home: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts `holdfast mcp --http` at a free port; the process and its address."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, at: str = "127.0.0.1:0") -> Started:
        program = [sys.executable, "-m", "holdfast", "mcp", "--http", at, *arguments]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(program, env=home, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True))
        assert started[-1].stderr is not None
        line = started[-1].stderr.readline()
        found = re.fullmatch(r"Listening at (http://127\.0\.0\.1:\d+/mcp)\n", line)
        assert found, line
        return started[-1], found[1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def said(client: Client, message: str, *, key: str | None = None, **arguments: Any) -> CallToolResult:
    meta: RequestParamsMeta | None = None if key is None else {"holdfast/idempotency_key": key}  # type: ignore[typeddict-unknown-key]
    return await client.call_tool("agent", {"message": message, **arguments}, meta=meta)


def text(result: CallToolResult) -> str:
    return result.content[0].text  # type: ignore[union-attr]


async def a_conversation(client: Client) -> None:
    """What every way must do."""
    (tool,) = (await client.list_tools()).tools
    assert tool.name == "agent"
    assert set(tool.input_schema["properties"]) == {"message", "thread_id"}
    first = await said(client, "Tell me a joke about a pirate. 🏴‍☠️")
    assert not first.is_error
    told = first.structured_content
    assert told["answer"] == text(first)
    assert told["thread_id"] in first.content[-1].text  # type: ignore[union-attr]
    second = await said(client, "Tell it again.", thread_id=told["thread_id"])
    assert second.structured_content["thread_id"] == told["thread_id"]
    assert second.structured_content["turn_id"] != told["turn_id"]
    assert len(second.content) == 1
    lost = await said(client, "Hello?", thread_id="nobody-knows-it")
    assert lost.is_error
    assert "nobody-knows-it" in text(lost)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_conversation_through_stdio(mode: str, by_stdio: Open, kept: Callable[[], list[Turn]]) -> None:
    async with by_stdio(mode=mode) as client:
        await a_conversation(client)
    turns = await asyncio.to_thread(kept)
    assert [turn.status for turn in turns] == ["completed", "completed"]
    assert turns[0].input[0].text.endswith("🏴‍☠️")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_conversation_at_an_address(mode: str, by_http: Callable[..., Started]) -> None:
    process, url = by_http()
    async with Client(url, cache=None, mode=mode) as client:
        await a_conversation(client)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.to_thread(process.communicate, timeout=20)
    assert (out, err) == ("", "")
    assert process.returncode == 130


async def test_a_request_with_the_same_key_is_done_once(by_stdio: Open, kept: Callable[[], list[Turn]]) -> None:
    async with by_stdio() as client:
        first, again = [await said(client, "Hello.", key="k") for _ in range(2)]
        assert again.structured_content == first.structured_content
        other = await said(client, "Goodbye.", key="k")
        assert other.is_error
        thread_id = first.structured_content["thread_id"]
        one, same = [await said(client, "And?", key="l", thread_id=thread_id) for _ in range(2)]
        assert one.structured_content == same.structured_content
    assert len(await asyncio.to_thread(kept)) == 2


async def test_arguments_that_do_not_fit_are_told(by_stdio: Open) -> None:
    async with by_stdio("--name", "agent") as client:
        for arguments in (
            {},
            {"message": ""},
            {"message": 1},
            {"message": "a", "thread_id": 2},
            {"message": "a", "x": 1},
        ):
            assert (await client.call_tool("agent", arguments)).is_error
        assert not (await said(client, "Hello.")).is_error


async def test_the_agent_is_named_and_described(by_stdio: Open) -> None:
    async with by_stdio("--name", "Joker of the day", "--description", "Tells jokes.") as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.description) == ("Joker_of_the_day", "Tells jokes.")


async def test_what_a_service_refuses_is_told(
    by_stdio: Open, service: ChatCompletionsStandIn, there: tuple[str, ...], home: dict[str, str]
) -> None:
    home["OPENAI_API_KEY"] = "sk-of-the-stand-in"
    async with by_stdio(*there) as client:
        assert not (await said(client, "Hello.")).is_error
        service.script(Fail(400, message="Not today."))
        failed = await said(client, "Hello again.")
        assert failed.is_error
        assert "Not today." in text(failed)


async def test_a_request_that_is_cancelled_ends_its_run(by_stdio: Open, home: dict[str, str], tmp_path: Path) -> None:
    """The service never answers; the client goes away; the turn is recorded as cancelled."""
    reached = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        reached.set()
        await reader.read()
        writer.close()

    service = await asyncio.start_server(never, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{service.sockets[0].getsockname()[1]}/v1"
    home["OPENAI_API_KEY"] = "sk-of-nobody"
    store = SQLiteStore(tmp_path / "c.db")
    async with service, by_stdio("--base-url", url, "--model", "m", "--store", str(tmp_path / "c.db")) as client:
        call = asyncio.create_task(said(client, "Are you there?"))
        await reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (thread,) = (await store.list()).threads
        while not (turns := await AgentThread(store, thread.id, intent="existing").turns()):
            await asyncio.sleep(0.02)
        assert [turn.status for turn in turns] == ["cancelled"]
        assert (await client.list_tools()).tools
    store.close()


def test_what_else_is_printed_does_not_get_into_the_protocol(home: dict[str, str], tmp_path: Path) -> None:
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "hand", "version": "0"}},
    }
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "mcp", "--debug"],
        input=json.dumps(request) + "\nnonsense\n",
        env=home,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in done.stdout.splitlines())
    assert json.loads(done.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "agent"


@pytest.mark.parametrize("at", ["nonsense", "127.0.0.1:70000", "no.such.host.invalid:80"])
def test_an_address_at_which_one_cannot_listen(at: str, holdfast: Any) -> None:
    done = holdfast("mcp", "--http", at)
    assert (done.returncode, done.stdout) == (1, "")
    assert "holdfast: " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_the_server_at_stdio(home: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=home, cwd=tmp_path
    )
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    process.stdin.close()
    process.stdout.close()
