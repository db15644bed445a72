"""Effects: what becomes of the tool calls of an answer.

Agents have no tools of their own yet, and offer none. A model that calls for one all the same gets a result that
says so, and may answer without: a call never stays without its result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.turns import results_for


def new_call_id(turn_id: str, *numbers: int) -> str:
    """A name for a call whose service gave it none, or one that is taken. Services take 40 characters, and not more."""
    mark = hashlib.blake2b(turn_id.encode(), digest_size=10).hexdigest()
    return "_".join(("call", mark, *map(str, numbers)))


def call_ids(messages: Iterable[ChatMessage]) -> list[str]:
    """The names of all calls in messages."""
    return [call.call_id for message in messages for call in message.tool_calls]


def results_of(calls: Sequence[ToolCallContent]) -> list[ChatMessage]:
    """A result for every call, in the order of the calls."""
    return [
        result
        for call in calls
        for result in results_for([call], f"There is no tool named {call.name!r}. Answer without it.")
    ]
