"""ThreadStore: what the engine asks of the place where threads are kept.

Rules of this file, which every store keeps (`holdfast.testing.contracts` checks them):

- Whatever is written is handed over *when the method is called*, not when its result is awaited: a caller that is
  cancelled while it waits cannot cut a write in two. Each call is one transaction: all of it or nothing.
- A turn that was acknowledged stays. Turns are never changed; only a head moves.
- A run is opened by one writer at a time, and every opening or taking over raises the thread's epoch. `seal`
  compares the epoch inside its own transaction: a writer that lost the thread meanwhile gets StaleRunError.
- Ids are data: any string, never part of a path or of SQL text. A store speaks for one tenant, `for_tenant` gives
  another's; nothing of one tenant can be seen through another.
- A deleted thread leaves a tombstone. `incarnation` counts the lives of an id: a handle that saw an earlier life gets
  ThreadDeletedError.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from msgspec import UNSET, Struct, UnsetType

from holdfast.conversation.records import ROOT
from holdfast.conversation.turns import TurnStatus
from holdfast.ports.verification import OnVerifying, Verification


class Head(Struct, frozen=True):
    """Where a thread stands: its latest turn. `seq` is that turn's depth (0: no turn yet), `hash` its chained hash.

    `own_tip` is True if the head is the last turn of a branch that belongs to the thread itself, so that the next
    turn can be appended there; elsewhere the next turn begins a branch.
    """

    branch: int | None = None
    seq: int = 0
    hash: bytes = ROOT
    own_tip: bool = False


class Segment(Struct, frozen=True):
    """A stretch of one branch: its turns after `after`, up to and including `upto`."""

    branch: int
    after: int
    upto: int


class StoredTurn(Struct, frozen=True):
    """A turn as it is stored: its columns and its record (see `conversation.records`). Times in microseconds."""

    seq: int
    turn_id: str
    status: TurnStatus
    record: bytes
    started_us: int
    ended_us: int
    hash: bytes
    key: str | None = None
    reference: str | None = None


class NewTurn(Struct, frozen=True):
    """A turn to be stored; the store gives it its place and its hash."""

    turn_id: str
    status: TurnStatus
    record: bytes
    started_us: int
    ended_us: int
    key: str | None = None
    reference: str | None = None


class OpenRun(Struct, frozen=True):
    """A turn being made: what its writer holds. `epoch` is the fence, `input` the stored form of its input.

    `left` is where the thread stood before, if the run began elsewhere (see `Point`). `journal` holds what the run's
    earlier writer wrote down; only `take_over` fills it. Those who merely hear of a run (`Busy`, `Progress`) are told
    neither.
    """

    thread_id: str
    turn_id: str
    epoch: int
    incarnation: int
    head: Head
    input: bytes
    started_us: int
    key: str | None = None
    left: Head | None = None
    journal: tuple[bytes, ...] = ()


class Twin(Struct, frozen=True):
    """A run under the same idempotency key that has not ended: it is open, or stands in line. `input` as stored."""

    turn_id: str
    input: bytes


class Busy(Struct, frozen=True):
    """The thread is taken. `run` is its open run; None if it has none, but others stand in line before.

    `alive` is False if the process that made the run is gone, or has shown no sign of life for a lease: it can be
    taken over. `twin` is the run in flight that has the key of the one that asked, if any; then that one has no
    ticket (any more). (An open run of a dead process is a twin too; a queued one is dropped with its process.)
    """

    run: OpenRun | None
    alive: bool
    twin: Twin | None = None


class Earlier(Struct, frozen=True):
    """There is a turn under this idempotency key already. `on_head`: it lies on the thread's history as it is now.

    The run that asked does not stand in line (any more).

    `incarnation` is the life of the thread to which it belongs.
    """

    turn: StoredTurn
    on_head: bool
    incarnation: int = 0


class Point(Struct, frozen=True):
    """Where on its thread's own history a run begins: right after a turn, or right before it.

    With `latest` only if that turn is the thread's latest one when the run opens.
    """

    turn_id: str
    before: bool = False
    latest: bool = False


class Terms(Struct, frozen=True):
    """What else a run may ask for when it opens: an idempotency key, a point to begin at, a bound for the line."""

    key: str | None = None
    point: Point | None = None
    max_waiting: int = 1000


# What most runs ask for: nothing.
PLAIN = Terms()


class Progress(Struct, frozen=True):
    """How far a turn has come: the run that is open (then `alive` as in `Busy`), a place in line, or the turn.

    `records` are those of the open run's journal, without the first ones that were asked to be left out, and up to
    the first that is damaged.
    """

    run: OpenRun | None = None
    alive: bool = False
    queued: bool = False
    records: tuple[bytes, ...] = ()
    turn: StoredTurn | None = None
    on_head: bool = False


class Tip(Struct, frozen=True):
    """The last turn of one of a thread's branches. `parts_after` is the turn after which the branch begins.

    `current` marks the branch on which the thread stands, if it has a turn. What a fork shares with its source is a
    branch too, unless another one goes on from its end and the thread does not stand on it. Times in microseconds.
    """

    turn_id: str
    seq: int
    parts_after: str | None
    current: bool
    ended_us: int


class Holder(Protocol):
    """The run of this process that has a thread, as those who wait for it see it. Called from any thread."""

    def give_way(self) -> bool:
        """End yourself if nobody reads you any more (or can); True if you did."""
        ...

    def stop(self, turn_id: str, *, rollback: bool) -> None:
        """End yourself as cancelled, if you are that turn; with `rollback` the thread stands where it stood before."""
        ...


class ThreadInfo(Struct, frozen=True):
    """What a store knows of a thread without reading its turns. Times in microseconds since 1970 (UTC).

    `turns` counts the turns on its history; `busy` is the id of the turn being made, if any.
    """

    id: str
    head: Head
    incarnation: int
    title: str | None = None
    metadata: Mapping[str, Any] | None = None
    created_us: int = 0
    updated_us: int = 0
    busy: str | None = None
    deleted: bool = False

    @property
    def turns(self) -> int:
        return self.head.seq


class ThreadPage(Struct, frozen=True):
    """A page of a listing. `next` is the cursor for the page after it, None on the last one.

    `damaged` names the threads of this page of which nothing can be told; to use one raises DamagedError.
    """

    threads: tuple[ThreadInfo, ...]
    next: str | None = None
    damaged: tuple[str, ...] = ()


# How a handle means its id: a thread that must be new, one that must exist, or either.
Intent: TypeAlias = Literal["new", "existing", "either"]


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Handed(Protocol[T_co]):
    """A piece of work that was handed over. Await it for what came of it, as often as you like.

    Cancelling the task that awaits it does not cancel the work.
    """

    def __await__(self) -> Generator[Any, None, T_co]: ...

    def then(self, call: Callable[[T_co], object]) -> None:
        """Have `call` called with the result, now or later, in whichever thread; never if the work fails."""
        ...


class Ready(Struct, Generic[T], frozen=True):
    """Work that is already done: what a store returns that need not wait."""

    value: T

    def __await__(self) -> Generator[Any, None, T]:
        yield from ()  # makes this a generator, as an awaitable has to be
        return self.value

    def then(self, call: Callable[[T], object]) -> None:
        call(self.value)


class Failed:
    """Work that failed: the error is raised where it is awaited, so that every store fails in the same place."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        raise self._error

    def then(self, call: Callable[[Any], object]) -> None:
        return


