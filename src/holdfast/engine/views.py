"""Views: how much of a conversation a service is told.

    agent = client.create_agent(history=LastTurns(50))
    await agent.run("...", thread=thread, history=TokenBudget(8_000))

Rule of this file: a view chooses among whole turns, from the newest backwards, so no call is parted from its result;
it never changes the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from msgspec import Struct

from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.turns import Turn

# Tokens in a byte of a request, as long as the service has not said how many there were.
TOKENS_PER_BYTE = 0.25

# One's own view: of all turns those to be told, or messages in their place.
OwnView: TypeAlias = Callable[[list[Turn]], Iterable[Turn | ChatMessage]]


class Window(Protocol):
    """A view that looks at the newest turns only."""

    @property
    def key(self) -> str:
        """Tells views apart that choose differently."""
        ...

    def fits(self, turns: int, tokens: float) -> bool:
        """Whether so many turns, of so many tokens together, may be told."""
        ...

    def smaller(self) -> Window:
        """The next smaller view, for a service that cannot read this much."""
        ...


class LastTurns(Struct, frozen=True):
    """The last `n` turns. Raises InvalidInputError if `n` is no whole number of at least 1."""

    n: int

    def __post_init__(self) -> None:
        _check("LastTurns", self.n)

    @property
    def key(self) -> str:
        return f"last {self.n}"

    def fits(self, turns: int, tokens: float) -> bool:
        return turns <= self.n

    def smaller(self) -> LastTurns:
        return LastTurns(max(1, self.n // 2))


class TokenBudget(Struct, frozen=True):
    """As many of the last turns as take about `tokens` tokens together, without the new message and instructions.

    They are counted by what the service has said of the last answer, before there was one as a quarter of the bytes.
    """

    tokens: int

    def __post_init__(self) -> None:
        _check("TokenBudget", self.tokens)

    @property
    def key(self) -> str:
        return f"tokens {self.tokens}"

    def fits(self, turns: int, tokens: float) -> bool:
        return tokens <= self.tokens

    def smaller(self) -> TokenBudget:
        return TokenBudget(max(1, self.tokens // 2))


View: TypeAlias = LastTurns | TokenBudget | OwnView


def checked_view(view: object) -> View | None:
    """The view that a caller gave as `history=`. Raises InvalidInputError for what is none."""
    if view is None or isinstance(view, (LastTurns, TokenBudget)):
        return view
    if callable(view) and not isinstance(view, type):
        return view
    raise InvalidInputError(
        f"history= takes LastTurns(n), TokenBudget(n), or a function of a list of turns; got {view!r}."
    )


def _check(what: str, number: object) -> None:
    if type(number) is not int or number < 1:
        raise InvalidInputError(f"{what} takes a whole number of at least 1; got {number!r}.")
