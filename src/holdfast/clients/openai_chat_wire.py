"""The JSON of Chat Completions as it comes: typed where it is as documented, and made so where it is not.

Rule of this file: whatever a server sends, a `Chunk` or None comes out. A chunk of a stream and a whole answer have
the same shape, but for `delta` being called `message`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from msgspec import Struct


class Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class CallPart(Struct, gc=False):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Part(Struct, gc=False):
    """What is new in a message, or all of it."""

    content: str | None = None
    tool_calls: list[CallPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: Function | None = None


class Choice(Struct, gc=False):
    delta: Part | None = None
    finish_reason: str | None = None
    index: int | None = None
    message: Part | None = None


class InputDetails(Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(Struct, gc=False):
    reasoning_tokens: int | None = None


class Tokens(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class Chunk(Struct, gc=False):
    """`error` is the service's own error object, decoded; it stands where an answer should be."""

    choices: list[Choice] | None = None
    usage: Tokens | None = None
    id: str | None = None
    model: str | None = None
    error: Any = None


decode_chunk = msgspec.json.Decoder(Chunk).decode

_SURROGATE = re.compile("[\ud800-\udfff]")


def loose_json(payload: bytes) -> Any:
    """JSON as it is often written: NaN, raw control characters, broken UTF-8 and halves of surrogate pairs are taken.

    Raises ValueError if it is no JSON even so.
    """
    try:
        found = json.loads(payload.decode("utf-8-sig", "replace"), strict=False)
        # A pair that was escaped properly is one character by now; what is left are halves.
        text = json.dumps(found, ensure_ascii=False)
        return json.loads(_SURROGATE.sub("\ufffd", text), strict=False) if _SURROGATE.search(text) else found
    except RecursionError:
        raise ValueError("nested too deeply") from None


def loose_chunk(payload: bytes) -> Chunk | None:
    """A chunk or an answer that is not as documented; None if it is JSON, but nothing of the kind.

    Raises ValueError if it is no JSON.
    """
    found = loose_json(payload)
    if not isinstance(found, dict):
        return Chunk(error=found[0].get("error")) if _is_list_of_error(found) else None
    error = found.get("error")
    if not error and found.get("object") == "error":  # vLLM's form: the error is the whole object
        error = found
    choices = found.get("choices")
    usage = found.get("usage")
    if not error and not isinstance(choices, list) and not isinstance(usage, dict):
        return None
    return Chunk(
        choices=[_choice(item) for item in choices if isinstance(item, dict)] if isinstance(choices, list) else None,
        usage=_tokens(usage),
        id=_text(found.get("id")),
        model=_text(found.get("model")),
        error=error,
    )


def _is_list_of_error(found: Any) -> bool:
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and bool(found[0].get("error"))


def _choice(item: dict[str, Any]) -> Choice:
    reason = item.get("finish_reason")
    return Choice(_part(item.get("delta")), _text(reason), _number(item.get("index")), _part(item.get("message")))


def _part(found: Any) -> Part | None:
    if not isinstance(found, dict):
        return None
    content, thoughts = _spoken(found.get("content"))
    calls = found.get("tool_calls")
    return Part(
        content=content,
        tool_calls=[_call(item) for item in calls if isinstance(item, dict)] if isinstance(calls, list) else None,
        refusal=_text(found.get("refusal")),
        reasoning_content=_text(found.get("reasoning_content")) or thoughts,
        reasoning=_text(found.get("reasoning")),
        function_call=_function(found.get("function_call")),
    )


def _spoken(content: Any) -> tuple[str | None, str | None]:
    """Text and thoughts of a content that may be a list of parts."""
    if not isinstance(content, list):
        return _text(content), None
    spoken: list[str] = []
    thoughts: list[str] = []
    for item in content:
        if isinstance(item, str):
            spoken.append(item)
        elif isinstance(item, dict):
            thought = item.get("thinking")  # Mistral: a list of text parts
            thoughts.append((_spoken(thought)[0] if isinstance(thought, list) else _text(thought)) or "")
            spoken.append(_text(item.get("text")) or _text(item.get("refusal")) or "")
    return "".join(spoken) or None, "".join(thoughts) or None


def _call(item: dict[str, Any]) -> CallPart:
    call_id = item.get("id")
    if isinstance(call_id, int):
        call_id = str(call_id)
    return CallPart(_number(item.get("index")), _text(call_id), _function(item.get("function")))


def _function(found: Any) -> Function | None:
    if not isinstance(found, dict):
        return None
    arguments = found.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return Function(_text(found.get("name")), arguments)


def _tokens(found: Any) -> Tokens | None:
    if not isinstance(found, dict):
        return None
    asked, said = found.get("prompt_tokens_details"), found.get("completion_tokens_details")
    asked = asked if isinstance(asked, dict) else {}
    said = said if isinstance(said, dict) else {}
    return Tokens(
        prompt_tokens=_number(found.get("prompt_tokens")),
        completion_tokens=_number(found.get("completion_tokens")),
        total_tokens=_number(found.get("total_tokens")),
        prompt_tokens_details=InputDetails(
            _number(asked.get("cached_tokens")), _number(asked.get("cache_write_tokens"))
        ),
        completion_tokens_details=OutputDetails(_number(said.get("reasoning_tokens"))),
    )


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


def _number(found: Any) -> int | None:
    """A whole number. NaN, true and a word are none."""
    if isinstance(found, str) and found.isdecimal() and len(found) < 20:
        return int(found)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found != found or abs(found) > 2**63:
        return None
    return int(found)
