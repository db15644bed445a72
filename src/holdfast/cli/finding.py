"""Finding: which threads there are, and which thread or turn a person means.

Rule of this file: an id that fits to the letter goes before all others; a shortened one counts only if it can mean
one thread alone.
"""

from __future__ import annotations

from msgspec import Struct

from holdfast.cli.terminal import one_line
from holdfast.cli.transcript import counted, message_text
from holdfast.cli.trouble import Trouble
from holdfast.conversation.errors import DamagedError, SchemaVersionError
from holdfast.engine.history import decoded
from holdfast.ports.stores import Head, Segment, StoredTurn, ThreadInfo, ThreadStore

_PAGE = 200
# So many are named where a shortened id may mean several.
_NAMED = 4
# Longer numbers are no numbers of turns; Python refuses to read the longest.
_DIGITS = 9
_DAMAGED = "(damaged; 'holdfast verify' tells more)"


class Row(Struct, frozen=True):
    """A thread in a listing: what the store knows of it, and how it began."""

    info: ThreadInfo
    first_words: str

    @property
    def label(self) -> str:
        """Title or first words, in one safe line; "" if there is neither."""
        return one_line(self.info.title or "") or one_line(self.first_words)


async def rows(store: ThreadStore, limit: int | None, *, waiting: bool = False) -> tuple[list[Row], bool]:
    """The threads, the last used first, at most `limit`; and whether there are more. `waiting`: only those that do."""
    found: list[Row] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        wanted = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = await store.list(limit=wanted, cursor=cursor, waiting=waiting)
        found.extend([await row_of(store, info) for info in page.threads])
        found.extend([Row(ThreadInfo(thread_id, Head(), 0), _DAMAGED) for thread_id in page.damaged])
        cursor = page.next
        if cursor is None:
            break
    return found, cursor is not None


async def row_of(store: ThreadStore, info: ThreadInfo) -> Row:
    """The thread as a row; reads one turn of it."""
    try:
        first = await _turn_at(store, info.head, 1)
        said = decoded(first).input if first is not None else ()
        return Row(info, " ".join(map(message_text, said))[:400])
    except (DamagedError, SchemaVersionError):
        return Row(info, "(its first turn cannot be read)")


async def found_thread(store: ThreadStore, given: str) -> ThreadInfo:
    """The thread of that id, or the only one whose id begins so. Raises Trouble if there is none, or are several."""
    info = await store.get(given)
    if info is not None:
        return info
    found: list[ThreadInfo] = []
    cursor: str | None = None
    while True:
        page = await store.list(limit=_PAGE, cursor=cursor)
        found.extend([info for info in page.threads if info.id.startswith(given)])
        cursor = page.next
        if cursor is None:
            break
    if not found:
        raise Trouble(f"There is no thread {given!r} in {store.location}. 'holdfast threads list' lists what there is.")
    if len(found) > 1:
        named = ", ".join(info.id for info in found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
        raise Trouble(f"{given!r} may mean any of {counted(len(found), 'thread')}: {named}. Type more of the id.")
    return found[0]


async def found_turn(store: ThreadStore, info: ThreadInfo, given: str) -> str:
    """The id of the turn with that number, or the id as it is. Reads no other turn, for another may be damaged.

    Raises Trouble if the thread has no turn of that number.
    """
    if not (given.isascii() and given.isdecimal()):
        return given
    number = int(given) if len(given) <= _DIGITS else 0
    stored = await _turn_at(store, info.head, number)
    if stored is None:
        raise Trouble(
            f"Thread {info.id!r} has {counted(info.turns, 'turn')}, and so no turn {given[:20]}. "
            "'holdfast threads show' tells their numbers."
        )
    return stored.turn_id


async def _turn_at(store: ThreadStore, head: Head, number: int) -> StoredTurn | None:
    """The turn of that number on the way to the head, None if there is none."""
    for segment in await store.lineage(head):
        if segment.after < number <= segment.upto:
            for stored in await store.read(Segment(segment.branch, number - 1, number), limit=1):
                return stored
    return None
