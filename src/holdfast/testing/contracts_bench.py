"""Bench: what the contracts of a store stand on, and the short words in which they are written.

Rule of this file: it knows the protocols of `holdfast.ports.stores`, no store and no test framework.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from unittest import SkipTest

from holdfast.conversation.errors import HoldfastError, InvalidInputError
from holdfast.conversation.records import ROOT, chain
from holdfast.conversation.turns import TurnStatus
from holdfast.ports.stores import (
    PLAIN,
    Busy,
    Earlier,
    Head,
    Intent,
    NewTurn,
    OpenRun,
    StoredTurn,
    Terms,
    ThreadInfo,
    ThreadStore,
)

# Names that are trouble where an id becomes part of a path, a query, a pattern or a key.
HOSTILE_IDS = (
    "../../etc/passwd",
    "..",
    "/",
    "C:\\nul",
    "'; DROP TABLE threads; --",
    '" OR ""="',
    "%",
    "_",
    "*",
    "a%00b",
    "{0}{id}%s$1",
    "NULL",
    "0",
    " ",
    " a ",
    "a\u00a0b",
    "é",
    "e\u0301",
    "ﬀ",
    "\u202eevil",
    "👩\u200d🚀",
    "\U0010ffff",
    "x" * 256,
    "😀" * 256,
)

# What no store takes as an id.
REFUSED_IDS: tuple[Any, ...] = (
    "",
    "x" * 257,
    "a\x00b",
    "a\nb",
    "\x7f",
    "\x85",
    "\u2028",
    "\ud800",
    "a\udfff",
    None,
    7,
    b"a",
)

INTENTS: tuple[Intent, ...] = ("new", "existing", "either")

# How long a write that was handed over may take to be seen by somebody who did not wait for it.
PATIENCE = 10.0

Calls: TypeAlias = Mapping[str, Callable[[], Awaitable[Any]]]


class _Caught:
    """What `refused` caught."""

    error: HoldfastError | None = None


@contextlib.contextmanager
def refused(
    kind: type[HoldfastError], *, thread_id: str | None = None, turn_id: str | None = None
) -> Iterator[_Caught]:
    """Expect this error, with a message for people, and with the ids that are given."""
    caught = _Caught()
    try:
        yield caught
    except kind as raised:
        caught.error = raised
    error = caught.error
    assert error is not None, f"nothing was raised; {kind.__name__} was due"
    assert len(str(error)) > 20, f"{error!r} does not say what happened and what to do"
    assert thread_id is None or error.thread_id == thread_id, f"{error!r} names thread {error.thread_id!r}"
    assert turn_id is None or error.turn_id == turn_id, f"{error!r} names turn {error.turn_id!r}"


def new_turn(
    turn_id: str, *, status: TurnStatus = "completed", record: bytes | None = None, key: str | None = None
) -> NewTurn:
    """A turn to be sealed; its record holds its id."""
    told = b'{"v":1,"input":["%s"]}' % turn_id.encode() if record is None else record
    return NewTurn(turn_id, status, told, 10, 20, key)


class Bench:
    """What the tests stand on: the store under test, and short words for what is done with it.

    Hooks: `make_store` must be given. `reopen` closes a store and opens the same data again (for stores that
    outlive their process). `abandon` makes the writer of an open run look dead, as if its process had died.
    `damage` changes the stored record of a turn behind the store's back, `damage_journal` the n-th record of a run's
    journal.
    """

    reopen: Callable[[ThreadStore], ThreadStore] | None = None
    abandon: Callable[[ThreadStore, OpenRun], None] | None = None
    damage: Callable[[ThreadStore, str], None] | None = None
    damage_journal: Callable[[ThreadStore, str, int], None] | None = None
    _store: ThreadStore | None = None

    def make_store(self) -> ThreadStore:
        """A fresh, empty store."""
        raise NotImplementedError("give your subclass of StoreContract a make_store(self) that returns an empty store")

    @property
    def store(self) -> ThreadStore:
        """The store of this test, made when it is first asked for."""
        if self._store is None:
            self._store = self.make_store()
        return self._store

    def teardown_method(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def reopened(self) -> ThreadStore:
        """The store of this test, closed and opened again."""
        if self.reopen is None:
            raise SkipTest("this store does not outlive its process (no reopen hook)")
        self._store = self.reopen(self.store)
        return self._store

    # --- short words -------------------------------------------------------------------------------------------

    async def open(
        self,
        thread_id: str,
        turn_id: str,
        *,
        intent: Intent = "either",
        incarnation: int | None = None,
        terms: Terms = PLAIN,
    ) -> OpenRun:
        """Open a run that must not find the thread busy."""
        return opened(
            await self.store.open_run(
                thread_id, turn_id, b'["said"]', 10, intent=intent, incarnation=incarnation, terms=terms
            )
        )

    async def stand(self, thread_id: str, turn_id: str, terms: Terms = PLAIN) -> OpenRun | Busy | Earlier:
        """Open a run, or stand in line."""
        return await self.store.open_run(thread_id, turn_id, b'["waits"]', 1, in_line=True, terms=terms)

    async def taken(self, run: OpenRun) -> OpenRun:
        """Take over a run, which must succeed."""
        taken = await self.store.take_over(run)
        assert taken is not None, f"turn {run.turn_id} could not be taken over"
        return taken

    async def say(self, thread_id: str, *turn_ids: str) -> Head:
        """One sealed turn after another; the head after the last."""
        head = Head()
        for turn_id in turn_ids:
            head = await self.store.seal(await self.open(thread_id, turn_id), [new_turn(turn_id)])
        return head

    async def info(self, thread_id: str) -> ThreadInfo:
        found = await self.store.get(thread_id)
        assert found is not None, f"there is no thread {thread_id!r}"
        return found

    async def turns_at(self, head: Head, store: ThreadStore | None = None) -> list[StoredTurn]:
        """All turns up to a head; their numbers must be dense and their hashes chained."""
        store = store or self.store
        found: list[StoredTurn] = []
        for segment in await store.lineage(head):
            assert segment.after == len(found), f"{segment} does not go on where the one before it ended"
            found += await store.read(segment)
            assert len(found) == segment.upto, f"{segment} was read to {len(found)}"
        check_chain(found, head)
        return found

    async def history(self, thread_id: str, store: ThreadStore | None = None) -> list[str]:
        """The ids of a thread's turns."""
        info = await (store or self.store).get(thread_id)
        assert info is not None, f"there is no thread {thread_id!r}"
        return [turn.turn_id for turn in await self.turns_at(info.head, store)]

    async def listed(self, limit: int = 50) -> list[ThreadInfo]:
        """All threads, page by page."""
        found: list[ThreadInfo] = []
        cursor: str | None = None
        while True:
            page = await self.store.list(limit=limit, cursor=cursor)
            assert len(page.threads) <= limit
            assert page.threads or cursor is None, "an empty page: the one before it was the last"
            found += page.threads
            cursor = page.next
            if cursor is None:
                return found
            assert len(page.threads) == limit, "a page is short, and yet says that there is another"

    async def leave(self, run: OpenRun) -> None:
        """Have the writer of a run give up: by its death if there is a hook for that, else by a seal that fails."""
        if self.abandon is not None:
            self.abandon(self.store, run)
            return
        with refused(InvalidInputError):
            await self.store.seal(run, [new_turn("")])

    async def soon(self, seen: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something that was handed over is seen."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not await seen():
            assert asyncio.get_running_loop().time() < deadline, "what was handed over was never done"
            await asyncio.sleep(0.01)


def check_chain(turns: Sequence[StoredTurn], head: Head) -> None:
    """The turns of a whole history: numbered 1, 2, 3..., each hash over the one before, the last one the head's."""
    parent = ROOT
    for seq, turn in enumerate(turns, 1):
        check_turn(turn, seq, parent)
        parent = turn.hash
    assert (head.seq, head.hash) == (len(turns), parent), f"{head} is not where its history ends"


def check_turn(turn: StoredTurn, seq: int, parent: bytes) -> None:
    """A turn must have this number, and a hash over its parent's and its own columns."""
    wanted = chain(
        parent,
        seq=seq,
        turn_id=turn.turn_id,
        key=turn.key,
        status=turn.status,
        reference=turn.reference,
        started_us=turn.started_us,
        ended_us=turn.ended_us,
        record=turn.record,
    )
    assert turn.seq == seq, f"turn {turn.turn_id} has the number {turn.seq} in the place {seq}"
    assert turn.hash == wanted, f"turn {turn.turn_id} is not chained to the one before it"


def every_method(
    store: ThreadStore, thread_id: Any, *, incarnation: int | None = None, besides: Any = "another"
) -> Calls:
    """A call of every method that takes the id of a thread that must exist."""
    return {
        "open_run": lambda: store.open_run(thread_id, "t", b"[]", 1, intent="existing", incarnation=incarnation),
        "fork": lambda: store.fork(thread_id, besides, incarnation=incarnation),
        "fork at": lambda: store.fork(thread_id, besides, at="t", incarnation=incarnation),
        "move_head": lambda: store.move_head(thread_id, incarnation=incarnation),
        "move_head to": lambda: store.move_head(thread_id, to="t", incarnation=incarnation),
        "move_head anywhere": lambda: store.move_head(thread_id, to="t", incarnation=incarnation, anywhere=True),
        "branches": lambda: store.branches(thread_id, incarnation=incarnation),
        "update": lambda: store.update(thread_id, title="a title"),
    }


def opened(answer: OpenRun | Busy | Earlier) -> OpenRun:
    """The run, which must not have found its thread busy."""
    assert isinstance(answer, OpenRun), f"the run was not opened: {answer}"
    return answer
