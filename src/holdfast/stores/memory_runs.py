"""MemoryRuns: the part of the memory store that a turn passes through.

Rule of this file: each method is one piece of work on one tenant's log (see `memory_log`), done at the call; whoever
must hear of it is told after that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from holdfast.conversation.ids import checked_thread_id, checked_turn_id
from holdfast.conversation.records import ROOT
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import (
    PLAIN,
    Busy,
    Earlier,
    Failed,
    Handed,
    Head,
    Intent,
    NewTurn,
    OpenRun,
    Progress,
    Ready,
    Segment,
    SlotCache,
    StoredTurn,
    Terms,
)
from holdfast.stores import rules
from holdfast.stores.calls import Calls, tell_to_stop
from holdfast.stores.memory_log import Log, Thread, Ticket, place_of
from holdfast.stores.ready import Steps

T = TypeVar("T")


class Shared:
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


class MemoryRuns:
    """`RunLog` in memory. The base of `MemoryStore`, which adds the directory of threads."""

    _shared: Shared
    _tenant: str

    @property
    def tenant(self) -> str:
        return self._tenant

    @property
    def cache(self) -> SlotCache:
        return self._shared.cache

    @property
    def location(self) -> str:
        return "memory"

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
        terms: Terms = PLAIN,
    ) -> Handed[OpenRun | Busy | Earlier]:
        def work(log: Log) -> OpenRun | Busy | Earlier:
            checked_thread_id(thread_id), checked_turn_id(turn_id)
            rules.check_terms(terms)
            ticket = Ticket(turn_id, bytes(stored_input), terms.key)
            thread = _meant(log, thread_id, intent, incarnation, started_us)
            earlier = log.earlier(thread, terms.key)
            if earlier is not None:
                log.threads.put(thread_id, thread.without(turn_id))
                return earlier
            if log.places.get(turn_id) is not None:
                raise rules.turn_id_taken(thread_id, turn_id)
            if thread.run is not None or (thread.line and thread.line[0].turn_id != turn_id):
                return _must_wait(log, thread, ticket, terms.max_waiting if in_line else None)
            return _opened(log, thread.without(turn_id), ticket, started_us, terms)

        def ring(answer: OpenRun | Busy | Earlier) -> None:
            if isinstance(answer, Busy) and answer.run is None:
                self._call_next(thread_id)  # nobody may have told it that the thread is free

        handed = self._step(work)
        handed.then(ring)
        return handed

    async def wait(self, thread_id: str, turn_id: str, *, seconds: float) -> None:
        def look() -> float | None:
            # A glance at what is there, outside of any step: to begin one here would undo another thread's.
            log = self._shared.logs.get(self._tenant)
            thread = log.threads.rows.get(thread_id) if log is not None else None
            if thread is None or thread.deserted or not thread.has_in_line(turn_id):
                return None
            return seconds if thread.run is not None or thread.line[0].turn_id != turn_id else None

        await self._shared.calls.wait((self._tenant, thread_id, turn_id), look, seconds=seconds)

    def withdraw(self, thread_id: str, turn_id: str) -> Handed[None]:
        def work(log: Log) -> None:
            thread = log.threads.get(thread_id)
            if thread is not None and thread.has_in_line(turn_id):
                log.threads.put(thread_id, thread.without(turn_id))

        return self._then_call(thread_id, self._step(work))

    def _then_call(self, thread_id: str, done: Handed[T]) -> Handed[T]:
        """Wake whoever is next in line, whatever came of the work: the thread may be free, or its writer gone."""

        if isinstance(done, Failed):
            self._call_next(thread_id)
        else:
            done.then(lambda _: self._call_next(thread_id))
        return done

    def _call_next(self, thread_id: str) -> None:
        log = self._shared.logs.get(self._tenant)
        thread = log.threads.rows.get(thread_id) if log is not None else None
        if thread is not None and thread.line:
            self._shared.calls.call((self._tenant, thread_id, thread.line[0].turn_id))

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        """The writers of a memory store live as long as it does; one is gone if its `seal` failed, or if it parked."""

        def work(log: Log) -> OpenRun | None:
            thread = log.held(holder)
            if thread is None or thread.run is None or not thread.deserted:
                return None
            run = replace(thread.run, epoch=thread.epoch + 1, waiting=False)
            log.threads.put(thread.id, replace(thread, epoch=run.epoch, run=run, deserted=False))
            return replace(run, journal=log.journals.get(run.turn_id) or ())

        return self._step(work)

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Handed[None]:
        def work(log: Log) -> None:
            if log.written_by(run) is None:
                raise rules.stale_run(run)
            log.journals.put(run.turn_id, (log.journals.get(run.turn_id) or ()) + handed)

        handed = tuple(bytes(record) for record in records)
        return self._step(work) if handed else Ready(None)

    def park(self, run: OpenRun, records: Sequence[bytes]) -> Handed[None]:
        def work(log: Log) -> None:
            thread = _let_go(log, run)
            if thread is None or thread.run is None:
                raise rules.stale_run(run)
            parked = replace(thread.run, epoch=thread.epoch + 1, waiting=True)
            log.threads.put(thread.id, replace(thread, epoch=parked.epoch, run=parked, deserted=True))
            log.journals.put(run.turn_id, (log.journals.get(run.turn_id) or ()) + handed)

        handed = tuple(bytes(record) for record in records)
        return self._then_call(run.thread_id, self._step(work))

    def stop(self, thread_id: str, turn_id: str, *, rollback: bool = False) -> Handed[bool]:
        def work(log: Log) -> bool:
            thread = log.threads.get(checked_thread_id(thread_id))
            run = None if thread is None or thread.deserted else thread.run
            return run is not None and run.turn_id == checked_turn_id(turn_id)

        def tell(is_made: bool) -> None:
            if is_made:
                tell_to_stop(self._shared.cache, (self._tenant, thread_id), turn_id, rollback=rollback)

        handed = self._step(work)
        handed.then(tell)
        return handed

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], *, stand: Head | None = None) -> Handed[Head]:
        def work(log: Log) -> Head:
            thread = _let_go(log, run)
            at = rules.checked_stand(run, stand)
            if thread is None:
                raise rules.stale_run(run)
            sealed = log.append(thread, turns) if turns else thread
            end = sealed.head if turns else at or run.left or run.head
            at = end if at is None or not turns else rules.beside(at, end)
            log.threads.put(thread.id, replace(sealed, head=at, run=None, deserted=False))
            log.journals.put(run.turn_id, None)
            return end

        return self._then_call(run.thread_id, self._step(work))

    def progress(self, thread_id: str, turn_id: str, *, after: int = 0) -> Handed[Progress | None]:
        def work(log: Log) -> Progress | None:
            checked_thread_id(thread_id), checked_turn_id(turn_id), rules.checked_count(after, "after")
            thread = log.threads.get(thread_id)
            if thread is None or thread.deleted:
                return None
            if thread.run is not None and thread.run.turn_id == turn_id:
                records = (log.journals.get(turn_id) or ())[after:]
                return Progress(thread.told_run(), not thread.deserted, records=records)
            place = log.on_branches(thread, turn_id)
            if place is not None:
                found = log.recorded(thread, place)
                return Progress(turn=found.turn, on_head=found.on_head)
            return Progress(queued=True) if thread.has_in_line(turn_id) else None

        return self._step(work)

    def lineage(self, head: Head) -> Handed[tuple[Segment, ...]]:
        def work(log: Log) -> tuple[Segment, ...]:
            path = [Segment(number, branch.after, upto) for number, branch, upto in log.path(place_of(head))]
            return tuple(reversed(path))

        return self._step(work)

    def read(self, segment: Segment, *, limit: int | None = None) -> Handed[list[StoredTurn]]:
        def work(log: Log) -> list[StoredTurn]:
            most = None if limit is None else rules.checked_count(limit, "limit")
            turns = log.turns_of(segment, most)
            before = log.turn_at((segment.branch, segment.after)) if segment.after else None
            rules.verify(turns, before.hash if before else ROOT, before=before.turn_id if before else None)
            return turns

        return self._step(work)


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


def _let_go(log: Log, run: OpenRun) -> Thread | None:
    """The thread of a run whose writer writes for the last time: whatever comes of the rest, it has let go."""
    thread = log.written_by(run)
    if thread is not None:
        log.threads.put(thread.id, replace(thread, deserted=True))
        log.commit()
    return thread


def _must_wait(log: Log, thread: Thread, ticket: Ticket, max_waiting: int | None) -> Busy:
    """What a run gets that finds the thread taken, or others in line. With `max_waiting` it then stands in line."""
    twin = thread.twin(ticket.turn_id, ticket.key)
    if twin is not None:
        log.threads.put(thread.id, thread.without(ticket.turn_id))
    elif max_waiting is not None and not thread.has_in_line(ticket.turn_id):
        if len(thread.line) >= max_waiting:
            raise rules.line_full(thread.id, len(thread.line))
        log.threads.put(thread.id, replace(thread, line=(*thread.line, ticket)))
    return Busy(thread.told_run(), not thread.deserted, twin)


def _opened(log: Log, thread: Thread, ticket: Ticket, started_us: int, terms: Terms) -> OpenRun:
    """Open the run, at the thread's head or where it is to begin."""
    head, left = thread.head, None
    place = place_of(head) if terms.point is None else log.at_point(thread, terms.point)
    if place != place_of(head):
        head, left = log.head_at(thread.id, place), thread.head
    epoch = thread.epoch + 1
    run = OpenRun(thread.id, ticket.turn_id, epoch, thread.incarnation, head, ticket.said, started_us, ticket.key, left)
    log.threads.put(thread.id, replace(thread, epoch=epoch, run=run, head=head))
    return run
