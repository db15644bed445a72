"""Answers in a form: what a caller wants a model's answer to be, and how it is read.

Rule of this file: a form is a type, and the answer an instance of it or an error that tells the model why not. What
models wrap around their JSON is taken off; what is in it is not guessed at.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, overload

import msgspec
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic_core import from_json, to_json

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.plain import plain
from holdfast.conversation.updates import sound
from holdfast.ports.clients import AnswerFormat
from holdfast.tools.complaints import complaints
from holdfast.tools.nulls import without_nulls
from holdfast.tools.schemas import Generator, NotStrictError, Schema, reason, strict, tidy

T = TypeVar("T")

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_ASK_AGAIN = "Answer again with the whole JSON, and with nothing else."


class AnswerError(ValueError):
    """The answer does not have the form that was asked for. The text is made for the model, so that it can mend it."""


class _Reader(Protocol):
    """One library's way with a type. `read` raises that library's ValidationError."""

    schema: Schema

    def read(self, text: str) -> Any: ...


class _Pydantic:
    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        self.schema = tidy(self._adapter.json_schema(schema_generator=Generator))

    def read(self, text: str) -> Any:
        return self._adapter.validate_json(text)


class _Msgspec:
    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self.schema = tidy(msgspec.json.schema(kind))

    def read(self, text: str) -> Any:
        return self._decoder.decode(text)


class _Plain:
    """A JSON Schema that the caller has written: the answer is the decoded JSON object, and nobody checks it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def read(self, text: str) -> Any:
        return from_json(text)


class AnswerShape(Generic[T]):
    """The form of an answer: `format` for the service, `read` for what the model has written. Immutable."""

    __slots__ = ("_reader", "_wrapped", "format")

    def __init__(self, reader: _Reader, name: str, *, wrapped: bool) -> None:
        self._reader = reader
        self._wrapped = wrapped
        self.format = _format(name, reader)

    def read(self, text: str) -> T:
        """The answer. Raises AnswerError with what is wrong, path by path."""
        text = _bare(sound(text))
        try:
            data = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise AnswerError(f"The answer is no valid JSON ({error}). {_ASK_AGAIN}") from error
        if self._wrapped and not (isinstance(data, dict) and data.keys() == {"value"}):
            text, data = f'{{"value":{text}}}', {"value": data}
        if not isinstance(data, dict):
            raise AnswerError(f"The answer is no JSON object. {_ASK_AGAIN}")
        try:
            value = self._read(text, data)
        except (ValidationError, msgspec.DecodeError) as error:
            told = complaints(error, data)
            raise AnswerError(f"The answer does not have the form asked for:\n{told}\n{_ASK_AGAIN}") from error
        return value.value if self._wrapped else value  # type: ignore[no-any-return]

    def _read(self, text: str, data: Any) -> Any:
        try:
            return self._reader.read(text)
        except (ValidationError, msgspec.DecodeError):
            mended = without_nulls(data, self._reader.schema)
            if mended is data:
                raise
            return self._reader.read(to_json(mended).decode())


@overload
def answer_shape(kind: type[T]) -> AnswerShape[T]: ...


@overload
def answer_shape(kind: Any) -> AnswerShape[Any]: ...


def answer_shape(kind: Any) -> AnswerShape[Any]:
    """The form that a type describes: a pydantic model, dataclass, msgspec struct, TypedDict, enum, `list[...]`, ...

    Services want an object at the root, so anything else stands in it under "value", and is taken out again. A null
    for what has a default and takes no null means the default. A mapping is taken as the JSON Schema of an object: the
    answer is then the decoded JSON, and nothing is validated but that it is an object.

    Raises InvalidInputError for what has no schema.
    """
    if isinstance(kind, Mapping):
        return _of_schema(kind)
    name = _name(kind)
    reader, told = (None, "It is no type.") if inspect.isroutine(kind) else _reader(kind)
    if reader is None:
        raise InvalidInputError(f"{kind!r} cannot be the form of an answer: it has no JSON Schema. {told}")
    if reader.schema.get("type") == "object":
        return AnswerShape(reader, name, wrapped=False)
    if isinstance(reader, _Msgspec):
        return AnswerShape(_Msgspec(msgspec.defstruct(name, [("value", kind)])), name, wrapped=True)
    model = create_model(name, __config__=ConfigDict(extra="forbid"), value=(kind, ...))
    return AnswerShape(_Pydantic(model), name, wrapped=True)


def _of_schema(schema: Mapping[str, Any]) -> AnswerShape[Any]:
    copied = plain(schema, "response_format")
    assert isinstance(copied, dict)
    if copied.get("type") != "object":
        raise InvalidInputError('A JSON Schema as the form of an answer describes an object: "type" is "object".')
    return AnswerShape(_Plain(copied), _sanitized(str(copied.get("title", ""))), wrapped=False)


def _reader(kind: Any) -> tuple[_Reader | None, str]:
    """The library that knows the type, or why there is none. pydantic knows everything but structs."""
    try:
        return _Pydantic(kind), ""
    except Exception as error:  # a type may bring code of its own
        told = reason(error)
    try:
        return _Msgspec(kind), ""
    except Exception:
        return None, told


def _format(name: str, reader: _Reader) -> AnswerFormat:
    try:
        made = strict(tidy(reader.schema))
    except NotStrictError:
        return AnswerFormat(name, reader.schema, False)
    if isinstance(reader, _Plain):  # what the caller has written is sent as it is
        return AnswerFormat(name, reader.schema, made == reader.schema)
    return AnswerFormat(name, made, True)


def _name(kind: Any) -> str:
    return _sanitized(str(getattr(kind, "__name__", "")))


def _sanitized(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:64] or "answer"


def _bare(text: str) -> str:
    """The text without blanks, a byte order mark or a fence around it."""
    text = text.strip().strip("\ufeff").strip()
    fenced = _FENCE.fullmatch(text)
    return fenced[1].strip() if fenced else text
