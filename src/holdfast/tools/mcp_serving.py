"""MCP serving: an agent offered to MCP clients, as one tool that goes on with conversations.

Rules of this file: it knows an agent by what it asks of one, so that the engine, which stands above, may offer itself.
A client gets words for whatever goes wrong, and what it cancels is ended as cancelled. Nothing but the protocol goes to
stdout.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

import anyio
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
)

import holdfast
from holdfast.conversation.errors import HoldfastError

# Where a client may put a key of its own in a request's `_meta`: a request with the same key is done once.
KEY = "holdfast/idempotency_key"

_MESSAGE = {"type": "string", "description": "What to say to the agent."}
_THREAD = {
    "type": "string",
    "description": "The conversation to go on with: the thread_id of an earlier result. Without it a new one is begun.",
}
_RESULT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("answer", "thread_id", "turn_id")},
    "required": ["answer", "thread_id", "turn_id"],
}


class _Response(Protocol):
    """What an agent's run comes to, as far as a client is told."""

    @property
    def text(self) -> str: ...

    @property
    def turn_id(self) -> str: ...

    @property
    def thread_id(self) -> str: ...

    @property
    def approvals(self) -> Sequence[Any]: ...


class Agent(Protocol):
    """What is asked of an agent; `ChatAgent` is one."""

    @property
    def name(self) -> str | None: ...

    @property
    def description(self) -> str | None: ...

    @property
    def thread_store(self) -> object | None: ...

    def get_new_thread(self) -> Any: ...

    def get_thread(self, thread_id: str, *, create: bool = False) -> Any: ...

    def run(self, messages: str, *, thread: Any, idempotency_key: str | None = None) -> Coroutine[Any, Any, Any]: ...


def make_server(agent: Agent, *, name: str | None = None) -> Server[Any]:
    """A server of the `mcp` package that offers the agent as one tool.

    `name` is the tool's; without it the agent's name is taken, else "agent". A conversation can be gone on with if the
    agent has a thread store; without one every call begins a new one. Whoever may use the server may go on with any
    thread of that store whose id is known to them.
    """
    called = re.sub(r"[^a-zA-Z0-9_-]", "_", name or agent.name or "agent")[:64]
    keeps = agent.thread_store is not None
    tool = Tool(
        name=called,
        description=agent.description or f"Talk with {agent.name or 'an agent'}: say something, get the answer.",
        input_schema={
            "type": "object",
            "properties": {"message": _MESSAGE, **({"thread_id": _THREAD} if keeps else {})},
            "required": ["message"],
            "additionalProperties": False,
        },
        output_schema=_RESULT,
    )

    async def list_tools(context: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[tool])

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        if params.name != called:
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name!r} here; there is {called!r}.")
        key = (context.meta or {}).get(KEY)
        try:
            message, thread_id = _checked(params.arguments or {}, tool.input_schema["properties"])
            thread = _thread(agent, thread_id, key if isinstance(key, str) else None)
            run = agent.run(message, thread=thread, idempotency_key=key if keeps and isinstance(key, str) else None)
            response = await _to_the_end(run)
        except HoldfastError as error:
            return _failed(str(error))
        except ValueError as error:
            return _failed(str(error))
        return _told(response, keeps=keeps, is_new=thread_id is None)

    return Server(
        called,
        version=holdfast.__version__,
        description=agent.description,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _checked(arguments: Mapping[str, Any], properties: Mapping[str, Any]) -> tuple[str, str | None]:
    """Message and thread id. Raises ValueError with words for whoever called."""
    unknown = sorted(arguments.keys() - properties.keys())
    if unknown:
        raise ValueError(f"There is no argument {', '.join(unknown)}; there is {', '.join(properties)}.")
    message, thread_id = arguments.get("message"), arguments.get("thread_id")
    if not isinstance(message, str) or not message:
        raise ValueError("message is a text, and not empty.")
    if thread_id is not None and not isinstance(thread_id, str):
        raise ValueError("thread_id is a text.")
    return message, thread_id or None


def _thread(agent: Agent, thread_id: str | None, key: str | None) -> Any:
    """The thread of a request. A new one that is asked for under a key has an id that a retry finds again."""
    if thread_id is not None:
        return agent.get_thread(thread_id)
    if key is None or agent.thread_store is None:
        return agent.get_new_thread()
    return agent.get_thread(f"mcp-{hashlib.sha256(key.encode()).hexdigest()[:40]}", create=True)


async def _to_the_end(run: Coroutine[Any, Any, _Response]) -> _Response:
    """What the run comes to. A request that is cancelled cancels it once, and leaves it the time to end."""
    task = asyncio.create_task(run)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # it is on record with the turn; nobody is here to be told
        raise
    return task.result()


def _told(response: _Response, *, keeps: bool, is_new: bool) -> CallToolResult:
    structured = {"answer": response.text, "thread_id": response.thread_id, "turn_id": response.turn_id}
    if response.approvals:
        calls = ", ".join(request.tool for request in response.approvals)
        told = f"The agent waits until somebody allows these calls: {calls}. (Thread {response.thread_id}.)"
        return CallToolResult(content=[_text(told)], structured_content=structured, is_error=True)
    parts = [_text(response.text)]
    if keeps and is_new:  # for clients that show a model the text alone
        parts.append(_text(f"(To go on with this conversation: thread_id {response.thread_id})"))
    return CallToolResult(content=[*parts], structured_content=structured)


def _failed(why: str) -> CallToolResult:
    return CallToolResult(content=[_text(why)], is_error=True)


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


# --- ways to serve ---------------------------------------------------------------------------------------------


async def serve_stdio(server: Server[Any]) -> None:
    """Serve the one client at stdin and stdout, until it leaves. What else writes to stdout gets to stderr."""
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


async def serve_http(server: Server[Any], listening: socket.socket) -> None:
    """Serve clients at a socket that is bound, under /mcp, until a signal ends it."""
    host = str(listening.getsockname()[0])
    config = uvicorn.Config(
        server.streamable_http_app(host=host), log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    await uvicorn.Server(config).serve(sockets=[listening])
