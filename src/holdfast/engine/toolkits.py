"""Toolkits: the tools of an agent, or of one run, by their names.

Rule of this file: a toolkit does not change. What a codec makes of it is encoded once and kept with it.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import msgspec

from holdfast.conversation.errors import InvalidInputError
from holdfast.ports.clients import AnswerFormat, Codec
from holdfast.ports.tools import Tool, ToolContext, ToolSource, ToolSpec

# What may be given as a tool: one, a Python function that is made into one, or a source of tools.
Callee: TypeAlias = Tool | ToolSource | Callable[..., Any]

# Characters of a tool's name, as services take them.
MAX_NAME = 64


class AnswerShape(Protocol):
    """What an answer is to be: `format` for the service, `read` for the text that came.

    `read` raises ValueError, in words for the model, if the text is not of that form.
    """

    @property
    def format(self) -> AnswerFormat: ...

    def read(self, text: str) -> Any: ...


class Toolkit:
    """Tools by their names, and sources that will say what they offer."""

    __slots__ = ("_encoded", "_resolved", "by_name", "sources")

    def __init__(self, by_name: Mapping[str, Tool], sources: Sequence[ToolSource] = ()) -> None:
        self.by_name = by_name
        self.sources = tuple(sources)
        self._encoded: dict[str, bytes] = {}
        self._resolved: tuple[list[Sequence[Tool]], Toolkit] | None = None

    def encoded(self, codec: Codec) -> bytes:
        """The tools as a codec writes them; b"" if there are none."""
        found = self._encoded.get(codec.name)
        if found is None:
            specs = [tool.spec for tool in self.by_name.values()]
            found = self._encoded[codec.name] = codec.tools(specs) if specs else b""
        return found

    def joined(self, others: Toolkit) -> Toolkit:
        """These tools and others; where both have a name, the others'. A source counts once."""
        if others is self or not (others.by_name or others.sources):
            return self
        if not (self.by_name or self.sources):
            return others
        more = [source for source in others.sources if not any(source is mine for mine in self.sources)]
        return Toolkit({**self.by_name, **others.by_name}, [*self.sources, *more])

    async def resolved(self) -> Toolkit:
        """The tools with what the sources offer now. As long as that stays the same, so does what is returned.

        Raises what a source raises that cannot say what it offers.
        """
        if not self.sources:
            return self
        offered = list(await asyncio.gather(*(source.tools() for source in self.sources)))
        if self._resolved is None or any(new is not old for new, old in zip(offered, self._resolved[0], strict=True)):
            self._resolved = offered, Toolkit(_told_apart(self.by_name, self.sources, offered))
        return self._resolved[1]


NO_TOOLS = Toolkit({})


class _Renamed:
    """A tool under another name."""

    def __init__(self, tool: Tool, name: str) -> None:
        self._tool = tool
        self.spec: ToolSpec = msgspec.structs.replace(tool.spec, name=name)
        self.needs_approval = tool.needs_approval
        self.call: Callable[[str, ToolContext[Any]], Any] = tool.call

    def __repr__(self) -> str:
        return f"<tool {self.spec.name}>"

    @property
    def timeout(self) -> float | None:
        return self._tool.timeout

    @property
    def idempotent(self) -> bool:
        return self._tool.idempotent

    @property
    def in_thread(self) -> bool:
        return self._tool.in_thread

    @property
    def approval_seconds(self) -> float | None:
        return self._tool.approval_seconds


def _told_apart(
    own: Mapping[str, Tool], sources: Sequence[ToolSource], offered: Sequence[Sequence[Tool]]
) -> dict[str, Tool]:
    """All tools by names that are no other's. Of those that clash, each source's get the source's name before them."""
    by_name = dict(own)
    clashing = Counter([*own, *(tool.spec.name for tools in offered for tool in tools)])
    for source, tools in zip(sources, offered, strict=True):
        for tool in tools:
            name = tool.spec.name
            if clashing[name] > 1:
                before = re.sub(r"[^a-zA-Z0-9_-]", "_", source.name)
                name = _free(f"{before}__{name}", by_name.keys() | clashing.keys())
            by_name[name] = tool if name == tool.spec.name else _Renamed(tool, name)
    return by_name


def _free(name: str, taken: Iterable[str]) -> str:
    """The name if nobody has it, else with a number behind it."""
    found, number = name[:MAX_NAME], 1
    while found in taken:
        number += 1
        found = f"{name[: MAX_NAME - 1 - len(str(number))]}_{number}"
    return found


def toolkit(tools: object) -> Toolkit:
    """The toolkit of what a caller gave as `tools=`. Raises InvalidInputError for what is no tool, or of one name."""
    if tools is None:
        return NO_TOOLS
    given = [tools] if callable(tools) or hasattr(tools, "spec") or _is_source(tools) else tools
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping)):
        raise InvalidInputError(f"tools= takes a list of functions or tools; got {type(tools).__name__}.")
    by_name: dict[str, Tool] = {}
    sources: list[ToolSource] = []
    for item in given:
        if _is_source(item):
            if not any(item is source for source in sources):
                sources.append(cast("ToolSource", item))
            continue
        tool = _as_tool(item)
        if tool.spec.name in by_name:
            raise InvalidInputError(
                f"Two tools have the name {tool.spec.name!r}, and a model could not tell them apart. Give one of them "
                "another: @tool(name=...)."
            )
        by_name[tool.spec.name] = tool
    return Toolkit(by_name, sources) if by_name or sources else NO_TOOLS


def _is_source(item: object) -> bool:
    return hasattr(item, "name") and callable(getattr(item, "tools", None)) and not isinstance(item, type)


def _as_tool(item: object) -> Tool:
    if hasattr(item, "spec") and hasattr(item, "call"):
        return cast("Tool", item)
    if not callable(item):
        raise InvalidInputError(f"A tool is a function, or what @tool or as_tool() made; got {type(item).__name__}.")
    # A lazy boundary (ARCHITECTURE.md): only Python functions need pydantic, which takes its time to be imported.
    from holdfast.tools.functions import function_tool

    return function_tool(item)


def answer_shape(kind: object) -> AnswerShape | None:
    """The shape of what a caller gave as `response_format=`. Raises InvalidInputError if it has none."""
    if kind is None:
        return None
    # A lazy boundary, as above.
    from holdfast.tools import answers

    return answers.answer_shape(kind)
