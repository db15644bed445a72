"""Talk: what is said in a campaign. Everything follows from a token, so every side can tell what must stand where.

A token is unique in its campaign and names its origin and size: "r3.w12.k0.n7.s4000". The text begins with it, and a
long one says it again and again, so that no page of a file holds a part of it without its token. The answer is a
function of the text and of how many messages the service was told; so an answer that stands under the wrong question,
or was given to the wrong history, is found.
"""

from __future__ import annotations

import hashlib

MODEL = "rigs-1"
PIECES = 6

_FILLER = "all work and no play makes a dull boy, says {}; "


def token_of(*, round_: int, worker: int, talker: int, number: int, size: int) -> str:
    """The token of a talker's n-th question, whose text is `size` characters longer than the token."""
    return f"r{round_}.w{worker}.k{talker}.n{number}.s{size}"


def text_of(token: str) -> str:
    """What is said under a token."""
    size = int(token.rpartition(".s")[2])
    filler = _FILLER.format(token)
    return token if not size else f"{token} {(filler * (size // len(filler) + 1))[:size]}"


def token_in(text: str) -> str:
    """The token that a text begins with."""
    return text.split(" ", 1)[0]


def answer_to(text: str, messages: int) -> str:
    """What the service answers to a text that came as the last of so many messages."""
    return f"Heard as message {messages}: {text}"


def pieces_of(answer: str) -> list[str]:
    """The answer in the pieces in which it is streamed."""
    length = -(-len(answer) // PIECES)
    return [answer[start : start + length] for start in range(0, len(answer), length)]


def fingerprint(role: str, text: str) -> str:
    """A message in sixteen characters: the journal of requests would grow with the square of a conversation."""
    return hashlib.blake2b(f"{role}\0{text}".encode(), digest_size=8).hexdigest()
