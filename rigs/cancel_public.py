"""What there is to cancel: every public coroutine of the library, and every line of it that waits.

Both are found by inspection and not listed here, so that a new one cannot escape: a public coroutine that no
situation covers is a finding, and so is a line that waits and was never cancelled at.

Rule of this file: it reads the library and runs nothing of it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import holdfast
from rigs.cancel_drive import LIBRARY, Place

# Where the library's own ways of waiting stand. The command line is a program, and the test doubles are tests.
WAITING_CODE = ("engine", "clients", "stores", "ports")

# What a method of these return types gives is waited for: coroutines in other words, and what is read piece by piece.
_AWAITED = re.compile(r"\b(Awaitable|Coroutine|Handed|AsyncGenerator|AsyncIterator|AgentRunStream|TurnFollower)\b")
_IS_CLOSED = "an answer that has failed, or was cancelled, has closed its connection by itself"
_IS_WRITTEN = "the same question was put before: the journal is written and the history is read"
_IS_READ = "it waits for whoever reads the updates, who is cancelled between two of them, and not in the event loop"
# Lines that are written as if they waited, and never do: each with its reason.
NEVER = {
    ("clients/transport.py", "line = self._lines.get(asyncio.get_running_loop()) or await self._open()"): (
        "it opens no connection, only the pool"
    ),
    ("clients/transport.py", "await anext(line.keeper)"): "the generator yields at once",
    ("clients/transport.py", "await self.write_with_length(writer, None)"): "the HTTP library calls the other one",
    ("clients/transport.py", "await writer.write(bytes(body))"): "so little fits into an idle connection at once",
    ("clients/transport.py", "await writer.drain()"): "the write before it has waited already",
    ("engine/rounds.py", "await self._end_exchange()"): _IS_CLOSED,
    ("engine/runs.py", "await self._end_exchange()"): _IS_CLOSED,
    ("engine/runs.py", "await self._end_failed_exchange()"): _IS_CLOSED,
    ("engine/runs.py", "if not await self._shows_less():"): _IS_WRITTEN,
    ("engine/runs.py", "await self.ask()"): _IS_WRITTEN,
    ("engine/surrounding.py", "await hand_on(updates)"): _IS_READ,
    ("engine/surrounding.py", "await hand_on(iter(updates_of([message])))"): _IS_READ,
    ("engine/streams.py", "await self._steps.aclose()"): "a follower's generator has nothing to wait for when it ends",
    ("engine/sync.py", "return await work"): "the background loop of run_sync, which is no coroutine of the caller's",
}
_ASYNC_DUNDERS = ("__aenter__", "__aexit__", "__anext__", "__await__")


def public_coroutines() -> list[str]:
    """All that a user of the library can await, or read piece by piece, as "Class.method"."""
    found: list[str] = []
    for name in holdfast.__all__:
        thing = getattr(holdfast, name)
        if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
            found += [f"{name}.{method}" for method in _methods(thing) if _is_awaited(thing, method)]
        elif inspect.iscoroutinefunction(thing) or inspect.isasyncgenfunction(thing):
            found.append(name)
    return sorted(found)


def _methods(kind: type) -> Iterator[str]:
    yield from (name for name in dir(kind) if not name.startswith("_"))
    yield from (name for name in _ASYNC_DUNDERS if hasattr(kind, name))


def _is_awaited(kind: type, name: str) -> bool:
    method: Any = inspect.getattr_static(kind, name)
    method = getattr(method, "__func__", method)
    if not inspect.isfunction(method):
        return False
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return True
    told = method.__annotations__.get("return", "")
    return name in _ASYNC_DUNDERS or bool(_AWAITED.search(told if isinstance(told, str) else repr(told)))


class Waits:
    """The lines of the library that wait, and which of them were cancelled at."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[int, int]]] = {}
        for folder in WAITING_CODE:
            for file in sorted(Path(LIBRARY, folder).rglob("*.py")):
                spans = sorted(_spans(ast.parse(file.read_text())), key=lambda span: span[1] - span[0])
                if spans:
                    self._spans[str(file).removeprefix(LIBRARY)] = spans
        self._struck: set[Place] = set()

    def strike(self, places: Iterable[Place]) -> None:
        """A coroutine was cancelled while these lines waited."""
        for file, line in places:
            for first, last in self._spans.get(file, ()):  # the shortest first: the innermost
                if first <= line <= last:
                    self._struck.add((file, first))
                    break

    @property
    def all(self) -> set[Place]:
        return {(file, first) for file, spans in self._spans.items() for first, _ in spans}

    @property
    def struck(self) -> set[Place]:
        return set(self._struck)

    def missed(self) -> list[Place]:
        """Lines at which nothing was cancelled, though they wait."""
        return sorted(place for place in self.all - self._struck if (place[0], line_of(place)) not in NEVER)


def line_of(place: Place) -> str:
    """The text of a line of the library."""
    file, line = place
    return Path(LIBRARY, file).read_text().splitlines()[line - 1].strip()


def _spans(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """The first and the last line of everything that waits."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Await):
            yield node.lineno, node.end_lineno or node.lineno
        elif isinstance(node, ast.AsyncFor) or (isinstance(node, ast.comprehension) and node.is_async):
            yield node.iter.lineno, node.iter.end_lineno or node.iter.lineno
        elif isinstance(node, ast.AsyncWith):
            for item in node.items:
                if not _never_waits(item.context_expr):
                    yield item.context_expr.lineno, item.context_expr.end_lineno or item.context_expr.lineno


def _never_waits(context: ast.expr) -> bool:
    """Whether entering and leaving it waits for nothing: asyncio's timeouts, and the closing of a generator's end."""
    told = ast.unparse(context)
    return told.startswith(("asyncio.timeout", "aclosing("))
