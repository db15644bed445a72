"""The environment: what is set outside the code, in the process's variables or in a `.env` file.

Rule of this file: it reads and never writes. Nothing of the file gets into os.environ, where every program that is
started would inherit it, and nothing of it into a log or an error.

    # a comment                                    Only the file in the current directory is read, no parent's.
    OPENAI_API_KEY=sk-...                          A comment after a value needs white space before its #.
    export OPENAI_CHAT_MODEL_ID = gpt-4o-mini      "export" and white space around the = are passed over.
    AZURE_OPENAI_ENDPOINT="https://..."  # ours    In double quotes a backslash goes before n, r, t, " and itself.
    AZURE_OPENAI_API_KEY='$as #it is'              In single quotes nothing is special.

What it does not do: no ${NAME} is replaced, no value goes over several lines, and no encoding but UTF-8 is known. A
line of another form is passed over, and so is a `.env` that is no regular file of at most 1 MB, or cannot be read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping

FILE = ".env"
_LONGEST = 1 << 20
_QUOTED = re.compile(r"""\s*(?:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:#.*)?""")
_COMMENT = re.compile(r"\s#")
_ESCAPED = re.compile(r'\\([nrt"\\])')
_MEANT = {"n": "\n", "r": "\r", "t": "\t"}


def layers() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What is set outside the code, the stronger first: the process's variables, then the file in this directory."""
    return os.environ, dotenv()


def environment(known: Iterable[Mapping[str, str]] | None = None) -> Mapping[str, str]:
    """All of it in one: a variable of the process hides the file's.

    It does so even if it is empty: that is how what the file sets is switched off.
    """
    merged: dict[str, str] = {}
    for layer in layers() if known is None else known:
        merged = {**layer, **merged}
    return merged


def dotenv() -> dict[str, str]:
    """What the file sets; nothing if there is none that can be read."""
    try:
        with open(FILE, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LONGEST:
                return {}
            return variables(file.read(_LONGEST).decode("utf-8-sig", "replace"))
    except OSError:
        return {}


def variables(text: str) -> dict[str, str]:
    """The names and values that a text in the form of a `.env` file sets; the last one of a name counts."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        before, equals, after = line.partition("=")
        names = before.split()
        if len(names) == 2 and names[0] == "export":
            del names[0]
        if not equals or len(names) != 1 or not names[0].isidentifier():
            continue
        value = _value(after)
        if value is not None:
            found[names[0]] = value
    return found


def _value(written: str) -> str | None:
    """What stands behind the =; None if it begins with a quote, but is no quoted text."""
    quoted = _QUOTED.fullmatch(written)
    if quoted is None:
        plain = _COMMENT.split(written, maxsplit=1)[0].strip()
        return None if plain[:1] in ("'", '"') else plain
    if quoted[1] is not None:
        return quoted[1]
    return _ESCAPED.sub(lambda found: _MEANT.get(found[1], found[1]), quoted[2])


def _without_waiting(path: str, flags: int) -> int:
    """Open without waiting for another program, as a pipe of that name would make us do."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
