"""How OpenAI's services look at a request and refuse it: one value at a path, and the words of the refusal.

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

    def __init__(
        self, message: str, *, status: int = 400, type: str = INVALID, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.param = param
        self.code = code

    def body(self) -> bytes:
        """The error as it goes over the wire."""
        return error_body(self.message, type=self.type, param=self.param, code=self.code)


def error_object(message: str, *, type: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def error_body(message: str, *, type: str, param: str | None = None, code: str | None = None) -> bytes:
    """OpenAI's error object as a body."""
    return msgspec.json.encode(error_object(message, type=type, param=param, code=code))


class Field:
    """A value in a request, with the path at which it stands: `messages[0].content`."""

    __slots__ = ("_key", "_parent", "value")

    def __init__(self, value: Any, parent: Field | None = None, key: str | int = "") -> None:
        self.value = value
        self._parent = parent
        self._key = key

    @property
    def path(self) -> str:
        if self._parent is None:
            return ""
        if isinstance(self._key, int):
            return f"{self._parent.path}[{self._key}]"
        return f"{self._parent.path}.{self._key}" if self._parent.path else self._key

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> Field:
        """A member that must be there."""
        if key not in self.value:
            path = Field(None, self, key).path
            raise RequestRefused(
                f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
            )
        return Field(self.value[key], self, key)

    def given(self, key: str) -> bool:
        """True if the member is there and not null."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def items(self) -> Iterator[Field]:
        """The items of an array."""
        for index, item in enumerate(self.value):
            yield Field(item, self, index)

    # Refusals.

    def refuse(self, message: str, code: str | None = "invalid_value") -> NoReturn:
        raise RequestRefused(message, param=self.path, code=code)

    def refuse_type(self, expected: str) -> NoReturn:
        self.refuse(
            f"Invalid type for '{self.path}': expected {expected}, but got {_kind(self.value)} instead.", "invalid_type"
        )

    # What a value must be. Each returns it, so that a caller need not look again.

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            self.refuse_type("a boolean")
        return self.value

    def integer(self, low: int | None = None, high: int | None = None) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.refuse_type("an integer")
        self._in_range("integer", low, high)
        return self.value

    def decimal(self, low: float | None = None, high: float | None = None) -> float:
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool):
            self.refuse_type("a decimal")
        self._in_range("decimal", low, high)
        return self.value

    def _in_range(self, noun: str, low: float | None, high: float | None) -> None:
        if low is not None and self.value < low:
            self.refuse(
                f"Invalid '{self.path}': {noun} below minimum value. Expected a value >= {low}, "
                f"but got {self.value} instead.",
                f"{noun}_below_min_value",
            )
        if high is not None and self.value > high:
            self.refuse(
                f"Invalid '{self.path}': {noun} above maximum value. Expected a value <= {high}, "
                f"but got {self.value} instead.",
                f"{noun}_above_max_value",
            )

    def string(self, *, low: int = 0, high: int | None = None, pattern: str | None = None) -> str:
        if not isinstance(self.value, str):
            self.refuse_type("a string")
        length = len(self.value)
        if length < low:
            self.refuse(
                f"Invalid '{self.path}': empty string. Expected a string with minimum length {low}, "
                "but got an empty string instead.",
                "empty_string",
            )
        if high is not None and length > high:
            self.refuse(
                f"Invalid '{self.path}': string too long. Expected a string with maximum length {high}, "
                f"but got a string with length {length} instead.",
                "string_above_max_length",
            )
        if pattern is not None and not re.fullmatch(pattern, self.value):
            self.refuse(
                f"Invalid '{self.path}': string does not match pattern. Expected a string that matches the pattern "
                f"'{pattern}'."
            )
        return self.value

    def one_of(self, *values: str) -> str:
        if not isinstance(self.value, str):
            self.refuse_type(f"one of {_listed(values, 'or')}")
        if self.value not in values:
            self.refuse(f"Invalid value: '{self.value}'. Supported values are: {_listed(values, 'and')}.")
        return self.value

    def array(self, *, low: int = 0, high: int | None = None, of: str = "") -> list[Field]:
        if not isinstance(self.value, list):
            self.refuse_type("an array" + (f" of {of}" if of else ""))
        length = len(self.value)
        if length < low:
            self.refuse(
                f"Invalid '{self.path}': empty array. Expected an array with minimum length {low}, "
                "but got an empty array instead.",
                "empty_array",
            )
        if high is not None and length > high:
            self.refuse(
                f"Invalid '{self.path}': array too long. Expected an array with maximum length {high}, "
                f"but got an array with length {length} instead.",
                "array_above_max_length",
            )
        return list(self.items())

    def object(self, known: Collection[str] | None = None) -> Field:
        """An object; `known` are the members that it may have."""
        if not isinstance(self.value, dict):
            self.refuse_type("an object")
        unknown = () if known is None else [key for key in self.value if key not in known]
        for key in unknown:
            path = Field(None, self, key).path
            raise RequestRefused(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter")
        return self


Rule: TypeAlias = Callable[[Field], None]
Rules: TypeAlias = tuple[Rule, ...]


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds: dict[type, str] = {
        bool: "a boolean",
        int: "an integer",
        float: "a decimal number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return kinds.get(type(value), type(value).__name__)


def _listed(values: tuple[str, ...], word: str) -> str:
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:
        return f" {word} ".join(quoted)
    return ", ".join(quoted[:-1]) + f", {word} {quoted[-1]}"
