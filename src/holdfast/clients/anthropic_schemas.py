"""The form of an answer, as Anthropic's structured outputs take it.

Rule of this file: what the service cannot hold a model to is told in words beside it, so that the model may keep it;
the answer is checked against the whole form in any case. A form that would become another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from holdfast.conversation.errors import InvalidInputError

_KEPT = ("title", "description", "type", "enum", "const", "$ref")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")
_DEEPEST = 100


def taken_schema(schema: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """A JSON Schema with what the service takes of it; the rest of each part stands in its description."""
    if depth > _DEEPEST:
        raise InvalidInputError(f"The form of the answer is nested more than {_DEEPEST} deep.")
    found: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _KEPT:
            found[name] = value
        elif name in ("properties", "$defs", "definitions"):
            found[name] = {each: _of(inner, depth) for each, inner in value.items()}
        elif name in ("anyOf", "allOf"):
            found[name] = [_of(inner, depth) for inner in value]
        elif name == "oneOf":
            found["anyOf"] = [_of(inner, depth) for inner in value]
        elif name == "items" and isinstance(value, Mapping):
            found[name] = _of(value, depth)
        elif name == "required" or (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1)):
            found[name] = value
        elif name not in ("additionalProperties", "default", "$schema", "$id", "discriminator"):
            words[name] = value
    if schema.get("type") == "object" or "properties" in schema:
        _close(found, schema)
    if words:
        told = ", ".join(f"{name}: {msgspec.json.encode(value).decode()}" for name, value in words.items())
        found["description"] = f"{found['description']} ({told})" if found.get("description") else told
    return found


def _close(found: dict[str, Any], schema: Mapping[str, Any]) -> None:
    """Objects hold what is named and nothing else: the service takes no others."""
    if not schema.get("properties") and schema.get("additionalProperties", True) is not False:
        raise InvalidInputError(
            "The form of the answer holds an object whose keys are not named, such as a dict, and Anthropic's "
            "structured outputs take objects with named fields only. Use a list of pairs instead, or ask for the form "
            "in the instructions."
        )
    found["additionalProperties"] = False


def _of(inner: Any, depth: int) -> Any:
    if inner is True or inner == {}:
        raise InvalidInputError("The form of the answer allows anything in a place, which this service cannot take.")
    return taken_schema(inner, depth + 1) if isinstance(inner, Mapping) else inner
