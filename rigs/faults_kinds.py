"""Kinds of faults: what a service can do wrong, as changes of the tape of a sound answer.

Rule of this file: plain data and pure functions. A kind says where it can strike, and what may be raised then; it knows
nothing of the client. `Spot` counts the writes of an answer: None is before its headers, 0 right after them, n after
the n-th event of a stream (or in the middle of a body in one piece).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from holdfast import (
    AuthenticationError,
    BadRequestError,
    ContentFilteredError,
    ContextTooLongError,
    HoldfastError,
    RateLimitError,
    ServiceProtocolError,
    ServiceUnavailableError,
)
from holdfast.testing.openai_chat import BrokenJSON, CutStream, Fail, FailInStream, Fault, Hang
from holdfast.testing.standin_tapes import Answer, Head, Send, Step, Tape, whole_body

Spot: TypeAlias = int | None
# Where a kind can strike: once for an answer; before the headers, after them and after each event; or in each event.
Where: TypeAlias = Literal["once", "anywhere", "between", "inside"]
How: TypeAlias = Literal["close", "reset", "clean"]
Errors: TypeAlias = tuple[type[HoldfastError], ...]

BROKEN: Errors = (ServiceUnavailableError, ServiceProtocolError)
HUGE = 50 * 1024 * 1024
SILENCE = "silence"


class Kind(Struct, frozen=True):
    """A kind of fault. `raises` is what may be raised; with `harmless` the answer comes all the same.

    `passes`: the same request may be accepted when it is sent again, and must be sent again, as long as nothing of the
    answer was handed on. `waits` is how long the service asked to wait before that. `streamed`: for streams alone
    (True), or for answers in one piece alone (False). `heavy`: costs seconds, or megabytes.
    """

    name: str
    spoil: Callable[[Answer, Spot], Answer]
    where: Where = "once"
    raises: Errors = BROKEN
    harmless: bool = False
    passes: bool = False
    waits: float | None = None
    streamed: bool | None = None
    heavy: bool = False
    gate: str | None = None  # what the relay before the service does, where HTTP has not begun


# --- changes of a tape ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Changed(Fault):
    """An answer whose tape is changed by a function."""

    change: Callable[[Tape], Tape] = field(default=lambda tape: tape)
    answer: Answer | str | None = None

    @property
    def underneath(self) -> Answer | str | None:
        return self.answer

    def apply(self, tape: Tape) -> Tape:
        return self.change(tape)


def _changed(change: Callable[[Tape, Spot], Tape]) -> Callable[[Answer, Spot], Answer]:
    return lambda answer, spot: Changed(lambda tape: change(tape, spot), answer)


def _with_type(kind: str) -> Callable[[Answer, Spot], Answer]:
    def change(tape: Tape, _: Spot) -> Tape:
        return tuple(
            replace(step, headers={**step.headers, "content-type": kind}) if isinstance(step, Head) else step
            for step in tape
        )

    return _changed(change)


def _body(body: bytes, status: int = 200, kind: str = "application/json") -> Callable[[Answer, Spot], Answer]:
    """Something else instead of the answer."""
    return _changed(lambda tape, spot: whole_body(status, body, {"content-type": kind}))


def _inserted(more: Callable[[], bytes]) -> Callable[[Answer, Spot], Answer]:
    """Something more after so many writes of a stream."""

    def change(tape: Tape, spot: Spot) -> Tape:
        steps: list[Step] = []
        sent = 0
        for step in tape:
            steps.append(step)
            sent += isinstance(step, Send)
            if sent == (spot or 0) and isinstance(step, Send if spot else Head):
                steps.append(Send(more()))
                sent += 1000  # once
        return tuple(steps)

    return _changed(change)


def _each_event(change: Callable[[bytes], bytes]) -> Callable[[Answer, Spot], Answer]:
    """Each write of an answer, changed."""

    def changed(tape: Tape, _: Spot) -> Tape:
        steps = [Send(change(step.data)) if isinstance(step, Send) else step for step in tape]
        length = sum(len(step.data) for step in steps if isinstance(step, Send))
        return tuple(
            replace(step, length=length) if isinstance(step, Head) and step.length is not None else step
            for step in steps
        )

    return _changed(changed)


def _with_unknown_fields(data: bytes) -> bytes:
    """More members in each object, as a newer service has."""
    more = b'{"x_new":{"a":[1,null,"\\ud83d\\ude00"],"tool_calls":[]},"x_more":1e3,'
    return data.replace(b'{"id":"chatcmpl', more + b'"id":"chatcmpl', 1)


def _with_event_fields(data: bytes) -> bytes:
    return b": hello\nevent: chunk\nid: 7\nretry: 100\nx-new: y\n" + data if data.startswith(b"data:") else data


def _in_bytes(data: bytes) -> bytes:
    return re.sub(rb"\r?\n", b"\r\n", data)


def _fails(status: int, code: str | None = None, **more: str) -> Callable[[Answer, Spot], Answer]:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    return lambda answer, spot: Fail(status, code, headers=headers)


def _page(status: int) -> Callable[[Answer, Spot], Answer]:
    return lambda answer, spot: Fail(status, body="<html><title>Sorry</title><body>Down.</body></html>")


def _redirect(status: int) -> Callable[[Answer, Spot], Answer]:
    return lambda answer, spot: Fail(status, headers={"location": "http://127.0.0.1:9/elsewhere?key=sk-secret"})


def _huge(begins: bytes, ends: bytes = b"") -> Callable[[], bytes]:
    return lambda: begins + b"x" * HUGE + ends


# --- the list ------------------------------------------------------------------------------------------------------


def _cut(how: How, *, mid_frame: bool) -> Callable[[Answer, Spot], Answer]:
    return lambda answer, spot: CutStream(spot, mid_frame=mid_frame, how=how, answer=answer)


def _same(answer: Answer, spot: Spot) -> Answer:
    return answer


def _hang(seconds: float | None) -> Callable[[Answer, Spot], Answer]:
    return lambda answer, spot: Hang(seconds, spot, answer)


def _cuts() -> list[Kind]:
    found: list[Kind] = []
    for how in get_args(How):
        sound = how == "clean"  # HTTP ends as it should, only the answer does not
        at, inside = _cut(how, mid_frame=False), _cut(how, mid_frame=True)
        found.append(Kind(f"cut ({how})", at, "between" if sound else "anywhere", passes=not sound))
        found.append(Kind(f"cut in an event ({how})", inside, "inside", passes=True, streamed=True))
    return found


def _refusals() -> list[Kind]:
    unavailable, limited, bad = (ServiceUnavailableError,), (RateLimitError,), (BadRequestError,)
    found = [
        Kind(f"status {status}", _fails(status), raises=unavailable, passes=True)
        for status in (408, 409, 500, 502, 503, 504, 529)
    ]
    return [
        *found,
        Kind("status 429", _fails(429), raises=limited, passes=True),
        Kind("status 429, wait", _fails(429, retry_after="7"), raises=limited, passes=True, waits=7.0),
        Kind("status 429, wait ms", _fails(429, retry_after_ms="1500"), raises=limited, passes=True, waits=1.5),
        Kind("status 429, wait for hours", _fails(429, retry_after="86400"), raises=limited),
        Kind("status 503, wait", _fails(503, retry_after="2"), raises=unavailable, passes=True, waits=2.0),
        Kind("quota used up", _fails(429, "insufficient_quota"), raises=limited),
        Kind("status 400", _fails(400), raises=bad),
        Kind("too long", _fails(400, "context_length_exceeded"), raises=(ContextTooLongError,)),
        Kind("filtered", _fails(400, "content_filter"), raises=(ContentFilteredError,)),
        Kind("status 401", _fails(401), raises=(AuthenticationError,)),
        Kind("status 403", _fails(403), raises=(AuthenticationError,)),
        Kind("status 404", _fails(404), raises=bad),
        Kind("status 413", _fails(413), raises=(ContextTooLongError,)),
        Kind("status 422", _fails(422), raises=bad),
        Kind("told not to try again", _fails(500, x_should_retry="false"), raises=unavailable),
        *(Kind(f"redirect {status}", _redirect(status), raises=bad) for status in (301, 302, 303, 307, 308)),
        *(Kind(f"a page with {status}", _page(status), raises=unavailable, passes=True) for status in (502, 503)),
        Kind("a page with 404", _page(404), raises=bad),
    ]


def _no_answers() -> list[Kind]:
    nothing = {
        "an empty body": b"",
        "half a JSON": b'{"choices": [{"mess',
        "a list": b"[]",
        "a string": b'"Hello"',
        "an object of nothing": b"{}",
        "no choices": b'{"choices": []}',
        "null": b"null",
        "not UTF-8": b'{"choices": \xff\xfe',
        "nested deeply": b"[" * 100_000,
    }
    found = [Kind(f"{name} for an answer", _body(body)) for name, body in nothing.items()]
    return [
        *found,
        Kind("a page with 200", _body(b"<!doctype html><title>Log in</title>", kind="text/html")),
        Kind("status 204", _body(b"", 204)),
        Kind("an error with 200", _body(b'{"error": {"message": "no", "code": 500}}'), passes=True),
        Kind("50 MB of nothing for an answer", _changed(lambda tape, spot: whole_body(200, b" " * HUGE)), heavy=True),
    ]


def _in_streams() -> list[Kind]:
    def failing(code: str, raises: Errors, *, passes: bool = False) -> Kind:
        def spoil(answer: Answer, spot: Spot) -> Answer:
            return FailInStream(spot or 0, code=code, type=code, answer=answer)

        return Kind(f"an error in the stream ({code})", spoil, "between", raises, passes=passes)

    def broken(answer: Answer, spot: Spot) -> Answer:
        return BrokenJSON(spot or 0, answer)

    huge_event, huge_line = _huge(b"data: ", b"\n\n"), _huge(b": ", b"\n\n")
    return [
        failing("server_error", (ServiceUnavailableError,), passes=True),
        failing("rate_limit_exceeded", (RateLimitError,), passes=True),
        failing("context_length_exceeded", (ContextTooLongError,)),
        Kind("broken JSON", broken, "inside"),
        Kind("an event that is no JSON", _inserted(lambda: b"data: <html>\n\n"), "between", streamed=True),
        Kind("an event of 50 MB", _inserted(huge_event), "between", streamed=True, heavy=True),
        Kind("a comment of 50 MB", _inserted(huge_line), "between", streamed=True, heavy=True),
    ]


def _silence() -> list[Kind]:
    return [
        Kind(SILENCE, _hang(None), "anywhere", (ServiceUnavailableError,)),
        Kind("a pause", _hang(0.01), "anywhere", (), harmless=True),
    ]


def _oddities() -> list[Kind]:
    """What is not as documented, but can be understood."""
    odd: dict[str, Callable[[Answer, Spot], Answer]] = {
        "unknown members": _each_event(_with_unknown_fields),
        "unknown event fields": _each_event(_with_event_fields),
        "CRLF": _each_event(_in_bytes),
        "a stream as text/plain": _with_type("text/plain"),
        "a stream as JSON": _with_type("application/json"),
        "JSON as a stream": _with_type("text/event-stream; charset=utf-8"),
        "an answer as a page": _with_type("text/html"),
        "no content type": _with_type(""),
    }
    found = [Kind(name, spoil, raises=(), harmless=True) for name, spoil in odd.items()]
    comment = Kind("a comment", _inserted(lambda: b": ping\n\n"), "between", (), harmless=True, streamed=True)
    empty = Kind("an empty event", _inserted(lambda: b"data:\n\n"), "between", (), harmless=True, streamed=True)
    return [*found, comment, empty]


def _gates() -> list[Kind]:
    gone = (ServiceUnavailableError,)
    return [
        Kind("refused connection", _same, raises=gone, passes=True, gate="shut"),
        Kind("connection closed at once", _same, raises=gone, passes=True, gate="close"),
        Kind("connection reset at once", _same, raises=gone, passes=True, gate="reset"),
        Kind("something that is not HTTP", _same, raises=BROKEN, gate="garbage"),
    ]


KINDS: Sequence[Kind] = (
    *_gates(),
    *_cuts(),
    *_refusals(),
    *_no_answers(),
    *_in_streams(),
    *_silence(),
    *_oddities(),
)


def spots(kind: Kind, writes: int, *, streamed: bool) -> Sequence[Spot]:
    """Where a kind can strike in an answer of so many writes."""
    if kind.streamed not in (None, streamed):
        return ()
    if kind.where == "once":
        return (None,)
    if kind.where == "anywhere":
        return (None, *range(writes + 1 if streamed else 2))
    return range(writes + (kind.where == "between")) if streamed else range(2 if kind.where == "between" else 1)
