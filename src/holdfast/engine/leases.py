"""Leases: how a run gets its thread, in this process and against others.

Rules of this file: nothing is asked of a model before the store has said that the thread is ours. Who finds it taken
stands in line, first come, first served, over all processes; what a dead process left open is closed as interrupted
(see `recovery`). The line only saves model calls and keeps the order: what keeps two writers apart is the epoch in
the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from holdfast.conversation.errors import HoldfastError, ThreadBusyError
from holdfast.engine.handles import Handle
from holdfast.engine.recovery import close_left_over, giver_back
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Busy, Earlier, Handed, Holder, OpenRun, Terms, Twin

# What a run does if its thread is taken: wait its turn; raise ThreadBusyError at once; or end what is being made
# there, keeping it ("interrupt") or leaving it behind ("rollback").
OnConflict: TypeAlias = Literal["enqueue", "reject", "interrupt", "rollback"]

# Seconds between two looks of a waiting run at whether the one before it, in this process, still moves.
LOOK_SECONDS = 1.0
# The same for a run that interrupts: those before it in line are ended as they come to be open.
INTERRUPT_SECONDS = 0.05

# The ids of the turns within which this task runs: those whose client, or tool, has started it.
INSIDE: ContextVar[tuple[str, ...]] = ContextVar("holdfast_inside", default=())


class Wish(Struct, frozen=True):
    """What a run wants of its thread. `enqueue_timeout` is how many seconds it stands in line at most."""

    turn_id: str
    stored_input: bytes
    terms: Terms
    on_conflict: OnConflict
    enqueue_timeout: float | None
    runtime: Runtime


async def acquire(handle: Handle, run: Holder, wish: Wish) -> OpenRun | Earlier | Twin:
    """Wait for the thread as the wish says, and open the run. `release` says that it has ended.

    Another turn if that has the wish's idempotency key: recorded (Earlier) or in flight (Twin).
    Raises ThreadBusyError, QueueFullError, and what `RunLog.open_run` raises.
    """
    store = handle.store
    if INSIDE.get():
        _refuse_inside(handle)

    def try_to_open() -> Handed[OpenRun | Busy | Earlier]:
        return store.open_run(
            handle.id,
            wish.turn_id,
            wish.stored_input,
            wish.runtime.now_us(),
            intent=handle.intent,
            incarnation=handle.incarnation,
            in_line=wish.on_conflict != "reject",
            terms=wish.terms,
        )

    if handle.incarnation is None:
        await _first_open(handle)
    handed = try_to_open()
    if handle.incarnation is None:
        handle.first_open = handed
        handed.then(handle.seen)
    try:
        found = await handed
        if isinstance(found, Busy) and found.twin is None:
            waiting = _Waiting(handle, wish)
            while isinstance(found, Busy) and found.twin is None:
                await waiting.until_free(found)
                handed = try_to_open()
                found = await handed
    except BaseException:
        handed.then(giver_back(handle))
        if wish.on_conflict != "reject":
            store.withdraw(handle.id, wish.turn_id)
        raise
    if handle.incarnation is None:
        handle.seen(found)
    if isinstance(found, Busy):
        assert found.twin is not None
        store.withdraw(handle.id, wish.turn_id)
        return found.twin
    if type(found) is OpenRun:
        store.cache.holders[store.tenant, handle.id] = run
    return found


def release(handle: Handle, run: Holder) -> None:
    """Forget that this run has the thread."""
    holders, key = handle.store.cache.holders, (handle.store.tenant, handle.id)
    if holders.get(key) is run:
        holders.pop(key, None)


def _refuse_inside(handle: Handle) -> None:
    """A run that waited for the turn within which it was started would wait for itself."""
    holder: Any = handle.store.cache.holders.get((handle.store.tenant, handle.id))
    turn_id = getattr(holder, "turn_id", None)
    if turn_id in INSIDE.get():
        raise ThreadBusyError(
            f"This run was started from within turn {turn_id} of thread {handle.id!r}, and would wait for itself for "
            "ever. Run on another thread (a fork of this one, say), or after that turn.",
            thread_id=handle.id,
            turn_id=turn_id,
        )


async def _first_open(handle: Handle) -> None:
    """Let another run of the same handle be the first: it may be making the thread at this moment."""
    while handle.incarnation is None and (first := handle.first_open) is not None:
        with contextlib.suppress(HoldfastError):  # that run is told; this one finds out for itself
            await first
        if handle.first_open is first:
            handle.first_open = None


class _Waiting:
    """A run that waits for its thread."""

    def __init__(self, handle: Handle, wish: Wish) -> None:
        self._handle = handle
        self._wish = wish
        timeout = wish.enqueue_timeout
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._until = None if timeout is None else self._now() + timeout

    async def until_free(self, busy: Busy) -> None:
        """Do what can be done about a thread that is taken; return when it is worth another try."""
        handle, wish = self._handle, self._wish
        if busy.run is not None and not busy.alive:
            if busy.run.waiting and wish.on_conflict == "reject":
                raise self._busy_error(busy, "was not to close it (on_conflict='reject'); it waits for an approval")
            rollback = busy.run.waiting and wish.on_conflict == "rollback"
            await close_left_over(handle, busy.run, wish.runtime, rollback=rollback)
            return
        if wish.on_conflict == "reject":
            raise self._busy_error(busy, "was not to wait (on_conflict='reject')")
        if busy.run is not None and wish.on_conflict in ("interrupt", "rollback"):
            await handle.store.stop(handle.id, busy.run.turn_id, rollback=wish.on_conflict == "rollback")
        seconds = LOOK_SECONDS if wish.on_conflict == "enqueue" else INTERRUPT_SECONDS
        if self._until is not None:
            seconds = min(seconds, self._until - self._now())
            if seconds <= 0:
                raise self._busy_error(busy, f"has waited for {wish.enqueue_timeout:g} s (enqueue_timeout)")
        await handle.store.wait(handle.id, wish.turn_id, seconds=seconds)
        holder = handle.store.cache.holders.get((handle.store.tenant, handle.id))
        if holder is not None:
            holder.give_way()

    def _busy_error(self, busy: Busy, why: str) -> ThreadBusyError:
        turn = f"turn {busy.run.turn_id}" if busy.run is not None else "other runs"
        return ThreadBusyError(
            f"Thread {self._handle.id!r} is taken by {turn}, and this run {why}. Nothing was sent or recorded; run it "
            "again when that has ended.",
            thread_id=self._handle.id,
            turn_id=busy.run.turn_id if busy.run is not None else None,
        )
