"""Results: what a function returns, as the model reads it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from holdfast.ports.tools import ToolError
from holdfast.tools.results import text_of


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.Enum):
    ONE = 1


class Model(BaseModel):
    n: float


class Struct(msgspec.Struct, rename={"n": "number"}):
    n: Any


@dataclasses.dataclass
class Data:
    n: Any


class Loud(str):
    def __str__(self) -> str:
        return "not this"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        (Loud("this"), "this"),
        (Colour.RED, "red"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (10**30, "1" + "0" * 30),
        (float("nan"), '"NaN"'),
        ([float("inf")], '["Infinity"]'),
        (Decimal("1.10"), '"1.10"'),
        (datetime.date(2026, 1, 2), '"2026-01-02"'),
        (Number.ONE, "1"),
        (Path("a/b"), '"a/b"'),
        ((1, "ü"), '[1,"ü"]'),
        ({"a": {2: None}}, '{"a":{"2":null}}'),
        (Model(n=1), '{"n":1.0}'),
        ([Model(n=float("nan"))], '[{"n":null}]'),
        (Data(Model(n=2)), '{"n":{"n":2.0}}'),
        (Struct(1), '{"number":1}'),
        ([Struct(Struct(2))], '[{"number":{"number":2}}]'),
        (Struct(Model(n=1)), '{"number":{"n":1.0}}'),
        (["half \ud83d", {"a": Data("\udc00")}], '["half \ufffd",{"a":{"n":"\ufffd"}}]'),
    ],
)
def test_a_result_is_a_text_or_compact_json(result: object, text: str) -> None:
    assert text_of(result) == text


def circle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (b"abc", "bytes"),
        (bytearray(b"abc"), "bytearray"),
        (object(), "object"),
        ([object()], "list"),
        (Struct(object()), "Struct"),
        ({"a": b"\xff"}, "dict"),
        (ValueError("x"), "ValueError"),
        (int, "type"),
        (circle(), "list"),
        ({"a key \ud83d": 1}, "dict"),
    ],
)
def test_what_is_neither_is_refused_by_its_type(result: object, kind: str) -> None:
    with pytest.raises(ToolError, match=f"a {kind}, which cannot be written as JSON"):
        text_of(result)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON.filter(lambda value: not isinstance(value, str)))
def test_plain_data_is_read_back_as_it_was(value: object) -> None:
    assert json.loads(text_of(value)) == value
