"""Answers in a form: a type becomes what the service is asked for, and its answer an instance."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import re
import typing
from decimal import Decimal
from typing import Any, Literal, NotRequired

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

from holdfast.conversation.errors import InvalidInputError
from holdfast.tools.answers import AnswerError, AnswerShape, answer_shape


class City(BaseModel):
    name: str
    people: int = 0
    rivers: list[str] = []


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Trip(msgspec.Struct):
    to: str
    days: int = 3
    day: datetime.date | None = None


class Wish(TypedDict):
    what: str
    when: NotRequired[str]


class Standard(typing.TypedDict):
    what: str


class Size(enum.Enum):
    SMALL = "s"


class Shape(BaseModel):
    name: Literal["circle"]
    cost: Decimal


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (City, '{"name": "Rome", "people": 3, "rivers": []}', City(name="Rome", people=3)),
        (City, '{"name": "Rome", "people": null, "rivers": null}', City(name="Rome")),
        (Point, '{"x": 1, "y": null}', Point(1)),
        (Trip, '{"to": "Rome", "days": null, "day": null}', Trip("Rome")),
        (Trip, '{"to": "Rome", "days": 1, "day": "2026-01-02"}', Trip("Rome", 1, datetime.date(2026, 1, 2))),
        (Wish, '{"what": "tea", "when": null}', {"what": "tea"}),
        (Standard, '{"what": "tea"}', {"what": "tea"}),
        (
            Shape,
            '{"name": "circle", "cost": "0.10000000000000000001"}',
            Shape(name="circle", cost=Decimal("0.10000000000000000001")),
        ),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (list[Trip], '{"value": [{"to": "Rome", "days": null, "day": null}]}', [Trip("Rome")]),
        (int, '{"value": 5}', 5),
        (int | None, '{"value": null}', None),
        (Size, '{"value": "s"}', Size.SMALL),
        (Literal["a", "b"], '{"value": "b"}', "b"),
        (City | Point, '{"value": {"x": 1, "y": 2}}', Point(1, 2)),
        (str, '{"value": "null"}', "null"),
    ],
)
def test_an_answer_is_read_as_an_instance(kind: Any, text: str, value: Any) -> None:
    shape = answer_shape(kind)
    assert shape.format.strict
    assert shape.format.schema["type"] == "object"
    assert shape.format.schema["required"] == list(shape.format.schema["properties"])
    assert shape.read(text) == value
    assert type(shape.read(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(dict[str, int], '{"a": 1}', {"a": 1}), (list[Any], '{"value": [1, "a"]}', [1, "a"])],
)
def test_what_cannot_be_strict_is_asked_for_without(kind: Any, text: str, value: Any) -> None:
    shape = answer_shape(kind)
    assert not shape.format.strict
    assert shape.read(text) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Rome"}',
        '\n\n  {"name": "Rome"} \n',
        '```json\n{"name": "Rome"}\n```',
        '```\n{"name": "Rome"}```',
        ' ```JSON \n\n{"name": "Rome"}\n\n``` ',
        '\ufeff{"name": "Rome"}',
    ],
)
def test_what_models_wrap_around_their_json_is_taken_off(text: str) -> None:
    assert answer_shape(City).read(text) == City(name="Rome")


def test_a_value_without_its_wrapping_is_taken_too() -> None:
    assert answer_shape(list[int]).read("[1, 2]") == [1, 2]
    assert answer_shape(City | Point).read('{"name": "Rome"}') == City(name="Rome")


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (City, "", "no valid JSON"),
        (City, "Rome is a city.", "no valid JSON"),
        (City, '{"name": "Ro', "no valid JSON"),
        (City, "[]", "no JSON object"),
        (City, '{"people": "many"}', "- name: is missing\n- people: should be a valid integer"),
        (City, '{"name": null}', "- name: should be a valid string"),
        (list[Point], '{"value": [{"x": 1}, {"y": 1}]}', "- value[1].x: is missing"),
        (Trip, '{"to": "a", "day": "x"}', "- day: Invalid RFC3339"),
        (Trip, '{"days": 1}', "- the whole: Object missing required field `to`"),
        (list[Trip], '{"value": [{"to": 1}]}', "- value[0].to: Expected `str`"),
    ],
)
def test_an_answer_in_another_form_is_refused_in_words_for_the_model(kind: Any, text: str, told: str) -> None:
    with pytest.raises(AnswerError) as raised:
        answer_shape(kind).read(text)
    assert told in str(raised.value)
    assert "Answer again with the whole JSON" in str(raised.value)
    assert "pydantic" not in str(raised.value)


@pytest.mark.parametrize("kind", [5, object(), print, lambda: 1, City(name="x"), list[object()], "City"])  # type: ignore[misc]
def test_what_has_no_schema_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidInputError, match="cannot be the form of an answer"):
        answer_shape(kind)


# A schema of one's own

OURS = {
    "type": "object",
    "properties": {"b": {"type": "string"}, "a": {"type": ["integer", "null"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def test_a_schema_of_ones_own_is_sent_as_it_is_and_the_answer_is_its_json() -> None:
    shape: AnswerShape[Any] = answer_shape(OURS)
    assert (shape.format.schema, shape.format.name, shape.format.strict) == (OURS, "answer", True)
    assert shape.read('{"anything": [1]}') == {"anything": [1]}
    with pytest.raises(AnswerError, match="no JSON object"):
        shape.read("[1]")


@pytest.mark.parametrize("left_out", ["required", "additionalProperties"])
def test_a_schema_of_ones_own_that_is_not_strict_is_not_made_so(left_out: str) -> None:
    loose = {word: value for word, value in OURS.items() if word != left_out} | {"title": "My answer!"}
    shape = answer_shape(loose)
    assert (shape.format.schema, shape.format.name, shape.format.strict) == (loose, "My_answer", False)


@pytest.mark.parametrize("schema", [{}, {"type": "array"}, {"type": "object", "x": object()}])
def test_a_schema_that_is_no_objects_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        answer_shape(schema)


def test_the_callers_schema_may_be_changed_afterwards() -> None:
    mine = {"type": "object", "properties": {}}
    shape = answer_shape(mine)
    mine["type"] = "array"
    assert shape.format.schema["type"] == "object"


# Names


class Box(BaseModel):
    n: int


@pytest.mark.parametrize("name", ["", "Größe", "a" * 80, "Box[int]", "___", "日本"])
def test_a_name_is_one_that_services_take(name: str) -> None:
    kind = type(name, (Box,), {"__module__": __name__}) if name else Box | Point
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", answer_shape(kind).format.name)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_VALUES = st.one_of(
    st.builds(City, name=_TEXT, people=st.integers(), rivers=st.lists(_TEXT, max_size=2)),
    st.builds(Point, st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(Trip, _TEXT, st.integers(-(2**63), 2**63), st.none() | st.dates()),
    st.integers(),
    _TEXT,
    st.sampled_from(Size),
)


@settings(deadline=None)
@given(_VALUES, st.booleans())
def test_any_value_that_is_written_is_read_back_equal(value: Any, listed: bool) -> None:
    kind: Any = list[type(value)] if listed else type(value)  # type: ignore[misc]
    whole = [value] if listed else value
    if isinstance(value, Trip):
        text = msgspec.json.encode(whole).decode()
    else:
        text = TypeAdapter(kind).dump_json(whole).decode()
    wrapped = listed or not isinstance(value, (City, Point, Trip))
    assert answer_shape(kind).read(f'{{"value": {text}}}' if wrapped else text) == whole
