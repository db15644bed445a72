"""Effects: what is known of the tool calls of a turn, and what becomes of those that get no result of their own.

Rule of this file: a call never stays without a result, whatever happened; and what may have been done is never said
to be undone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.journal import Decision, Recorded
from holdfast.conversation.messages import ChatMessage, Content, ToolCallContent, ToolResultContent, assembled
from holdfast.conversation.turns import results_for

# What the model is told of a call that was begun and whose end nobody saw.
UNKNOWN = (
    "This call was interrupted after it had begun; its outcome is unknown. Find out what has happened before you "
    "make it again."
)


class Effects(Struct):
    """The calls of a turn: which were begun, the results that are not among its messages yet, what was decided."""

    started: set[str] = set()
    results: dict[str, ChatMessage] = {}
    decided: dict[str, Decision] = {}
    waits: dict[str, ApprovalRequest] = {}

    def closing(self, calls: Iterable[ToolCallContent], why: str) -> list[ChatMessage]:
        """Results for calls that are still open when their turn ends, in the order of the calls."""
        found: list[ChatMessage] = []
        for call in calls:
            decision = self.decided.get(call.call_id)
            if call.call_id in self.results:
                found.append(self.results[call.call_id])
            elif call.call_id in self.started:
                found.append(result_message(call, UNKNOWN, is_error=True, decision=decision))
            else:
                found += results_for([call], why)
        return found


def inherited(recorded: Recorded) -> Effects:
    """What a journal knows of the calls."""
    return Effects(set(recorded.started), dict(recorded.results), dict(recorded.decided), dict(recorded.waits))


def result_message(
    call: ToolCallContent,
    text: str,
    *,
    is_error: bool = False,
    decision: Decision | None = None,
    beside: Mapping[str, Any] | None = None,
) -> ChatMessage:
    """The message of a result. Who allowed or forbade the call is kept beside it, and told to no service."""
    properties = dict(beside or {})
    if decision is not None:
        properties["approval"] = {"approved": decision.approved, "by": decision.by, "why": decision.why}
    return assembled(
        "tool", (ToolResultContent(call.call_id, text, is_error),), additional_properties=properties or None
    )


def new_call_id(turn_id: str, *numbers: int) -> str:
    """A name for a call whose service gave it none, or one that is taken. Services take 40 characters, and not more."""
    mark = hashlib.blake2b(turn_id.encode(), digest_size=10).hexdigest()
    return "_".join(("call", mark, *map(str, numbers)))


def call_ids(messages: Iterable[ChatMessage]) -> list[str]:
    """The names of all calls in messages."""
    return [call.call_id for message in messages for call in message.tool_calls]


def no_such_tool(call: ToolCallContent, names: Sequence[str]) -> str:
    """What the model is told that calls for a tool that there is not."""
    there = f"The tools are {', '.join(names)}." if names else "Answer without it."
    return f"There is no tool named {call.name!r}. {there}"


def with_own_ids(message: ChatMessage, turn_id: str, rounds: int, *, taken: Iterable[str]) -> ChatMessage:
    """An answer that no model gave, with ids of its calls that no other call of the turn has."""
    used = set(taken)
    parts: list[Content] = []
    for part in message.contents:
        if isinstance(part, ToolCallContent):
            call_id, number = part.call_id, len(used)
            while not call_id or call_id in used:
                call_id, number = new_call_id(turn_id, rounds, number), number + 1
            used.add(call_id)
            part = ToolCallContent(call_id, part.name, part.arguments)
        parts.append(part)
    return assembled("assistant", tuple(parts), message.author_name, message.message_id)
