"""Cursors: a place in what a turn says, and what comes after it.

Rule of this file: a place counts what was said (UTF-16 units of text, reasoning, refusals, the arguments of calls and
their results), not the pieces in which it came. So the same cursor fits the stream that is read, the journal that
another process reads, and the finished turn for as long as it is stored; nothing has to be kept for those who may come
back. A tool call counts, and is told to followers, as a whole and after the texts of its answer: only then is it sure
that it was made.

A cursor is `epoch.n`: how far (`n`), and as whose words (`epoch`, the writer of the run). If the run is taken over, its
new writer asks again for the answer that was cut off: then the text restarts at an earlier place, and whoever has read
the words of the earlier writer is told so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolResultContent,
)
from holdfast.conversation.turns import Turn, TurnStatus
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    ReasoningUpdate,
    RefusalUpdate,
    ToolCallUpdate,
    ToolResultUpdate,
    Usage,
)


class RestartUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True, gc=False):
    """What was said after the place `n` is void: the run was taken over there, or it was not recorded.

    `n` counts like a cursor's. What follows goes on from that place, as the words of the writer `epoch`.
    """

    n: int
    epoch: int = 0


class EndUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True):
    """The last update of a turn that is followed: how it ended. There is exactly one."""

    status: TurnStatus
    finish_reason: str | None = None
    usage: Usage | None = None


class Cursor(Struct, frozen=True):
    """A place in what a turn says. `str(cursor)` is what callers keep, `parsed` reads it."""

    epoch: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}.{self.n}"


_CURSOR = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)


def parsed(cursor: object) -> Cursor:
    """The cursor in a string. Raises InvalidInputError for what no stream gave."""
    found = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if found is None:
        raise InvalidInputError(
            f"{cursor!r} is no cursor. Pass what a stream's .cursor said, or None to begin at the beginning."
        )
    return Cursor(int(found[1]), int(found[2]))


def units(update: AgentRunResponseUpdate) -> int:
    """How far an update leads."""
    kind = type(update)
    if kind is AgentRunResponseUpdate:
        return _length(update.text)
    if isinstance(update, ToolCallUpdate):
        return 1 + _length(update.arguments)
    if isinstance(update, ReasoningUpdate):
        return _length(update.reasoning)
    if isinstance(update, ToolResultUpdate):
        return 1 + _length(update.result)
    return _length(update.refusal) if isinstance(update, RefusalUpdate) else 0


def _length(text: str) -> int:
    # Two halves of a surrogate pair that come in two pieces count as much as the whole character.
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def spoken(updates: Iterable[AgentRunResponseUpdate]) -> list[AgentRunResponseUpdate]:
    """Updates of an answer that is not over, without the pieces of its calls."""
    return [update for update in updates if not isinstance(update, ToolCallUpdate)]


def updates_of(messages: Iterable[ChatMessage]) -> list[AgentRunResponseUpdate]:
    """What was said in messages, as updates: one for each part, the calls of a message after its texts."""
    found: list[AgentRunResponseUpdate] = []
    for message in messages:
        for part in message.contents if message.role in ("assistant", "tool") else ():
            if isinstance(part, ToolResultContent):
                found.append(ToolResultUpdate(call_id=part.call_id, result=part.result, is_error=part.is_error))
            elif isinstance(part, TextContent):
                found.append(AgentRunResponseUpdate(part.text))
            elif isinstance(part, ReasoningContent):
                found.append(ReasoningUpdate(reasoning=part.text))
            elif isinstance(part, RefusalContent):
                found.append(RefusalUpdate(refusal=part.text))
        for index, call in enumerate(message.tool_calls):
            found.append(ToolCallUpdate(index=index, call_id=call.call_id, name=call.name, arguments=call.arguments))
    return found


def rest(updates: Sequence[AgentRunResponseUpdate], start: int, after: int) -> tuple[list[AgentRunResponseUpdate], int]:
    """What of updates, the first of which begins at `start`, lies after a place; and the place where they end."""
    found: list[AgentRunResponseUpdate] = []
    at = start
    for update in updates:
        length = units(update)
        if at + length > after:
            found.append(update if at >= after else _cut(update, after - at))
        elif not length and at >= after:
            found.append(update)
        at += length
    return found, at


def _cut(update: AgentRunResponseUpdate, by: int) -> AgentRunResponseUpdate:
    """The update without its first units."""
    if isinstance(update, ToolCallUpdate):
        left = _without(update.arguments, by)
        return ToolCallUpdate(index=update.index, call_id=update.call_id, name=update.name, arguments=left)
    if isinstance(update, ToolResultUpdate):
        return ToolResultUpdate(call_id=update.call_id, result=_without(update.result, by), is_error=update.is_error)
    if isinstance(update, ReasoningUpdate):
        return ReasoningUpdate(reasoning=_without(update.reasoning, by))
    if isinstance(update, RefusalUpdate):
        return RefusalUpdate(refusal=_without(update.refusal, by))
    return AgentRunResponseUpdate(_without(update.text, by))


def _without(text: str, by: int) -> str:
    if text.isascii():
        return text[by:]
    return text.encode("utf-16-le", "surrogatepass")[2 * by :].decode("utf-16-le", "surrogatepass")


def restart_for(restarts: Iterable[tuple[int, int]], cursor: Cursor) -> RestartUpdate | None:
    """What somebody at a cursor must be told of a turn's restarts, given as (epoch, place); None if nothing.

    Who has read nothing yet reads the words that count, and need not know.
    """
    later = [(epoch, place) for epoch, place in restarts if epoch > cursor.epoch]
    if not later or not cursor.epoch:
        return None
    return RestartUpdate(n=min(cursor.n, *(place for _, place in later)), epoch=max(epoch for epoch, _ in later))


def moved(cursor: Cursor, updates: Iterable[AgentRunResponseUpdate]) -> Cursor:
    """The cursor after further updates."""
    for update in updates:
        if isinstance(update, RestartUpdate):
            cursor = Cursor(update.epoch, update.n)
        else:
            cursor = Cursor(cursor.epoch, cursor.n + units(update))
    return cursor


def end_of(turn: Turn) -> EndUpdate:
    """The last update of a finished turn."""
    return EndUpdate(status=turn.status, finish_reason=turn.finish_reason, usage=turn.usage)
