"""Function tools: what is refused before anything is done, and what goes wrong in doing it."""

from __future__ import annotations

import asyncio
import enum
import functools
import sys
import threading
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from tool_calling import Adder, Place, Size, called, context, time_zone

from holdfast.conversation.errors import InvalidInputError
from holdfast.ports.tools import ToolError
from holdfast.tools.functions import function_tool, tool


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"city": "Ro', "no valid JSON"),
        ('{"city": "Rome", "days": NaN}', "no valid JSON"),
        ("[1]", "no JSON object"),
        ("null", "no JSON object"),
        ('"{}"', "no JSON object"),
        ("{}", "- city: is missing"),
        ('{"city": 5}', "- city: should be a valid string"),
        ('{"city": "a", "place": {"city": "b", "floor": "x"}}', "- place.floor: should be a valid integer"),
        ('{"city": "a", "places": [{"city": "b"}, {}]}', "- places[1].city: is missing"),
        ('{"city": "a", "town": 1}', "- town: there is no such name here"),
        ('{"city": "a", "size": "xl"}', "- size: should be 's' or 'l'"),
    ],
)
async def test_what_does_not_fit_is_told_by_its_path_and_nothing_is_done(arguments: str, told: str) -> None:
    done = []

    @tool(approval=True)
    def book(
        city: str, days: int = 1, place: Place | None = None, places: tuple[Place, ...] = (), size: Size = Size.SMALL
    ) -> None:
        done.append(city)

    with pytest.raises(ToolError) as raised:
        await book.call(arguments, context())
    assert told in str(raised.value)
    assert "book was not called and nothing was done" in str(raised.value)
    assert "pydantic" not in str(raised.value)
    assert not done
    assert book.needs_approval(arguments) is False


async def test_every_wrong_field_is_told_but_not_what_was_sent() -> None:
    def it(numbers: list[int], a: int, b: int) -> None: ...

    with pytest.raises(ToolError) as raised:
        await called(function_tool(it), numbers=["secret"] * 50, a="secret" * 500)
    told = str(raised.value)
    assert "- numbers[0]: " in told
    assert "and 32 more" in told
    assert "secret" not in told
    assert len(told) < 4000


async def test_a_validator_of_the_caller_speaks_in_its_own_words() -> None:
    class Odd(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def odd(cls, n: int) -> int:
            if n % 2 == 0:
                raise ValueError("only odd numbers, please")
            return n

    def it(odd: Odd) -> int:
        return odd.n

    with pytest.raises(ToolError, match=r"- odd\.n: only odd numbers, please\n"):
        await called(function_tool(it), odd={"n": 2})


async def test_what_a_function_raises_is_raised() -> None:
    def sync() -> None:
        raise ToolError("Ask for something else.")

    async def not_sync() -> None:
        raise LookupError("no such city")

    with pytest.raises(ToolError, match="something else"):
        await called(function_tool(sync))
    with pytest.raises(LookupError, match="no such city"):
        await called(function_tool(not_sync))


@pytest.mark.parametrize("error", [StopIteration("3"), SystemExit(3), asyncio.CancelledError("3"), GeneratorExit("3")])
async def test_no_function_can_end_more_than_its_own_call(error: BaseException) -> None:
    def sync() -> None:
        raise error

    with pytest.raises(RuntimeError, match=rf"{type(error).__name__}: 3") as raised:
        await called(function_tool(sync))
    assert raised.value.__cause__ is error


async def test_an_async_function_that_exits_or_cancels_itself_has_failed() -> None:
    async def exits() -> None:
        sys.exit(3)

    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    for function in (exits, cancels_itself):
        with pytest.raises(RuntimeError, match="the function raised"):
            await called(function_tool(function))


async def test_a_cancelled_call_is_cancelled() -> None:
    reached, left = asyncio.Event(), []

    async def it() -> None:
        reached.set()
        try:
            await asyncio.sleep(3600)
        finally:
            left.append(True)

    call = asyncio.create_task(called(function_tool(it)))
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert left == [True]


def takes_all(*args: int) -> None: ...
def takes_names(**names: int) -> None: ...
def takes_nonsense(a: Nonsense) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def takes_a_lock(a: int, lock: threading.Thread) -> None: ...
def takes_a_function(call: enum.Callable) -> None: ...  # type: ignore[name-defined]
def yields() -> Any:
    yield


async def yields_too() -> Any:
    yield


def größe() -> None: ...


@pytest.mark.parametrize(
    ("it", "told"),
    [
        (lambda: 1, "no name"),
        (takes_all, r"\*args"),
        (takes_names, r"\*\*names"),
        (takes_nonsense, "'Nonsense' of its parameter 'a'"),
        (takes_a_lock, "its parameter 'lock' has no schema"),
        (takes_a_function, "its parameter 'call'"),
        (yields, "it yields"),
        (yields_too, "it yields"),
        (größe, "cannot be the name of a tool"),
        (Place, "it is a class"),
        (5, "cannot be called"),
        (object(), "cannot be called"),
        (Adder.add, "belongs to no object"),
        (Adder.added, "belongs to no object"),
        (functools.partial(tool(time_zone)), "it wraps one"),
        (functools.wraps(tool(time_zone))(lambda: "UTC"), "it wraps one"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_in_words(it: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        function_tool(it)


@pytest.mark.parametrize(
    "told",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a" * 65},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": "soon"},
        {"approval": True, "approval_seconds": -1},
        {"approval_seconds": 5},
        {"approval": "yes"},
    ],
)
def test_settings_that_make_no_sense_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        tool(**told)(time_zone)


def test_a_rule_that_must_be_awaited_is_refused() -> None:
    async def rule(arguments: dict[str, Any]) -> bool:
        return True

    with pytest.raises(InvalidInputError, match="a plain function"):
        tool(approval=rule)(time_zone)  # type: ignore[arg-type]
