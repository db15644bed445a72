"""How the answers of the Anthropic stand-in look on the wire.

Rule of this file: pure functions from an answer and a request to a tape, the same bytes every time: ids are made from
the request's number.

The answers are those of the Chat Completions stand-in, said in this service's way. A stream is Server-Sent Events, one
HTTP write for each: message_start, then for each block content_block_start, its deltas and content_block_stop, with a
ping after the first start, then message_delta with the reason and the usage, then message_stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.testing.anthropic_checks import error_body
from holdfast.testing.openai_chat_answers import (
    CallTools,
    Fail,
    ModelAnswer,
    ParsedRequest,
    Refuse,
    Say,
    ToolCall,
    cut_up,
)
from holdfast.testing.standin_tapes import Answer, Fault, Head, Pause, Send, Step, Tape, whole_body

SIGNATURE = "c2lnbmF0dXJlIG9mIHRoZSBzdGFuZC1pbg=="
_THOUGHT = {"type": "thinking", "thinking": "", "signature": ""}
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
# The reasons that answers have by themselves, in this service's words; any other is said as it was scripted.
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_WORDS = {
    400: "The request is not valid.",
    401: "invalid x-api-key",
    402: "Your account has a billing problem. Please check your payment details.",
    403: "Your API key does not have permission to use the specified resource.",
    404: "model: stand-in",
    413: "Request exceeds the maximum size",
    429: "This request would exceed your rate limit. Please try again later.",
    504: "Request timed out",
    529: "Overloaded",
}


def render(answer: Answer, request: ParsedRequest, *, chunk_delay: float = 0.0) -> Tape:
    """The tape of an answer to a request."""
    request_id = f"req_{request.number:06d}"
    if isinstance(answer, Fail):
        return _failure(answer, request_id)
    if not isinstance(answer, ModelAnswer):
        raise TypeError(f"{type(answer).__name__} is no answer of a model; see holdfast.testing.anthropic_messages.")
    if not request.stream:
        return whole_body(200, msgspec.json.encode(_message(answer, request)), {"request-id": request_id})
    return (Head(200, {**_SSE, "request-id": request_id}), *_writes(answer, request, chunk_delay))


# What there is to say, the same for a stream and for a whole answer.


def _blocks(answer: ModelAnswer, number: int) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each block as it begins, and its deltas."""
    found: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if isinstance(answer, Say):
        if answer.reasoning:
            thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in cut_up(answer.reasoning, None)]
            found.append((_THOUGHT, [*thoughts, {"type": "signature_delta", "signature": SIGNATURE}]))
        if answer.text:
            found.append(_text(answer.text, answer.pieces))
    elif isinstance(answer, CallTools):
        if answer.text:
            found.append(_text(answer.text, None))
        for index, call in enumerate(answer.calls):
            assert isinstance(call, ToolCall)
            named = {"id": call.id or f"toolu_{number:06d}_{index}", "name": call.name}
            # The first delta is empty, and so is the only one of a call without arguments.
            pieces = ["", *cut_up("" if _arguments(call) == "{}" else _arguments(call), answer.pieces or 1)]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            found.append(({"type": "tool_use", **named, "input": {}}, deltas))
    return found


def _text(text: str, pieces: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in cut_up(text, pieces)]


def _arguments(call: ToolCall) -> str:
    return call.arguments if isinstance(call.arguments, str) else msgspec.json.encode(call.arguments).decode()


def _stop(answer: ModelAnswer) -> dict[str, Any]:
    usual = "content_filter" if isinstance(answer, Refuse) else answer.usual_finish
    reason = answer.finish_reason or usual
    told: dict[str, Any] = {"stop_reason": _REASONS.get(reason, reason), "stop_sequence": None, "stop_details": None}
    if isinstance(answer, Refuse):
        told["stop_details"] = {"type": "refusal", "category": None, "explanation": answer.text}
    return told


