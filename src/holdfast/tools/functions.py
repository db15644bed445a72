"""Function tools: a plain Python function that a model may call.

Rule of this file: what a model writes is validated before anything is done, and refused in words that help it to mend
its call. A function that blocks runs beside the event loop, never in it.

    @tool(timeout=10)
    def get_weather(city: str) -> str:
        '''The weather in a city.'''
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from msgspec import Struct
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.updates import sound
from holdfast.ports.tools import ToolContext, ToolError, ToolSpec
from holdfast.tools import docstrings
from holdfast.tools.complaints import complaints
from holdfast.tools.in_threads import error_of, in_thread
from holdfast.tools.nulls import without_nulls
from holdfast.tools.results import text_of
from holdfast.tools.schemas import NotStrictError, strict
from holdfast.tools.signatures import Signature, innermost, layers

P = ParamSpec("P")
R = TypeVar("R")

Approval = bool | Callable[[dict[str, Any]], bool]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Settings(Struct, frozen=True, kw_only=True):
    """What `tool` may be told; see there."""

    name: str | None = None
    description: str | None = None
    timeout: float | None = None
    idempotent: bool = False
    approval: Approval = False
    approval_seconds: float | None = None
    strict: bool = False


class FunctionTool(Generic[P, R]):
    """A function as a tool (`holdfast.ports.tools.Tool`); it can still be called like the function. Immutable."""

    __name__: str  # as the function has it

    def __init__(self, function: Callable[P, R], settings: Settings) -> None:
        name = _name_of(function, settings.name)
        _check(function, name, settings)
        inner = innermost(function)
        words = docstrings.read(inner.__doc__ or _doc_of_object(function))
        self._function = function
        self._settings = settings
        self._signature = Signature(function, name, words.parameters)
        self._is_async = _is_async(function)
        self._spec = ToolSpec(
            name,
            words.description if settings.description is None else settings.description,
            _parameters(self._signature, name, settings),
            settings.strict,
        )
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self._spec.name}>"

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    @property
    def timeout(self) -> float | None:
        return self._settings.timeout

    @property
    def idempotent(self) -> bool:
        return self._settings.idempotent

    @property
    def in_thread(self) -> bool:
        return not self._is_async

    @property
    def approval_seconds(self) -> float | None:
        return self._settings.approval_seconds

    def needs_approval(self, arguments: str) -> bool:
        """Whether a human must allow the call. If the tool's own rule fails, one must."""
        rule = self._settings.approval
        if rule is False:
            return False
        try:
            validated = self._validated(arguments)
        except ToolError:
            return False
        except Exception:
            return True
        return rule is True or self._rules(rule, validated)

    def _rules(self, rule: Callable[[dict[str, Any]], Any], validated: BaseModel) -> bool:
        try:
            answer = rule(self._signature.named(validated))
            if inspect.iscoroutine(answer):
                answer.close()  # an answer that somebody would have to wait for is none
            return bool(answer)
        except Exception:
            return True

    async def call(self, arguments: str, context: ToolContext[Any]) -> str:
        """Call the function; its result as text. Raises ToolError for arguments that do not fit, else what it raises.

        What would end the process or cancel the run, if the function raises it by itself, becomes a RuntimeError.
        """
        positional, named = self._signature.bound(self._validated(arguments), context)
        call = functools.partial(self._function, *positional, **named)
        if self._is_async:
            return text_of(await _awaited(call()))

        def work() -> Any:
            result = call()
            return _Later(result) if inspect.isawaitable(result) else text_of(result)

        result = await in_thread(work, self._spec.name)
        return text_of(await _awaited(result.awaitable)) if isinstance(result, _Later) else result

    def _validated(self, arguments: str) -> BaseModel:
        text = sound(arguments)
        if not text.strip():
            text = "{}"
        try:
            data = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise self._refusal(f" they are no valid JSON ({error}).") from error
        if not isinstance(data, dict):
            raise self._refusal(" they are no JSON object with the arguments by name.")
        try:
            return self._validated_or_mended(text, data)
        except ValidationError as error:
            names = ", ".join(self._signature.schema["properties"]) or "none"
            raise self._refusal(f"\n{complaints(error, data)}\nIts arguments are: {names}.") from error

    def _validated_or_mended(self, text: str, data: dict[str, Any]) -> BaseModel:
        model = self._signature.model
        try:
            return model.model_validate_json(text)
        except ValidationError:
            mended = without_nulls(data, self._signature.schema)
            if mended is data:
                raise
            return model.model_validate_json(to_json(mended))

    def _refusal(self, why: str) -> ToolError:
        return ToolError(f"{self._spec.name} was not called and nothing was done. The arguments do not fit:{why}")


class ToolMethod(Generic[P, R]):
    """What `tool` makes of a method in the body of a class. It is a tool on an instance: `tools=[weather.lookup]`."""

    def __init__(self, function: Callable[P, R], settings: Settings) -> None:
        self._function = function
        self._settings = settings
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return FunctionTool(self._function.__get__(instance, owner), self._settings)