class RunLog(Protocol):
    """The part of a store that a turn passes through."""

    def open_run(
        self,
        thread_id: str,
        turn_id: str,
        stored_input: bytes,
        started_us: int,
        *,
        intent: Intent = "either",
        incarnation: int | None = None,
        in_line: bool = False,
        terms: Terms = PLAIN,
    ) -> Handed[OpenRun | Busy | Earlier]:
        """Open a run: take the thread, raise its epoch, record the input. Survives the death of the process.

        If the thread is taken the answer is Busy; with `in_line` the run then has a ticket: it stands in line under
        its turn id until it opens or is withdrawn, and is let in before all that came after it, from whichever
        process. (The tickets of dead processes are dropped: nobody was told that they were taken.)
        `incarnation` is what the handle saw before (then `intent` is of no account); None on its first use.
        A thread that does not exist, or whose id has only a tombstone, is created for the intents "new" and "either".
        An idempotency key counts on one life of one thread: a turn that was recorded under it there, on its history
        or on another branch, is the answer (Earlier); a run in flight is named (Busy). A failed turn without output
        is stored without its key, so the key is free again; a fork starts with none.
        A point moves the head in the same transaction, when the run opens; the run's `left` says from where.
        Raises ThreadExistsError ("new", but it exists), ThreadNotFoundError ("existing", but there is none),
        ThreadDeletedError (another incarnation, or deleted), InvalidInputError (an id or a key that cannot be, or a
        turn id that is taken), TurnNotFoundError (the point is not on the thread's history, or not the latest turn),
        QueueFullError (with `in_line`, and `max_waiting` runs stand there already).
        """
        ...

    def wait(self, thread_id: str, turn_id: str, *, seconds: float) -> Awaitable[None]:
        """Return when the run that stands in line under this turn id may be let in, at the latest after `seconds`."""
        ...

    def withdraw(self, thread_id: str, turn_id: str) -> Handed[None]:
        """Leave the line. Nothing happens if the run does not stand in it."""
        ...

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        """Become the writer of a run whose process is gone; its epoch is raised, so that a late return is refused.

        What is handed over has the `journal` of the run, and its `left`. A record that is damaged is dropped, and so
        are those after it, so that what the new writer adds follows what it has seen.
        None if that run is no longer the open one, or if its process turned out to live.
        """
        ...

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Handed[None]:
        """Write down what an open run has done so far. Goes with the run when it is sealed.

        Survives the death of the process; with `durable` also a power cut. Raises StaleRunError.
        """
        ...

    def progress(self, thread_id: str, turn_id: str, *, after: int = 0) -> Awaitable[Progress | None]:
        """How far a turn of this thread has come: open, in line, or recorded on any of the thread's branches.

        Leaves out the journal's first `after` records. None if the thread knows no such turn.
        """
        ...

    def stop(self, thread_id: str, turn_id: str, *, rollback: bool = False) -> Handed[bool]:
        """Ask whoever makes this open run, in whichever process, to end it (see `Holder.stop`). False if none does.

        Returns when the wish is known to all, not when it is fulfilled. It is forgotten with the run.
        """
        ...

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], *, stand: Head | None = None) -> Handed[Head]:
        """Store the turns after the run's head, move the head, close the run; durable when acknowledged.

        Usually one turn; several when a transcript is adopted; none gives the thread back as it was (standing at
        `run.left`, if the run began elsewhere). With `stand` (the run's `head` or `left`) the turns are stored all the
        same, and the thread then stands there and not at the last of them. What is returned is the turns' own head.
        Raises StaleRunError if the run is no longer this writer's, InvalidInputError if a turn cannot be stored, or
        the thread cannot stand there. Once called, this process no longer makes the
        run, whatever comes of it: if the store could not write, the next one to open the thread takes it over.
        """
        ...

    def lineage(self, head: Head) -> Awaitable[tuple[Segment, ...]]:
        """The stretches of branches from the first turn to the head, in order. Empty for a thread without turns."""
        ...

    def read(self, segment: Segment, *, limit: int | None = None) -> Awaitable[list[StoredTurn]]:
        """The turns of a segment, in order, at most the first `limit`.

        Checks each turn's hash against its parent's; raises DamagedError, which names the turn.
        """
        ...


