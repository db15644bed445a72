"""MemoryStore: threads in this process's memory, for tests and for conversations that may end with it.

Rule of this file: each method is one piece of work on one tenant's log (see `memory_log`), done at the call. What a
turn passes through stands in `memory_runs`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from holdfast.conversation.ids import checked_tenant, checked_thread_id
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import Handed, ThreadInfo, ThreadPage, Tip
from holdfast.ports.verification import OnVerifying, Verification
from holdfast.stores import rules
from holdfast.stores.aside import aside
from holdfast.stores.memory_log import Log, Place, Thread, Ticket, place_of
from holdfast.stores.memory_runs import MemoryRuns, Shared
from holdfast.stores.memory_verify import verify


class MemoryStore(MemoryRuns):
    """Keeps threads in this process's memory; they end with it, or when the store is closed.

        agent = client.create_agent(thread_store=MemoryStore())

    It may be used from several threads and event loops at once. `max_cache_bytes` bounds what the engine keeps
    beside it (see `SlotCache`), not the threads themselves.
    """

    def __init__(self, *, runtime: Runtime = SYSTEM, max_cache_bytes: int = 256 * 1024 * 1024) -> None:
        self._shared = Shared(runtime, max_cache_bytes)
        self._tenant = ""

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

    # --- threads -----------------------------------------------------------------------------------------------

    def get(self, thread_id: str, *, deleted: bool = False) -> Handed[ThreadInfo | None]:
        def work(log: Log) -> ThreadInfo | None:
            thread = log.threads.get(checked_thread_id(thread_id))
            return None if thread is None or (thread.deleted and not deleted) else _info(thread)

        return self._step(work)

    def list(self, *, limit: int = 50, cursor: str | None = None, waiting: bool = False) -> Handed[ThreadPage]:
        def work(log: Log) -> ThreadPage:
            most = rules.checked_count(limit, "limit", least=1, most=rules.MAX_PAGE)
            after = None if cursor is None else _order(*rules.position_of(cursor))
            wanted = (t for t in log.threads.rows.values() if not t.deleted and (t.waiting or not waiting))
            keys = (_order(t.updated_us, t.id) for t in wanted)
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
        self,
        thread_id: str,
        *,
        back: int = 0,
        to: str | None = None,
        incarnation: int | None = None,
        anywhere: bool = False,
    ) -> Handed[ThreadInfo]:
        def work(log: Log) -> ThreadInfo:
            steps = rules.checked_move(back, to)
            thread = log.live(checked_thread_id(thread_id), incarnation)
            if thread.run is not None:
                raise rules.thread_busy(thread.run, "moved to another turn")
            if steps > thread.head.seq:
                raise rules.too_few_turns(thread_id, steps, thread.head.seq)
            place: Place | None
            if to is None:
                place = log.at_depth(thread.head, thread.head.seq - steps)
            elif not anywhere:
                place = log.on_history(thread, to)
            else:
                place = log.on_branches(thread, to)
                if place is None:
                    raise rules.no_turn_anywhere(thread_id, to)
            return self._put(log, replace(thread, head=log.head_at(thread_id, place)))

        return self._step(work)

    def branches(self, thread_id: str, *, incarnation: int | None = None) -> Handed[Sequence[Tip]]:
        return self._step(lambda log: log.tips(log.live(checked_thread_id(thread_id), incarnation)))

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

        waiting: list[Ticket] = []
        done = self._step(work)
        for ticket in waiting:
            self._shared.calls.call((self._tenant, thread_id, ticket.turn_id))
        return done

    # --- all of it ---------------------------------------------------------------------------------------------

    async def verify(self, *, all_tenants: bool = False, progress: OnVerifying | None = None) -> Verification:
        shared, tenant = self._shared, None if all_tenants else self._tenant
        if shared.closed:
            raise rules.store_closed(self.location)
        return await aside(lambda course: verify(shared.logs, tenant, shared.steps, course), progress)

    @staticmethod
    def _put(log: Log, thread: Thread) -> ThreadInfo:
        log.threads.put(thread.id, thread)
        return _info(thread)


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
        thread.waiting,
    )


def _order(updated_us: int, thread_id: str) -> tuple[int, str]:
    return -updated_us, thread_id
