"""Results: what a function has returned, as the text that the model reads.

Rule of this file: a text is handed on as it is, everything else is JSON in one line. What is neither is refused by
name of its type, never written down by its `repr`.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from holdfast.conversation.updates import sound
from holdfast.ports.tools import ToolError


def text_of(result: object) -> str:
    """The text. Nothing is `null`; numbers that JSON has no word for stand as strings, such as "NaN".

    Raises ToolError if the result cannot be written.
    """
    if isinstance(result, str):
        return sound(str.__str__(result))
    if isinstance(result, (bytes, bytearray, memoryview)):
        raise _refusal(result, "bytes are no text")
    try:
        return to_json(result, inf_nan_mode="strings", fallback=_plain).decode()
    except PydanticSerializationError as error:
        return _with_broken_text(result, error)
    except Exception as error:  # a property or a serializer of the user's own type
        raise _refusal(result, f"{type(error).__name__}: {error}") from error


def _with_broken_text(result: object, error: Exception) -> str:
    """The same for what holds halves of surrogate pairs, which UTF-8 cannot hold."""
    if "surrogates not allowed" not in str(error):
        raise _refusal(result, str(error)) from error
    try:
        value = to_jsonable_python(result, inf_nan_mode="strings", fallback=_plain)
        return sound(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except Exception as again:
        raise _refusal(result, str(again)) from again


def _plain(value: Any) -> object:
    """A msgspec struct in Python's own types; pydantic asks for it where it meets what it does not know."""
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, enc_hook=to_jsonable_python)
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _refusal(result: object, why: str) -> ToolError:
    return ToolError(
        f"The function has run, but its result cannot be told: it is a {type(result).__name__}, "
        f"which cannot be written as JSON ({why[:300]})."
    )
