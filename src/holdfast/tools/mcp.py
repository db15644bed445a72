"""MCP: the tools of a server that speaks the Model Context Protocol, for an agent.

    async with MCPServer.stdio("uvx", ["mcp-server-time"]) as server:
        agent = client.create_agent(tools=[server])

Rules of this file: what a server does wrong is a result for the model, never a crash of the run. Nothing that a server
says of its own tools (its hints: "read only", "idempotent") is believed where it would let something happen. The `mcp`
package is imported when a server is first used.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import re
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO, TypedDict, Unpack
from urllib.parse import urlsplit

from holdfast.conversation.errors import HoldfastError, InvalidInputError
from holdfast.ports.tools import ToolError
from holdfast.tools.in_threads import in_thread
from holdfast.tools.mcp_extra import links
from holdfast.tools.mcp_tools import Listed, MCPApproval, MCPTool, MCPToolSettings, tools_of

if TYPE_CHECKING:
    from holdfast.tools.mcp_links import Link, Open

# How often a call is sent to a server that has forgotten us, and so does nothing.
_TRIES = 2

# Seconds for which a run waits for the list of a server whose list it knows already, from an earlier connection.
_PATIENCE = 5.0


class MCPOptions(TypedDict, total=False):
    """What may be set for a server.

    `name` is what it is called here, and stands before the names of tools that clash with others. `timeout` is for one
    call, in seconds (default 60; None for none); `connect_timeout` for finding the server, and for its list (30).
    With `approval` a human must allow each call: always, or where a function says so that is given the tool's name
    and its arguments (if it raises, one must); `approval_seconds` is how long they have. `allowed` names the tools that
    are offered to the model, if not all. `idempotent` names those that may be called twice under the same call id, so
    that a call that a crash cut off is made again. All these names are those that the server uses. `prefix` is put
    before each, with two underlines.
    """

    name: str | None
    timeout: float | None
    connect_timeout: float
    approval: MCPApproval
    approval_seconds: float | None
    allowed: Iterable[str] | None
    idempotent: Iterable[str]
    prefix: str | None


class MCPServer:
    """An MCP server and its tools; a source of tools for an agent or a run: `tools=[server]`.

    It is connected to when it is first needed, or on entering it, once for each event loop; if the connection or the
    server dies, the next call makes it anew. Leaving it closes the connection and ends the process behind it. One that
    was not entered is closed when its event loop ends.
    """

    def __init__(self, place: Open, command: str | None, name: str, options: MCPOptions) -> None:
        """Not for callers: see `stdio` and `http`."""
        _check(options)
        self._place = place
        self._command = command
        self._name = options.get("name") or name
        self._timeout = options.get("timeout", 60.0)
        self._connect_timeout = options.get("connect_timeout", 30.0)
        self._settings = MCPToolSettings(
            options.get("approval", False),
            options.get("approval_seconds"),
            _names("allowed", options.get("allowed")),
            _names("idempotent", options.get("idempotent")) or frozenset(),
            options.get("prefix"),
        )
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}
        self._kind: type[Link] | None = None
        self._listed: tuple[Listed, ...] = ()
        self._tools: tuple[MCPTool, ...] | None = None

    @classmethod
    def stdio(
        cls,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stderr: TextIO | None = None,
        **options: Unpack[MCPOptions],
    ) -> MCPServer:
        """A server that is started as a child process, and spoken with through its stdin and stdout.

        Of our environment the child gets HOME, LOGNAME, PATH, SHELL, TERM and USER; `env` is added. What it writes to
        its stderr goes to the log "holdfast.mcp", as information, or to the open file `stderr`.
        """
        if isinstance(args, str) or not all(isinstance(each, str) for each in (command, *args)):
            raise InvalidInputError(
                'An MCP server is started by a command and a list: MCPServer.stdio("uvx", ["..."]).'
            )

        def place(heard: deque[str], _: object) -> Any:
            return links().child(name, [command, *args], heard, env=env, cwd=cwd, stderr=stderr)

        first = next((each for each in args if not each.startswith("-")), command)
        name = options.get("name") or re.sub(r"[^\w-]+", "_", PurePath(first).stem)[:32] or "mcp"
        return cls(place, command, name, options)

    @classmethod
    def http(cls, url: str, *, headers: Mapping[str, str] | None = None, **options: Unpack[MCPOptions]) -> MCPServer:
        """A server at an address (streamable HTTP). `headers` go with every request: {"Authorization": "Bearer …"}."""
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInputError("The address of an MCP server begins with http:// or https:// and names a host.")
        return cls(lambda _, forgotten: links().address(url, headers, forgotten), None, parts.hostname, options)

    def __repr__(self) -> str:
        return f"<MCP server {self._name}>"  # no arguments, no address: they may hold secrets

    @property
    def name(self) -> str:
        return self._name

    async def __aenter__(self) -> MCPServer:
        """Connect. Raises ConfigurationError or ServiceUnavailableError if that does not succeed."""
        await (await self._link()).client()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, and end the process behind it. The next use makes a new one."""
        here = asyncio.get_running_loop()
        for loop, link in list(self._links.items()):
            self._links.pop(loop, None)
            if loop is here:
                await link.close()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(link.end)

    # --- the list -----------------------------------------------------------------------------------------------

    async def tools(self) -> Sequence[MCPTool]:
        """The server's tools: read once for each connection, and anew when the server says that they have changed.

        The same object for as long as they are the same; also while the server cannot be reached, if it could before:
        a call then says so. Raises ConfigurationError or ServiceUnavailableError if it never could.
        """
        try:
            async with asyncio.timeout(None if self._tools is None else _PATIENCE):
                listed = await (await self._link()).listed()
        except (HoldfastError, TimeoutError):
            if self._tools is None:
                raise
            return self._tools
        if self._tools is None or listed != self._listed:
            self._listed, self._tools = listed, tools_of(self._name, listed, self._settings, self._call)
        return self._tools

    # --- a call -------------------------------------------------------------------------------------------------

    async def _call(self, tool: str, arguments: dict[str, Any], key: str) -> str:
        """Call a tool of the server. Raises ToolError for whatever goes wrong."""
        for _ in range(_TRIES):
            link = await self._connected()
            text = await self._in_time(link.call(tool, arguments, key))
            if text is not None:
                return text
        raise ToolError(f"The MCP server {self._name} forgets its sessions at once; the call was not made.")

    async def _in_time(self, call: Awaitable[str | None]) -> str | None:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await call
        except TimeoutError as error:
            if limit.expired():
                told = f"The call took longer than {self._timeout:g} s and was given up; the server was told so."
            else:
                told = f"The connection to the MCP server {self._name} failed."
            raise ToolError(f"{told} Whether it had an effect is unknown.") from error

    async def _connected(self) -> Link:
        """The link, when it stands. Raises ToolError."""
        try:
            link = await self._link()
            await link.client()
        except HoldfastError as error:
            raise ToolError(f"The call was not made and nothing was done. {error}") from error
        return link

    async def _link(self) -> Link:
        """The link of this event loop; a new one if there is none or the last has ended."""
        if self._kind is None:
            self._kind = (await in_thread(links, "mcp")).Link  # the import takes a second: not in the event loop
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None or link.is_over:
            for closed in [each for each in self._links if each.is_closed()]:
                self._links.pop(closed, None)
            link = self._links[loop] = self._kind(self._name, self._place, self._command, self._connect_timeout)
        return link


