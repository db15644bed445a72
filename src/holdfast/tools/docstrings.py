"""Docstrings: what a function's author has said of it and of its parameters.

Rule of this file: words are found, never required. A docstring in no style that we know is a description as a whole.
"""

from __future__ import annotations

import inspect

import griffe
from msgspec import Struct


class Words(Struct, frozen=True):
    """What a docstring says: of the whole, and of each parameter by its name."""

    description: str
    parameters: dict[str, str]


def read(docstring: str | None) -> Words:
    """The words of a docstring in Google's, NumPy's or Sphinx's style; which one it is, is found out."""
    text = inspect.cleandoc(docstring or "").strip()
    told: list[str] = []
    parameters: dict[str, str] = {}
    for section in _sections(text):
        if section.kind in (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.other_parameters):
            parameters.update({item.name.lstrip("*"): _flat(item.description) for item in section.value})
        elif section.kind is griffe.DocstringSectionKind.text:
            told.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.admonition:
            # Any heading with lines indented below it, such as "Note:"; part of what the author says of the whole.
            title = section.title or section.value.kind.capitalize()
            told.append(f"{title}:\n{inspect.cleandoc(section.value.contents)}")
    return Words("\n\n".join(part.strip() for part in told if part.strip()), parameters)


def _sections(text: str) -> list[griffe.DocstringSection]:
    if not text:
        return []
    # The patterns look for whole lines, and the parser's own text has neither a first nor a last line end.
    probe = griffe.Docstring(text)
    probe.value = f"\n{text}\n"
    style, _ = griffe.infer_docstring_style(probe)
    if style is None:
        return [griffe.DocstringSectionText(text)]
    return griffe.parse(griffe.Docstring(text), style, warnings=False)


def _flat(text: str) -> str:
    return " ".join(text.split())
