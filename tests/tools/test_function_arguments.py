"""Function tools: any values of any annotations arrive, and anything a model writes is done or refused."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import json
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter
from tool_calling import Pair, Place, Point, Size, Wish, context

from holdfast.ports.tools import ToolError
from holdfast.tools.functions import function_tool, tool

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (float, _FLOATS),
    (bool, st.booleans()),
    (str, _TEXT),
    (int | None, st.none() | st.integers()),
    (list[str], st.lists(_TEXT, max_size=3)),
    (dict[str, float], st.dictionaries(_TEXT, _FLOATS, max_size=3)),
    (tuple[int, str], st.tuples(st.integers(), _TEXT)),
    (frozenset[int], st.frozensets(st.integers(), max_size=3)),
    (datetime.datetime, st.datetimes()),
    (datetime.date, st.dates()),
    (datetime.timedelta, st.timedeltas(max_value=datetime.timedelta(days=10**5), min_value=datetime.timedelta(0))),
    (uuid.UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Size, st.sampled_from(Size)),
    (Literal["a", 2, None], st.sampled_from(["a", 2, None])),
    (Annotated[int, Field(ge=0, le=9)], st.integers(0, 9)),
    (Place, st.builds(Place, city=_TEXT, floor=st.integers())),
    (Point, st.builds(Point, x=st.integers(), y=_FLOATS)),
    (Wish, st.fixed_dictionaries({"what": _TEXT, "when": st.dates()})),
    (Pair, st.builds(Pair, st.integers(), _TEXT)),
    (
        list[Place | Point],
        st.lists(st.builds(Place, city=_TEXT) | st.builds(Point, st.integers(), _FLOATS), max_size=3),
    ),
]


@st.composite
def _calls(draw: st.DrawFn) -> list[tuple[Any, Any]]:
    chosen = draw(st.lists(st.sampled_from(_KINDS), max_size=4))
    return [(kind, draw(values)) for kind, values in chosen]


@settings(deadline=None, max_examples=60)
@given(_calls())
def test_any_values_of_any_annotations_arrive_equal(arguments: list[tuple[Any, Any]]) -> None:
    arrived: dict[str, Any] = {}

    async def it(**named: Any) -> None:
        arrived.update(named)

    it.__signature__ = signature([kind for kind, _ in arguments])  # type: ignore[attr-defined]
    parts = [f'"a{n}":{TypeAdapter(kind).dump_json(value).decode()}' for n, (kind, value) in enumerate(arguments)]
    asyncio.run(function_tool(it).call("{" + ",".join(parts) + "}", context()))
    assert arrived == {f"a{n}": value for n, (_, value) in enumerate(arguments)}


def signature(kinds: list[Any]) -> inspect.Signature:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(f"a{n}", kind, annotation=one) for n, one in enumerate(kinds)])


@settings(deadline=None, max_examples=200)
@given(
    st.text(max_size=40)
    | st.recursive(
        st.none() | st.integers() | _TEXT,
        lambda x: st.lists(x) | st.dictionaries(_TEXT | st.sampled_from(["city", "place"]), x),
    ).map(json.dumps)
)
def test_whatever_a_model_writes_is_done_or_refused(arguments: str) -> None:
    @tool(approval=lambda _: False)
    async def it(city: str = "", place: Place | None = None) -> str:
        return "done"

    assert it.needs_approval(arguments) is False
    try:
        told = asyncio.run(it.call(arguments, context()))
    except ToolError as error:
        told = str(error)
    assert told == "done" or "nothing was done" in told
