"""Checks: what `holdfast doctor` found, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct

State: TypeAlias = Literal["ok", "note", "problem"]


class Check(Struct, frozen=True):
    """One thing that was looked at: how it is, what was found, what to do about it, and the facts for programs.

    A note is worth knowing and stops nobody; a problem does.
    """

    state: State
    name: str
    told: str
    advice: str = ""
    facts: Mapping[str, Any] = {}


def fine(name: str, told: str, advice: str = "", /, **facts: Any) -> Check:
    return Check("ok", name, told, advice, facts)


def note(name: str, told: str, advice: str = "", /, **facts: Any) -> Check:
    return Check("note", name, told, advice, facts)


def problem(name: str, told: str, advice: str = "", /, **facts: Any) -> Check:
    return Check("problem", name, told, advice, facts)
