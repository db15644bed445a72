"""MCP links: one connection to a server, in one event loop.

Rule of this file: the contexts of the `mcp` package are entered and left by one task, which does nothing else; calls
are made in the tasks of those who call, so that a call that is cancelled is cancelled at the server too. A link that
has ended is never mended; another takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TextIO

import httpx2
from mcp.client.client import Client
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, CallToolResult, Implementation, ToolListChangedNotification
from pydantic import ValidationError

import holdfast
from holdfast.conversation.errors import ConfigurationError, HoldfastError, ServiceUnavailableError
from holdfast.ports.tools import ToolError
from holdfast.tools.mcp_results import text_of
from holdfast.tools.mcp_stderr import child_stderr
from holdfast.tools.mcp_tools import Listed

_LOG = logging.getLogger("holdfast.mcp")
# Without any logging set up, Python would write what the package logs of a lost connection into the terminal.
logging.getLogger("mcp").addHandler(logging.NullHandler())

# Where a call's idempotency key stands in a request's `_meta`.
KEY = "holdfast/idempotency_key"

# A list that never ends is none; nor is an event of this size. Who may read how much of a result, the limits say.
_MOST_PAGES = 100
_MOST_BYTES = 64 * 1024 * 1024

# Seconds until changes of the list are listened for again, the first time and at most.
_AGAIN_SECONDS, _AGAIN_MOST = 1.0, 60.0

# Codes with which servers say that they do not know a session: nothing was done. The package's own is the first.
_NO_SESSION = (INVALID_REQUEST, -32001)
# Seconds for which a connection whose session is gone still takes the answers that are on their way.
_LAST_ANSWERS = 2.0

# A pair of streams, as the package has them. What is entered to get it is given a place for what the server says beside
# them, and whom to tell that the server has forgotten the session.
Streams = tuple[Any, Any]
Open = Callable[[deque[str], Callable[[], None]], AbstractAsyncContextManager[Streams]]


@asynccontextmanager
async def child(
    name: str,
    command: list[str],
    heard: deque[str],
    *,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    stderr: TextIO | None,
) -> AsyncGenerator[Streams]:
    """A child process, for as long as this is open."""
    parameters = StdioServerParameters(
        command=command[0],
        args=command[1:],
        env=None if env is None else dict(env),
        cwd=None if cwd is None else os.fspath(cwd),
        encoding_error_handler="replace",
    )
    with child_stderr(name, stderr, heard) as file:
        async with stdio_client(parameters, errlog=file) as streams:
            yield streams


@asynccontextmanager
async def address(
    url: str, headers: Mapping[str, str] | None, forgotten: Callable[[], None]
) -> AsyncGenerator[Streams]:
    """A server at an address. How long an answer may take is for the call to say."""
    timeout = httpx2.Timeout(30.0, read=None)

    async def look(response: httpx2.Response) -> None:
        if response.status_code == 404 and "mcp-session-id" in response.request.headers:
            forgotten()  # so says the protocol, whatever words and code a server has for it

    async with create_mcp_http_client(None if headers is None else dict(headers), timeout) as http:
        http.event_hooks = {"response": [look]}
        async with streamable_http_client(url, http_client=http, max_sse_event_size=_MOST_BYTES) as streams:
            yield streams


class Link:
    """A connection that a task of its own keeps open until it ends, or is ended."""

    def __init__(self, name: str, place: Open, command: str | None, seconds: float) -> None:
        self._name = name
        self._place = place
        self._command = command
        self._seconds = seconds
        self._heard: deque[str] = deque(maxlen=1)
        self._client: Client | None = None
        self._error: BaseException | None = None
        self._settled = asyncio.Event()
        self._over = asyncio.Event()
        self._tools: tuple[Listed, ...] | None = None
        self._is_stale = False
        self._is_ended = False
        self._is_forgotten = False
        self._reading = asyncio.Lock()
        # In a context of its own: it outlives the call, the run and the trace in which it began.
        self._task = asyncio.create_task(self._keep(), name=f"holdfast mcp {name}", context=contextvars.Context())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._task.cancel)

    @property
    def is_over(self) -> bool:
        return self._over.is_set() or self._is_forgotten or self._task.done()

    def end(self) -> None:
        """Have it end; it may take a moment."""
        self._is_ended = True
        self._over.set()
        if self._client is None:
            self._task.cancel()

    async def close(self) -> None:
        """End it, and wait until it has."""
        self.end()
        await asyncio.wait({self._task})

    async def client(self) -> Client:
        """The client, when the connection stands. Raises ConfigurationError, ServiceUnavailableError."""
        await self._settled.wait()
        if self._client is None:
            raise self._told(self._error)
        return self._client

    def _forget(self) -> None:
        """The server does not know our session any more: others take another link."""
        if not self._is_forgotten:
            self._is_forgotten = True
            asyncio.get_running_loop().call_later(_LAST_ANSWERS, self.end)

    # --- the task that keeps it ---------------------------------------------------------------------------------

    async def _keep(self) -> None:
        try:
            about = Implementation(name="holdfast", version=holdfast.__version__)
            async with Client(self._watched(), cache=None, client_info=about, message_handler=self._hear) as client:
                self._timer.cancel()
                self._client = client
                self._settled.set()
                await self._until_over(client)
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
            _LOG.debug("The connection to the MCP server %s ended", self._name, exc_info=True)
        finally:
            self._timer.cancel()
            self._over.set()
            self._settled.set()

    async def _until_over(self, client: Client) -> None:
        listening = asyncio.create_task(self._listen(client))
        try:
            await self._over.wait()
        finally:
            listening.cancel()
            await asyncio.wait({listening})

    @asynccontextmanager
    async def _watched(self) -> AsyncGenerator[Streams]:
        """The streams of the place, with an eye on their end."""
        async with self._place(self._heard, self._forget) as (read, write):
            yield _Watched(read, self._over.set), write

    # --- what changes -------------------------------------------------------------------------------------------

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._is_stale = True

    async def _listen(self, client: Client) -> None:
        """Have the server tell of changes, where its version of the protocol has to be asked for that."""
        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed:
            return
        seconds = _AGAIN_SECONDS
        while True:
            try:
                async with client.listen(tools_list_changed=True) as events:
                    self._is_stale = True  # what changed before we listened is not told
                    async for _ in events:
                        self._is_stale, seconds = True, _AGAIN_SECONDS
            except ListenNotSupportedError:
                return  # an older version: it tells without being asked
            except Exception as error:  # refused or lost: nothing that a call would have to know of
                _LOG.debug("The MCP server %s does not tell of changes: %s", self._name, error)
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, _AGAIN_MOST)

    # --- what is asked of the server ----------------------------------------------------------------------------

    async def listed(self) -> tuple[Listed, ...]:
        """What tools there are. Raises ConfigurationError, ServiceUnavailableError."""
        client = await self.client()
        async with self._reading:
            if self._tools is None or self._is_stale:
                self._is_stale = False
                try:
                    async with asyncio.timeout(self._seconds):
                        self._tools = tuple([tool async for tool in _all_tools(client)])
                except (MCPError, ValidationError, RuntimeError, OSError) as error:
                    self._is_stale = True
                    raise self._told(error) from error
                except asyncio.CancelledError:
                    self._is_stale = True
                    raise
            return self._tools

    async def call(self, tool: str, arguments: dict[str, Any], key: str) -> str | None:
        """Call a tool. None if the server had forgotten us, and did nothing. Raises ToolError, TimeoutError."""
        client = await self.client()
        meta: Any = {KEY: key}
        try:
            result = await client.call_tool(tool, arguments, meta=meta)
        except MCPError as error:
            if self._is_forgotten and error.code in _NO_SESSION:
                return None
            raise ToolError(self._told_of_call(error)) from error
        except (RuntimeError, ValidationError) as error:
            raise ToolError(f"The server has answered, but not as it should: {_first_line(error)}") from error
        return self._text(result)

    def _text(self, result: CallToolResult) -> str:
        text = text_of(result)
        if result.is_error:
            raise ToolError(text or "The tool failed, and the server does not say why.")
        return text

    def _told_of_call(self, error: MCPError) -> str:
        if error.code == CONNECTION_CLOSED:
            return (
                f"The connection to the MCP server {self._name} was lost in the middle of the call ({error.message}). "
                "Whether the call had an effect is unknown. Another call connects anew."
            )
        return f"The MCP server {self._name} answered the call with an error: {error.message} ({error.code})"

    def _told(self, error: BaseException | None) -> HoldfastError:
        """Why there is no connection, or no list."""
        error = _innermost(error)
        what = f"The MCP server {self._name}"
        if isinstance(error, OSError) and self._command is not None and not isinstance(error, TimeoutError):
            return ConfigurationError(f"{what} cannot be started with {self._command!r}: {error.strerror or error}.")
        if isinstance(error, asyncio.CancelledError) and self._is_ended:
            return ServiceUnavailableError(f"{what} was closed before it had answered.")
        if error is None or isinstance(error, (asyncio.CancelledError, TimeoutError)):
            return ServiceUnavailableError(f"{what} did not answer within {self._seconds:g} s.")
        said = f" The last that it said: {self._heard[-1]}" if self._heard else ""
        return ServiceUnavailableError(f"{what} cannot be reached: {_first_line(error)}.{said}")


class _Watched:
    """A stream to read, and somebody who is told when it has ended."""

    def __init__(self, stream: Any, tell: Callable[[], None]) -> None:
        self._stream = stream
        self._tell = tell

    @property
    def last_context(self) -> contextvars.Context | None:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        try:
            return await self._stream.receive()
        except Exception:
            self._tell()
            raise

    async def aclose(self) -> None:
        self._tell()
        await self._stream.aclose()

    def __aiter__(self) -> _Watched:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except (StopAsyncIteration, Exception):
            self._tell()
            raise

    async def __aenter__(self) -> _Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        self._tell()
        return await self._stream.__aexit__(*error)


async def _all_tools(client: Client) -> AsyncIterator[Listed]:
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            yield Listed(tool.name, tool.description or tool.title or "", tool.input_schema)
        cursor = page.next_cursor
        if cursor is None:
            return
    raise RuntimeError(f"its list of tools has more than {_MOST_PAGES} pages")


def _innermost(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _first_line(error: BaseException) -> str:
    with contextlib.suppress(IndexError):
        return str(error).strip().splitlines()[0][:500]
    return type(error).__name__
