"""Plain data: what JSON can hold, as it came.

Rule of this file: nothing is converted in silence. What is read back is equal to what was given, or it is refused
with a word on what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import checked_text

# Deeper than people nest, and far from where Python's own JSON reader gives up: what was stored can be read.
MAX_DEPTH = 64


def plain(value: object, what: str, depth: int = 0) -> object:
    """The value in Python's own types. Raises InvalidInputError, which calls it `what`, if JSON cannot hold it."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"{what} is nested more than {MAX_DEPTH} levels deep. Flatten it.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"{what} cannot be stored as JSON: it holds {value!r}, which is no JSON number.")
    if isinstance(value, str):
        return checked_text(value, what)
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, what, depth + 1) for item in value]
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            f"{what} holds a {type(value).__name__}; it may hold strings, numbers, booleans, None, lists and "
            "dicts only. Turn the value into one of these."
        )
    for key in value:
        if not isinstance(key, str):
            raise InvalidInputError(f"{what} has the key {key!r}; keys are strings. Use {str(key)!r}.")
        checked_text(key, f"A key of {what}")
    return {key: plain(item, what, depth + 1) for key, item in value.items()}
