"""How Anthropic's service looks at a request and refuses it: one value at a path, and the words of the refusal.

Rule of this file: it knows the shape of values and the shape of errors, not what a request is made of. A rule is a
function that takes the whole body as a `Field` and raises `RequestRefused`; a set of rules is a tuple of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn, TypeAlias

import msgspec

INVALID = "invalid_request_error"


class RequestRefused(Exception):
    """The service answers with an error of its own instead of an answer of the model."""

    def __init__(self, message: str, *, status: int = 400, type: str = INVALID) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type


def error_body(message: str, *, type: str, request_id: str) -> bytes:
    """Anthropic's error object as a body."""
    return msgspec.json.encode({"type": "error", "error": {"type": type, "message": message}, "request_id": request_id})


class Field:
    """A value in a request, with the path at which it stands: `messages.0.content.1.text`."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str = "") -> None:
        self.value = value
        self.path = path

    def at(self, key: str | int) -> str:
        """The path of a member."""
        return f"{self.path}.{key}" if self.path else str(key)

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> Field:
        """A member that must be there."""
        if key not in self.value:
            raise RequestRefused(f"{self.at(key)}: Field required")
        return Field(self.value[key], self.at(key))

    def given(self, key: str) -> bool:
        """True if the member is there and not null."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def tagged(self, tag: str) -> Field:
        """The same value as one of several kinds; the service names the kind in its paths."""
        return Field(self.value, self.at(tag))

    def items(self) -> Iterator[Field]:
        """The items of an array."""
        for index, item in enumerate(self.value):
            yield Field(item, self.at(index))

    def refuse(self, message: str) -> NoReturn:
        raise RequestRefused(f"{self.path}: {message}")

    # What a value must be. Each returns it, so that a caller need not look again.

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse("Input should be a valid boolean")
        return self.value

    def integer(self, low: int | None = None) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.refuse("Input should be a valid integer")
        if low is not None and self.value < low:
            self.refuse(f"Input should be greater than or equal to {low}")
        return self.value

    def number(self, low: float, high: float) -> float:
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool):
            self.refuse("Input should be a valid number")
        if not low <= self.value <= high:
            which = f"less than or equal to {high:g}" if self.value > high else f"greater than or equal to {low:g}"
            self.refuse(f"Input should be {which}")
        return self.value

    def string(self, *, low: int = 0, high: int | None = None, pattern: str | None = None) -> str:
        if not isinstance(self.value, str):
            self.refuse("Input should be a valid string")
        if len(self.value) < low:
            self.refuse(f"String should have at least {low} character{'s' if low > 1 else ''}")
        if high is not None and len(self.value) > high:
            self.refuse(f"String should have at most {high} characters")
        if pattern is not None and not re.fullmatch(pattern, self.value):
            self.refuse(f"String should match pattern '{pattern}'")
        return self.value

    def one_of(self, *values: str) -> str:
        if not isinstance(self.value, str) or self.value not in values:
            quoted = [f"'{value}'" for value in values]
            listed = " or ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]
            self.refuse(f"Input should be {listed}")
        return self.value

    def array(self) -> list[Field]:
        if not isinstance(self.value, list):
            self.refuse("Input should be a valid list")
        return list(self.items())

    def object(self, known: Collection[str] | None = None) -> Field:
        """An object; `known` are the members that it may have."""
        if not isinstance(self.value, dict):
            self.refuse("Input should be a valid dictionary")
        for key in self.value:
            if known is not None and key not in known:
                raise RequestRefused(f"{self.at(key)}: Extra inputs are not permitted")
        return self

    def cache_control(self) -> None:
        """A mark for the cache, where there may be one."""
        if self.given("cache_control"):
            mark = self["cache_control"].object(("type", "ttl"))
            mark["type"].one_of("ephemeral")
            if "ttl" in mark:
                mark["ttl"].one_of("5m", "1h")


Rule: TypeAlias = Callable[[Field], None]
Rules: TypeAlias = tuple[Rule, ...]
