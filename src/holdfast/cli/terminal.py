"""Terminal: text from elsewhere made safe to show, how wide it is, and what is dimmed or bold.

Rule of this file: pure functions of strings. Whatever came from a service or a store goes through `safe` (or what
is built on it) before it is shown: a terminal obeys some characters, and an answer must not give orders to it.
`safe` looks at one character at a time, so a sequence that comes in pieces is no safer a way in.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Final

# What is taken out: it shows nothing, or shows the rest in another order than it has.
_HIDDEN: Final = (
    "\r"  # would write over what stands there; before a line end it says nothing
    "\u180e\u200b"  # zero-width space; the joiners U+200C and U+200D stay: Persian and emoji need them
    "\u202a-\u202e\u2066-\u2069"  # bidi embeddings, overrides and isolates
    "\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"  # tags: a whole text that nobody sees
)
# What is shown as something else: controls as their pictures (ESC as ␛), C1 controls (0x9B alone is "ESC [") and
# halves of surrogate pairs as the replacement character.
_SHOWN: Final = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_UNSAFE: Final = re.compile(f"[{_HIDDEN}{_SHOWN}]")
_IS_HIDDEN: Final = re.compile(f"[{_HIDDEN}]")


def safe(text: str) -> str:
    """The text as it may be written to a terminal: only line ends and tabs are left of what a terminal obeys."""
    if text.isprintable() and text.isascii():
        return text
    return _UNSAFE.sub(_instead, text)


def _instead(found: re.Match[str]) -> str:
    character = found[0]
    number = ord(character)
    if _IS_HIDDEN.match(character):
        return ""
    if number < 0x20:
        return chr(0x2400 + number)
    if number in (0x2028, 0x2029):
        return "\n"
    return "\u2421" if number == 0x7F else "\ufffd"


def one_line(text: str) -> str:
    """Safe, and all white space made single spaces: for titles, ids, and whatever stands in a row."""
    return " ".join(safe(text).split())


def safe_json(written: str) -> str:
    """JSON with unsafe characters escaped: it means the same, and shows nothing else."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], written)


# --- widths ----------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    """Columns that a safe line takes, as most terminals count: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cut(line: str, columns: int) -> str:
    """The line, or as much of its beginning as fits beside an ellipsis."""
    if width(line) <= columns:
        return line
    kept, taken = [], 1
    for character in line:
        taken += _columns(character)
        if taken > columns:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…" if columns > 0 else ""


def gap(left: str, right: str, columns: int) -> str:
    """The space between two safe texts that stand at the two ends of a line."""
    return " " * max(2, columns - width(left) - width(right))


# --- colours ---------------------------------------------------------------------------------------------------


def wants_colours(environ: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Whether to write escape sequences: to a terminal that knows them, unless NO_COLOR asks for none."""
    if not is_terminal or environ.get("NO_COLOR"):
        return False
    return environ.get("TERM", "") not in ("", "dumb") or "WT_SESSION" in environ


class Paint:
    """Emphasis, if it is on; else the text as it is."""

    __slots__ = ("on",)

    def __init__(self, on: bool) -> None:
        self.on = on

    def dim(self, text: str) -> str:
        return self._wrapped("2", text)

    def bold(self, text: str) -> str:
        return self._wrapped("1", text)

    def accent(self, text: str) -> str:
        return self._wrapped("36", text)

    def warning(self, text: str) -> str:
        return self._wrapped("33", text)

    def _wrapped(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text
