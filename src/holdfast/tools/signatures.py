"""Signatures: what a function takes, as a pydantic model of its arguments.

Rule of this file: the model's fields have names of our own and the parameters' names as aliases, so a parameter may be
called anything. A default stays the function's: what the model did not send is not passed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.fields import FieldInfo

from holdfast.conversation.errors import InvalidInputError
from holdfast.ports.tools import ToolContext
from holdfast.tools.schemas import Generator, Schema, reason, tidy

_EMPTY = inspect.Parameter.empty


class Parameter(Struct, frozen=True):
    """One parameter. `field` is its name in the model of the arguments; "" if it is filled in with the context.

    `default` is Python's own, `inspect.Parameter.empty` where there is none.
    """

    name: str
    field: str
    positional: bool
    default: Any


class Signature:
    """What a function takes: `schema` for a model to read, `model` to validate what it wrote."""

    __slots__ = ("model", "parameters", "schema")

    def __init__(self, function: Callable[..., Any], name: str, words: Mapping[str, str]) -> None:
        given = _parameters(function, name)
        hints = _hints(function, name, given)
        self.parameters: list[Parameter] = []
        fields: dict[str, Any] = {}
        for number, one in enumerate(given):
            hint = Any if hints[one.name] is _EMPTY else hints[one.name]
            field = "" if _is_context(hint) else f"p{number}"
            if field:
                fields[field] = _field(one.name, hint, one.default)
            default = _EMPTY if isinstance(one.default, FieldInfo) else one.default
            positional = one.kind is inspect.Parameter.POSITIONAL_ONLY
            self.parameters.append(Parameter(one.name, field, positional, default))
        try:
            self.model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
            self.schema = _schema(self.model, words)
        except Exception as error:  # a type may bring code of its own
            raise _no_schema(name, hints, error) from error

    def bound(self, arguments: BaseModel, context: ToolContext[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the function is called with them."""
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for one in self.parameters:
            value = getattr(arguments, one.field) if one.field else context
            if one.positional:
                positional.append(one.default if self._omits(one, arguments) else value)
            elif not self._omits(one, arguments):
                named[one.name] = value
        return positional, named

    def named(self, arguments: BaseModel) -> dict[str, Any]:
        """The arguments by name, with the defaults of those that are not given, and without the context."""
        return {
            one.name: one.default if self._omits(one, arguments) else getattr(arguments, one.field)
            for one in self.parameters
            if one.field
        }

    @staticmethod
    def _omits(one: Parameter, arguments: BaseModel) -> bool:
        return bool(one.field) and one.default is not _EMPTY and one.field not in arguments.model_fields_set


def layers(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The function, and what is behind it: behind a partial, a wrapper that names what it wraps, a bound method, ...

    The last one has the annotations and the docstring.
    """
    while True:
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif isinstance(function, (types.FunctionType, type)) or not callable(function):
            return
        elif isinstance(type(function).__call__, types.FunctionType):
            function = type(function).__call__
        else:
            return


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The last of the layers."""
    *_, last = layers(function)
    return last


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} cannot be a tool: Python does not know its signature. Wrap it.") from error
    for one in found:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise InvalidInputError(
                f"{name} cannot be a tool: it takes {one}, and a model must be told each argument by name. "
                "Write a function that names them."
            )
    bound = set(_bound_by_partials(function))
    return [one for one in found if one.name not in bound]


def _bound_by_partials(function: Callable[..., Any]) -> Iterator[str]:
    while isinstance(function, functools.partial):
        yield from function.keywords
        function = function.func


def _hints(function: Callable[..., Any], name: str, given: list[inspect.Parameter]) -> dict[str, Any]:
    """The annotations as types, by parameter. Whatever else the function is annotated with does not matter."""
    inner = innermost(function)
    names = {**getattr(inner, "__globals__", {}), **_names_around(inner)}
    hints: dict[str, Any] = {}
    for one in given:
        holder = types.SimpleNamespace(__annotations__={one.name: one.annotation})
        try:
            hints.update(typing.get_type_hints(holder, names, names, include_extras=True))
        except Exception as error:  # an annotation is any code
            raise InvalidInputError(
                f"{name} cannot be a tool: the annotation {one.annotation!r} of its parameter {one.name!r} says "
                f"nothing here ({error}). Define what it names where the function's module can see it."
            ) from error
    return hints


def _names_around(inner: Any) -> dict[str, Any]:
    """What the function's annotations may name beside its module: what surrounds it, as far as that still runs."""
    place, names = getattr(inner, "__qualname__", ""), {}
    around: list[dict[str, Any]] = []
    frame = sys._getframe() if "<locals>" in place or "." in place else None
    while frame is not None:
        surrounds = place.startswith(f"{frame.f_code.co_qualname}.")
        if surrounds and frame.f_globals is getattr(inner, "__globals__", None):
            around.append(frame.f_locals)
        frame = frame.f_back
    for outer in reversed(around):
        names.update(outer)
    if isinstance(inner, types.FunctionType):
        for name, cell in zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # nothing was put there yet
                names[name] = cell.cell_contents
    return names


def _is_context(hint: Any) -> bool:
    hint = getattr(hint, "__value__", hint)  # what `type Name = ...` stands for
    origin = get_origin(hint)
    if origin is Annotated:
        return _is_context(get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is_context(option) for option in get_args(hint))
    kind = origin or hint
    return isinstance(kind, type) and issubclass(kind, ToolContext)


def _field(name: str, hint: Any, default: Any) -> Any:
    """The field as pydantic wants it. A name that the author gave it (`Field(alias=...)`) is left standing."""
    if default is None:
        hint = _or_none(hint)
    info = FieldInfo.from_annotation(hint)
    if all(alias is None for alias in (info.alias, info.validation_alias, *_aliases(default))):
        hint = Annotated[hint, Field(alias=name)]
    if default is not _EMPTY:
        return (hint, default)
    return (hint, ...) if info.is_required() else hint


def _or_none(hint: Any) -> Any:
    """None is a default, so the function takes it, whatever the annotation says."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return Annotated[(_or_none(inner), *notes)]
    return typing.Union[hint, None]  # noqa: UP007  what stands here is no expression of types


def _aliases(default: Any) -> tuple[Any, ...]:
    return (default.alias, default.validation_alias) if isinstance(default, FieldInfo) else ()


def _schema(model: type[BaseModel], words: Mapping[str, str]) -> Schema:
    schema = tidy(model.model_json_schema(schema_generator=Generator))
    properties = {
        field: {"description": words[field], **part} if field in words else part
        for field, part in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties}


def _no_schema(name: str, hints: Mapping[str, Any], error: Exception) -> InvalidInputError:
    """Which parameter it is: pydantic tells only of types."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for parameter, hint in hints.items():
            try:
                if hint is not _EMPTY and not _is_context(hint):
                    TypeAdapter(hint).json_schema(schema_generator=Generator)
            except Exception as problem:
                return InvalidInputError(
                    f"{name} cannot be a tool: its parameter {parameter!r} has no schema. {reason(problem)}."
                )
    return InvalidInputError(f"{name} cannot be a tool: its arguments have no schema. {reason(error)}.")
