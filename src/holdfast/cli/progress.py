"""Progress: how far a long command has come, for people who wait for it.

Rule of this file: one line, written anew, beside the answer, and gone when the answer comes; nothing of it where
nobody looks.
"""

from __future__ import annotations

import os
import shutil
import sys

from holdfast.cli.terminal import cut, safe, wants_colours
from holdfast.ports.verification import Copying, Verifying

_ERASE_LINE = "\r\x1b[K"


class ProgressLine:
    """The line, as long as the `with` block lasts."""

    def __init__(self) -> None:
        self._shown = wants_colours({**os.environ, "NO_COLOR": ""}, is_terminal=sys.stderr.isatty())

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        self._write("")

    def show(self, where: Copying | Verifying) -> None:
        """Say how far it is."""
        self._write(_told(where))

    def _write(self, text: str) -> None:
        if self._shown:
            columns = shutil.get_terminal_size().columns - 1
            sys.stderr.write(_ERASE_LINE + cut(safe(text), columns))
            sys.stderr.flush()


def _told(where: Copying | Verifying) -> str:
    if isinstance(where, Copying):
        return f"copying: {_part(where.pages, where.of_pages)} of {where.of_pages:,} pages"
    damage = f", {where.damage:,} damaged" if where.damage else ""
    if where.stage == "file":
        return f"looking at the pages of the file{damage}"
    return f"reading: {_part(where.turns, where.of_turns)} of {where.of_turns:,} turns{damage}"


def _part(done: int, of: int) -> str:
    return f"{min(100, done * 100 // of) if of else 100} %"
