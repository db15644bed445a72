"""Checks: what a command looked at, a line each, and how a line is shown.

Rule of this file: whatever comes from outside the program is made safe here.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from holdfast.cli.terminal import Paint, one_line, wants_colours

State: TypeAlias = Literal["ok", "note", "problem"]

_STATE_COLUMNS, _NAME_COLUMNS = 9, 10


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


def show(check: Check) -> None:
    """In a pipe a check is a line, whatever its length; on a terminal it is folded under itself."""
    terminal = sys.stdout.isatty()
    paint = Paint(wants_colours(os.environ, is_terminal=terminal))
    margin = f"{check.state:<{_STATE_COLUMNS}}{check.name:<{_NAME_COLUMNS}}"
    what, advice = one_line(check.told), one_line(check.advice)
    if not terminal:
        print(margin + what + (f" -> {advice}" if advice else ""), flush=True)
        return
    lines = [*_folded(what), *(paint.dim(line) for line in _folded(f"-> {advice}" if advice else ""))]
    state = paint.dim if check.state == "ok" else paint.warning
    print(state(margin[:_STATE_COLUMNS]) + paint.bold(margin[_STATE_COLUMNS:]) + lines[0])
    for line in lines[1:]:
        print(" " * len(margin) + line)
    sys.stdout.flush()


def _folded(text: str) -> list[str]:
    columns = min(shutil.get_terminal_size().columns, 120) - _STATE_COLUMNS - _NAME_COLUMNS
    return textwrap.wrap(text, max(20, columns), break_long_words=False, break_on_hyphens=False)
