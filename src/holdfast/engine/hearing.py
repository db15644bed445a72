"""Hearing: the answer of a run, as far as it was handed on, and the response that is made of it.

Rule of this file: it keeps and folds; what becomes of it in the log is `sealing`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.turns import RunStatus, Turn
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer, Usage
from holdfast.engine.effects import call_ids, new_call_id
from holdfast.engine.responses import AgentRunResponse, response_of
from holdfast.engine.specs import RunSpec


class Exchange(Protocol):
    """A request under way; `runs` makes it."""

    async def next(self) -> Iterator[AgentRunResponseUpdate] | None: ...

    @property
    def length(self) -> int: ...

    def handed(self) -> Sequence[AgentRunResponseUpdate]: ...

    def heard(self) -> Answer: ...

    async def end(self) -> None: ...


class Heard:
    """A run as to what it has answered."""

    __slots__ = (
        "_answer",
        "_before",
        "_exchange",
        "_output",
        "_rounds",
        "_status",
        "_turn",
        "_usage",
        "requests",
        "spec",
        "turn_id",
        "value",
    )

    spec: RunSpec
    turn_id: str
    # The calls that the run waits to be allowed, and the answer in the form that was asked for.
    requests: tuple[ApprovalRequest, ...]
    value: Any
    _status: RunStatus | None
    _turn: Turn | None
    _exchange: Exchange | None
    _answer: Answer | None
    _output: list[ChatMessage]
    # What a dead process had said of the answer that is asked for again; it counts until there is a new one.
    _before: list[AgentRunResponseUpdate]
    _usage: Usage | None
    _rounds: int

    def _recall(self) -> None:
        """The answer that was asked for again never began: what a dead process had said of it stands."""
        answer = Answer()
        answer.add(self._before)
        message = answer.message(
            lambda index: new_call_id(self.turn_id, index),
            taken=call_ids(self._output),
            author_name=self.spec.agent_name,
        )
        if message is not None:
            self._output.append(message)

    def _take_answer(self) -> None:
        if self._exchange is None or self._exchange.heard() is self._answer:
            return
        self._answer = self._exchange.heard()
        message = self._answer.message(
            lambda index: new_call_id(self.turn_id, self._rounds, index),
            taken=call_ids(self._output),
            author_name=self.spec.agent_name,
        )
        if message is not None:
            self._output.append(message)
            self._before = []
        used = self._answer.usage
        if used is not None:
            self._usage = used if self._usage is None else self._usage + used

    def response(self) -> AgentRunResponse:
        """What there is of the agent's part, once the turn is sealed, or waits."""
        if self._turn is not None:
            return response_of(self._turn, self.spec.thread.id, self.spec.shape)
        answer = self._answer or Answer()
        return AgentRunResponse(
            tuple(self._output),
            self.turn_id,
            self.spec.thread.id,
            self._status or "failed",
            self._usage,
            answer.finish_reason,
            answer.model,
            answer.response_id,
            self.requests,
            self.value,
        )
