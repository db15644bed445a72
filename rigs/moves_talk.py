"""The talk of moves: what is said, what a model makes of it, and how a message is told from all others.

Every answer begins with the number of the request that it answers, so that a judge can tell from a stored turn what the
model had been told when it said that. Rule of this file: pure; known to all sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

PIECES = 5
CALLS = "calls"  # the mark of a text for which the model asks for a tool first
_REQUEST = re.compile(r"\[(w\d+-\d+)\]")


def text_of(worker: int, number: int, *, calls: bool) -> str:
    """A text that nobody else says."""
    return f"m{worker}-{number}{' ' + CALLS if calls else ''}"


def answer(request: str, text: str) -> str:
    """What the model says in the answer with this number."""
    return f"[{request}] to {text}: yes, well, all of it."


def pieces(said: str) -> list[str]:
    """An answer as it is streamed. The first piece tells the request."""
    head, _, rest = said.partition(" ")
    length = -(-len(rest) // PIECES)
    return [f"{head} ", *(rest[start : start + length] for start in range(0, len(rest), length))]


def requests_in(said: str) -> list[str]:
    """The requests that a turn answers, in order."""
    return _REQUEST.findall(said)


def whole(said: str, text: str) -> str:
    """All that would have been said in the answers of which this is said."""
    return "".join(answer(request, text) for request in requests_in(said))


def fingerprint(role: str, text: str) -> str:
    """A message in a few characters. What a tool said does not matter, only that it did."""
    return blake2b(f"{role}\0{'' if role == 'tool' else text}".encode(), digest_size=6).hexdigest()


def fingerprints(messages: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(fingerprint(role, text) for role, text in messages)
