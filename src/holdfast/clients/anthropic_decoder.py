"""The answers of Anthropic's Messages: events of a stream, or a whole message, to updates.

Rule of this file: both become the same updates. Blocks and events that it does not know are passed over, as the
service asks of its clients: it adds to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct

from holdfast.clients.anthropic_wire import (
    Block,
    Delta,
    Event,
    Message,
    StopDetails,
    Tokens,
    decode_event,
    decode_message,
    loose_event,
    loose_message,
)
from holdfast.conversation.updates import (
    AgentRunResponseUpdate,
    FinishUpdate,
    ReasoningUpdate,
    RefusalUpdate,
    ToolCallUpdate,
    Usage,
    UsageUpdate,
)

# The service's words for the reasons that holdfast knows. Any other, such as pause_turn, is passed on as it is.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_BAD = (msgspec.MsgspecError, UnicodeError, RecursionError)
_DONE = b"[DONE]"  # other servers' end of a stream

_Add = Callable[[AgentRunResponseUpdate], None]


class _Call(Struct):
    """A tool call that is coming in: its place in the answer, and what came of its arguments."""

    place: int
    whole: str  # what stood in its beginning
    pieces: int = 0


class AnthropicDecoder(Struct):
    """One answer; see `holdfast.clients.asking.Decoder`."""

    finished: bool = False  # a reason to stop came
    done: bool = False
    error: Any = None
    broken: str | None = None
    _calls: dict[int, _Call] = {}  # those that are open, by the index of their block
    _count: int = 0
    _tokens: Tokens = msgspec.field(default_factory=Tokens)

    def chunks(self, payloads: Iterable[bytes]) -> list[AgentRunResponseUpdate]:
        """The updates of the next payloads of a stream."""
        updates: list[AgentRunResponseUpdate] = []
        for payload in payloads:
            try:
                event = decode_event(payload)
            except _BAD:
                self._odd(payload, updates.append)
            else:
                self._take(event, updates.append)
            if self.done or self.error is not None or self.broken is not None:
                break
        return updates

    def whole(self, body: bytes) -> list[AgentRunResponseUpdate]:
        """The updates of an answer that came in one piece."""
        updates: list[AgentRunResponseUpdate] = []
        found: Message | None
        try:
            found = decode_message(body)
        except _BAD:
            try:
                found = loose_message(body)
            except ValueError:
                self.broken = "something that is no JSON"
                return []
        if found is not None and found.error:
            self.error = found.error
        elif found is None or found.content is None:
            self.broken = "an answer without a message"
        else:
            self._begin(found, updates.append)
            for index, block in enumerate(found.content):
                self._block(index, block, updates.append)
                self._end_block(index, updates.append)
            self._usage(found.usage, updates.append)
            made_up = "tool_use" if self._count else "end_turn"
            self._stop(found.stop_reason or made_up, found.stop_details, updates.append)
        return updates

    def _odd(self, payload: bytes, add: _Add) -> None:
        """What is not as documented."""
        if payload.strip() == _DONE:
            self.done = True
            return
        try:
            event = loose_event(payload)
        except ValueError:
            self.broken = "something that is no JSON"
            return
        if event is not None:
            self._take(event, add)

    def _take(self, event: Event, add: _Add) -> None:
        kind = event.type
        if kind == "content_block_delta" and event.delta is not None:
            self._delta(event.index or 0, event.delta, add)
        elif event.error:
            self.error = event.error
        elif kind == "content_block_start" and event.content_block is not None:
            self._block(event.index or 0, event.content_block, add)
        elif kind == "content_block_stop":
            self._end_block(event.index or 0, add)
        elif kind == "message_start" and event.message is not None:
            self._begin(event.message, add)
            self._usage(event.message.usage, add)
        elif kind == "message_delta":
            if event.usage is not None:
                self._usage(event.usage, add)
            if event.delta is not None:
                self._stop(event.delta.stop_reason, event.delta.stop_details, add)
        elif kind == "message_stop":
            self.done = self.finished = True

    def _begin(self, message: Message, add: _Add) -> None:
        if message.id or message.model:
            add(FinishUpdate(model=message.model or None, response_id=message.id or None))

    def _block(self, index: int, block: Block, add: _Add) -> None:
        """The beginning of a block, or all of it."""
        if block.type == "text" and block.text:
            add(AgentRunResponseUpdate(block.text))
        elif block.type == "thinking" and block.thinking:
            add(ReasoningUpdate(reasoning=block.thinking))
        elif block.type == "tool_use":
            call = _Call(self._count, bytes(block.input).decode("utf-8", "replace"))
            self._count += 1
            self._calls[index] = call
            add(ToolCallUpdate(index=call.place, call_id=block.id or "", name=block.name or ""))

    def _delta(self, index: int, delta: Delta, add: _Add) -> None:
        if delta.text:
            add(AgentRunResponseUpdate(delta.text))
        elif delta.thinking:
            add(ReasoningUpdate(reasoning=delta.thinking))
        elif delta.partial_json:
            call = self._calls.get(index)
            if call is not None:
                call.pieces += 1
                add(ToolCallUpdate(index=call.place, arguments=delta.partial_json))

    def _end_block(self, index: int, add: _Add) -> None:
        """A call whose arguments did not come in pieces has those that it began with."""
        call = self._calls.pop(index, None)
        if call is not None and not call.pieces:
            add(ToolCallUpdate(index=call.place, arguments="{}" if call.whole in ("", "null") else call.whole))

    def _usage(self, tokens: Tokens | None, add: _Add) -> None:
        """The counts so far; a later word replaces an earlier one."""
        if tokens is None:
            return
        known = self._tokens
        for name in Tokens.__struct_fields__:
            value = getattr(tokens, name)
            if value is not None:
                setattr(known, name, value)
        read, written = known.cache_read_input_tokens or 0, known.cache_creation_input_tokens or 0
        input_tokens, output_tokens = (known.input_tokens or 0) + read + written, known.output_tokens or 0
        details = known.output_tokens_details
        usage = Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=input_tokens + output_tokens,
            cached_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=(details.thinking_tokens or 0) if details else 0,
        )
        add(UsageUpdate(usage=usage))

    def _stop(self, reason: str | None, details: StopDetails | None, add: _Add) -> None:
        if reason is None:
            return
        self.finished = True
        if reason == "refusal" and details is not None and details.explanation:
            add(RefusalUpdate(refusal=details.explanation))
        add(FinishUpdate(finish_reason=_REASONS.get(reason, reason)))
