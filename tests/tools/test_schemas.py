"""Schemas: tidy for every service, and strict for those that can hold a model to them."""

from __future__ import annotations

import datetime
import enum
import types
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from holdfast.tools.nulls import without_nulls
from holdfast.tools.schemas import NotStrictError, strict, tidy


class Size(enum.Enum):
    """How large."""

    SMALL = "s"
    LARGE = "l"


class Node(BaseModel):
    title: str
    parent: Node | None = None
    children: list[Node] = Field(default=[], description="Below it.")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None = "Rex"


class Bird(BaseModel):
    kind: Literal["bird"]
    name: str = "Tweety"


class Tag(BaseModel):
    text: str = ""


class TagWithSize(Tag):
    size: int = 1


class Cage(BaseModel):
    inside: Cat | Dog = Field(discriminator="kind")
    size: Size = Field(Size.SMALL, description="Its size.")


def schema(kind: Any) -> dict[str, Any]:
    return tidy(TypeAdapter(kind).json_schema())


def test_titles_go_and_a_property_named_title_stays() -> None:
    made = schema(Node)
    assert set(made["properties"]) == {"title", "parent", "children"}
    assert made["properties"]["title"] == {"type": "string"}
    assert "title" not in made
    assert "title" not in made["$defs"]["Node"]


def test_a_recursive_type_is_an_object_at_the_root_and_may_be_strict() -> None:
    made = schema(Node)
    assert made["type"] == "object"
    assert strict(made)["$defs"]["Node"]["required"] == ["title", "parent", "children"]


def test_definitions_that_nothing_uses_go() -> None:
    made = tidy({"type": "object", "properties": {}, "$defs": {"Unused": {"type": "string"}}})
    assert "$defs" not in made


def test_nothing_is_changed_in_place() -> None:
    made = TypeAdapter(Cage).json_schema()
    before = repr(made)
    strict(tidy(made))
    assert repr(made) == before


def test_a_tagged_union_is_strict_without_the_words_that_services_refuse() -> None:
    made = strict(schema(Cage))
    assert made["properties"]["inside"] == {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
    assert made["properties"]["size"] == {
        "anyOf": [{"$ref": "#/$defs/Size"}, {"type": "null"}],
        "description": 'Its size. (null for the default: "s")',
    }
    assert made["$defs"]["Cat"]["properties"]["kind"] == {"const": "cat", "type": "string"}


def test_nothing_stands_beside_a_reference() -> None:
    made = strict(schema(create_model("M", size=(Size, Field(description="Needed.")))))
    assert made["properties"]["size"] == {"anyOf": [{"$ref": "#/$defs/Size"}], "description": "Needed."}


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (Annotated[str, Field(min_length=2)], {"type": "string", "description": "(minLength: 2)"}),
        (
            Annotated[str, Field(description="A code.", json_schema_extra={"pattern": "^(?=a).*$"})],
            {"type": "string", "description": 'A code. (pattern: "^(?=a).*$")'},
        ),
        (Annotated[str, Field(pattern="^a+$")], {"type": "string", "pattern": "^a+$"}),
        (datetime.date, {"type": "string", "format": "date"}),
        (
            Annotated[str, Field(json_schema_extra={"format": "uri"})],
            {"type": "string", "description": '(format: "uri")'},
        ),
        (Annotated[int, Field(gt=3)], {"type": "integer", "exclusiveMinimum": 3}),
        (set[int], {"type": "array", "items": {"type": "integer"}, "description": "(uniqueItems: true)"}),
        (Literal[1, "a"], {"type": ["integer", "string"], "enum": [1, "a"]}),
    ],
)
def test_what_a_strict_service_cannot_enforce_is_said_in_words(kind: Any, made: dict[str, Any]) -> None:
    assert strict(schema(create_model("M", a=(kind, ...))))["properties"]["a"] == made


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (Any, "a may be anything"),
        (dict[str, int], "a takes keys"),
        (list[dict[str, int]], r"a\[\] takes keys"),
        (list, "a is a list of anything|a\\[\\] may be anything"),
        (tuple[int, int], "a has .*prefixItems"),
        (Open, "Open takes keys"),
        (Annotated[int, Field(json_schema_extra={"not": {"const": 3}})], "a has not"),
    ],
)
def test_what_has_no_strict_schema_is_refused_with_its_place(kind: Any, where: str) -> None:
    with pytest.raises(NotStrictError, match=where):
        strict(schema(create_model("M", a=(kind, ...))))


_LEAVES = st.sampled_from([int, str, float, bool, Size, Decimal, datetime.datetime, Literal["a", "b"], Cat, Node])


@st.composite
def _models(draw: st.DrawFn, kinds: st.SearchStrategy[Any]) -> Any:
    fields: dict[str, Any] = {}
    for number, kind in enumerate(draw(st.lists(kinds, max_size=3))):
        fields[f"f{number}"] = draw(
            st.sampled_from([(kind, ...), (kind | None, None), (types.GenericAlias(list, kind), [])])
        )
    return create_model("M", **fields)


def _every(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for part in node for found in _every(part)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for part in node.values() for found in _every(part))]


@settings(deadline=None, max_examples=60)
@given(_models(st.recursive(_LEAVES, _models, max_leaves=4)))
def test_every_object_of_a_strict_schema_is_closed_and_whole(model: Any) -> None:
    for node in _every(strict(tidy(model.model_json_schema()))):
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        if "$ref" in node:
            assert node.keys() <= {"$ref"}
        assert not node.keys() & {"default", "oneOf", "discriminator"}


# Nulls


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [
        (Cage, {"inside": {"kind": "cat", "lives": None}, "size": None}, {"inside": {"kind": "cat"}}),
        (Cage, {"inside": {"kind": "dog", "name": None}}, {"inside": {"kind": "dog", "name": None}}),
        (
            Node,
            {"title": None, "parent": None, "children": [{"title": "", "children": None}]},
            {"title": None, "parent": None, "children": [{"title": ""}]},
        ),
        (dict[str, Cat], {"a": {"kind": "cat", "lives": None}, "b": None}, {"a": {"kind": "cat"}, "b": None}),
        (list[Bird | Dog], [{"kind": "dog", "name": None}], [{"kind": "dog", "name": None}]),
        (list[Dog | Bird], [{"kind": "bird", "name": None}], [{"kind": "bird"}]),
        (list[Tag | TagWithSize], [{"text": "a", "size": None}], [{"text": "a"}]),
        (tuple[int, Cat], [None, {"kind": "cat", "lives": None}], [None, {"kind": "cat"}]),
    ],
)
def test_a_null_is_left_out_where_it_cannot_stand_and_need_not(kind: Any, value: Any, left: Any) -> None:
    assert without_nulls(value, schema(kind)) == left


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["inside", "size", "kind", "lives"]), inner),
    )
)
def test_what_holds_no_such_null_is_the_very_same_object(value: Any) -> None:
    left = without_nulls(value, schema(Cage))
    assert left is value or left != value
