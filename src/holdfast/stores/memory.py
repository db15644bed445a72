"""MemoryStore: threads in this process's memory, for tests and for conversations that may end with it.

Rule of this file: each method is one piece of work on one tenant's log (see `memory_log`), done at the call.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from holdfast.conversation.ids import checked_tenant, checked_thread_id, checked_turn_id
from holdfast.conversation.records import ROOT
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import (
    Busy,
    Failed,
    Handed,
    Head,
    Intent,
    NewTurn,
    OpenRun,
    Segment,
    SlotCache,
    StoredTurn,
    ThreadInfo,
    ThreadPage,
)
from holdfast.stores import rules
from holdfast.stores.calls import Calls
from holdfast.stores.memory_log import Log, Place, Thread, place_of
from holdfast.stores.ready import Steps

T = TypeVar("T")

# The class below has a method named `list`.
Turns: TypeAlias = list[StoredTurn]


class _Shared:
    """What the views of one store have in common."""

    def __init__(self, runtime: Runtime, max_cache_bytes: int) -> None:
        self.runtime = runtime
        self.cache = SlotCache(max_cache_bytes)
        self.steps = Steps()
        self.calls = Calls()
        self.logs: dict[str, Log] = {}
        self.closed = False
        # Never used twice, in any tenant: what was cached of a branch can never be taken for another's.
        self.numbers = itertools.count(1)


class MemoryStore:
    """Keeps threads in this process's memory; they end with it, or when the store is closed.

        agent = client.create_agent(thread_store=MemoryStore())

    It may be used from several threads and event loops at once. `max_cache_bytes` bounds what the engine keeps
    beside it (see `SlotCache`), not the threads themselves.
    """

    def __init__(self, *, runtime: Runtime = SYSTEM, max_cache_bytes: int = 256 * 1024 * 1024) -> None:
        self._shared = _Shared(runtime, max_cache_bytes)
        self._tenant = ""

    @property
    def tenant(self) -> str:
        return self._tenant

    @property
    def cache(self) -> SlotCache:
        return self._shared.cache

    @property
    def location(self) -> str:
        return "memory"

    def for_tenant(self, tenant: str) -> MemoryStore:
        """The same store, seen by another tenant. Raises InvalidInputError for what no id could be."""
        view = object.__new__(type(self))
        view._shared = self._shared
        view._tenant = checked_tenant(tenant)
        return view

    def close(self) -> None:
        """Forget everything; for all tenants."""

        def close() -> None:
            self._shared.closed = True
            self._shared.logs.clear()
            self._shared.cache.clear()

        self._shared.steps.do(close)

    def __repr__(self) -> str:
        return f"MemoryStore(tenant={self._tenant!r})" if self._tenant else "MemoryStore()"

    def _step(self, work: Callable[[Log], T]) -> Handed[T]:
        """One transaction: `work` puts rows, and they count if it returns."""

        def step() -> T:
            log = self._log()
            value = work(log)
            log.commit()
            return value

        return self._shared.steps.do(step)

    def _log(self) -> Log:
        shared = self._shared
        if shared.closed:
            raise rules.store_closed(self.location)
        log = shared.logs.get(self._tenant)
        if log is None:
            log = shared.logs[self._tenant] = Log(shared.numbers)
        log.begin()
        return log

    # --- a turn ------------------------------------------------------------------------------------------------

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
    ) -> Handed[OpenRun | Busy]:
        def work(log: Log) -> OpenRun | Busy:
            checked_turn_id(turn_id)
            thread = _meant(log, checked_thread_id(thread_id), intent, incarnation, started_us)
            if log.places.get(turn_id) is not None:
                raise rules.turn_id_taken(thread_id, turn_id)
            if thread.run is not None or thread.line[:1] not in ((), (turn_id,)):
                if in_line and turn_id not in thread.line:
                    log.threads.put(thread_id, replace(thread, line=(*thread.line, turn_id)))
                return Busy(thread.run, alive=not thread.left)
            epoch = thread.epoch + 1
            run = OpenRun(thread_id, turn_id, epoch, thread.incarnation, thread.head, bytes(stored_input), started_us)
            log.threads.put(thread_id, replace(thread, epoch=epoch, run=run, line=thread.line[1:]))
            return run

        return self._step(work)

    async def wait(self, thread_id: str, turn_id: str, *, seconds: float) -> None:
        def look() -> float | None:
            # A glance at what is there, outside of any step: to begin one here would undo another thread's.
            log = self._shared.logs.get(self._tenant)
            thread = log.threads.rows.get(thread_id) if log is not None else None
            waits = thread is not None and not thread.deleted and not thread.left and turn_id in thread.line
            return seconds if waits and thread and (thread.run is not None or thread.line[0] != turn_id) else None

        await self._shared.calls.wait((self._tenant, thread_id, turn_id), look, seconds=seconds)

    def withdraw(self, thread_id: str, turn_id: str) -> Handed[None]:
        def work(log: Log) -> None:
            thread = log.threads.get(thread_id)
            if thread is not None and turn_id in thread.line:
                line = tuple(waiting for waiting in thread.line if waiting != turn_id)
                log.threads.put(thread_id, replace(thread, line=line))

        return self._then_call(thread_id, self._step(work))

    def _then_call(self, thread_id: str, done: Handed[T]) -> Handed[T]:
        """Wake whoever is next in line, whatever came of the work: the thread may be free, or its writer gone."""

        def call(_: object) -> None:
            log = self._shared.logs.get(self._tenant)
            thread = log.threads.rows.get(thread_id) if log is not None else None
            if thread is not None and thread.line:
                self._shared.calls.call((self._tenant, thread_id, thread.line[0]))

        if isinstance(done, Failed):
            call(None)
        else:
            done.then(call)
        return done

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        """The writers of a memory store live as long as it does; one is gone if its `seal` failed."""

        def work(log: Log) -> OpenRun | None:
            thread = log.held(holder)
            if thread is None or thread.run is None or not thread.left:
                return None
            run = replace(thread.run, epoch=thread.epoch + 1)
            log.threads.put(thread.id, replace(thread, epoch=run.epoch, run=run, left=False))
            return run

        return self._step(work)

    def seal(self, run: OpenRun, turns: Sequence[NewTurn]) -> Handed[Head]:
        def work(log: Log) -> Head:
            thread = log.held(run)
            if thread is None:
                raise rules.stale_run(run)
            # First of all, and whatever comes of the rest: this writer has let go.
            log.threads.put(thread.id, replace(thread, left=True))
            log.commit()
            sealed = log.append(thread, turns) if turns else thread
            log.threads.put(thread.id, replace(sealed, run=None, left=False))
            return sealed.head

        return self._then_call(run.thread_id, self._step(work))

    def lineage(self, head: Head) -> Handed[tuple[Segment, ...]]:
        def work(log: Log) -> tuple[Segment, ...]:
            path = [Segment(number, branch.after, upto) for number, branch, upto in log.path(place_of(head))]
            return tuple(reversed(path))

        return self._step(work)

    def read(self, segment: Segment, *, limit: int | None = None) -> Handed[Turns]:
        def work(log: Log) -> Turns:
            most = None if limit is None else rules.checked_count(limit, "limit")
            turns = log.turns_of(segment, most)
            before = log.turn_at((segment.branch, segment.after)) if segment.after else None
            rules.verify(turns, before.hash if before else ROOT, before=before.turn_id if before else None)
            return turns

        return self._step(work)

    # --- threads -----------------------------------------------------------------------------------------------

    def get(self, thread_id: str, *, deleted: bool = False) -> Handed[ThreadInfo | None]:
        def work(log: Log) -> ThreadInfo | None:
            thread = log.threads.get(checked_thread_id(thread_id))
            return None if thread is None or (thread.deleted and not deleted) else _info(thread)

        return self._step(work)

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Handed[ThreadPage]:
        def work(log: Log) -> ThreadPage:
            most = rules.checked_count(limit, "limit", least=1, most=rules.MAX_PAGE)
            after = None if cursor is None else _order(*rules.position_of(cursor))
            keys = (_order(t.updated_us, t.id) for t in log.threads.rows.values() if not t.deleted)
            later = keys if after is None else (key for key in keys if key > after)
            found = heapq.nsmallest(most + 1, later)
            threads = tuple(_info(log.live(thread_id)) for _, thread_id in found[:most])
            last = threads[-1] if len(found) > most else None
            return ThreadPage(threads, rules.cursor_after((last.updated_us, last.id)) if last else None)

        return self._step(work)

    def update(
        self,
        thread_id: str,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | UnsetType | None = UNSET,
    ) -> Handed[ThreadInfo]:
        def work(log: Log) -> ThreadInfo:
            thread = log.live(checked_thread_id(thread_id))
            if title is not UNSET:
                thread = replace(thread, title=rules.checked_title(title))
            if metadata is not UNSET:
                thread = replace(thread, metadata=rules.encoded_metadata(metadata))
            return self._put(log, replace(thread, updated_us=self._shared.runtime.now_us()))

        return self._step(work)

    def fork(
        self, thread_id: str, new_id: str, *, at: str | None = None, incarnation: int | None = None
    ) -> Handed[ThreadInfo]:
        def work(log: Log) -> ThreadInfo:
            source = log.live(checked_thread_id(thread_id), incarnation)
            place = place_of(source.head) if at is None else log.on_history(source, at)
            taken = log.threads.get(checked_thread_id(new_id))
            if taken is not None and not taken.deleted:
                raise rules.thread_exists(new_id)
            new = log.newborn(new_id, self._shared.runtime.now_us())
            return self._put(log, log.forked(source, new, place))

        return self._step(work)

    def move_head(
        self, thread_id: str, *, back: int = 0, to: str | None = None, incarnation: int | None = None
    ) -> Handed[ThreadInfo]:
        def work(log: Log) -> ThreadInfo:
            steps = rules.checked_move(back, to)
            thread = log.live(checked_thread_id(thread_id), incarnation)
            if thread.run is not None:
                raise rules.thread_busy(thread.run, "rewound")
            if steps > thread.head.seq:
                raise rules.too_few_turns(thread_id, steps, thread.head.seq)
            if to is not None:
                place: Place | None = log.on_history(thread, to)
            else:
                place = log.at_depth(thread.head, thread.head.seq - steps)
            return self._put(log, replace(thread, head=log.head_at(thread_id, place)))

        return self._step(work)

    def delete(self, thread_id: str, *, incarnation: int | None = None, interrupt: bool = False) -> Handed[bool]:
        def work(log: Log) -> bool:
            thread = log.threads.get(checked_thread_id(thread_id))
            if thread is not None and incarnation not in (None, thread.incarnation):
                raise rules.thread_deleted(thread_id)
            if thread is None or thread.deleted:
                return False
            if thread.run is not None and not interrupt:
                raise rules.thread_busy(thread.run, "deleted")
            log.bury(thread)
            waiting.extend(thread.line)
            return True

        waiting: list[str] = []
        done = self._step(work)
        for turn_id in waiting:
            self._shared.calls.call((self._tenant, thread_id, turn_id))
        return done

    @staticmethod
    def _put(log: Log, thread: Thread) -> ThreadInfo:
        log.threads.put(thread.id, thread)
        return _info(thread)


def _meant(log: Log, thread_id: str, intent: Intent, incarnation: int | None, now_us: int) -> Thread:
    """The thread that a handle means: the one it saw before, or on its first use what its intent says."""
    if incarnation is not None or intent == "existing":
        return log.live(thread_id, incarnation)
    thread = log.threads.get(thread_id)
    if thread is None or thread.deleted:
        return log.newborn(thread_id, now_us)
    if intent == "new":
        raise rules.thread_exists(thread_id)
    return thread


def _info(thread: Thread) -> ThreadInfo:
    return ThreadInfo(
        thread.id,
        thread.head,
        thread.incarnation,
        thread.title,
        rules.decoded_metadata(thread.metadata),
        thread.created_us,
        thread.updated_us,
        thread.run.turn_id if thread.run is not None else None,
        thread.deleted,
    )


def _order(updated_us: int, thread_id: str) -> tuple[int, str]:
    return -updated_us, thread_id