def _usage(answer: ModelAnswer, request: ParsedRequest) -> dict[str, Any]:
    usage = answer.usage_for(request)
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    read, written = usage.cached_tokens, usage.cache_write_tokens
    return {
        "input_tokens": usage.prompt_tokens - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _skeleton(request: ParsedRequest) -> dict[str, Any]:
    return {"id": f"msg_{request.number:06d}", "type": "message", "role": "assistant", "model": request.model}


# A whole answer.


def _message(answer: ModelAnswer, request: ParsedRequest) -> dict[str, Any]:
    content = [_filled(begin, deltas) for begin, deltas in _blocks(answer, request.number)]
    usage = {**_usage(answer, request), "service_tier": "standard"}
    return {**_skeleton(request), "content": content, **_stop(answer), "usage": usage}


def _filled(begin: dict[str, Any], deltas: list[dict[str, Any]]) -> dict[str, Any]:
    """A block with all that its deltas add."""
    block = dict(begin)
    told = ""
    for delta in deltas:
        if delta["type"] == "input_json_delta":
            told += delta["partial_json"]
        else:
            name = delta["type"].removesuffix("_delta")
            block[name] += delta[name]
    if block["type"] == "tool_use":
        found = msgspec.json.decode(told or "{}")
        if not isinstance(found, dict):
            raise ValueError("In an unstreamed answer of this service the arguments of a call are an object.")
        block["input"] = found
    return block


# A stream, event by event.


def _events(answer: ModelAnswer, request: ParsedRequest) -> Iterator[dict[str, Any]]:
    usage = _usage(answer, request)
    nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    so_far = {**{name: count for name, count in usage.items() if name != "output_tokens_details"}, "output_tokens": 1}
    yield {"type": "message_start", "message": {**_skeleton(request), **nothing, "usage": so_far}}
    for index, (begin, deltas) in enumerate(_blocks(answer, request.number)):
        yield {"type": "content_block_start", "index": index, "content_block": begin}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": _stop(answer), "usage": usage}
    yield {"type": "message_stop"}


def _writes(answer: ModelAnswer, request: ParsedRequest, chunk_delay: float) -> Iterator[Step]:
    delay = chunk_delay if answer.delay is None else answer.delay
    for number, event in enumerate(_events(answer, request)):
        if number and delay:
            yield Pause(delay)
        yield Send(_frame(event["type"], msgspec.json.encode(event)))


def _frame(name: str, content: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + content + b"\n\n"


# Failures.


def _failure(answer: Fail, request_id: str) -> Tape:
    headers = {name.lower(): str(value) for name, value in answer.headers.items()}
    if answer.body is not None:
        return whole_body(answer.status, answer.body.encode(), {"content-type": "text/html; charset=utf-8", **headers})
    words = answer.message or _WORDS.get(answer.status, "Internal server error")
    kind = answer.type or _TYPES.get(answer.status, "api_error" if answer.status >= 500 else "invalid_request_error")
    return refusal(answer.status, words, kind, request_id, headers)


def refusal(status: int, message: str, kind: str, request_id: str, headers: Mapping[str, str] | None = None) -> Tape:
    """An error as this service sends it."""
    body = error_body(message, type=kind, request_id=request_id)
    return whole_body(status, body, {"request-id": request_id, **(headers or {})})


@dataclass(frozen=True)
class FailInStream(Fault):
    """After n good events of a stream that began with 200 comes an event `error`; then the stream ends.

    An unstreamed answer becomes the error, with the status that goes with it.
    """

    after: int = 3
    type: str = "overloaded_error"
    message: str = "Overloaded"
    answer: Answer | str | None = None

    @property
    def underneath(self) -> Answer | str | None:
        return self.answer

    def apply(self, tape: Tape) -> Tape:
        if not tape or not isinstance(tape[0], Head) or tape[0].length is not None:
            status = next((number for number, kind in _TYPES.items() if kind == self.type), 500)
            named = tape[0].headers.get("request-id", "") if tape and isinstance(tape[0], Head) else ""
            return refusal(status, self.message, self.type, named)
        kept: list[Step] = []
        left = self.after
        for step in tape:
            if isinstance(step, Send):
                if left == 0:
                    break
                left -= 1
            kept.append(step)
        error = {"type": "error", "error": {"type": self.type, "message": self.message}}
        return (*kept, Send(_frame("error", msgspec.json.encode(error))))
