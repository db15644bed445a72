"""Tools of MCP servers: real servers of the official package, in child processes and at sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mcp_calling import at, by_name, called, child, context, is_alive, listening, until

from holdfast.conversation.errors import ConfigurationError, InvalidInputError, ServiceUnavailableError
from holdfast.engine.sync import run_sync
from holdfast.ports.tools import ToolError
from holdfast.tools.mcp import MCPServer


@pytest.fixture(params=["stdio", "http"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[MCPServer]:
    """A server of the official package, both ways."""
    if request.param == "stdio":
        async with child() as server:
            yield server
    else:
        with listening() as (port, _):
            async with at(port) as server:
                yield server


async def test_a_tool_is_what_its_server_says(server: MCPServer) -> None:
    spec = (await by_name(server))["add"].spec
    assert spec.description == "Add two numbers."
    assert spec.parameters["type"] == "object"
    assert set(spec.parameters["properties"]) == {"a", "b"}


async def test_a_call_gives_text(server: MCPServer) -> None:
    assert await called(server, "add", a=1, b=2) == "3"
    assert await called(server, "echo", text='Grüezi 你好 🙂 \x00 \\ " \n') == 'Grüezi 你好 🙂 \x00 \\ " \n'


async def test_calls_at_once(server: MCPServer) -> None:
    found = await asyncio.gather(*(called(server, "add", a=n, b=1) for n in range(20)))
    assert found == [str(n + 1) for n in range(20)]


async def test_what_goes_wrong_is_told_to_the_model(server: MCPServer) -> None:
    assert await called(server, "fail", why="no such city") == "ToolError: no such city"
    assert "valid integer" in await called(server, "add", a="one", b=2)
    tool = (await by_name(server))["add"]
    for arguments in ("{", "[1, 2]", '"a"', '{"a": NaN}'):
        with pytest.raises(ToolError, match="The call was not made"):
            await tool.call(arguments, context())


async def test_parts_that_are_no_text_are_told_by_kind_and_size(server: MCPServer) -> None:
    assert (await called(server, "parts")).splitlines() == [
        "one",
        "[image, image/png, 4 bytes; it is not shown here]",
        "[sound, audio/wav, 3 bytes; it is not shown here]",
        "notes (what was said): file:///notes.txt",
        "the words of a file",
        "[file file:///b.bin, application/octet-stream, 4 bytes; it is not shown here]",
        "two",
    ]


async def test_what_is_structured_is_told_where_there_is_no_text(server: MCPServer) -> None:
    assert await called(server, "structured") == '{"city":"Zürich","degrees":21}'


async def test_a_huge_result_comes_whole(server: MCPServer) -> None:
    assert await called(server, "huge", size=3_000_000) == "é" * 3_000_000


async def test_names_that_services_refuse_are_mapped_and_stay_apart(server: MCPServer) -> None:
    tools = await by_name(server)
    mapped = [name for name in tools if name.startswith("dotted_name_with_slash")]
    assert len(mapped) == 2
    assert await called(server, "dotted_name_with_slash") == "plain"
    mapped.remove("dotted_name_with_slash")
    assert await called(server, mapped[0]) == "dotted"


async def test_the_call_has_its_key(server: MCPServer) -> None:
    tool = (await by_name(server))["key"]
    assert await tool.call("", context("call-7")) == context("call-7").idempotency_key


async def test_a_call_that_is_cancelled_is_cancelled_at_the_server(server: MCPServer, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    call = asyncio.create_task(called(server, "slow", marks=str(marks)))
    await until(lambda: marks.exists() and marks.read_text())
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: marks.read_text() == "cancelled")
    assert await called(server, "add", a=1, b=2) == "3"


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_call_that_takes_too_long_is_given_up(kind: str, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    with listening() as (port, _):
        async with child(timeout=0.5) if kind == "stdio" else at(port, timeout=0.5) as server:
            told = await called(server, "slow", marks=str(marks))
            assert told.startswith("ToolError: The call took longer than 0.5 s")
            assert "unknown" in told
            await until(lambda: marks.read_text() == "cancelled")
            assert await called(server, "add", a=1, b=2) == "3"


async def test_a_list_that_changes_is_read_anew(server: MCPServer) -> None:
    before = await server.tools()
    assert await server.tools() is before
    old = (await by_name(server))["change"]
    assert await called(server, "change") == "changed"
    while (after := await server.tools()) is before:
        await asyncio.sleep(0.02)
    names = {tool.spec.name for tool in after}
    assert "changed_tool" in names
    assert "change" not in names
    assert await server.tools() is after
    assert await called(server, "changed_tool") == "I am new."
    with pytest.raises(ToolError, match="change"):  # in a run that has begun before, say
        await old.call("{}", context())


# --- servers that die ------------------------------------------------------------------------------------------


async def test_a_child_that_is_killed_in_the_middle_of_a_call(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    async with child() as server:
        before = await server.tools()
        call = asyncio.create_task(called(server, "slow", marks=str(marks)))
        await until(lambda: marks.exists() and marks.read_text())
        os.kill(int(marks.read_text().split()[1]), signal.SIGKILL)
        told = await call
        assert "was lost in the middle of the call" in told
        assert "unknown" in told
        assert await called(server, "add", a=1, b=2) == "3"
        assert await server.tools() is before


async def test_a_child_that_is_killed_between_two_calls() -> None:
    async with child() as server:
        first = int(await called(server, "pid"))
        os.kill(first, signal.SIGKILL)
        await until(lambda: all(link.is_over for link in server._links.values()))
        assert int(await called(server, "pid")) != first


async def test_a_server_at_an_address_that_is_killed_in_the_middle_of_a_call(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    with listening() as (port, process):
        async with at(port) as server:
            before = await server.tools()
            call = asyncio.create_task(called(server, "slow", marks=str(marks)))
            await until(lambda: marks.exists() and marks.read_text())
            process.kill()
            assert "was lost in the middle of the call" in await call
            assert await server.tools() is before  # what is known stays, and a call says what is the matter
            told = await called(server, "add", a=1, b=2)
            assert told.startswith("ToolError: ")
            process.wait()
            with listening(port=port):
                assert await called(server, "add", a=1, b=2) == "3"


@pytest.mark.parametrize("kind", ["old-http", "old-http-that-tells"])
async def test_a_server_that_has_forgotten_the_session_is_asked_again(kind: str) -> None:
    with listening(kind) as (port, _):
        async with at(port) as server:
            assert json.loads(await called(server, "ask"))["calls"] == 1
            assert json.loads(await called(server, "forget"))["calls"] == 2
            assert json.loads(await called(server, "ask"))["calls"] == 3  # once, though it was sent twice


async def test_a_server_of_an_older_version_tells_of_changes_too() -> None:
    async with child("old-stdio") as server:
        assert set(await by_name(server)) == {"ask", "forget"}
        await called(server, "forget")
        while set(await by_name(server)) != {"ask", "forget", "later2"}:
            await asyncio.sleep(0.02)
        assert json.loads(await called(server, "ask"))["calls"] == 2


# --- children --------------------------------------------------------------------------------------------------


async def test_a_child_gets_little_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with child(env={"OF_THE_CHILD": "1"}) as server:
        environ = json.loads(await called(server, "environ"))
    assert "OPENAI_API_KEY" not in environ
    assert environ["OF_THE_CHILD"] == "1"
    assert environ["PATH"] == os.environ["PATH"]


async def test_a_child_ends_when_the_server_is_left() -> None:
    async with child() as server:
        pid = int(await called(server, "pid"))
        assert is_alive(pid)
    assert not is_alive(pid)


def test_a_child_ends_with_its_event_loop() -> None:
    server = child()
    pid = int(asyncio.run(called(server, "pid")))
    assert not is_alive(pid)
    assert int(asyncio.run(called(server, "pid"))) != pid


async def test_each_event_loop_has_a_connection_of_its_own() -> None:
    async with child() as server:
        here = int(await called(server, "pid"))
        there = int(await asyncio.to_thread(run_sync, called(server, "pid")))
        assert here != there
    await until(lambda: not is_alive(there))


async def test_what_a_child_says_on_stderr_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "holdfast.mcp")
    async with child(name="chatty"):
        pass
    assert "chatty: The words of a child on stderr" in caplog.messages
    assert capfd.readouterr().err == ""


async def test_what_a_child_says_on_stderr_goes_where_one_wants(tmp_path: Path) -> None:
    with open(tmp_path / "err", "w") as file:
        async with child(stderr=file):
            pass
    assert "The words of a child" in (tmp_path / "err").read_text()


# --- servers that are not there --------------------------------------------------------------------------------


async def test_a_server_that_cannot_be_started_says_why() -> None:
    with pytest.raises(ConfigurationError, match=r"no-such-program.*No such file"):
        await MCPServer.stdio("no-such-program").tools()
    with pytest.raises(ServiceUnavailableError, match="The last that it said: out of order"):
        await MCPServer.stdio(sys.executable, ["-c", "import sys; sys.exit('out of order')"]).tools()
    with pytest.raises(ServiceUnavailableError, match=r"did not answer within 0\.5 s"):
        await MCPServer.stdio("sleep", ["60"], connect_timeout=0.5).tools()


async def test_an_address_where_nobody_is(unused_tcp_port: int) -> None:
    server = at(unused_tcp_port, name="nobody")
    with pytest.raises(ServiceUnavailableError, match="nobody cannot be reached"):
        await server.tools()
    with listening(port=unused_tcp_port):
        assert await called(server, "add", a=1, b=2) == "3"
        await server.close()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("holdfast.tools.mcp_links", "holdfast.tools.mcp_results"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("holdfast.tools.mcp_links", raising=False)
    monkeypatch.setitem(sys.modules, "mcp_types", None)
    with pytest.raises(ConfigurationError, match=r"holdfast\[mcp\]"):
        asyncio.run(child().tools())


# --- what is set -----------------------------------------------------------------------------------------------


async def test_what_is_set_for_a_server() -> None:
    def rule(tool: str, arguments: dict[str, object]) -> bool:
        return bool(arguments["a"]) if tool == "add" else 1 / 0 > 1

    options = {"allowed": ["add", "echo"], "idempotent": ["echo"], "prefix": "p", "approval": rule}
    async with child(**options, approval_seconds=9) as server:
        tools = await by_name(server)
        assert set(tools) == {"p__add", "p__echo"}
        assert [tool.idempotent for tool in tools.values()] == [False, True]
        assert {tool.approval_seconds for tool in tools.values()} == {9}
        assert tools["p__add"].needs_approval('{"a": 1}')
        assert not tools["p__add"].needs_approval('{"a": 0}')
        assert tools["p__add"].needs_approval("{}")  # the rule fails
        assert tools["p__echo"].needs_approval("{}")
        assert not tools["p__add"].needs_approval("{")  # it will not be done
        assert await called(server, "p__add", a=1, b=1) == "2"


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": "1"},
        {"connect_timeout": None},
        {"approval_seconds": 5},
        {"approval": "yes"},
        {"allowed": "add"},
        {"idempotent": [1]},
        {"prefix": "a.b"},
        {"prefix": 1},
        {"name": "a\nb"},
        {"name": 1},
        {"tiemout": 1},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        child(**options)


def test_an_address_or_a_command_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        MCPServer.http("example.com/mcp")
    with pytest.raises(InvalidInputError):
        MCPServer.stdio("uvx", "mcp-server-time")


def test_a_server_shows_no_secrets() -> None:
    server = MCPServer.http("https://user:secret@example.com/mcp?key=secret", headers={"Authorization": "secret"})
    assert repr(server) == "<MCP server example.com>"
    assert repr(MCPServer.stdio("uvx", ["tool", "--key", "secret"])) == "<MCP server tool>"
