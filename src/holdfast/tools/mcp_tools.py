"""MCP tools: what a server lists, as tools of ours.

Rule of this file: a tool has one name here for as long as the server's list is the same, whatever the order of the
list; an approval that waits on the disk finds its tool again by that name.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from pydantic_core import from_json

from holdfast.conversation.updates import sound
from holdfast.ports.tools import ToolContext, ToolError, ToolSpec

_LOG = logging.getLogger("holdfast.mcp")

# Characters of a tool's name, as services take them.
_MOST = 64

MCPApproval = bool | Callable[[str, dict[str, Any]], bool]

# Calls a tool by the server's name for it, with its arguments and a key that is this call's alone.
Call = Callable[[str, dict[str, Any], str], Awaitable[str]]


class Listed(Struct, frozen=True):
    """A tool as its server lists it."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class MCPToolSettings(Struct, frozen=True):
    """What was set for the tools of a server; see `MCPOptions`."""

    approval: MCPApproval
    approval_seconds: float | None
    allowed: frozenset[str] | None
    idempotent: frozenset[str]
    prefix: str | None


class MCPTool:
    """A tool of an MCP server (`holdfast.ports.tools.Tool`). It stays one when the server has died."""

    def __init__(self, name: str, listed: Listed, settings: MCPToolSettings, call: Call) -> None:
        self._spec = ToolSpec(name, listed.description, {"type": "object", **listed.parameters})
        self._name = listed.name
        self._settings = settings
        self._call = call

    def __repr__(self) -> str:
        return f"<tool {self._spec.name}>"

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    @property
    def timeout(self) -> None:
        """The server's `timeout` is kept by the call itself, which knows that its outcome is unknown then."""
        return None

    @property
    def idempotent(self) -> bool:
        return self._name in self._settings.idempotent

    @property
    def in_thread(self) -> bool:
        return False

    @property
    def approval_seconds(self) -> float | None:
        return self._settings.approval_seconds

    def needs_approval(self, arguments: str) -> bool:
        """Whether a human must allow the call. If the rule fails, one must."""
        rule = self._settings.approval
        if rule is False:
            return False
        try:
            read = self._read(arguments)
        except ToolError:
            return False
        try:
            return rule is True or bool(rule(self._name, read))
        except Exception:
            return True

    async def call(self, arguments: str, context: ToolContext[Any]) -> str:
        """Have the server do it. Raises ToolError."""
        return await self._call(self._name, self._read(arguments), context.idempotency_key)

    def _read(self, arguments: str) -> dict[str, Any]:
        text = sound(arguments)
        try:
            read = from_json(text if text.strip() else "{}", allow_inf_nan=False)
        except ValueError as error:
            raise ToolError(f"The call was not made: its arguments are no valid JSON ({error}).") from error
        if not isinstance(read, dict):
            raise ToolError("The call was not made: its arguments are no JSON object with the arguments by name.")
        return read


def tools_of(server: str, listed: Iterable[Listed], settings: MCPToolSettings, call: Call) -> tuple[MCPTool, ...]:
    """The tools that the model may see, in the server's order."""
    by_name = {each.name: each for each in listed}
    allowed = settings.allowed
    missing = sorted(allowed - by_name.keys()) if allowed is not None else ()
    if missing:
        _LOG.warning("The MCP server %s has no tool of the names %s, which are allowed.", server, ", ".join(missing))
    names = names_here([name for name in by_name if allowed is None or name in allowed], settings.prefix)
    return tuple(MCPTool(here, by_name[there], settings, call) for there, here in names.items())


def names_here(names: Iterable[str], prefix: str | None) -> dict[str, str]:
    """What each is called here: its own name where services take it, else one that is near, and no other's."""
    wanted = {name: f"{prefix}__{name}" if prefix else name for name in names}
    near = {name: re.sub(r"[^a-zA-Z0-9_-]", "_", full)[:_MOST] for name, full in wanted.items()}
    taken = {name for name in near.values() if name in wanted.values()}
    counts = Counter(near.values())
    here = {}
    for name, full in wanted.items():
        found = near[name]
        if not found or (found != full and counts[found] > 1):
            found = _marked(name, found, taken)
            taken.add(found)
        here[name] = found
    return here


def _marked(name: str, near: str, taken: set[str]) -> str:
    """A name with a mark that this one alone has."""
    mark = hashlib.sha256(sound(name).encode()).hexdigest()
    found = f"{near[: _MOST - 9]}_{mark[:8]}"
    while found in taken:  # somebody has worked it out, and means to be taken for another
        mark = hashlib.sha256(mark.encode()).hexdigest()
        found = f"{near[: _MOST - 9]}_{mark[:8]}"
    return found
