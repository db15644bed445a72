"""Leases: how a run gets its thread, in this process and against others.

Rules of this file: nothing is asked of a model before the store has said that the thread is ours. Runs of one
process stand in a queue, first come, first served; a run in another process is waited for; what a dead process left
open is closed as interrupted, through the same seal as any other turn. A queue only saves model calls and keeps the
order: what keeps two writers apart is the epoch in the store.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from holdfast.conversation.errors import ThreadBusyError
from holdfast.conversation.records import encode_turn
from holdfast.engine.handles import Handle
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Busy, NewTurn, OpenRun, SlotCache

log = logging.getLogger("holdfast.engine")

# What a run does if its thread is taken: wait its turn, or raise ThreadBusyError at once.
OnConflict: TypeAlias = Literal["enqueue", "reject"]

# Seconds between two looks whether another process has finished with the thread: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.005, 0.1

# Seconds between two looks of a waiting run at whether the one before it still moves.
LOOK_SECONDS = 1.0


class Holder(Protocol):
    """The run that has a thread, as those behind it see it."""

    def give_way(self) -> bool:
        """End yourself if nobody reads you any more (or can); True if you did."""
        ...


async def acquire(
    handle: Handle, run: Holder, turn_id: str, stored_input: bytes, *, on_conflict: OnConflict, runtime: Runtime
) -> OpenRun:
    """Wait for the thread as `on_conflict` says, and open the run. `release` gives the thread back.

    Raises ThreadBusyError, and what `RunLog.open_run` raises.
    """
    store = handle.store
    key, me = (store.tenant, handle.id), _Place(weakref.ref(run), id(run))
    with _lock:
        line = store.cache.queues.get(key)
        if line is None:
            store.cache.queues[key] = deque((me,))
    if line is not None:
        await _wait(store.cache, key, me, handle.id, on_conflict)
    try:
        return await _open(handle, turn_id, stored_input, on_conflict, runtime)
    except BaseException:
        release(handle, run)
        raise


def release(handle: Handle, run: Holder) -> None:
    """Let the next run of this process have the thread. Does nothing if `run` does not have it."""
    _leave(handle.store.cache, (handle.store.tenant, handle.id), id(run))


async def _open(
    handle: Handle, turn_id: str, stored_input: bytes, on_conflict: OnConflict, runtime: Runtime
) -> OpenRun:
    pause = FIRST_LOOK
    while True:
        handed = handle.store.open_run(
            handle.id,
            turn_id,
            stored_input,
            runtime.now_us(),
            intent=handle.intent,
            incarnation=handle.incarnation,
        )
        try:
            opened = await handed
        except asyncio.CancelledError:
            handed.then(_giver_back(handle, runtime))
            raise
        if isinstance(opened, OpenRun):
            handle.incarnation = opened.incarnation
            return opened
        if not opened.alive:
            await _close_left_over(handle, opened.run, runtime)
        elif on_conflict == "reject":
            raise _busy_error(opened.run)
        else:
            await runtime.sleep(pause)
            pause = min(pause * 2, LAST_LOOK)


def _giver_back(handle: Handle, runtime: Runtime) -> Callable[[OpenRun | Busy], None]:
    """The caller was cancelled while its run was being opened: if it was, close it as cancelled, from any thread."""

    def give_back(opened: OpenRun | Busy) -> None:
        if isinstance(opened, OpenRun):
            handle.store.seal(opened, [_unanswered(opened, "cancelled", runtime)])

    return give_back


async def _close_left_over(handle: Handle, left: OpenRun, runtime: Runtime) -> None:
    """Make a turn of what a dead process left: its input, interrupted."""
    taken = await handle.store.take_over(left)
    if taken is not None:
        log.info("turn %s was left open by a process that is gone; closed as interrupted", left.turn_id)
        await handle.store.seal(taken, [_unanswered(taken, "interrupted", runtime)])


def _unanswered(run: OpenRun, status: Literal["cancelled", "interrupted"], runtime: Runtime) -> NewTurn:
    return NewTurn(run.turn_id, status, encode_turn(run.input), run.started_us, runtime.now_us())


def _busy_error(run: OpenRun) -> ThreadBusyError:
    return ThreadBusyError(
        f"Thread {run.thread_id!r} is in the middle of turn {run.turn_id} in another process, and this run was not "
        "to wait (on_conflict='reject'). Run it again when the other has ended.",
        thread_id=run.thread_id,
        turn_id=run.turn_id,
    )


# --- the queue of one thread in this process: a deque, whose first place has the thread ------------------------

_lock = threading.Lock()


class _Place(Struct, eq=False):
    """A run in a queue. The queue does not keep it alive: a run that nobody holds any more must be able to end."""

    run: weakref.ref[Holder]
    run_id: int
    loop: asyncio.AbstractEventLoop | None = None
    called: asyncio.Future[None] | None = None


async def _wait(cache: SlotCache, key: Hashable, me: _Place, thread_id: str, on_conflict: OnConflict) -> None:
    """Stand in the queue until the thread is ours."""
    me.loop = asyncio.get_running_loop()
    me.called = me.loop.create_future()
    with _lock:
        line: deque[_Place] = cache.queues.setdefault(key, deque())
        if line and on_conflict == "reject":
            raise ThreadBusyError(
                f"Thread {thread_id!r} is in the middle of another run, and this one was not to wait "
                "(on_conflict='reject'). Run it again when the other has ended.",
                thread_id=thread_id,
            )
        line.append(me)
        if len(line) == 1:
            return
    try:
        while not me.called.done():
            await asyncio.wait((me.called,), timeout=LOOK_SECONDS)
            first = line[0].run()
            if not me.called.done() and first is not None:
                first.give_way()
    except BaseException:
        _leave(cache, key, me.run_id)
        raise


def _leave(cache: SlotCache, key: Hashable, run_id: int) -> None:
    """Take a run out of the queue; if it had the thread, the next one that can be told has it."""
    with _lock:
        line: deque[_Place] | None = cache.queues.get(key)
        if line is None:
            return
        if line[0].run_id != run_id:
            for place in line:
                if place.run_id == run_id:
                    line.remove(place)
                    return
            return
        line.popleft()
        while line and not _call(line[0]):
            line.popleft()
        if not line:
            del cache.queues[key]


def _call(place: _Place) -> bool:
    """Tell a waiting run that it has the thread; False if there is nobody any more to be told."""
    if place.loop is None or place.called is None or place.run() is None:
        return False
    try:
        place.loop.call_soon_threadsafe(_wake, place.called)
    except RuntimeError:  # its event loop was closed while it waited
        return False
    return True


def _wake(called: asyncio.Future[None]) -> None:
    if not called.done():
        called.set_result(None)
