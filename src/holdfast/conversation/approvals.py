"""Approvals: a tool call that waits for somebody's word, and the word.

Rule of this file: plain data. An answer names the call by its turn, its id and a hash of exactly what would be done,
so that it allows nothing else and, once it was used, nothing more.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import ToolCallContent, checked_text
from holdfast.conversation.updates import AgentRunResponseUpdate


class ApprovalAnswer(Struct, frozen=True):
    """Somebody's word on one call; pass it to `agent.run`. Made by `ApprovalRequest.approve` and `reject`.

    `by` says who gave it, `why` is what the model is told of a rejection; both are kept with the result in the log.
    """

    turn_id: str
    call_id: str
    digest: str
    approved: bool
    why: str = ""
    by: str = ""


class ApprovalRequest(Struct, frozen=True):
    """A tool call that waits to be allowed: which tool, with exactly which arguments (JSON text), for which agent.

        response = await agent.run("Delete the old invoices.", thread=thread)
        answers = [request.approve() for request in response.approvals]
        response = await agent.run(answers, thread=thread)

    `expires_at` is None if it may be answered at any time.
    """

    thread_id: str
    turn_id: str
    call_id: str
    tool: str
    arguments: str
    agent: str | None = None
    asked_us: int = 0
    expires_us: int | None = None

    @property
    def asked_at(self) -> datetime:
        """When the model called."""
        return datetime.fromtimestamp(self.asked_us / 1e6, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """Until when it can be approved."""
        return None if self.expires_us is None else datetime.fromtimestamp(self.expires_us / 1e6, UTC)

    def approve(self, *, by: str = "") -> ApprovalAnswer:
        """Allow this call, once, with these arguments."""
        return ApprovalAnswer(self.turn_id, self.call_id, digest_of(self), True, "", checked_text(by, "by="))

    def reject(self, why: str = "", *, by: str = "") -> ApprovalAnswer:
        """Forbid the call; the model is told why, and goes on."""
        return ApprovalAnswer(
            self.turn_id,
            self.call_id,
            digest_of(self),
            False,
            checked_text(why, "The reason of a rejection"),
            checked_text(by, "by="),
        )


class ApprovalUpdate(AgentRunResponseUpdate, frozen=True, kw_only=True):
    """A call waits to be allowed. A stream ends with one for each; whoever follows the turn is told too."""

    request: ApprovalRequest


def digest_of(call: ApprovalRequest | ToolCallContent) -> str:
    """What an approval is bound to: the tool and its arguments, as the model wrote them."""
    name = call.tool if isinstance(call, ApprovalRequest) else call.name
    return hashlib.sha256(f"{len(name)}:{name}{call.arguments}".encode()).hexdigest()[:32]


def answers_in(messages: object) -> tuple[ApprovalAnswer, ...]:
    """The answers, if that is what a run was given; () if it was given something to say.

    Raises InvalidInputError for a mixture, and for two answers to one call.
    """
    given = [messages] if isinstance(messages, ApprovalAnswer) else messages
    if not isinstance(given, (list, tuple)) or not any(isinstance(item, ApprovalAnswer) for item in given):
        return ()
    answers = tuple(item for item in given if isinstance(item, ApprovalAnswer))
    if len(answers) != len(given):
        raise InvalidInputError(
            "A run is given either answers to approval requests or something to say, not both. Pass the answers "
            "first; what is said in a run of its own closes the calls that still wait."
        )
    calls = {(answer.turn_id, answer.call_id) for answer in answers}
    if len(calls) != len(answers) or len({turn for turn, _ in calls}) != 1:
        raise InvalidInputError("The answers given to one run are about different calls of one turn, one answer each.")
    return answers
