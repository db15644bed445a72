"""What the tests of MCP share: programs that run for as long as a test, and how a tool of a server is called."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.ports.tools import Tool, ToolContext, ToolError
from holdfast.tools.mcp import MCPServer

PROGRAM = str(Path(__file__).parent / "mcp_programs.py")
PATIENCE = 30.0


def child(kind: str = "stdio", **options: Any) -> MCPServer:
    """A server in a child process."""
    return MCPServer.stdio(sys.executable, [PROGRAM, kind], **options)


@contextmanager
def listening(kind: str = "http", port: int = 0) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server at a port of this machine."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, kind, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


def at(port: int, **options: Any) -> MCPServer:
    return MCPServer.http(f"http://127.0.0.1:{port}/mcp", **options)


def context(call_id: str = "call-1") -> ToolContext[Any]:
    return ToolContext("it", call_id, "turn-1", "thread-1", None)


async def by_name(server: MCPServer) -> dict[str, Tool]:
    return {tool.spec.name: tool for tool in await server.tools()}


async def called(server: MCPServer, tool: str, /, **arguments: Any) -> str:
    """What a tool of a server answers; what it says to the model if it fails."""
    found = (await by_name(server))[tool]
    try:
        return await found.call(json.dumps(arguments), context())
    except ToolError as error:
        return f"ToolError: {error}"


async def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < ends, "it did not come to that"
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
