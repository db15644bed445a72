"""ThreadStore: what the engine asks of the place where threads are kept.

Rules of this file, which every store keeps (`holdfast.testing.contracts` checks them):

- Whatever is written is handed over *when the method is called*, not when its result is awaited: a caller that is
  cancelled while it waits cannot cut a write in two. Each call is one transaction: all of it or nothing.
- A turn that was acknowledged stays. Turns are never changed; only a head moves.
- A run is opened by one writer at a time, and every opening, parking or taking over raises the thread's epoch. `seal`
  compares the epoch inside its own transaction: a writer that lost the thread meanwhile gets StaleRunError.
- A parked run waits on disk and has no writer. Nothing ends it but what somebody does with it: no lease, no restart,
  no death of a process.
- Ids are data: any string, never part of a path or of SQL text. A store speaks for one tenant, `for_tenant` gives
  another's; nothing of one tenant can be seen through another.
- A deleted thread leaves a tombstone. `incarnation` counts the lives of an id: a handle that saw an earlier life gets
  ThreadDeletedError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from holdfast.ports.handed import Failed, Handed, Ready, SlotCache
from holdfast.ports.runs import (
    PLAIN,
    Busy,
    Earlier,
    Head,
    Holder,
    NewTurn,
    OpenRun,
    Point,
    Progress,
    Segment,
    StoredTurn,
    Terms,
    Twin,
)
from holdfast.ports.verification import OnVerifying, Verification

# Everything that has to do with a store is imported from here.
__all__ = (
    "PLAIN",
    "Busy",
    "Earlier",
    "Failed",
    "Handed",
    "Head",
    "Holder",
    "Intent",
    "NewTurn",
    "OpenRun",
    "Point",
    "Progress",
    "Ready",
    "RunLog",
    "Segment",
    "SlotCache",
    "StoredTurn",
    "Terms",
    "ThreadDirectory",
    "ThreadInfo",
    "ThreadPage",
    "ThreadStore",
    "Tip",
    "Twin",
)


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


class ThreadInfo(Struct, frozen=True):
    """What a store knows of a thread without reading its turns. Times in microseconds since 1970 (UTC).

    `turns` counts the turns on its history; `busy` is the id of the turn being made, if any; `waiting` says that this
    one waits for an answer from outside.
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
    waiting: bool = False

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
        """Become the writer of a run whose process is gone, or that waits: its epoch is raised, so that a late return
        is refused, and if it has waited it does so no more.

        What is handed over has the `journal` of the run, and its `left`. A record that is damaged is dropped, and so
        are those after it, so that what the new writer adds follows what it has seen.
        None if that run is no longer the open one, or if its process turned out to live. Of those who take over at
        once one gets it.
        """
        ...

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Handed[None]:
        """Write down what an open run has done so far. Goes with the run when it is sealed.

        Survives the death of the process; with `durable` also a power cut. Raises StaleRunError.
        """
        ...

    def park(self, run: OpenRun, records: Sequence[bytes]) -> Handed[None]:
        """Write these last records down, and leave the run waiting for an answer from outside; durable.

        Its epoch is raised: nobody may write for it, the one who parked it no more than others, until somebody takes
        it over, from whichever process and however much later. Meanwhile the thread is taken, and the next one in
        line is called to find that out. A wish to stop that the run has not followed stays with it.
        Raises StaleRunError if the run is no longer this writer's. Once called, this process no longer makes the run,
        whatever comes of it: if the store could not write, it is as one that a dead process left.
        """
        ...

    def progress(self, thread_id: str, turn_id: str, *, after: int = 0) -> Awaitable[Progress | None]:
        """How far a turn of this thread has come: open, in line, or recorded on any of the thread's branches.

        Leaves out the journal's first `after` records. None if the thread knows no such turn.
        """
        ...

    def stop(self, thread_id: str, turn_id: str, *, rollback: bool = False) -> Handed[bool]:
        """Ask whoever makes this open run, in whichever process, to end it (see `Holder.stop`). False if none does,
        as of one that waits.

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

    def list(self, *, limit: int = 50, cursor: str | None = None, waiting: bool = False) -> Awaitable[ThreadPage]:
        """Threads, the most recently used first, a page at a time. `cursor` is an earlier page's `next`.

        With `waiting` only those whose run waits for an answer, and those that are damaged and may have one.
        """
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
