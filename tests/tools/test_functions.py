"""Function tools: a plain function becomes a tool, and is called with what the model wrote."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import threading
import types
from typing import Annotated, Any, Optional

import pytest
from pydantic import BaseModel, Field
from tool_calling import Adder, called, context, time_zone

from holdfast.ports.tools import ToolContext, ToolError
from holdfast.tools.functions import FunctionTool, function_tool, tool


async def test_a_plain_function_is_a_tool() -> None:
    def get_weather(city: str, days: int = 1) -> str:
        """The weather in a city."""
        return f"{city}: {days}"

    it = function_tool(get_weather)
    assert it.spec.name == "get_weather"
    assert it.spec.description == "The weather in a city."
    assert it.spec.parameters == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
        "required": ["city"],
        "additionalProperties": False,
    }
    assert (it.timeout, it.idempotent, it.in_thread, it.approval_seconds) == (None, False, True, None)
    assert await called(it, city="Rome") == "Rome: 1"
    assert await called(it, city="Rome", days=3) == "Rome: 3"


async def test_a_decorated_function_can_still_be_called() -> None:
    @tool
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert isinstance(double, FunctionTool)
    assert double(4) == 8
    assert (double.__name__, double.__doc__) == ("double", "Twice as much.")
    assert function_tool(double) is double
    assert await called(double, n=4) == "8"


def test_what_the_decorator_is_told_is_what_the_engine_reads() -> None:
    @tool(name="other-name", description="Words.", timeout=2.5, idempotent=True, approval=True, approval_seconds=60)
    async def it() -> None:
        """Not these."""

    assert (it.spec.name, it.spec.description, it.spec.strict) == ("other-name", "Words.", False)
    assert (it.timeout, it.idempotent, it.in_thread, it.approval_seconds) == (2.5, True, False, 60)


@pytest.mark.parametrize("arguments", ["", "  \n", "{}"])
async def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    assert await function_tool(time_zone).call(arguments, context()) == "UTC"


async def test_a_bound_method_a_partial_and_an_object_are_tools() -> None:
    adder = Adder(40)
    assert await called(function_tool(adder.add), n=2) == "42"
    assert await called(function_tool(adder), n=2) == "42"
    assert function_tool(adder).spec.name == "Adder"
    assert function_tool(adder).spec.description == "Adds to what it has."
    assert not function_tool(adder).in_thread
    assert not function_tool(functools.partial(adder)).in_thread


async def test_what_a_partial_has_given_is_not_asked_of_the_model() -> None:
    def send(text: str, to: str, connection: object) -> str:
        return f"{text} {to} {connection is not None}"

    it = function_tool(functools.partial(send, "hello", connection=object()))
    assert it.spec.name == "send"
    assert list(it.spec.parameters["properties"]) == ["to"]
    assert await called(it, to="Ann") == "hello Ann True"


async def test_a_decorated_method_is_a_tool_on_an_instance() -> None:
    it = Adder(1).added
    assert isinstance(it, FunctionTool)
    assert it.timeout == 3
    assert list(it.spec.parameters["properties"]) == ["n"]
    assert await called(it, n=2) == "3"
    assert Adder.added(Adder(5), 5) == 10


async def test_a_method_of_a_class_is_a_tool_however_python_binds_it() -> None:
    class Shop:
        @classmethod
        @tool(approval=True)
        def price(cls, n: int) -> str:
            return f"{cls.__name__} {n}"

    by_hand = types.MethodType(Shop.__dict__["price"].__func__, Shop)
    for it in (function_tool(Shop.price), function_tool(by_hand)):
        assert it.needs_approval('{"n": 1}')
        assert await called(it, n=1) == "Shop 1"


async def test_an_object_keeps_its_attributes_to_itself() -> None:
    class Odd:
        def __init__(self) -> None:
            self._function = self._signature = self._settings = None

        def __call__(self) -> str:
            return "through"

    assert await called(function_tool(Odd())) == "through"


async def test_positional_only_parameters_arrive() -> None:
    def it(a: int, b: int = 2, c: int = 3, /, *, d: int = 4) -> list[int]:
        return [a, b, c, d]

    assert await called(function_tool(it), a=1, c=30) == "[1,2,30,4]"


async def test_parameters_may_be_called_anything() -> None:
    def it(self: int, model_config: int, schema: int, json: int, _hidden: int, copy: int, p0: int, __x: int) -> int:
        return self + model_config + schema + json + _hidden + copy + p0 + __x

    made = function_tool(it)
    names = ["self", "model_config", "schema", "json", "_hidden", "copy", "p0", "__x"]
    assert list(made.spec.parameters["properties"]) == names
    assert made.spec.parameters["required"] == names
    assert await called(made, **dict.fromkeys(names, 1)) == "8"


async def test_a_parameter_may_have_another_name_for_the_model() -> None:
    def it(
        from_: Annotated[str, Field(alias="from", description="Where from.")], to: str = Field("B", alias="goal")
    ) -> str:
        return f"{from_}-{to}"

    made = function_tool(it)
    assert list(made.spec.parameters["properties"]) == ["from", "goal"]
    assert await made.call('{"from": "A"}', context()) == "A-B"


async def test_a_default_is_the_very_object_of_the_function() -> None:
    missing, none_given = object(), [0]

    def it(a: Any = none_given, /, b: Any = missing, c: Any = none_given) -> list[bool]:
        return [a is none_given, b is missing, c is none_given]

    made = function_tool(it)
    assert made.spec.parameters["properties"] == {"a": {"default": [0]}, "b": {}, "c": {"default": [0]}}
    assert await called(made) == "[true,true,true]"


async def test_half_of_a_surrogate_pair_in_the_arguments_is_replaced() -> None:
    def it(text: str) -> str:
        return text

    assert await function_tool(it).call('{"text": "a\ud83d"}', context()) == "a\ufffd"


async def test_none_as_default_makes_any_type_optional() -> None:
    def it(n: Annotated[int, Field(gt=3, description="More than 3.")] = None, s: str = None) -> Any:  # type: ignore  # noqa: RUF013
        return [n, s]

    made = function_tool(it)
    assert made.spec.parameters["properties"]["n"]["description"] == "More than 3."
    assert await called(made, n=None, s=None) == "[null,null]"
    with pytest.raises(ToolError, match="greater than 3"):
        await called(made, n=3)


async def test_the_context_is_filled_in_and_not_in_the_schema() -> None:
    class Deps:
        name = "Ann"

    def plain(x: int, ctx: ToolContext) -> str:  # type: ignore[type-arg]
        return f"{x} {ctx.deps.name} {ctx.call_id}"

    def narrow(ctx: ToolContext[Deps], /, x: int) -> str:
        return f"{x} {ctx.deps.name} {ctx.thread_id}"

    async def loose(x: int, ctx: Annotated[Optional[ToolContext[Deps]], "words"] = None) -> str:  # noqa: UP045
        assert ctx is not None
        return f"{x} {ctx.deps.name} {ctx.turn_id}"

    for function, last in ((plain, "call-1"), (narrow, "thread-1"), (loose, "turn-1")):
        made = function_tool(function)
        assert list(made.spec.parameters["properties"]) == ["x"]
        assert await called(made, Deps(), x=1) == f"1 Ann {last}"


async def test_types_of_the_scope_around_are_found() -> None:
    class Local(BaseModel):
        n: int

    def it(local: Local) -> Unknown:  # type: ignore[name-defined]  # noqa: F821
        return local.n

    assert await called(function_tool(it), local={"n": 5}) == "5"


async def test_a_function_may_return_what_is_to_be_awaited() -> None:
    async def later(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    @functools.wraps(later)
    def wrapped(n: int) -> Any:
        return later(n)

    made = function_tool(wrapped)
    assert made.in_thread
    assert await called(made, n=1) == "2"


async def test_one_tool_is_called_many_times_at_once() -> None:
    together = threading.Barrier(8, timeout=30)

    @tool
    def it(n: int) -> int:
        together.wait()
        return n

    assert await asyncio.gather(*(called(it, n=n) for n in range(8))) == [str(n) for n in range(8)]


def test_a_program_without_tools_imports_neither_pydantic_nor_griffe() -> None:
    code = (
        "import sys, holdfast\n"
        "from holdfast import ChatAgent, OpenAIChatClient, SQLiteStore, MemoryStore\n"
        "import holdfast.ports.tools, holdfast.tools\n"
        "print(sorted({'pydantic', 'pydantic_core', 'griffe'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
