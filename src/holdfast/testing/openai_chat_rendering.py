"""How the answers of the Chat Completions stand-in look on the wire.

Rule of this file: pure functions from an answer and a request to a tape, the same bytes every time: ids and `created`
are made from the request's number, never from a clock.

A stream is Server-Sent Events, one HTTP write for each: first the role with empty content, then the pieces, then the
finish reason, then the usage without choices if `stream_options.include_usage` asks for it, then `data: [DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.testing.openai_chat_answers import Fail, ModelAnswer, ParsedRequest, sloppiness
from holdfast.testing.openai_checks import INVALID, error_body, error_object
from holdfast.testing.standin_tapes import Answer, Fault, Head, Pause, Send, Step, Tape, whole_body

EPOCH = 1_700_000_000  # `created` of request n is so many seconds later
FINGERPRINT = "fp_stand_in"
_PADDING = "holdfaststandinpadding"  # the real service hides the size of its tokens behind random characters
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Dialect:
    """What another service says besides what OpenAI says; this one says nothing more."""

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        """A whole answer as this service sends it."""
        return completion

    def chunks(self, chunks: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
        """The chunks of a stream as this service sends them."""
        return chunks


OPENAI = Dialect()


def render(
    answer: Answer,
    request: ParsedRequest,
    *,
    chunk_delay: float = 0.0,
    sloppy: frozenset[str] = frozenset(),
    dialect: Dialect = OPENAI,
) -> Tape:
    """The tape of an answer to a request."""
    if isinstance(answer, Fail):
        return _failure(answer)
    if not isinstance(answer, ModelAnswer):
        raise TypeError(f"{type(answer).__name__} is no answer of Chat Completions; see holdfast.testing.openai_chat.")
    sloppy |= sloppiness(answer.sloppy)
    streamed = request.stream
    if {"json_for_stream", "stream_for_json"} & sloppy:
        streamed = "stream_for_json" in sloppy if not request.stream else "json_for_stream" not in sloppy
    if not streamed:
        return whole_body(200, msgspec.json.encode(dialect.whole(_completion(answer, request))))
    frames = [_frame(chunk, sloppy) for chunk in dialect.chunks(_sloppy_chunks(answer, request, sloppy))]
    if "no_done" not in sloppy:
        frames.append(_data(b"[DONE]", sloppy))
    return (Head(200, _SSE), *_writes(frames, chunk_delay if answer.delay is None else answer.delay, sloppy))


def model_object(model: str) -> dict[str, Any]:
    """A model as GET /v1/models lists it."""
    return {"id": model, "object": "model", "created": EPOCH, "owned_by": "holdfast"}


# A whole answer.


def _common(request: ParsedRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{request.number:06d}",
        "object": kind,
        "created": EPOCH + request.number,
        "model": request.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _completion(answer: ModelAnswer, request: ParsedRequest) -> dict[str, Any]:
    finish = answer.finish_reason or answer.usual_finish
    message = answer.message(request.number)
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
        for index in range(request.choices)
    ]
    usage = answer.usage_for(request)
    told = {} if usage is None else {"usage": usage.as_json()}
    return {**_common(request, "chat.completion"), "choices": choices, **told}


# A stream, chunk by chunk.


def _chunks(answer: ModelAnswer, request: ParsedRequest) -> Iterator[dict[str, Any]]:
    """The chunks as the real service sends them."""
    usage = answer.usage_for(request)
    tells_usage = usage is not None and request.stream_options.get("include_usage") is True
    padded = request.stream_options.get("include_obfuscation") is not False
    deltas = answer.deltas(request.number)
    only_calls = bool(deltas) and "tool_calls" in deltas[0]
    first = {"role": "assistant", "content": None if only_calls else "", "refusal": None}
    finish = answer.finish_reason or answer.usual_finish
    told: list[tuple[dict[str, Any], str | None]] = [(first, None), *((delta, None) for delta in deltas), ({}, finish)]
    for delta, reason in told:
        for index in range(request.choices):
            choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
            yield {
                **_common(request, "chat.completion.chunk"),
                "choices": [choice],
                **({"usage": None} if tells_usage else {}),
                **({"obfuscation": _PADDING[: 16 - len(str(delta)) % 16]} if padded else {}),
            }
    if tells_usage and usage is not None:
        yield {**_common(request, "chat.completion.chunk"), "choices": [], "usage": usage.as_json()}


def _sloppy_chunks(answer: ModelAnswer, request: ParsedRequest, sloppy: frozenset[str]) -> Iterator[dict[str, Any]]:
    """The chunks as a server of that sloppiness sends them."""
    usage = answer.usage_for(request)
    chunks = list(_chunks(answer, request))
    bearers = _usage_bearers(chunks, sloppy)
    for number, chunk in enumerate(chunks):
        if not chunk["choices"] and bearers:
            continue
        for choice in chunk["choices"]:
            _make_sloppy(choice, sloppy)
        if number in bearers and usage is not None:
            chunk["usage"] = usage.as_json()
        if "no_finish" in sloppy and _finish(chunk) is not None:
            continue
        if "empty_choices" in sloppy and number in (0, 2):
            yield {**chunk, "choices": []}
        yield chunk


def _usage_bearers(chunks: list[dict[str, Any]], sloppy: frozenset[str]) -> set[int]:
    """The numbers of the chunks that tell the usage where it is not told in a chunk of its own."""
    chosen = [number for number, chunk in enumerate(chunks) if chunk["choices"]]
    finishing = [number for number in chosen if _finish(chunks[number]) is not None]
    bearers: set[int] = set()
    if "usage_everywhere" in sloppy:
        bearers.update(chosen)
    if "usage_on_finish" in sloppy:
        bearers.update(finishing)
    if "usage_on_content" in sloppy:
        bearers.add(finishing[0] - 1)
    return bearers


def _finish(chunk: dict[str, Any]) -> str | None:
    return chunk["choices"][0]["finish_reason"] if chunk["choices"] else None


def _make_sloppy(choice: dict[str, Any], sloppy: frozenset[str]) -> None:
    delta = choice["delta"]
    if "no_role" in sloppy:
        delta.pop("role", None)
    if "null_content" in sloppy and not delta.get("content"):
        delta["content"] = None
    fragments = [dict(fragment) for fragment in delta.get("tool_calls", ())]
    for fragment in fragments:
        if "zero_tool_index" in sloppy:
            fragment["index"] = 0
        if "no_tool_index" in sloppy:
            del fragment["index"]
        if "empty_tool_ids" in sloppy and "id" not in fragment:
            fragment.update(id="", type="function", function={"name": "", **fragment["function"]})
    if fragments:
        delta["tool_calls"] = fragments


# Frames and writes.


def _frame(chunk: dict[str, Any], sloppy: frozenset[str]) -> bytes:
    return _data(msgspec.json.encode(chunk), sloppy)


def _data(content: bytes, sloppy: frozenset[str]) -> bytes:
    line_end = b"\r\n" if "crlf" in sloppy else b"\n"
    comment = b": ping" + line_end * 2 if "comments" in sloppy else b""
    field = b"data:" if "no_space" in sloppy else b"data: "
    return comment + field + content + line_end * 2


def _writes(frames: list[bytes], delay: float, sloppy: frozenset[str]) -> Iterator[Step]:
    if "batched" in sloppy:
        frames = [b"".join(frames)]
    for number, frame in enumerate(frames):
        if number and delay:
            yield Pause(delay)
        if "torn" in sloppy:
            middle = _inside_a_character(frame)
            yield Send(frame[:middle])
            yield Send(frame[middle:])
        else:
            yield Send(frame)


def _inside_a_character(frame: bytes) -> int:
    """Where to tear a frame: inside its first character of several bytes, else in the middle."""
    return next((index for index, byte in enumerate(frame) if byte & 0xC0 == 0x80), len(frame) // 2)


# Failures.

_USUAL_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_USUAL_WORDS: dict[int | str, tuple[str, str]] = {
    "content_filter": (INVALID, "The prompt was flagged by the content filter. Please change it and try again."),
    "context_length_exceeded": (INVALID, "The messages are longer than this model's context. Please shorten them."),
    "insufficient_quota": (
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing.",
    ),
    400: (INVALID, "The request is not valid."),
    401: (INVALID, "Incorrect API key provided: sk-***."),
    403: ("permission_error", "You are not allowed to use this model."),
    404: (INVALID, "The model does not exist or you do not have access to it."),
    408: ("server_error", "The request timed out."),
    409: (INVALID, "The request conflicts with another one. Please try again."),
    429: ("requests", "Rate limit reached for requests. Please try again later."),
    500: ("server_error", "The server had an error while processing your request. Please try again."),
    503: ("server_error", "The engine is currently overloaded, please try again later."),
}


def _words(status: int, code: str | None) -> tuple[str, str]:
    by_status = _USUAL_WORDS.get(status) or _USUAL_WORDS[500 if status >= 500 else 400]
    return _USUAL_WORDS.get(code or status, by_status)


def _failure(answer: Fail) -> Tape:
    if answer.body is not None:
        headers = {"content-type": "text/html; charset=utf-8", **_lower(answer.headers)}
        return whole_body(answer.status, answer.body.encode(), headers)
    code = answer.code or _USUAL_CODES.get(answer.status)
    kind, message = _words(answer.status, code)
    body = error_body(answer.message or message, type=answer.type or kind, param=answer.param, code=code)
    return whole_body(answer.status, body, _lower(answer.headers))


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): str(value) for name, value in headers.items()}


@dataclass(frozen=True)
class FailInStream(Fault):
    """After n good chunks of a stream that began with 200 comes an error object; then the stream ends, without [DONE].

    An unstreamed answer becomes the error object, with status 200, as some routers send it.
    """

    after: int = 1
    code: str | None = "server_error"
    message: str = "The server had an error while processing your request. Please try again."
    type: str = "server_error"
    answer: Answer | str | None = None

    @property
    def underneath(self) -> Answer | str | None:
        return self.answer

    def apply(self, tape: Tape) -> Tape:
        error = msgspec.json.encode(error_object(self.message, type=self.type, code=self.code))
        if not tape or not isinstance(tape[0], Head) or tape[0].length is not None:
            return whole_body(200, error)
        kept: list[Step] = []
        left = self.after
        for step in tape:
            if isinstance(step, Send):
                if left == 0:
                    break
                left -= 1
            kept.append(step)
        return (*kept, Send(_data(error, frozenset())))
