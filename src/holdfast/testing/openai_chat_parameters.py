"""The parameters of Chat Completions beside the messages: the type and the range of each, as documented.

Rule of this file: one entry in `PARAMETERS` for each; a check raises `RequestRefused` and looks at no other parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from holdfast.testing.openai_checks import Field

TOOL_NAME = r"^[a-zA-Z0-9_-]+$"
LONGEST_NAME = 64
MOST_TOOLS = 128
MOST_CHOICES = 128
MOST_STOPS = 4

Check: TypeAlias = Callable[[Field], object]


def _string_or_strings(field: Field) -> None:
    if isinstance(field.value, list):
        for item in field.array(high=MOST_STOPS, of="strings"):
            item.string()
    elif not isinstance(field.value, str):
        field.refuse_type("one of a string or array of strings")


def _logit_bias(field: Field) -> None:
    field.object()
    for token in field.value:
        if not re.fullmatch(r"\d+", token):
            field.refuse(f"Invalid key in 'logit_bias': {token}. You should only be submitting non-negative integers.")
        field[token].decimal(-100, 100)


def _metadata(field: Field) -> None:
    field.object()
    if len(field.value) > 16:
        field.refuse(
            f"Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(field.value)} properties instead.",
            "object_above_max_properties",
        )
    for key in field.value:
        Field(key, field, key).string(high=64)
        field[key].string(high=512)


def _modalities(field: Field) -> None:
    for item in field.array(low=1, of="strings"):
        item.one_of("text", "audio")


def _stream_options(field: Field) -> None:
    field.object(("include_usage", "include_obfuscation"))
    for name in field.value:
        field[name].boolean()


def _response_format(field: Field) -> None:
    field.object()
    kind = field["type"].one_of("text", "json_object", "json_schema")
    field.object(("type", "json_schema") if kind == "json_schema" else ("type",))
    if kind == "json_schema":
        schema = field["json_schema"].object(("name", "description", "schema", "strict"))
        schema["name"].string(low=1, high=LONGEST_NAME, pattern=TOOL_NAME)
        if "schema" in schema:
            schema["schema"].object()


def _function(field: Field) -> None:
    field.object(("name", "description", "parameters", "strict"))
    field["name"].string(low=1, high=LONGEST_NAME, pattern=TOOL_NAME)
    if "description" in field:
        field["description"].string()
    if "parameters" in field:
        field["parameters"].object()
    if field.given("strict"):
        field["strict"].boolean()


def _tools(field: Field) -> None:
    for tool in field.array(low=1, high=MOST_TOOLS, of="objects"):
        tool.object()
        kind = tool["type"].one_of("function", "custom")
        tool.object(("type", kind))
        if kind == "function":
            _function(tool["function"])
        else:
            custom = tool["custom"].object(("name", "description", "format"))
            custom["name"].string(low=1, high=LONGEST_NAME, pattern=TOOL_NAME)


def _tool_choice(field: Field) -> None:
    if isinstance(field.value, dict):
        kind = field["type"].one_of("function", "allowed_tools", "custom")
        field.object(("type", kind))
        chosen = field[kind].object(("mode", "tools") if kind == "allowed_tools" else ("name",))
        if kind == "allowed_tools":
            chosen["mode"].one_of("auto", "required")
            chosen["tools"].array(low=1, of="objects")
        else:
            chosen["name"].string(low=1)
    else:
        field.one_of("none", "auto", "required")


def _functions(field: Field) -> None:
    for function in field.array(low=1, high=MOST_TOOLS, of="objects"):
        _function(function)


def _function_call(field: Field) -> None:
    if isinstance(field.value, dict):
        field.object(("name",))["name"].string(low=1)
    else:
        field.one_of("none", "auto")


def _prediction(field: Field) -> None:
    field.object(("type", "content"))
    field["type"].one_of("content")
    if not isinstance(field["content"].value, (str, list)):
        field["content"].refuse_type("one of a string or array of objects")


def _seen_by_its_own_rule(field: Field) -> None:
    """Nothing: another rule looks at it."""


def _object(*known: str) -> Check:
    return lambda field: field.object(known)


def _one_of(*values: str) -> Check:
    return lambda field: field.one_of(*values)


PARAMETERS: Mapping[str, Check] = {
    "messages": _seen_by_its_own_rule,
    "model": _seen_by_its_own_rule,
    "audio": _object("format", "voice"),
    "frequency_penalty": lambda field: field.decimal(-2, 2),
    "function_call": _function_call,
    "functions": _functions,
    "logit_bias": _logit_bias,
    "logprobs": Field.boolean,
    "max_completion_tokens": lambda field: field.integer(1),
    "max_tokens": lambda field: field.integer(1),
    "metadata": _metadata,
    "modalities": _modalities,
    "moderation": _object("model", "policy"),
    "n": lambda field: field.integer(1, MOST_CHOICES),
    "parallel_tool_calls": Field.boolean,
    "prediction": _prediction,
    "presence_penalty": lambda field: field.decimal(-2, 2),
    "prompt_cache_key": Field.string,
    "prompt_cache_options": _object("mode", "ttl"),
    "prompt_cache_retention": _one_of("in_memory", "24h"),
    "reasoning_effort": _one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": _response_format,
    "safety_identifier": lambda field: field.string(high=128),
    "seed": lambda field: field.integer(-(2**63), 2**63 - 1),
    "service_tier": _one_of("auto", "default", "flex", "scale", "priority", "fast"),
    "stop": _string_or_strings,
    "store": Field.boolean,
    "stream": Field.boolean,
    "stream_options": _stream_options,
    "temperature": lambda field: field.decimal(0, 2),
    "tool_choice": _tool_choice,
    "tools": _tools,
    "top_logprobs": lambda field: field.integer(0, 20),
    "top_p": lambda field: field.decimal(0, 1),
    "user": Field.string,
    "verbosity": _one_of("low", "medium", "high"),
    "web_search_options": _object("search_context_size", "user_location"),
}

NULLABLE = frozenset(PARAMETERS) - {
    "messages",
    "model",
    "function_call",
    "functions",
    "parallel_tool_calls",
    "prompt_cache_options",
    "response_format",
    "tool_choice",
    "tools",
    "user",
    "web_search_options",
}
