"""Transcript: turns and times as people read them, and as JSON.

Rule of this file: pure; everything that came from a store or a service is made safe here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from holdfast.cli.terminal import Paint, one_line, safe
from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.messages import (
    ChatMessage,
    Content,
    FileContent,
    ImageContent,
    ReasoningContent,
    RefusalContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
)
from holdfast.conversation.records import encode_messages
from holdfast.conversation.turns import Turn
from holdfast.conversation.updates import Usage

_LABELS = {"user": "you", "assistant": "assistant", "tool": "tool", "system": "instructions"}
# A data: URI may be megabytes long.
_LONGEST_ADDRESS = 80
# Of earlier answers so much is shown: enough to know where one was.
_RECAP_LINES, _RECAP_CHARACTERS = 8, 700


# --- turns -----------------------------------------------------------------------------------------------------


def turn_lines(turn: Turn, paint: Paint) -> Iterator[str]:
    """A turn: a line about it, then who said what, then how it ended if it did not end well."""
    yield paint.dim(" · ".join(turn_facts(turn)))
    names = names_of_calls(turn)
    for message in turn.messages:
        text = message_text(message, names)
        if text:
            yield f"{paint.bold(speaker(message) + ':')} {text}{paint.dim(allowed(message))}"
    ending = how_it_ended(turn)
    if ending:
        yield paint.warning(f"({ending})")


def names_of_calls(turn: Turn) -> dict[str, str]:
    """The tools of a turn's calls, by call id: a result does not tell whose it is."""
    return {call.call_id: call.name for message in turn.messages for call in message.tool_calls}


def allowed(message: ChatMessage) -> str:
    """Who allowed or forbade the call that a result belongs to, in brackets; "" if nobody was asked."""
    told = (message.additional_properties or {}).get("approval")
    if not isinstance(told, Mapping):
        return ""
    by = f" by {one_line(str(told['by']))}" if told.get("by") else ""
    why = f": {one_line(str(told['why']))}" if told.get("why") else ""
    return f" ({'allowed' if told.get('approved') else 'forbidden'}{by}{why})"


def turn_facts(turn: Turn) -> Iterator[str]:
    """What there is to say about a turn, in a few words each."""
    yield f"turn {turn.seq}"
    yield moment(turn.started_us)
    if turn.model or turn.service:
        yield one_line(turn.model or turn.service or "")
    if turn.usage is not None:
        yield tokens(turn.usage)
    if turn.status != "completed":
        yield turn.status


def tokens(usage: Usage) -> str:
    """Token counts in a few words."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} tokens in{cached}, {usage.output_tokens:,} out"


def recap_lines(turn: Turn) -> list[str]:
    """A turn that is shown to say where one was: who said what, shortened."""
    asked = one_line(" ".join(map(message_text, turn.input)))
    names = names_of_calls(turn)
    texts = [message_text(message, names) for message in turn.output]
    answered = "\n".join(filter(None, texts)).splitlines()
    kept = answered[:_RECAP_LINES]
    text = "\n".join(kept)[:_RECAP_CHARACTERS]
    if len(kept) < len(answered) or len(text) < len("\n".join(kept)):
        text = text.rstrip() + " …"
    return [f"› {asked}"] + [safe(text)] * bool(text)


def speaker(message: ChatMessage) -> str:
    """Who says it, in one safe line."""
    return one_line(message.author_name or "") or _LABELS[message.role]


def message_text(message: ChatMessage, names: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a message says; what is no text is named in brackets. `names`: see `names_of_calls`."""
    said = "".join(_part(part, names) for part in message.contents)
    return safe(said).rstrip()


def _part(part: Content, names: Mapping[str, str]) -> str:
    if isinstance(part, (TextContent, RefusalContent)):
        return part.text
    return f"[{_named(part, names)}] "


def _named(part: Content, names: Mapping[str, str]) -> str:
    if isinstance(part, ImageContent):
        return f"image {_address(part.uri)}"
    if isinstance(part, FileContent):
        return f"file {part.name or _address(part.uri)}"
    if isinstance(part, ToolCallContent):
        return f"calls {part.name} {part.arguments}".rstrip()
    if isinstance(part, ToolResultContent):
        whose = names.get(part.call_id, part.call_id)
        return f"{'error' if part.is_error else 'result'} of {whose}: {part.result}"
    if isinstance(part, ReasoningContent):
        return "reasoning"
    return getattr(part, "kind", "something unknown")


def _address(uri: str) -> str:
    return uri if len(uri) <= _LONGEST_ADDRESS else uri[:_LONGEST_ADDRESS] + "…"


def how_it_ended(turn: Turn) -> str:
    """Why there is no whole answer, in words; "" if there is one."""
    if turn.status == "cancelled":
        return "stopped before the answer was complete" if turn.output else "stopped before an answer came"
    if turn.status == "interrupted":
        return "interrupted: the program that was waiting for the answer ended"
    if turn.status == "failed":
        return f"failed: {one_line(turn.error.message)}" if turn.error is not None else "failed"
    return cut_short(turn.finish_reason)


_CUT_SHORT = {
    "length": "the answer was cut short: it reached the limit of tokens",
    "content_filter": "the answer was cut short by the service's content filter",
}


def cut_short(finish_reason: str | None) -> str:
    """Why a completed answer is not whole, in words; "" if it is."""
    return _CUT_SHORT.get(finish_reason or "", "")


def turn_state(turn: Turn) -> dict[str, Any]:
    """A turn as JSON-able data. Messages are as in the stored form (docs/format.md)."""
    state: dict[str, Any] = {
        "id": turn.id,
        "seq": turn.seq,
        "status": turn.status,
        "started": stamp(turn.started_us),
        "ended": stamp(turn.ended_us),
        "service": turn.service,
        "model": turn.model,
        "finish_reason": turn.finish_reason,
        "usage": None,
        "error": None,
        "input": json.loads(encode_messages(turn.input)),
        "output": json.loads(encode_messages(turn.output)),
    }
    if turn.usage is not None:
        state["usage"] = {name: getattr(turn.usage, name) for name in turn.usage.__struct_fields__}
    if turn.error is not None:
        state["error"] = {"code": turn.error.code, "message": turn.error.message}
    return state


def request_state(request: ApprovalRequest) -> dict[str, Any]:
    """A call that waits to be allowed as JSON-able data."""
    return {
        "turn": request.turn_id,
        "call_id": request.call_id,
        "tool": request.tool,
        "arguments": request.arguments,
        "agent": request.agent,
        "asked": stamp(request.asked_us),
        "expires": stamp(request.expires_us) if request.expires_us is not None else None,
    }


# --- times -----------------------------------------------------------------------------------------------------


def moment(us: int) -> str:
    """Microseconds since 1970 as local date and time."""
    return datetime.fromtimestamp(us / 1e6).strftime("%Y-%m-%d %H:%M")


def stamp(us: int) -> str:
    """Microseconds since 1970 as ISO 8601, in UTC."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds")


def ago(us: int, now_us: int) -> str:
    """How long ago that was, roughly; "" if it lies ahead, as it may where two clocks wrote."""
    seconds = (now_us - us) // 1_000_000
    if seconds < 0:
        return ""
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        count = seconds // size
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def counted(count: int, what: str, several: str = "") -> str:
    """'1 turn', '2 turns', 'no turns'."""
    return f"{count or 'no'} {what if count == 1 else several or what + 's'}"
