"""Effects: what becomes of the tool calls of an answer.

Agents have no tools of their own yet, and offer none. A model that calls for one all the same gets a result that
says so, and may answer without: a call never stays without its result.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.turns import results_for


def results_of(calls: Sequence[ToolCallContent]) -> list[ChatMessage]:
    """A result for every call, in the order of the calls."""
    return [
        result
        for call in calls
        for result in results_for([call], f"There is no tool named {call.name!r}. Answer without it.")
    ]
