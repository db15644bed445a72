"""JSON Schemas: what pydantic and msgspec make of types, as chat services take it.

Rule of this file: a schema is data and is never changed in place. What a strict service cannot enforce it is told in
words, where our own validation holds it anyway; where it would have to lie, there is no strict schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

Schema = dict[str, Any]

# What of a schema is a schema again: under names, in a list, or directly.
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A strict service refuses a schema with any other word in it.
_ENFORCED = _words(
    "type properties required additionalProperties items anyOf enum const $ref $defs description pattern format "
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems"
)
_FORMATS = _words("date-time time date duration email hostname ipv4 ipv6 uuid")
_TOLD = _words(
    "minLength maxLength uniqueItems minProperties maxProperties contentEncoding contentMediaType pattern format "
    "examples"
)
_SAYS_NOTHING = _words("title default discriminator deprecated readOnly writeOnly $comment $schema $id")


class Generator(GenerateJsonSchema):
    """pydantic's own, without its warnings: a default that is no JSON is simply not in the schema."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012  pydantic's own
        "skipped-choice",
        "non-serializable-default",
        "skipped-discriminator",
    }


class NotStrictError(ValueError):
    """Nothing strict says the same; the text tells where and why."""


def reason(error: Exception) -> str:
    """Why a type has no schema: the first sentence of what the library says, without its advice on settings."""
    return str(error).strip().partition("\n")[0].partition(". ")[0]


def tidy(schema: Mapping[str, Any]) -> Schema:
    """The same without titles, without definitions that nothing uses, and with its root where a root belongs."""
    whole = dict(_untitled(schema))
    definitions = whole.pop("$defs", {})
    seen: set[str] = set()
    while "$ref" in whole and whole["$ref"] not in seen:
        seen.add(whole["$ref"])
        reference = whole.pop("$ref")
        whole = {**_definition(reference, definitions), **whole}
    used = _used(whole, definitions)
    if used:
        whole["$defs"] = {name: definitions[name] for name in definitions if name in used}
    return whole


def strict(schema: Mapping[str, Any]) -> Schema:
    """The tidy schema with every object closed and every property required; one with a default may be null instead.

    Raises NotStrictError if it allows what has no name beforehand, or says what no strict service understands.
    """
    return _strict(dict(schema), "", schema.get("$defs", {}))


def resolved(node: Any, definitions: Mapping[str, Any]) -> Schema:
    """The schema that a node stands for: itself, or what it refers to."""
    seen: set[str] = set()
    while isinstance(node, dict) and "$ref" in node and node["$ref"] not in seen:
        seen.add(node["$ref"])
        node = _definition(node["$ref"], definitions)
    return node if isinstance(node, dict) else {}


def takes_null(node: Any, definitions: Mapping[str, Any]) -> bool:
    """Whether null is among the values that it describes."""
    node = resolved(node, definitions)
    if "const" in node:
        return node["const"] is None
    if "enum" in node:
        return None in node["enum"]
    for word in ("anyOf", "oneOf"):
        if word in node:
            return any(takes_null(option, definitions) for option in node[word])
    kind = node.get("type", "null")
    return "null" in (kind if isinstance(kind, list) else [kind])


def _definition(reference: str, definitions: Mapping[str, Any]) -> Schema:
    return dict(definitions.get(_name(reference), {}))


def _name(reference: str) -> str:
    return reference.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")


def _each(node: Mapping[str, Any], change: Callable[[Any, str], Any]) -> Schema:
    """The node with every schema directly in it changed; `change` is told how it is reached."""
    made = dict(node)
    for word in _NAMED:
        if isinstance(made.get(word), Mapping):
            made[word] = {name: change(inner, f"{word}.{name}") for name, inner in made[word].items()}
    for word in _LISTED:
        if isinstance(made.get(word), list):
            made[word] = [change(inner, word) for inner in made[word]]
    for word in _SINGLE:
        if isinstance(made.get(word), Mapping):
            made[word] = change(made[word], word)
    return made


def _untitled(node: Any, _: str = "") -> Any:
    if not isinstance(node, Mapping):
        return node
    return _each({word: value for word, value in node.items() if word != "title"}, _untitled)


