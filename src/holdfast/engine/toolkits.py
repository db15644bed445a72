"""Toolkits: the tools of an agent, or of one run, by their names.

Rule of this file: a toolkit does not change. What a codec makes of it is encoded once and kept with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, cast

from holdfast.conversation.errors import InvalidInputError
from holdfast.ports.clients import AnswerFormat, Codec
from holdfast.ports.tools import Tool

# What may be given as a tool: one, or a Python function that is made into one.
Callee: TypeAlias = Tool | Callable[..., Any]


class AnswerShape(Protocol):
    """What an answer is to be: `format` for the service, `read` for the text that came.

    `read` raises ValueError, in words for the model, if the text is not of that form.
    """

    @property
    def format(self) -> AnswerFormat: ...

    def read(self, text: str) -> Any: ...


class Toolkit:
    """Tools by their names."""

    __slots__ = ("_encoded", "by_name")

    def __init__(self, by_name: Mapping[str, Tool]) -> None:
        self.by_name = by_name
        self._encoded: dict[str, bytes] = {}

    def encoded(self, codec: Codec) -> bytes:
        """The tools as a codec writes them; b"" if there are none."""
        found = self._encoded.get(codec.name)
        if found is None:
            specs = [tool.spec for tool in self.by_name.values()]
            found = self._encoded[codec.name] = codec.tools(specs) if specs else b""
        return found

    def joined(self, others: Toolkit) -> Toolkit:
        """These tools and others; where both have a name, the others'."""
        if not others.by_name or others is self:
            return self
        return others if not self.by_name else Toolkit({**self.by_name, **others.by_name})


NO_TOOLS = Toolkit({})


def toolkit(tools: object) -> Toolkit:
    """The toolkit of what a caller gave as `tools=`. Raises InvalidInputError for what is no tool, or of one name."""
    if tools is None:
        return NO_TOOLS
    given = [tools] if callable(tools) or hasattr(tools, "spec") else tools
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping)):
        raise InvalidInputError(f"tools= takes a list of functions or tools; got {type(tools).__name__}.")
    by_name: dict[str, Tool] = {}
    for item in given:
        tool = _as_tool(item)
        if tool.spec.name in by_name:
            raise InvalidInputError(
                f"Two tools have the name {tool.spec.name!r}, and a model could not tell them apart. Give one of them "
                "another: @tool(name=...)."
            )
        by_name[tool.spec.name] = tool
    return Toolkit(by_name) if by_name else NO_TOOLS


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
