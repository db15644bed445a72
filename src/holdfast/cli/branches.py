"""Branches: the ways that a conversation has gone, in a listing, and which of them a person means.

Rule of this file: the oldest is number 1, so that a number means the same branch when another one is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from holdfast.cli.terminal import Paint, cut, gap, one_line, width
from holdfast.cli.transcript import ago, counted, how_it_ended, message_text, moment
from holdfast.cli.trouble import Trouble
from holdfast.conversation.errors import SchemaVersionError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.turns import Turn
from holdfast.engine.history import decoded
from holdfast.engine.threads import AgentThread, Branch
from holdfast.ports.runtime import SYSTEM

_FIRST_WORDS = 400
# Longer numbers are no numbers of branches; Python refuses to read the longest.
_DIGITS = 9


class BranchRow(Struct, frozen=True):
    """A branch in a listing. `last` is its last turn, None if that cannot be read; `at` where the thread stands.

    `at` counts turns, and is None if the thread stands on another branch.
    """

    number: int
    branch: Branch
    last: Turn | None
    at: int | None

    @property
    def asked(self) -> str:
        """The first words of the last turn's input, in one safe line."""
        return _first_words(self.last.input) if self.last is not None else "(its last turn cannot be read)"

    @property
    def answered(self) -> str:
        """The first words of its answer; how the turn ended if there is none."""
        if self.last is None:
            return ""
        ending = how_it_ended(self.last)
        return _first_words(self.last.output) or (f"({ending})" if ending else "")


def _first_words(messages: Iterable[ChatMessage]) -> str:
    return one_line(" ".join(map(message_text, messages))[:_FIRST_WORDS])


async def branch_rows(thread: AgentThread, last: int | None = None) -> list[BranchRow]:
    """The branches of a thread, the newest at the end; only the `last` ones if asked."""
    info = await thread.info()
    found = list(enumerate(reversed(await thread.branches()), 1))
    rows = []
    for number, branch in found if last is None else found[-last:]:
        at = info.turns if info is not None and branch.current else None
        rows.append(BranchRow(number, branch, await _turn(thread, branch.turn_id), at))
    return rows


async def _turn(thread: AgentThread, turn_id: str) -> Turn | None:
    found = await thread.store.progress(thread.id, turn_id)
    if found is None or found.turn is None:
        return None
    try:
        return decoded(found.turn)
    except SchemaVersionError:
        return None


async def found_place(thread: AgentThread, given: str, *, listed_by: str) -> str:
    """The id of the last turn of the branch with that number; or the turn id as it is. Raises Trouble."""
    if not (given.isascii() and given.isdecimal()):
        return given
    branches = await thread.branches()
    number = int(given) if len(given) <= _DIGITS else 0
    if not 1 <= number <= len(branches):
        count = counted(len(branches), "branch", "branches")
        raise Trouble(f"Thread {thread.id!r} has {count}, and so no branch {given[:20]}; {listed_by} lists them.")
    return branches[-number].turn_id


def branch_lines(rows: Iterable[BranchRow], columns: int, paint: Paint) -> Iterator[str]:
    """Each branch in two lines that fit: its number, what was asked last, and what was answered."""
    for row in rows:
        sign = "*" if row.at is not None else " "
        head = f"{sign}{row.number:>2} "
        room = columns - len(head)
        facts = f"{_how_far(row)} · {ago(row.branch.ended_us, SYSTEM.now_us()) or moment(row.branch.ended_us)}"
        asked = cut(row.asked, max(10, room - width(facts) - 2))
        yield head + paint.bold(asked) + gap(asked, facts, room) + paint.dim(facts)
        yield " " * len(head) + paint.dim(cut(row.answered, room))


def _how_far(row: BranchRow) -> str:
    turns = counted(row.branch.turns, "turn")
    return turns if row.at in (None, row.branch.turns) else f"at turn {row.at} of {row.branch.turns}"
