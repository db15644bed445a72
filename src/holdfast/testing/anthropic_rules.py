"""The rules of Anthropic's Messages: what makes the service refuse a request.

Rule of this file: a rule is one function that raises `RequestRefused`, named by what holds where it passes. Each may
rely on those before it in `STRICT`. Another set of rules is another tuple: leave some out, add your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.testing.anthropic_blocks import (
    TOOL_NAME,
    messages_are_given,
    messages_fit,
    tool_calls_are_answered,
)
from holdfast.testing.anthropic_checks import Field, RequestRefused, Rule, Rules
from holdfast.testing.openai_chat_messages import estimated_tokens

# How a model is told to sample; the newest version of the interface knows none of it.
SAMPLING = ("temperature", "top_p", "top_k")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
# What structured outputs cannot hold a model to.
_UNSUPPORTED: Mapping[str, tuple[str, ...]] = {
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength"),
    "array": ("maxItems", "uniqueItems"),
}


def _system(field: Field) -> None:
    if isinstance(field.value, str):
        if field.value and not field.value.strip():
            raise RequestRefused("system: text content blocks must contain non-whitespace text")
        return
    for block in field.array():
        block.object(("type", "text", "cache_control", "citations"))["type"].one_of("text")
        block.cache_control()
        if not block["text"].string():
            raise RequestRefused("system: text content blocks must be non-empty")


def _stops(field: Field) -> None:
    for item in field.array():
        if not item.string().strip():
            field.refuse("each stop sequence must contain non-whitespace")


def _metadata(field: Field) -> None:
    if field.object(("user_id",)).given("user_id"):
        field["user_id"].string(high=256)


def _thinking(field: Field) -> None:
    kind = field.object()["type"].one_of("enabled", "disabled", "adaptive", "between_tools")
    if kind == "enabled":
        field["budget_tokens"].integer(low=1024)


def _tools(field: Field) -> None:
    known = ("type", "name", "description", "input_schema", "strict", "cache_control", "input_examples")
    names: set[str] = set()
    for tool in field.array():
        tool.object()
        if tool.value.get("type") not in (None, "custom"):
            continue  # one that the service runs itself
        told = tool.tagged("custom").object((*known, "allowed_callers", "defer_loading", "eager_input_streaming"))
        told.cache_control()
        name = told["name"].string(low=1, pattern=TOOL_NAME)
        if name in names:
            raise RequestRefused("tools: Tool names must be unique.")
        names.add(name)
        if "description" in told:
            told["description"].string()
        schema = told["input_schema"].object()
        schema["type"].one_of("object")
        if {"oneOf", "allOf", "anyOf"} & set(schema.value):
            schema.refuse("input_schema does not support oneOf, allOf, or anyOf at the top level")
        if "strict" in told and told["strict"].boolean():
            _held(schema.value, schema.path)


def _choice(field: Field) -> None:
    kind = field.object()["type"].one_of("auto", "any", "tool", "none")
    known = {"tool": ("type", "name", "disable_parallel_tool_use"), "none": ("type",)}
    field = field.tagged(kind).object(known.get(kind, ("type", "disable_parallel_tool_use")))
    if kind == "tool":
        field["name"].string(low=1)
    if "disable_parallel_tool_use" in field:
        field["disable_parallel_tool_use"].boolean()


def _output(field: Field) -> None:
    field.object(("effort", "format"))
    if field.given("effort"):
        field["effort"].one_of(*_EFFORTS)
    if field.given("format"):
        form = field["format"].object(("type", "schema"))
        form["type"].one_of("json_schema")
        _held(form["schema"].object().value, "output_config.format.schema")


def _held(schema: Any, path: str) -> None:
    """A schema that a model can be held to."""
    if isinstance(schema, list):
        for inner in schema:
            _held(inner, path)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if kind == "object" and schema.get("additionalProperties") is not False:
        raise RequestRefused(f"{path}: For 'object' type, 'additionalProperties' must be explicitly set to false")
    if bad := [name for name in _UNSUPPORTED.get(str(kind), ()) if name in schema]:
        raise RequestRefused(f"{path}: For '{kind}' type, properties {', '.join(bad)} are not supported")
    for name in ("properties", "$defs"):
        for inner in schema.get(name, {}).values():
            _held(inner, path)
    for name in ("items", "anyOf", "allOf"):
        _held(schema.get(name), path)


PARAMETERS: Mapping[str, Callable[[Field], object]] = {
    "model": lambda field: field.string(low=1, high=256),
    "messages": lambda field: field.array(),
    "max_tokens": lambda field: field.integer(low=0),
    "system": _system,
    "stop_sequences": _stops,
    "stream": lambda field: field.boolean(),
    "metadata": _metadata,
    "thinking": _thinking,
    "tools": _tools,
    "tool_choice": _choice,
    "output_config": _output,
    "cache_control": lambda field: Field({"cache_control": field.value}).cache_control(),
    "service_tier": lambda field: field.one_of("auto", "standard_only"),
    "temperature": lambda field: field.number(0, 1),
    "top_p": lambda field: field.number(0, 1),
    "top_k": lambda field: field.integer(low=0),
    **dict.fromkeys(("container", "diagnostics", "inference_geo", "speed", "user_profile_id"), lambda field: field),
}
NULLABLE = frozenset(("cache_control", "container", "diagnostics", "inference_geo", "speed"))


def parameters_are_known(body: Field) -> None:
    """There is no parameter that the service does not know."""
    body.object(PARAMETERS)


def parameters_are_there(body: Field) -> None:
    """What no request can do without is there."""
    for name in ("model", "max_tokens", "messages"):
        _ = body[name]


def parameters_fit(body: Field) -> None:
    """Each parameter has the type and lies in the range that is documented."""
    for name, check in PARAMETERS.items():
        if name in body and not (body.value[name] is None and name in NULLABLE):
            check(body[name])


def tools_are_offered(body: Field) -> None:
    """A choice among tools is for those who offer some, and names one of them."""
    choice = body.value.get("tool_choice")
    if choice is None:
        return
    tools = body.value.get("tools")
    if not tools:
        raise RequestRefused("tool_choice: tool_choice may only be specified while providing tools")
    if choice["type"] == "tool" and choice["name"] not in {tool.get("name") for tool in tools}:
        raise RequestRefused(f"Tool '{choice['name']}' not found in provided tools")


def ends_with_the_user(body: Field) -> None:
    """The model answers somebody: current models continue no words of their own."""
    if body.value["messages"][-1]["role"] == "assistant":
        raise RequestRefused(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )


def begins_with_the_user(body: Field) -> None:
    """The first message is the user's: where others serve its models that may hold; Anthropic itself gave it up."""
    if body.value["messages"][0]["role"] != "user":
        raise RequestRefused('messages: first message must use the "user" role')


def does_not_sample(body: Field) -> None:
    """No parameter says how to sample: what version 2026-10-21 refuses."""
    for name in SAMPLING:
        if name in body:
            raise RequestRefused(f"{name}: Extra inputs are not permitted")


def context_fits(limit: int) -> Rule:
    """A rule: the messages have at most `limit` tokens (characters / 4)."""

    def messages_fit_the_context(body: Field) -> None:
        tokens = estimated_tokens(body.value["messages"])
        if tokens > limit:
            raise RequestRefused(f"prompt is too long: {tokens} tokens > {limit} maximum")

    return messages_fit_the_context


STRICT: Rules = (
    parameters_are_known,
    parameters_are_there,
    parameters_fit,
    messages_are_given,
    messages_fit,
    tool_calls_are_answered,
    tools_are_offered,
    ends_with_the_user,
)
"""What the real service refuses."""
