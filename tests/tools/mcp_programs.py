"""MCP servers as programs of their own: one of the official package, and one that speaks an older version by hand.

    python mcp_programs.py stdio | http | old-stdio | old-http | old-http-that-tells

At an address, the port comes in a line on stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

server = MCPServer("things", version="1")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def echo(text: str) -> CallToolResult:
    """Say it again."""
    return CallToolResult(content=[TextContent(type="text", text=text)])


@server.tool()
def huge(size: int) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text="é" * size)])


@server.tool()
def fail(why: str) -> str:
    return CallToolResult(content=[TextContent(type="text", text=why)], is_error=True)  # type: ignore[return-value]


@server.tool()
async def slow(marks: str) -> str:
    """Takes a minute, and writes down what becomes of it."""
    Path(marks).write_text(f"began {os.getpid()}")
    try:
        await asyncio.sleep(60)
    except BaseException:
        Path(marks).write_text("cancelled")
        raise
    return "done"


@server.tool()
def pid() -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=str(os.getpid()))])


@server.tool()
def environ() -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=json.dumps(dict(os.environ)))])


@server.tool()
def key(context: Context) -> CallToolResult:
    told = (context.request_context.meta or {}).get("holdfast/idempotency_key")
    return CallToolResult(content=[TextContent(type="text", text=str(told))])


@server.tool()
def structured() -> CallToolResult:
    return CallToolResult(content=[], structured_content={"city": "Zürich", "degrees": 21})


@server.tool()
def parts() -> CallToolResult:
    link = ResourceLink(type="resource_link", name="notes", uri="file:///notes.txt", description="what was said")
    text = TextResourceContents(uri="file:///a.txt", text="the words of a file")
    blob = BlobResourceContents(uri="file:///b.bin", blob="AAECAw==", mime_type="application/octet-stream")
    return CallToolResult(
        content=[
            TextContent(type="text", text="one"),
            ImageContent(type="image", data="QUJDRA==", mime_type="image/png"),
            AudioContent(type="audio", data="QUJD", mime_type="audio/wav"),
            link,
            EmbeddedResource(type="resource", resource=text),
            EmbeddedResource(type="resource", resource=blob),
            TextContent(type="text", text="two"),
        ]
    )


@server.tool()
async def change(context: Context) -> CallToolResult:
    """From now on there is another tool in the place of this one."""
    server.remove_tool("change")
    server.add_tool(lambda: "I am new.", name="changed.tool", description="New.")
    await context.notify_tools_changed()
    return CallToolResult(content=[TextContent(type="text", text="changed")])


@server.tool(name="dotted.name/with slash")
def _dotted() -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text="dotted")])


@server.tool(name="dotted_name_with_slash")
def _plain() -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text="plain")])


# --- an older version of the protocol, by hand -----------------------------------------------------------------

OLD = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {"listChanged": True}}}
TELLS = sys.argv[1:2] == ["old-http-that-tells"]
sessions: set[str] = set()
calls: list[Any] = []
names = ["ask", "forget"]


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    method, params = asked["method"], asked.get("params", {})
    if method == "initialize":
        return {"result": {**OLD, "serverInfo": {"name": "old", "version": "0"}}}
    if method == "tools/list":
        return {"result": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}}
    if method == "tools/call" and params["name"] in names:
        calls.append(params["arguments"])
        if params["name"] == "forget":
            sessions.clear()
            names.append(f"later{len(names)}")
        text = json.dumps({"pid": os.getpid(), "calls": len(calls)})
        return {"result": {"content": [{"type": "text", "text": text}]}}
    return {"error": {"code": -32601, "message": f"There is no {method} {params.get('name', '')}".strip()}}


def old_stdio() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer(asked)}), flush=True)
        if asked["method"] == "tools/call" and asked["params"]["name"] == "forget":
            print(json.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}), flush=True)


class OldHandler(BaseHTTPRequestHandler):
    """One answer a request; a session that is not known is 404."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session = self.headers.get("mcp-session-id")
        if asked["method"] == "initialize":
            session = f"session-{len(sessions)}-{os.urandom(4).hex()}"
            sessions.add(session)
        if session not in sessions:
            told = {"jsonrpc": "2.0", "id": asked.get("id"), "error": {"code": -32001, "message": "No such session"}}
            self._send(404 if session else 400, json.dumps(told).encode() if TELLS else b"{}")
        elif "id" not in asked:
            self._send(202, b"")
        else:
            told = {"jsonrpc": "2.0", "id": asked["id"], **answer(asked)}
            self._send(200, json.dumps(told).encode(), {"mcp-session-id": session or ""})

    def do_GET(self) -> None:
        self._send(405, b"")

    def do_DELETE(self) -> None:
        self._send(200, b"")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(kind: str, port: int) -> None:
    if kind == "stdio":
        print("The words of a child on stderr", file=sys.stderr, flush=True)
        server.run()
    elif kind == "http":
        listening = socket.create_server(("127.0.0.1", port))
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(server.streamable_http_app(), log_config=None, timeout_graceful_shutdown=1)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))
    elif kind == "old-stdio":
        old_stdio()
    else:
        listener = ThreadingHTTPServer(("127.0.0.1", port), OldHandler)
        print(listener.server_address[1], flush=True)
        listener.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