def _used(node: Any, definitions: Mapping[str, Any]) -> set[str]:
    """The names of all definitions that can be reached from here."""
    found: set[str] = set()

    def look(inner: Any, _: str = "") -> Any:
        if isinstance(inner, Mapping):
            name = _name(str(inner.get("$ref", "")))
            if name in definitions and name not in found:
                found.add(name)
                look(definitions[name])
            _each(inner, look)
        return inner

    look(node)
    return found


def _strict(node: Any, path: str, definitions: Mapping[str, Any]) -> Schema:
    if not isinstance(node, dict) or not node.keys() - _SAYS_NOTHING - {"description"}:
        raise NotStrictError(f"{path or 'the whole'} may be anything")
    node = _with_type(_enforceable(node, path))
    if "$ref" in node and node.keys() - {"$ref", "$defs"}:  # a service takes nothing beside a reference
        node["anyOf"] = [{"$ref": node.pop("$ref")}]
    kind = node.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "object" in kinds:
        node = _closed(node, path, definitions)
    if "array" in kinds and not node.get("items"):
        raise NotStrictError(f"{path or 'the whole'} is a list of anything")

    def inner(part: Any, where: str) -> Any:
        step = {"items": "[]", "anyOf": ""}.get(where, f".{where.partition('.')[2]}")
        return _strict(part, f"{path}{step}".strip("."), definitions)

    return _each(node, inner)


def _enforceable(node: Schema, path: str) -> Schema:
    """The words that a strict service knows; what else was said of values goes into the description."""
    if "oneOf" in node and "anyOf" not in node:  # pydantic's word for models that a tag tells apart
        node = {("anyOf" if word == "oneOf" else word): value for word, value in node.items()}
    if len(node.get("allOf", ())) == 1:
        node = {**node["allOf"][0], **{word: value for word, value in node.items() if word != "allOf"}}
    told = {word for word in node.keys() & _TOLD if word not in _ENFORCED or not _known(word, node[word])}
    odd = sorted(node.keys() - _ENFORCED - _SAYS_NOTHING - told)
    if odd:
        raise NotStrictError(f"{path or 'the whole'} has {', '.join(odd)}")
    made = {word: value for word, value in node.items() if word in _ENFORCED and word not in told}
    words = ", ".join(f"{word}: {json.dumps(node[word], ensure_ascii=False)}" for word in sorted(told))
    return _described(made, words)


def _known(word: str, value: Any) -> bool:
    if word == "format":
        return value in _FORMATS
    return "(?" not in str(value)  # of regular expressions, all but looking ahead and behind


def _described(node: Schema, words: str) -> Schema:
    if not words:
        return node
    return {**node, "description": f"{node['description']} ({words})" if node.get("description") else f"({words})"}


def _with_type(node: Schema) -> Schema:
    """With the type of the values that are listed; a service wants it said."""
    values = node.get("enum", [node["const"]] if "const" in node else [])
    if "type" in node or not values:
        return node
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    kinds = sorted({names.get(type(value), "object") for value in values})
    return {"type": kinds[0] if len(kinds) == 1 else kinds, **node}


def _closed(node: Schema, path: str, definitions: Mapping[str, Any]) -> Schema:
    """The object with all of its properties required and no others; one that was optional may be null instead."""
    if node.get("additionalProperties", "properties" not in node) is not False:
        raise NotStrictError(f"{path or 'the whole'} takes keys that are not named beforehand")
    properties = {
        name: part if name in node.get("required", ()) else _nullable(part, definitions)
        for name, part in node.get("properties", {}).items()
    }
    required = node.get("required", [])
    required = required if set(required) == properties.keys() else list(properties)
    return {**node, "properties": properties, "required": required, "additionalProperties": False}


def _nullable(part: Any, definitions: Mapping[str, Any]) -> Any:
    if not isinstance(part, dict) or takes_null(part, definitions):
        return part
    outer = {word: part[word] for word in ("description",) if word in part}
    inner = {word: value for word, value in part.items() if word not in ("description", "default")}
    options = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
    made = {"anyOf": [*options, {"type": "null"}], **outer}
    default = f": {json.dumps(part['default'], ensure_ascii=False)}" if "default" in part else ""
    return _described(made, f"null for the default{default}")
