"""What the offline partner is sent, and what can be read from it.

Rule of this file: it is all that the partner ever knows, and nothing in it changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

from msgspec import Struct

from holdfast.clients.offline_partner.jokes import Joke, found_in
from holdfast.clients.offline_partner.words import name_in, plain


class Called(Struct, frozen=True, omit_defaults=True):
    """A call of a tool that was made earlier."""

    id: str
    name: str


class Result(Struct, frozen=True, omit_defaults=True):
    """What came of a call."""

    id: str
    text: str = ""
    is_error: bool = False


class Said(Struct, frozen=True, omit_defaults=True):
    """One message as the partner is sent it: the words, calls and results, and how much there was beside them."""

    role: str
    text: str = ""
    images: int = 0
    files: tuple[str, ...] = ()
    calls: tuple[Called, ...] = ()
    results: tuple[Result, ...] = ()


class Sent:
    """All that the partner is sent with one request: the only thing it ever knows.

    `reply_to` says which reply a request of the user gets by the rules, so that earlier requests can be understood;
    `can_call` which tools there are and how they are called, "" if there are none.
    """

    def __init__(
        self,
        instructions: str | None,
        messages: Sequence[Said],
        reply_to: Callable[[str], Reply],
        can_call: str = "",
    ) -> None:
        self.can_call = can_call
        systems = [message.text for message in messages if message.role == "system"]
        self.instructions = " ".join(text for text in (instructions, *systems) if text)
        self.messages = [message for message in messages if message.role != "system"]
        self.last = self.messages[-1] if self.messages else Said("user")
        self.request = plain(self.last.text) if self.last.role == "user" else ""
        self.reply_to = reply_to

    @cached_property
    def yours(self) -> list[Said]:
        """What the user has said, the present request included."""
        return [message for message in self.messages if message.role == "user"]

    @cached_property
    def before(self) -> list[Said]:
        """What the user has said before the present request."""
        return self.yours[:-1] if self.last.role == "user" else self.yours

    @cached_property
    def mine(self) -> list[Said]:
        """What the partner (or a model before it) has answered in words."""
        return [message for message in self.messages if message.role == "assistant" and message.text.strip()]

    @cached_property
    def exchanges(self) -> list[tuple[str, str]]:
        """Each answer in words, behind what the user had said last before it."""
        pairs, asked = [], ""
        for message in self.messages:
            if message.role == "user":
                asked = message.text
            elif message.role == "assistant" and message.text.strip():
                pairs.append((asked, message.text))
        return pairs

    @cached_property
    def name(self) -> str | None:
        """The name that the user gave last."""
        return next((name for name in (name_in(plain(said.text)) for said in reversed(self.yours)) if name), None)

    @cached_property
    def told(self) -> list[Joke]:
        """The jokes of the collection that were told; each once, the latest last."""
        found = [joke for joke in (found_in(message.text) for message in self.mine) if joke]
        return list(reversed(dict.fromkeys(reversed(found))))


Reply: TypeAlias = Callable[[Sent, re.Match[str]], str | None]
