"""Complaints: why a JSON text is not what was asked for, in words that help a model to mend it.

Rule of this file: every wrong field is named by its path and its reason; what the model has sent is not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

_AT_MOST = 20
_LONGEST = 300
_PREFIX = re.compile(r"^(Input |Value error, |Assertion failed, )")


def complaints(error: ValidationError | msgspec.DecodeError, data: Any) -> str:
    """One line for each thing that is wrong with the decoded JSON."""
    if isinstance(error, msgspec.DecodeError):
        reason, _, path = str(error).partition(" - at `$")
        return _line(path.rstrip("`").removeprefix("."), reason)
    details = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [_line(_path(one["loc"], data, one["type"]), _reason(one["type"], one["msg"])) for one in details]
    return "\n".join(_few(dict.fromkeys(lines)))


def _few(lines: Iterable[str]) -> Iterable[str]:
    told = list(lines)
    if len(told) > _AT_MOST:
        return [*told[:_AT_MOST], f"- and {len(told) - _AT_MOST} more"]
    return told


def _line(path: str, reason: str) -> str:
    return f"- {path or 'the whole'}: {reason if len(reason) <= _LONGEST else reason[:_LONGEST] + '...'}"


def _reason(kind: str, message: str) -> str:
    if kind in ("missing", "missing_argument"):
        return "is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return "there is no such name here; leave it out"
    return _PREFIX.sub("", message)


def _path(steps: Sequence[int | str], data: Any, kind: str) -> str:
    """Where it is. Of a union pydantic also names the choice that it tried, which is no place in the data."""
    path, last = "", len(steps) - 1
    for number, step in enumerate(steps):
        if isinstance(data, list) and isinstance(step, int):
            path += f"[{step}]"
            data = data[step] if step < len(data) else None
        elif isinstance(data, dict) and (step in data or (number == last and kind == "missing")):
            path += f".{step}" if path else str(step)
            data = data.get(step)
        elif isinstance(step, str) and step.isidentifier():
            path += f" (as {step})"
    return path.strip()
