"""Screen: what goes to stdout, what goes beside it.

Rule of this file: stdout carries answers. All else (the banner, notes, prompts) goes beside them: to the same
terminal if a person sits at it, to stderr if stdout leads elsewhere. Text from services and stores is made safe here
or before; what is passed as `paint`ed has been.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Final, TextIO

from holdfast.cli.terminal import Paint, safe, wants_colours

_HALF: Final = re.compile("[\ud800-\udfff]")
_ERASE_LINE: Final = "\r\x1b[K"


class Screen:
    """Where one run of the program writes."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.out, self.err = sys.stdout, sys.stderr
        self.is_person = sys.stdin.isatty()
        self.is_terminal = self.is_person and self.out.isatty()
        self.beside = self.out if self.is_terminal else self.err
        self.paint = Paint(wants_colours(environ, is_terminal=self.beside.isatty()))
        self._alarm = Paint(wants_colours(environ, is_terminal=self.err.isatty()))
        self._half = ""
        self._in_line = False
        self._hinted = False

    # --- answers -----------------------------------------------------------------------------------------------

    def piece(self, text: str) -> None:
        """A piece of an answer, as it came from the service."""
        self.clear_hint()
        text = self._half + text
        self._half = ""
        if "\ud800" <= text[-1:] <= "\udbff":  # the other half of the character comes with the next piece
            self._half, text = text[-1], text[:-1]
        if text:
            text = safe(_whole(text))
        if text:
            self.out.write(text)
            self.out.flush()
            self._in_line = text[-1] != "\n"

    def end_line(self) -> None:
        """End the line that an answer left open, if it did."""
        self.clear_hint()
        if self._half:
            self._half = ""
            self.piece("\ufffd")
        if self._in_line:
            self._in_line = False
            self.out.write("\n")
            self.out.flush()

    def end_stopped(self) -> None:
        """End the line on which somebody pressed Ctrl-C: the terminal has written ^C there."""
        if self.is_terminal and not self._hinted:
            self._in_line = True
        self.end_line()

    # --- beside them -------------------------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """A line of painted, safe text."""
        self.end_line()
        self.beside.write(f"{text}\n")
        self.beside.flush()

    def note(self, text: str) -> None:
        """A remark of the program's own."""
        self.line(self.paint.dim(_folded(safe(text), self.beside)))

    def warn(self, text: str) -> None:
        """A remark that should not be overlooked."""
        self.line(self.paint.warning(_folded(safe(text), self.beside)))

    def gap(self) -> None:
        """An empty line, for people only."""
        if self.is_person:
            self.line()

    def leave_prompt(self, *, ended: bool) -> None:
        """Leave the line with the prompt. At the end of input some readlines have left it already, some have not."""
        if not self.is_person:
            return
        if ended and self.paint.on and self.is_terminal:
            self.out.write(_ERASE_LINE)
        else:
            self.line()

    def trouble(self, text: str) -> None:
        """What went wrong: always to stderr."""
        self.end_line()
        who = "" if self.is_person else "holdfast: "  # beside other programs' messages one wants to know whose it is
        self.err.write(self._alarm.warning(_folded(who + safe(text), self.err)) + "\n")
        self.err.flush()

    def hint(self, text: str) -> None:
        """A sign of life that the next piece of the answer wipes away; only where that can be done."""
        if self.is_terminal and self.paint.on and not self._in_line:
            self.out.write(self.paint.dim(text))
            self.out.flush()
            self._hinted = True

    def clear_hint(self) -> None:
        if self._hinted:
            self._hinted = False
            self.out.write(_ERASE_LINE)


def _folded(text: str, stream: TextIO) -> str:
    """The text with its lines broken between words, if people read it where it is written."""
    if not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) for line in text.splitlines()
    )


def _whole(text: str) -> str:
    """The text with halves that belong together joined: services may send a character in two."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
