"""What a JSON Schema asks for, found in a text: the arguments of a call, or an answer in a form.

Rule of this file: pure functions, each in time linear in the text, for any schema that somebody may write. What a text
does not say, is not guessed; `filled` alone makes something up, where there must be something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

# Schemas may hold themselves: so deep is looked into one, and so many parts of it are made.
_DEEPEST, _MOST_PARTS = 8, 500
# Characters of a value that is given by name, and of a text that is made.
_LONGEST_VALUE, _LONGEST_TEXT = 500, 200

_QUOTED = re.compile(r""""([^"\n]+)"|“([^“”\n]+)”|(?<!\w)'([^'\n]+)'(?!\w)|`([^`\n]+)`""")
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?![\w])")
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
# Words between two arguments, or at the end of a request.
_TRAILING = re.compile(r"(?:[\s,;.?!]|(?<!\w)(?:and|then|use|call|with|please|now|also)(?!\w))+\Z", re.IGNORECASE)


class NothingFound(Exception):
    """The text does not say it."""


def plain_schema(schema: object, root: Schema) -> Schema:
    """The schema without what stands around it: references followed, the first alternative that is not null."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return {}
        options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if isinstance(schema.get("$ref"), str):
            schema = _at(schema["$ref"], root)
        elif isinstance(options, list) and options:
            schema = next((each for each in options if each != {"type": "null"}), {})
        else:
            return schema
    return {}


def _at(reference: str, root: Schema) -> object:
    found: object = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def properties(schema: Schema) -> Mapping[str, Any]:
    """The properties of an object, by their names."""
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def required(schema: Schema) -> list[str]:
    """The names of those that must be there."""
    found = schema.get("required")
    return [name for name in properties(schema) if name in found] if isinstance(found, list) else []


def may_be_null(schema: object) -> bool:
    """Whether nothing will do."""
    if not isinstance(schema, Mapping):
        return False
    kind, options = schema.get("type"), schema.get("anyOf")
    return "null" in kind if isinstance(kind, list) else isinstance(options, list) and {"type": "null"} in options


def kind_of(schema: Schema) -> str:
    """The type that a schema asks for; "string" where it leaves that open."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), None)
    if isinstance(kind, str):
        return kind
    return "object" if properties(schema) else "string"


# --- what a text says -------------------------------------------------------------------------------------------


def quotations(text: str) -> list[str]:
    """What stands in quotation marks."""
    return [next(filter(None, found.groups())) for found in _QUOTED.finditer(text)]


def named_values(schema: Schema, root: Schema, text: str) -> dict[str, Any]:
    """The properties that the text gives by name: `city Paris`, `city=Paris`, `city is "New York"`.

    The last word on each counts. One with an enum may go without its name.
    """
    known = {name: plain_schema(part, root) for name, part in properties(schema).items()}
    found: dict[str, Any] = {}
    for name, words in _said_of(known, text):
        try:
            found[name] = value_in(words, known[name])
        except NothingFound:
            continue
    for name, part in known.items():
        if name not in found and isinstance(part.get("enum"), list):
            chosen = [each for each in part["enum"] if isinstance(each, str) and _has_word(each, text)]
            found |= {name: chosen[0]} if chosen else {}
    return found


def _said_of(known: Mapping[str, Schema], text: str) -> Iterator[tuple[str, str]]:
    """Each name of a property in the text, with the words after it, up to the next."""
    names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True) if name)
    if not names:
        return
    marks = list(re.finditer(rf"(?<![\w-])({names})(?![\w-])\s*(?:[=:]\s*|is\s+|of\s+)?", text))
    for mark, after in zip(marks, [*marks[1:], None], strict=False):
        yield mark[1], text[mark.end() : after.start() if after else len(text)]


def value_in(words: str, schema: Schema) -> Any:
    """The value that stands at the beginning of these words. Raises NothingFound."""
    kind, words = kind_of(schema), words[:_LONGEST_VALUE]
    quoted = _QUOTED.match(words)
    if kind == "array":
        items = schema.get("items")
        return [value_in(words, items if isinstance(items, Mapping) else {})]
    said = (
        next(filter(None, quoted.groups())) if quoted else _TRAILING.sub("", re.split(r"[,;\n]", words, maxsplit=1)[0])
    )
    choices = schema.get("enum")
    if isinstance(choices, list):
        return _chosen(said, choices)
    if kind in ("integer", "number"):
        return _number(said, kind)
    if kind == "boolean":
        first = said.split(maxsplit=1)[0].lower() if said.strip() else ""
        if first not in (*_YES, *_NO):
            raise NothingFound
        return first in _YES
    if kind != "string" or not said.strip():
        raise NothingFound
    return said.strip()


def _chosen(said: str, choices: list[Any]) -> Any:
    for choice in choices:
        if _has_word(str(choice), said):
            return choice
    raise NothingFound


def _has_word(word: str, text: str) -> bool:
    return bool(word) and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _number(said: str, kind: str) -> int | float:
    found = _NUMBER.search(said)
    if found is None or (kind == "integer" and "." in found[0]):
        raise NothingFound
    return float(found[0]) if "." in found[0] else int(found[0])


# --- something that fits ----------------------------------------------------------------------------------------


class Source:
    """The words from which something is made, in the order of the text: each number and quotation once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = 0
        self._quotations = quotations(text)
        self._numbers = [found[0] for found in _NUMBER.finditer(text)]

    def words(self) -> str:
        """The next words in quotation marks; all of the text if there are none left."""
        return self._quotations.pop(0) if self._quotations else " ".join(self.text.split()) or "nothing"

    def number(self, kind: str) -> int | float:
        """The next number, 0 if there is none left."""
        found = self._numbers.pop(0) if self._numbers else "0"
        return float(found) if kind == "number" and "." in found else int(found.partition(".")[0])


def filled(schema: object, root: Schema, source: Source, depth: int = 0) -> Any:
    """Something that fits the schema, as far as simple rules go: what the text gives by name, else its words.

    An object gets what it must have and what the text names, a list one item; what may be null and is not named is.
    Where a schema holds itself for ever, it ends in null too.
    """
    schema = plain_schema(schema, root)
    source.parts += 1
    if depth > _DEEPEST or source.parts > _MOST_PARTS:
        return None
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        choices = schema["enum"]
        return next((each for each in choices if _has_word(str(each), source.text)), choices[0])
    kind = kind_of(schema)
    if kind == "object":
        named, needed = named_values(schema, root, source.text), required(schema)
        return {
            name: named[name] if name in named else _made(part, root, source, depth + 1)
            for name, part in properties(schema).items()
            if name in named or name in needed
        }
    if kind == "array":
        return [filled(schema.get("items", {}), root, source, depth + 1)]
    if kind in ("integer", "number"):
        return _within(source.number(kind), schema)
    return {"boolean": False, "null": None}.get(kind, _cut(source, schema) if kind == "string" else None)


def _made(schema: object, root: Schema, source: Source, depth: int) -> Any:
    return None if may_be_null(schema) else filled(schema, root, source, depth)


def _within(number: int | float, schema: Schema) -> int | float:
    least, most = schema.get("minimum"), schema.get("maximum")
    if isinstance(least, (int, float)) and number < least:
        return least
    return most if isinstance(most, (int, float)) and number > most else number


def _cut(source: Source, schema: Schema) -> str:
    longest = schema.get("maxLength")
    return source.words()[: longest if isinstance(longest, int) and longest >= 0 else _LONGEST_TEXT]
