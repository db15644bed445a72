"""Nulls: what a model writes where it means "the default".

Rule of this file: a null is left out only where the schema does not take it and the property need not be there; so
what is valid as it came never passes through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.tools.schemas import Schema, resolved, takes_null

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def without_nulls(value: Any, schema: Schema) -> Any:
    """The decoded JSON without those nulls; the very same object if there are none."""
    return _cleared(value, schema, schema.get("$defs", {}))


def _cleared(value: Any, node: Any, definitions: Mapping[str, Any]) -> Any:
    node = resolved(node, definitions)
    for word in ("anyOf", "oneOf"):
        if word in node:
            return _cleared(value, _fitting(value, node[word], definitions), definitions)
    if isinstance(value, dict):
        return _cleared_object(value, node, definitions)
    if isinstance(value, list):
        first, rest = node.get("prefixItems", ()), node.get("items", {})
        items = [
            _cleared(item, first[index] if index < len(first) else rest, definitions)
            for index, item in enumerate(value)
        ]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def _cleared_object(value: dict[str, Any], node: Schema, definitions: Mapping[str, Any]) -> dict[str, Any]:
    properties, required = node.get("properties", {}), node.get("required", ())
    made: dict[str, Any] = {}
    for name, inner in value.items():
        part = properties.get(name, node.get("additionalProperties", {}))
        if inner is None and name in properties and name not in required and not takes_null(part, definitions):
            continue
        made[name] = _cleared(inner, part, definitions)
    changed = len(made) < len(value) or any(made[name] is not value[name] for name in made)
    return made if changed else value


def _fitting(value: Any, options: list[Any], definitions: Mapping[str, Any]) -> Any:
    """The choice that the value follows; of several the one that knows most of its keys."""

    def known(option: Any) -> int:
        keys = resolved(option, definitions).get("properties", {}).keys()
        return len(keys & value.keys()) if isinstance(value, dict) else 0

    return max((option for option in options if _fits(value, option, definitions)), key=known, default={})


def _fits(value: Any, node: Any, definitions: Mapping[str, Any]) -> bool:
    """Whether the value looks like one of these: the right type, and for an object its keys and its tags."""
    node = resolved(node, definitions)
    for word in ("anyOf", "oneOf"):
        if word in node:
            return any(_fits(value, option, definitions) for option in node[word])
    if "const" in node or "enum" in node:
        return any(value == one and type(value) is type(one) for one in node.get("enum", [node.get("const")]))
    kind = node.get("type")
    kinds = kind if isinstance(kind, list) else [kind] if kind else list(_TYPES)
    if not any(isinstance(value, _TYPES.get(name, ())) for name in kinds):
        return False
    if not isinstance(value, dict):
        return True
    properties = node.get("properties", {})
    if set(node.get("required", ())) - value.keys():
        return False
    if value.keys() - properties.keys() and node.get("additionalProperties") is False:
        return False
    tags = {name: part for name, part in properties.items() if "const" in resolved(part, definitions)}
    return all(name not in value or _fits(value[name], part, definitions) for name, part in tags.items())