class ThreadDirectory(Protocol):
    """The part of a store that lists and manages threads."""

    def get(self, thread_id: str, *, deleted: bool = False) -> Awaitable[ThreadInfo | None]:
        """What is known of a thread; None if there is none. Tombstones only if `deleted` asks for them."""
        ...

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Awaitable[ThreadPage]:
        """Threads, the most recently used first, a page at a time. `cursor` is an earlier page's `next`."""
        ...

    def update(
        self,
        thread_id: str,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | UnsetType | None = UNSET,
    ) -> Awaitable[ThreadInfo]:
        """Set the title or the metadata (JSON-able, replaced as a whole); neither touches the conversation.

        Raises ThreadNotFoundError.
        """
        ...

    def fork(
        self, thread_id: str, new_id: str, *, at: str | None = None, incarnation: int | None = None
    ) -> Awaitable[ThreadInfo]:
        """A new thread that begins at the head, or at the turn `at`, of another. Copies nothing.

        Raises ThreadExistsError, ThreadNotFoundError, ThreadDeletedError, TurnNotFoundError.
        """
        ...

    def move_head(
        self,
        thread_id: str,
        *,
        back: int = 0,
        to: str | None = None,
        incarnation: int | None = None,
        anywhere: bool = False,
    ) -> Awaitable[ThreadInfo]:
        """Move the head to the turn `to`, or `back` turns towards the beginning. Every turn stays stored.

        `to` lies on the thread's history; with `anywhere` on any of its branches.
        Raises ThreadBusyError while a run is open, TurnNotFoundError if the target does not lie there,
        InvalidInputError if there are fewer turns than `back`.
        """
        ...

    def branches(self, thread_id: str, *, incarnation: int | None = None) -> Awaitable[Sequence[Tip]]:
        """The tips of a thread's branches, the newest branch first: the one it stands on, and those it has left.

        What a fork shares with its source comes last. A thread without turns has no branches.
        Raises ThreadNotFoundError, ThreadDeletedError.
        """
        ...

    def delete(self, thread_id: str, *, incarnation: int | None = None, interrupt: bool = False) -> Awaitable[bool]:
        """Delete a thread: only a tombstone stays, and those of its turns that other threads reach.

        The bytes of everything else are overwritten. False if there was no such thread. With `interrupt` an open run
        goes too: its writer finds out when it seals.
        Raises ThreadBusyError while a run is open, ThreadDeletedError for another incarnation.
        """
        ...


