"""Leases: how a run gets its thread, in this process and against others.

Rule of this file: nothing is asked of a model before the store has said that the thread is ours. Runs of one
process stand in a queue; a run in another process is waited for; what a dead process left open is closed as
interrupted, through the same seal as any other turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from holdfast.conversation.errors import ThreadBusyError
from holdfast.conversation.records import encode_turn
from holdfast.engine.handles import Handle
from holdfast.engine.queues import Holder, enter, leave
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Busy, NewTurn, OpenRun

log = logging.getLogger("holdfast.engine")

# What a run does if its thread is taken: wait its turn, or raise ThreadBusyError at once.
OnConflict: TypeAlias = Literal["enqueue", "reject"]

# Seconds between two looks whether another process has finished with the thread: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.005, 0.1


async def acquire(
    handle: Handle,
    run: Holder,
    turn_id: str,
    stored_input: bytes,
    *,
    on_conflict: OnConflict,
    runtime: Runtime,
) -> OpenRun:
    """Wait for the thread as `on_conflict` says, and open the run. `release` gives the thread back.

    Raises ThreadBusyError, and what `RunLog.open_run` raises.
    """
    cache, key = handle.store.cache, (handle.store.tenant, handle.id)
    await enter(cache, key, run, wait=on_conflict == "enqueue", thread_id=handle.id)
    try:
        return await _open(handle, turn_id, stored_input, on_conflict, runtime)
    except BaseException:
        leave(cache, key, run)
        raise


def release(handle: Handle, run: Holder) -> None:
    """Let the next run of this process have the thread."""
    leave(handle.store.cache, (handle.store.tenant, handle.id), run)


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
            handle.seen(opened.incarnation)
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
