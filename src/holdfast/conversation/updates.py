"""Updates: what a model says piece by piece, and the one way in which pieces become a message.

Rule of this file: an update is a delta, never a snapshot. A streamed and an unstreamed answer become the same
updates, so the log cannot tell them apart. `Answer` is the only fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from holdfast.conversation.messages import (
    ChatMessage,
    Content,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    assembled,
)


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens, as the service counted them. Usages can be added.

    `cached_tokens` were read from and `cache_write_tokens` written to the service's prompt cache; both, and
    `reasoning_tokens`, are part of the counts before them.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class AgentRunResponseUpdate(Struct, frozen=True, gc=False):
    """One piece of an answer. This class itself is a piece of text; the subclasses are the other kinds.

    `.text` is the new text, "" for every other kind, so that printing `.text` of all updates prints the answer.
    """

    text: str = ""


class ReasoningUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True, gc=False):
    """A piece of what the model thinks before it answers."""

    reasoning: str


class RefusalUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True, gc=False):
    """A piece of the model's words for declining."""

    refusal: str


class ToolCallUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True, gc=False):
    """A piece of a tool call. `index` says which call of this answer; `arguments` is the next part of its JSON text.

    `call_id` and `name` come with the first piece; where the service sends none they are "".
    """

    index: int
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class ToolResultUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True, gc=False):
    """What came of a tool call, whole; results come in the order of the calls."""

    call_id: str
    result: str
    is_error: bool = False


class UsageUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True):
    """The tokens of this answer so far; the last one counts."""

    usage: Usage


class FinishUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True, gc=False):
    """Facts about the answer: why it ended (`stop`, `length`, `tool_calls`, `content_filter`), and who gave it.

    It may come more than once; what is None leaves the earlier word standing.
    """

    finish_reason: str | None = None
    model: str | None = None
    response_id: str | None = None


class _Call:
    """A tool call that is still coming in."""

    __slots__ = ("arguments", "call_id", "name")

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.arguments: list[str] = []


# What an answer is made of while it comes in: runs of text of one kind, or a call.
_MAKE: dict[type, type[TextContent] | type[ReasoningContent] | type[RefusalContent]] = {
    AgentRunResponseUpdate: TextContent,
    ReasoningUpdate: ReasoningContent,
    RefusalUpdate: RefusalContent,
}


class Answer:
    """One answer of a model, folded from updates.

    `add` takes what came, in order; `message` gives what there is of the message. Pieces are kept as they come
    and joined once, so a long answer costs no more per piece than a short one.
    """

    __slots__ = ("_calls", "_last", "_pieces", "_runs", "finish_reason", "model", "response_id", "usage")

    def __init__(self) -> None:
        self._runs: list[tuple[type, list[str]] | _Call] = []
        self._calls: dict[int, _Call] = {}
        self._last: type | None = None
        self._pieces: list[str] = []
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.response_id: str | None = None
        self.usage: Usage | None = None

    def add(self, updates: Iterable[AgentRunResponseUpdate]) -> None:
        """Take the next updates."""
        for update in updates:
            kind = type(update)
            if kind is AgentRunResponseUpdate:
                if not update.text:
                    continue  # servers send an empty piece beside every piece of reasoning
                if self._last is not kind:
                    self._begin(kind)
                self._pieces.append(update.text)
            else:
                self._add_other(update)

    def _begin(self, kind: type) -> None:
        self._last = kind
        self._pieces = []
        self._runs.append((kind, self._pieces))

    def _add_other(self, update: AgentRunResponseUpdate) -> None:
        if isinstance(update, ToolCallUpdate):
            self._add_call(update)
        elif isinstance(update, (ReasoningUpdate, RefusalUpdate)):
            piece = update.reasoning if isinstance(update, ReasoningUpdate) else update.refusal
            if piece and self._last is not type(update):
                self._begin(type(update))
            if piece:
                self._pieces.append(piece)
        elif isinstance(update, UsageUpdate):
            self.usage = update.usage
        elif isinstance(update, FinishUpdate):
            self.finish_reason = update.finish_reason or self.finish_reason
            self.model = update.model or self.model
            self.response_id = update.response_id or self.response_id

    def _add_call(self, update: ToolCallUpdate) -> None:
        call = self._calls.get(update.index)
        if call is None:
            call = self._calls[update.index] = _Call()
            self._runs.append(call)
            self._last = None
        call.call_id = call.call_id or update.call_id
        call.name = call.name or update.name
        call.arguments.append(update.arguments)

    def message(
        self, new_call_id: Callable[[int], str], *, taken: Iterable[str] = (), author_name: str | None = None
    ) -> ChatMessage | None:
        """The assistant's message, or None if nothing came.

        A call that was cut off (the answer has not ended, and its arguments are no whole JSON) is left out: it
        was never made. `new_call_id(index)` names a call whose service gave it no id, or one of those `taken`.
        """
        used = set(taken)
        parts: list[Content] = []
        for run in self._runs:
            if isinstance(run, _Call):
                part = self._call(run, used, new_call_id)
                if part is not None:
                    parts.append(part)
                continue
            kind, pieces = run
            text = sound("".join(pieces))
            if text:
                parts.append(_MAKE[kind](text))
        return assembled("assistant", tuple(parts), author_name) if parts else None

    def _call(self, call: _Call, used: set[str], new_call_id: Callable[[int], str]) -> ToolCallContent | None:
        arguments = sound("".join(call.arguments))
        ended_well = self.finish_reason not in (None, "length", "content_filter")
        if not call.name or not (ended_well or _is_json(arguments)):
            return None
        call_id, index = sound(call.call_id), len(used)
        while not call_id or call_id in used:
            call_id, index = new_call_id(index), index + 1
        used.add(call_id)
        return ToolCallContent(call_id, sound(call.name), arguments)


def sound(text: str) -> str:
    """The text with halves of surrogate pairs replaced: joined pieces may hold some, and UTF-8 cannot."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