class ThreadStore(RunLog, ThreadDirectory, Protocol):
    """A place where threads are kept, seen by one tenant ("" by default)."""

    @property
    def tenant(self) -> str: ...

    @property
    def cache(self) -> SlotCache: ...

    @property
    def location(self) -> str:
        """Where the threads are, for people; holds no secret."""
        ...

    def for_tenant(self, tenant: str) -> ThreadStore:
        """The same store, seen by another tenant. It shares connections and caches; closing one closes all."""
        ...

    def verify(self, *, all_tenants: bool = False, progress: OnVerifying | None = None) -> Awaitable[Verification]:
        """Read everything of this tenant, or of all, once more, and tell all that is not what was written.

        Damage is no exception here but part of what is returned. Nothing is changed, and nobody waits for it.
        """
        ...

    def close(self) -> None:
        """Give back files and connections, after what was handed over has been written. May be called twice."""
        ...


class SlotCache:
    """What the engine keeps beside a store, opaque to the store and shared by all handles.

    Slots: a byte-bounded LRU. `holders` knows the run of this process that has a thread, as long as it lives.

    A slot is lent, not shared: `take` removes it, so that one run at a time writes in it, and `give` puts it back.
    Everything in it can be made again from the log; dropping it costs nothing but time. Safe to use from several
    threads.
    """

    __slots__ = ("__weakref__", "_limit", "_lock", "_size", "_slots", "holders")

    def __init__(self, limit: int = 256 * 1024 * 1024) -> None:
        _caches.add(self)
        self._slots: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._limit = limit
        self._size = 0
        self.holders: weakref.WeakValueDictionary[object, Any] = weakref.WeakValueDictionary()

    def take(self, key: object) -> Any:
        """The slot, removed; None if there is none."""
        with self._lock:
            slot, size = self._slots.pop(key, (None, 0))
            self._size -= size
            return slot

    def give(self, key: object, slot: object, size: int) -> None:
        """Put a slot of `size` bytes (back); the longest unused ones are dropped when all are over the limit."""
        with self._lock:
            self._size -= self._slots.pop(key, (None, 0))[1]
            if size > self._limit:
                return
            self._slots[key] = (slot, size)
            self._size += size
            while self._size > self._limit:
                self._size -= self._slots.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget all slots."""
        with self._lock:
            self._slots.clear()
            self._size = 0


_caches: weakref.WeakSet[SlotCache] = weakref.WeakSet()


def _begin_anew() -> None:
    """In a forked child: the runs are the parent's, and whoever held a lock there does not exist here."""
    for cache in list(_caches):
        cache._lock = threading.Lock()
        cache.holders.clear()
        cache.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