class _Later(Struct):
    """Something to await that a function in a thread has returned."""

    awaitable: Any


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    idempotent: bool = False,
    approval: Approval = False,
    approval_seconds: float | None = None,
    strict: bool = False,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Make a function a tool: `@tool` alone, or `@tool(...)` with what its signature and docstring do not say.

    `name` and `description` are what the model is told, in place of the function's own. `timeout` is in seconds.
    `idempotent` says that a call may be made twice under the same call id, so one that a crash cut off is made again.
    With `approval` a human must allow each call: always, or where a function says so that is given the arguments in a
    dict (if it raises, one must); `approval_seconds` is how long they have. `strict` has a service that can do so hold
    the model to the schema.

    Raises InvalidInputError for what cannot be a tool, and says why.
    """
    made = Settings(**settings)

    def decorate(it: Callable[..., Any]) -> Any:
        return ToolMethod(it, made) if _is_method(it) else FunctionTool(it, made)

    return decorate if function is None else decorate(function)


def function_tool(function: Callable[..., Any]) -> FunctionTool[..., Any]:
    """A plain function, a bound method, a partial or a callable object as a tool; a tool is handed back as it is.

    Raises InvalidInputError for what cannot be one, and says why.
    """
    if isinstance(function, FunctionTool):
        return function
    if inspect.ismethod(function) and isinstance(function.__func__, ToolMethod):
        made: FunctionTool[..., Any] = function.__func__.__get__(function.__self__)  # of a class, since Python 3.13
        return made
    if isinstance(function, ToolMethod) or _is_method(function):
        raise InvalidInputError(
            f"{function.__qualname__} cannot be a tool: it is a method and belongs to no object. "
            "Give the method of an instance, such as weather.lookup where weather = Weather()."
        )
    return FunctionTool(function, Settings())


def _is_method(function: Any) -> bool:
    """Whether it is a function in the body of a class, still without an object."""
    around = getattr(function, "__qualname__", "").rpartition(".")[0]
    if not inspect.isfunction(function) or not around or around.endswith("<locals>"):
        return False
    return function.__code__.co_varnames[: function.__code__.co_argcount][:1] in (("self",), ("cls",))


def _name_of(function: Any, given: str | None) -> str:
    if given is not None:
        name = given
    elif not callable(function):
        raise InvalidInputError(f"A {type(function).__name__} cannot be a tool: it cannot be called.")
    else:
        inner = function
        while isinstance(inner, functools.partial):
            inner = inner.func
        name = getattr(inner, "__name__", type(inner).__name__)
    if name == "<lambda>":
        raise InvalidInputError('A lambda cannot be a tool: it has no name. Give one: tool(name="...")(lambda ...).')
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot be the name of a tool: services take up to 64 of the letters a to z and A to Z, digits, "
            '"_" and "-". Give another: @tool(name="...").'
        )
    return name


def _check(function: Any, name: str, settings: Settings) -> None:
    if isinstance(function, type):
        raise InvalidInputError(f"{name} cannot be a tool: it is a class. Write a function that makes one.")
    if not callable(function):
        raise InvalidInputError(f"{name} cannot be a tool: a {type(function).__name__} cannot be called.")
    inside = [layer for layer in layers(function) if isinstance(layer, (FunctionTool, ToolMethod))]
    if inside:  # what it was told, such as that it needs approval, must not be lost in silence
        raise InvalidInputError(
            f"{name} cannot be a tool: it wraps one. Put @tool outermost, around the plain function."
        )
    inner = innermost(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise InvalidInputError(f"{name} cannot be a tool: it yields. A tool returns its result as a whole.")
    for word, seconds in (("timeout", settings.timeout), ("approval_seconds", settings.approval_seconds)):
        if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds < math.inf):
            raise InvalidInputError(f"{word}={seconds!r} of {name} is no number of seconds above 0.")
    if settings.approval_seconds is not None and settings.approval is False:
        raise InvalidInputError(f"{name} has approval_seconds, but no approval. Set approval as well.")
    if not isinstance(settings.approval, bool) and (not callable(settings.approval) or _is_async(settings.approval)):
        raise InvalidInputError(f"approval of {name} is True, False or a plain function of the arguments.")


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _doc_of_object(function: Any) -> str | None:
    """The class's words on an object that can be called, if its method has none of its own."""
    if isinstance(function, functools.partial) or inspect.isroutine(function):
        return None
    return type(function).__doc__


def _parameters(signature: Signature, name: str, settings: Settings) -> Mapping[str, Any]:
    if not settings.strict:
        return signature.schema
    try:
        return strict(signature.schema)
    except NotStrictError as error:
        raise InvalidInputError(f"{name} cannot be strict: {error}. Narrow the type, or leave strict out.") from error


async def _awaited(awaitable: Any) -> Any:
    """What comes of it. A function that cancels itself has failed; it has not cancelled the run."""
    try:
        return await awaitable
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise error_of(error) from error
    except (SystemExit, StopIteration, StopAsyncIteration) as error:
        raise error_of(error) from error
