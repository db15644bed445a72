"""Responses: what a run gives back."""

from __future__ import annotations

import contextlib
from typing import Any

from msgspec import Struct

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.turns import RunStatus, Turn
from holdfast.conversation.updates import Usage
from holdfast.engine.toolkits import AnswerShape


class AgentRunResponse(Struct, frozen=True):
    """The agent's part of a turn.

    `messages` are the assistant's (and tools') messages, without the input. `turn_id` names the turn in the log,
    `status` says how it ended, `usage` sums the tokens of all its model calls. `finish_reason`, `model` and
    `response_id` are the service's words about the last answer. `str(response)` is its text.

    If `status` is "waiting", `approvals` are the tool calls that wait to be allowed; pass the answers to `agent.run`.
    `value` is the answer in the form of `response_format=`, if the run was given one.
    """

    messages: tuple[ChatMessage, ...]
    turn_id: str
    thread_id: str
    status: RunStatus
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str | None = None
    response_id: str | None = None
    approvals: tuple[ApprovalRequest, ...] = ()
    value: Any = None

    @property
    def text(self) -> str:
        """The text of all assistant messages; the same that a stream's updates join to."""
        return "".join([message.text for message in self.messages if message.role == "assistant"])

    def __str__(self) -> str:
        return self.text


def response_of(turn: Turn, thread_id: str, shape: AnswerShape | None = None) -> AgentRunResponse:
    """The response of a turn as the log has it."""
    value = None
    if shape is not None and turn.output:
        with contextlib.suppress(ValueError):
            value = shape.read(turn.output[-1].text)
    about = (turn.usage, turn.finish_reason, turn.model)
    return AgentRunResponse(turn.output, turn.id, thread_id, turn.status, *about, value=value)
