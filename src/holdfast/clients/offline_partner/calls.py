"""How the offline partner calls tools: a message that names a tool has it called, and its result is told.

Rule of this file: a user can foresee what is called with what, and is told so where it is not clear.

    use get_weather with city Paris              name and value; also city=Paris, city: "New York"
    get_weather {"city": "Paris", "days": 3}     a JSON object is handed on as it is written
    get_weather for Paris and get_time in Rome   a tool that needs one text takes the words after with, for or in
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from holdfast.clients.offline_partner.schemas import (
    NothingFound,
    Schema,
    Source,
    filled,
    kind_of,
    may_be_null,
    named_values,
    plain_schema,
    properties,
    quotations,
    required,
    value_in,
)
from holdfast.clients.offline_partner.words import listed, quoted, shortened
from holdfast.ports.clients import AnswerFormat

# So much of a message is read, and so many calls are made of one.
_READ, _MOST_CALLS = 10_000, 20
_EXAMPLES = {"city": "Paris", "location": "Paris", "place": "Paris", "name": "Ada"}


class Offered(Struct, frozen=True):
    """A tool that may be called."""

    name: str
    parameters: Mapping[str, Any] = {}


class Wishes(Struct, frozen=True):
    """What the options of a request ask for, as far as rules can do it."""

    tools: tuple[Offered, ...] = ()
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    answer_format: AnswerFormat | None = None


class Call(Struct, frozen=True):
    """A call of a tool; `arguments` is JSON."""

    name: str
    arguments: str


class Unclear(Exception):
    """A tool is named, but not all that it needs; the text says what to say instead."""


# --- which calls ------------------------------------------------------------------------------------------------


def calls_for(text: str, wishes: Wishes) -> list[Call]:
    """The calls that a message asks for. Raises Unclear if it does not say what a tool needs."""
    choice = wishes.tool_choice
    if choice == "none" or not wishes.tools:
        return []
    text = text[:_READ]
    tools = {tool.name: tool for tool in wishes.tools}
    if choice in tools:
        tools = {choice: tools[choice]}
    must = choice == "required" or choice in tools
    asked = _mentions(text, tools)
    if must and not asked:
        asked = [(next(iter(tools.values())), "", text)]
    if wishes.parallel_tool_calls is False:
        asked = asked[:1]
    return [Call(tool.name, _arguments(tool, before, after, must=must)) for tool, before, after in asked]


def _mentions(text: str, tools: Mapping[str, Offered]) -> list[tuple[Offered, str, str]]:
    """Each tool that is named, with the words before it, if it is the first, and after it, up to the next."""
    by_name = {name.lower(): tool for name, tool in tools.items()} | dict(tools)
    names = "|".join(re.escape(name) for name in sorted(tools, key=len, reverse=True))
    found = re.finditer(rf"(?<![\w-])(?:{names})(?![\w-])", text, re.IGNORECASE) if names else ()
    # Case has corners: a long s is an s to the pattern, and none in lower case.
    marks = [mark for mark in found if mark[0] and (mark[0] in by_name or mark[0].lower() in by_name)][:_MOST_CALLS]
    ends = [mark.start() for mark in marks[1:]] + [len(text)] * bool(marks)
    return [
        (
            by_name.get(mark[0]) or by_name[mark[0].lower()],
            "" if number else text[: mark.start()],
            text[mark.end() : end],
        )
        for number, (mark, end) in enumerate(zip(marks, ends, strict=True))
    ]


# --- with what --------------------------------------------------------------------------------------------------


def _arguments(tool: Offered, before: str, after: str, *, must: bool) -> str:
    """The arguments as JSON. Raises Unclear if there are not enough of them, unless the tool `must` be called."""
    written = _json_object(after) or _json_object(before)
    if written:
        return written
    schema = plain_schema(tool.parameters, tool.parameters)
    found = {**named_values(schema, tool.parameters, before), **named_values(schema, tool.parameters, after)}
    parts = properties(schema)
    found = {**{name: None for name in required(schema) if may_be_null(parts[name])}, **found}
    missing = [name for name in required(schema) if name not in found]
    if len(missing) == 1:
        found |= _only_one(missing[0], plain_schema(parts[missing[0]], tool.parameters), before, after)
        missing = [name for name in missing if name not in found]
    if missing and must:
        found = {**filled(schema, tool.parameters, Source(f"{before} {after}")), **found}
    elif missing:
        raise Unclear(f"To call {tool.name} I need its {listed(missing)}: {_how_to_say(tool)}")
    return msgspec.json.encode({name: found[name] for name in parts if name in found}).decode()


def _json_object(text: str) -> str:
    """The first JSON object in the text, as it is written; "" if there is none."""
    decoder = json.JSONDecoder()
    for start in [mark.start() for mark in re.finditer(r"\{", text)][:_MOST_CALLS]:
        try:
            found, end = decoder.raw_decode(text, start)
            msgspec.json.decode(text[start:end])
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return text[start:end]
    return ""


def _only_one(name: str, schema: Schema, before: str, after: str) -> dict[str, Any]:
    """The one thing that a tool still needs: what is quoted, what comes after "with", "for" or "in", the number."""
    said = [*quotations(after), *quotations(before)]
    said += re.findall(r"(?<!\w)(?:with|for|in)\s+(.+)", after, re.IGNORECASE)
    if kind_of(schema) in ("integer", "number", "boolean"):
        said += [after, before]
    for words in said:
        try:
            return {name: value_in(words, schema)}
        except NothingFound:
            continue
    return {}


# --- what is said about them ------------------------------------------------------------------------------------


def can_call(wishes: Wishes) -> str:
    """Which tools there are, and how one is called; "" if none may be."""
    if not wishes.tools or wishes.tool_choice == "none":
        return ""
    names = [shortened(tool.name, 40) for tool in wishes.tools[:8]]
    more = ", …" if len(wishes.tools) > len(names) else ""
    return f"I can call {', '.join(names) + more if more else listed(names)}: {_how_to_say(wishes.tools[0])}"


def _how_to_say(tool: Offered) -> str:
    schema = plain_schema(tool.parameters, tool.parameters)
    needed = [name for name in required(schema) if not may_be_null(properties(schema)[name])]
    kinds = {name: plain_schema(properties(schema)[name], tool.parameters) for name in needed}
    if any(kind_of(kind) in ("object", "array") for kind in kinds.values()):
        made = filled(schema, tool.parameters, Source("something"))
        return f"say “use {tool.name} {shortened(msgspec.json.encode(made).decode(), 300)}”."
    parts = [f"{name} {_example(name, kind)}" for name, kind in kinds.items()]
    return f"say “use {tool.name}{' with ' if parts else ''}{' and '.join(parts)}”."


def _example(name: str, schema: Schema) -> str:
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return shortened(str(schema["enum"][0]), 40)
    return {"integer": "5", "number": "5", "boolean": "true"}.get(kind_of(schema), _EXAMPLES.get(name, "something"))


def results_told(results: Sequence[tuple[str, str, bool]]) -> str:
    """What came of calls, in words: (name of the tool, result, whether it is an error) of each."""
    longest = 600 if len(results) == 1 else max(60, 1200 // max(1, len(results)))
    told = [
        f"{shortened(name, 64) or 'The tool'} {'did not work' if is_error else 'says'}: {quoted(text, longest)}"
        for name, text, is_error in results
    ]
    return "\n".join(told)


def in_form(text: str, form: AnswerFormat) -> str:
    """A JSON text of the form that is asked for, made of the words of a message."""
    return msgspec.json.encode(filled(form.schema, form.schema, Source(text[:_READ]))).decode()
