"""Talk of the rig of tools: which tools there are, which calls a text asks for, and what a model does about it.

A text is a token and a plan, "r0.w3.k0.n7.s0 sp|u": in the first round the model makes the calls "s" and "p" at once,
in the second one "u", then it answers. Each call is told a `what`, unique in its campaign; so an effect can be traced
to its call whatever name the call has.

Rule of this file: pure. The model is a function of the messages, so every side can tell what must have been called.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

Outcome = Literal["done", "broke", "late", "unknown", "not made", "not allowed", "refused", "gave up", "strange"]

# Seconds that a call of the tool that takes too long may take.
TOO_LONG = 0.03
_LONGEST_NAP = 0.006


class Kind(Struct, frozen=True):
    """A tool. `ends` is what becomes of a call that nothing comes between; of a tool without one nothing is made."""

    name: str
    is_async: bool = True
    idempotent: bool = False
    approval: bool = False
    ends: Outcome = "done"


# By the letter under which a plan calls for it.
KINDS: Mapping[str, Kind] = {
    "s": Kind("send"),
    "p": Kind("print", is_async=False),
    "u": Kind("upload", idempotent=True),
    "c": Kind("copy", is_async=False, idempotent=True),
    "b": Kind("buy", approval=True),
    "g": Kind("give", is_async=False, approval=True),
    "r": Kind("reserve", idempotent=True, approval=True),
    "d": Kind("drop", is_async=False, ends="broke"),
    "l": Kind("linger", ends="late"),
    "x": Kind("nobody", ends="refused"),
    "m": Kind("send", ends="refused"),
}
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS.values() if kind.ends != "refused"}
LETTERS = "ssppuucbgrdlxm"


def plan_of(chance: random.Random, letters: str = LETTERS) -> str:
    """One to three rounds of one to four calls; now and then none."""
    if chance.random() < 0.05:
        return ""
    rounds = chance.choice((1, 1, 1, 2, 2, 3))
    return "|".join("".join(chance.choices(letters, k=chance.choice((1, 2, 3, 3, 4)))) for _ in range(rounds))


def text_of(token: str, plan: str) -> str:
    """What is said to have a plan carried out."""
    return f"{token} {plan}"


def token_in(text: str) -> str:
    """The token that a text begins with."""
    return text.partition(" ")[0]


def calls_of(text: str) -> list[list[tuple[str, dict[str, Any]]]]:
    """The calls that a text asks for, in rounds."""
    token, _, plan = text.partition(" ")
    return [
        [_call(letter, f"{token}.{number}.{index}") for index, letter in enumerate(letters)]
        for number, letters in enumerate(plan.split("|"))
        if letters
    ]


def _call(letter: str, what: str) -> tuple[str, dict[str, Any]]:
    return KINDS[letter].name, {"whither": what} if letter == "m" else {"what": what}


def answered_next(
    messages: Sequence[Mapping[str, Any]], *, may_call: bool = True
) -> list[tuple[str, dict[str, Any]]] | str:
    """What the model does next, given all messages: calls to make, or its answer."""
    text, rounds = "", 0
    for message in messages:
        if message.get("role") == "user":
            text, rounds = str(message.get("content")), 0
        elif message.get("role") == "assistant":
            rounds += bool(message.get("tool_calls"))
    asked = calls_of(text)
    return asked[rounds] if may_call and rounds < len(asked) else f"Done with {token_in(text)}."


def what_in(arguments: str) -> str:
    """The `what` that a call was told; "" if it was told none."""
    try:
        found = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return ""
    return str(found.get("what") or "") if isinstance(found, dict) else ""


def naps_of(what: str) -> tuple[float, float]:
    """Seconds that a call takes before its effect, and after it."""
    before, after = hashlib.blake2b(what.encode(), digest_size=2).digest()
    return before / 255 * _LONGEST_NAP, after / 255 * _LONGEST_NAP


def told_of(what: str) -> str:
    """The result of a call that went well. One that broke says the same, and more."""
    return f"did {what}"


def broke(what: str) -> str:
    return f"{told_of(what)}, and broke"


def outcome_in(result: str, what: str) -> Outcome:
    """What a result says of its call."""
    words: tuple[tuple[str, Outcome], ...] = (
        ("outcome is unknown", "unknown"),
        ("not allowed", "not allowed"),
        ("not made", "not made"),
        ("was not called and nothing was done", "refused"),
        ("There is no tool named", "refused"),
        ("took longer than", "late"),
        ("cancelled from within", "gave up"),
    )
    if what and result in (told_of(what), broke(what)):
        return "done" if result == told_of(what) else "broke"
    return next((outcome for part, outcome in words if part in result), "strange")
