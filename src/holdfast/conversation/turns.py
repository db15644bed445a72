"""Turns: how they end, the pairing rule, and what of them is sent.

Rule of this file: pure functions from messages to messages. Every tool call in what leaves this file has exactly
one result, in the messages right after it (OpenAI's and Anthropic's services refuse anything else).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import (
    ChatMessage,
    Content,
    ReasoningContent,
    TextContent,
    ToolCallContent,
    ToolResultContent,
    assembled,
    is_blank,
)
from holdfast.conversation.updates import Usage

_TOOL_PARTS = frozenset((ToolCallContent, ToolResultContent))

TurnStatus: TypeAlias = Literal["completed", "failed", "cancelled", "interrupted"]
# A run may also wait for somebody to allow a tool call; then it is no turn yet.
RunStatus: TypeAlias = TurnStatus | Literal["waiting"]


class TurnError(Struct, frozen=True, omit_defaults=True):
    """Why a turn failed: the error's stable code, and its message (which never holds a key)."""

    code: str
    message: str


class Turn(Struct, frozen=True):
    """One user input and all that the agent did about it. Stored whole or not at all.

    `seq` is its depth in the conversation (1 is the first). `status` says how it ended: `completed`; `failed`
    (see `error`); `cancelled` (the caller stopped it: `output` holds what the caller had seen); `interrupted`
    (its process died). Times are aware datetimes in UTC. `restarts` says where, after the death of its process,
    somebody went on with it (see `cursors`).
    """

    id: str
    seq: int
    status: TurnStatus
    input: tuple[ChatMessage, ...]
    output: tuple[ChatMessage, ...] = ()
    usage: Usage | None = None
    model: str | None = None
    service: str | None = None
    finish_reason: str | None = None
    error: TurnError | None = None
    started_us: int = 0
    ended_us: int = 0
    restarts: tuple[tuple[int, int], ...] = ()

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """Input and output."""
        return self.input + self.output

    @property
    def started_at(self) -> datetime:
        """When the run began."""
        return datetime.fromtimestamp(self.started_us / 1e6, UTC)

    @property
    def ended_at(self) -> datetime:
        """When the turn was sealed."""
        return datetime.fromtimestamp(self.ended_us / 1e6, UTC)


def counts(turn: Turn) -> bool:
    """Whether the turn is part of the conversation: all are, but for failed ones in which nothing happened.

    Leaving those out means that a retry does not say the user's message twice.
    """
    return turn.status != "failed" or bool(turn.output)


def what_is_sent(turn: Turn) -> tuple[ChatMessage, ...]:
    """The messages of a turn that a service is told."""
    if not counts(turn):
        return ()
    told = (*turn.input, *output_told(turn.output))
    # Runs take no calls or results as input; what was written by other means is mended like a transcript.
    tangled = any(type(part) in _TOOL_PARTS for message in turn.input for part in message.contents)
    return tuple(_paired(list(told))) if tangled else told


