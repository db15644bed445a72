"""Prompt: where lines come from: a person at a terminal, or a pipe.

Rule of this file: it reads on the main thread while no event loop runs, so that Ctrl-C and line editing work as in
every other program. A line is a message; one that ends with a backslash goes on, and what is pasted in one piece
(bracketed paste) stays one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from holdfast.cli.screen import Screen

_readline: Any = None
try:
    _readline = import_module("readline")
except ImportError:  # Windows, and some builds of Python: lines are read all the same, without editing
    _readline = None
_termios: Any = None
try:
    _termios = import_module("termios")
except ImportError:  # Windows
    _termios = None


class Prompt:
    """Reads messages and commands. `words` are what the tab key completes at the beginning of a line."""

    def __init__(self, screen: Screen, words: Sequence[str] = ()) -> None:
        self._screen = screen
        self._words = words
        self._edits = screen.is_terminal and _readline is not None
        sign = "› " if _can_write("›", screen.beside.encoding) else "> "
        self._first, self._more = self._painted(sign), self._painted("… " if sign == "› " else ". ")
        if self._edits:
            self._set_up()

    def _painted(self, sign: str) -> str:
        """The sign in colour; readline must know which characters take no room."""
        painted = self._screen.paint.accent(sign.rstrip())
        if self._edits and painted != sign.rstrip():
            before, after = painted.split(sign.rstrip())
            painted = f"\x01{before}\x02{sign.rstrip()}\x01{after}\x02"
        return painted + " "

    def _set_up(self) -> None:
        _readline.set_completer(self._completion)
        _readline.set_completer_delims(" \t\n")
        _readline.set_auto_history(False)
        _readline.parse_and_bind("tab: complete")
        if "libedit" not in (_readline.__doc__ or ""):
            _readline.parse_and_bind("set enable-bracketed-paste on")

    def _completion(self, text: str, state: int) -> str | None:
        if not text.startswith("/") or _readline.get_begidx() > 0:
            return None
        found = [word + " " for word in self._words if word.startswith(text)]
        return found[state] if state < len(found) else None

    # --- reading -----------------------------------------------------------------------------------------------

    def read(self) -> str:
        """The next message or command. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""
        self._screen.gap()
        while True:
            lines = [self._line(self._first)]
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                try:
                    lines.append(self._line(self._more))
                except EOFError:
                    break
            text = "\n".join(lines)
            if text.strip():
                self.remember((text,))
                return text

    def ask(self, question: str) -> str:
        """One line in answer to a question of the program's own. Raises as `read`.

        What was typed before the question was asked is no answer to it.
        """
        if self._screen.is_person and _termios is not None:
            _termios.tcflush(sys.stdin, _termios.TCIFLUSH)
        return self._line(question)

    def _line(self, sign: str) -> str:
        if self._screen.is_terminal:
            return input(sign)
        if self._screen.is_person:
            self._screen.beside.write(sign)
            self._screen.beside.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    # --- editing -----------------------------------------------------------------------------------------------

    def typed(self) -> str:
        """What stands on the line now."""
        return str(_readline.get_line_buffer()) if self._edits else ""

    def remember(self, texts: Iterable[str]) -> None:
        """Let the arrow keys find these."""
        if self._edits:
            for text in texts:
                _readline.add_history(text)


def _can_write(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