def _names(option: str, given: Iterable[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    names = None if isinstance(given, (str, bytes)) else list(given)
    if names is None or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"{option} is a list of names of tools; got {given!r}.")
    return frozenset(names)


def _check(options: MCPOptions) -> None:
    name = options.get("name")
    if name is not None and not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= 64):
        raise InvalidInputError(f"name is a text of 1 to 64 printable characters; got {name!r}.")
    unknown = options.keys() - MCPOptions.__annotations__.keys()
    if unknown:
        raise InvalidInputError(f"An MCP server has no option {', '.join(sorted(map(repr, unknown)))}.")
    given: Mapping[str, Any] = options
    for word in ("timeout", "connect_timeout", "approval_seconds"):
        seconds = given.get(word)
        if seconds is None and (word not in given or word != "connect_timeout"):
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
            raise InvalidInputError(f"{word}={seconds!r} is no number of seconds above 0.")
    approval = given.get("approval", False)
    if not isinstance(approval, bool) and (not callable(approval) or inspect.iscoroutinefunction(approval)):
        raise InvalidInputError("approval is True, False or a plain function of a tool's name and its arguments.")
    if given.get("approval_seconds") is not None and approval is False:
        raise InvalidInputError("approval_seconds without approval: set approval as well.")
    prefix = given.get("prefix")
    if prefix is not None and not (isinstance(prefix, str) and re.fullmatch(r"[a-zA-Z0-9_-]{1,32}", prefix)):
        raise InvalidInputError('prefix has 1 to 32 of the letters a to z and A to Z, digits, "_" and "-".')