def output_told(output: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """What a service is told of a turn's output.

    Reasoning is left out (no signature is kept with it), and so is a message of which nothing else is left.
    """
    if len(output) == 1 and output[0].contents and all(map(_is_text, output[0].contents)):
        return output  # the usual turn, without a walk through its parts
    told = [_without_reasoning(message) for message in output]
    paired = _paired([message for message in told if not is_blank(message)])
    return [message for message in paired if not is_blank(message)]


def _is_text(part: Content) -> bool:
    return type(part) is TextContent and bool(part.text.strip())


def unanswered_calls(messages: Sequence[ChatMessage]) -> list[ToolCallContent]:
    """The tool calls of the last assistant message that have no result after it yet."""
    calls: dict[str, ToolCallContent] = {}
    for message in messages:
        if message.tool_calls:
            calls = {call.call_id: call for call in message.tool_calls}
        for part in message.contents:
            if isinstance(part, ToolResultContent):
                calls.pop(part.call_id, None)
    return list(calls.values())


def results_for(calls: Iterable[ToolCallContent], why: str) -> list[ChatMessage]:
    """Results that tell the model why these calls have none of their own, one message each."""
    return [assembled("tool", (ToolResultContent(call.call_id, why, is_error=True),)) for call in calls]


def _without_reasoning(message: ChatMessage) -> ChatMessage:
    kept = tuple(part for part in message.contents if not isinstance(part, ReasoningContent))
    return message if len(kept) == len(message.contents) else _with(message, kept)


def _with(message: ChatMessage, contents: tuple[Content, ...]) -> ChatMessage:
    return assembled(message.role, contents, message.author_name, message.message_id, message.additional_properties)


# --- pairs: checked where a transcript comes in, kept by construction afterwards -------------------------------


def _paired(messages: list[ChatMessage], mended: list[str] | None = None) -> list[ChatMessage]:
    """The messages with every breach of the pairing rule taken out or closed; `mended` is told what was done."""
    told = mended if mended is not None else []
    found: list[ChatMessage] = []
    pending: dict[str, ToolCallContent] = {}

    def close() -> None:
        for call in pending.values():
            told.append(f"call {call.call_id} of {call.name} had no result: closed as interrupted")
        found.extend(results_for(pending.values(), "This call was interrupted; its outcome is unknown."))
        pending.clear()

    for message in messages:
        results = [part for part in message.contents if isinstance(part, ToolResultContent)]
        if not results:
            close()
            kept = _sound_calls(message, told)
            pending = {call.call_id: call for call in kept.tool_calls}
            if kept.contents or not message.contents:
                found.append(kept)
            continue
        for part in results:
            if pending.pop(part.call_id, None) is None:
                told.append(f"result for {part.call_id!r} answers no open call: left out")
            else:
                found.append(assembled("tool", (part,), message.author_name, message.message_id))
        rest = tuple(part for part in message.contents if not isinstance(part, ToolResultContent))
        if rest:
            told.append("contents beside a tool result were left out")
    close()
    return found


def _sound_calls(message: ChatMessage, told: list[str]) -> ChatMessage:
    """The message without calls that nobody could answer: of another role than the assistant, or of a used id."""
    seen: set[str] = set()
    kept: list[Content] = []
    for part in message.contents:
        if isinstance(part, ToolCallContent):
            if message.role != "assistant":
                told.append(f"call {part.call_id!r} stood in a message of role {message.role}: left out")
                continue
            if part.call_id in seen:
                told.append(f"call id {part.call_id!r} stood twice in one message: the second call was left out")
                continue
            seen.add(part.call_id)
        kept.append(part)
    return message if len(kept) == len(message.contents) else _with(message, tuple(kept))


def checked_pairs(messages: Sequence[ChatMessage], *, repair: bool = False) -> tuple[list[ChatMessage], list[str]]:
    """The messages, and what was mended in them.

    Without `repair` a breach of the pairing rule raises InvalidInputError that lists all of them.
    """
    mended: list[str] = []
    found = _paired(list(messages), mended)
    if mended and not repair:
        raise InvalidInputError(
            "Tool calls and results do not pair up, and a service would refuse this conversation for ever: "
            + "; ".join(mended[:5])
            + (f"; and {len(mended) - 5} more" if len(mended) > 5 else "")
            + ". Pass the missing messages, or repair=True to have it mended as said."
        )
    return found, mended


def split_into_turns(messages: Sequence[ChatMessage]) -> list[tuple[list[ChatMessage], list[ChatMessage]]]:
    """A transcript as (input, output) of turns: a turn begins at each user message.

    System messages right before a user message belong to that turn's input. What stands before the first user
    message is a turn without user input.
    """
    turns: list[tuple[list[ChatMessage], list[ChatMessage]]] = []
    held: list[ChatMessage] = []
    for message in messages:
        if message.role == "system":
            held.append(message)
        elif message.role == "user":
            turns.append(([*held, message], []))
            held = []
        else:
            if not turns:
                turns.append((held, []))
                held = []
            turns[-1][1].extend([*held, message])
            held = []
    if held:
        turns.append((held, []))
    return turns
