"""What the tests of function tools share: how a tool is called, and types to call it with."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from typing import Any, NamedTuple

from pydantic import BaseModel
from typing_extensions import TypedDict

from holdfast.ports.tools import Tool, ToolContext
from holdfast.tools.functions import tool


def context(deps: Any = None) -> ToolContext[Any]:
    return ToolContext("it", "call-1", "turn-1", "thread-1", deps)


async def called(it: Tool, deps: Any = None, /, **arguments: Any) -> str:
    return await it.call(json.dumps(arguments), context(deps))


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Place(BaseModel):
    city: str
    floor: int = 0


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Wish(TypedDict):
    what: str
    when: datetime.date


class Pair(NamedTuple):
    left: int
    right: str


def time_zone() -> str:
    return "UTC"


class Adder:
    """Adds to what it has."""

    def __init__(self, base: int) -> None:
        self.base = base

    def add(self, n: int) -> int:
        """Add."""
        return self.base + n

    async def __call__(self, n: int) -> int:
        return self.base + n

    @tool(timeout=3)
    def added(self, n: int) -> int:
        return self.base + n
