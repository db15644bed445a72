"""Leases: how a run gets its thread, in this process and against others.

Rules of this file: nothing is asked of a model before the store has said that the thread is ours. Who finds it taken
stands in line, first come, first served, over all processes; what a dead process left open is closed as interrupted,
through the same seal as any other turn. The line only saves model calls and keeps the order: what keeps two writers
apart is the epoch in the store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from holdfast.conversation.errors import HoldfastError, ThreadBusyError
from holdfast.conversation.records import encode_messages, encode_turn
from holdfast.engine.handles import Handle
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Busy, Handed, Head, NewTurn, OpenRun

log = logging.getLogger("holdfast.engine")

# What a run does if its thread is taken: wait its turn, or raise ThreadBusyError at once.
OnConflict: TypeAlias = Literal["enqueue", "reject"]

# Seconds between two looks of a waiting run at whether the one before it, in this process, still moves.
LOOK_SECONDS = 1.0


class Holder(Protocol):
    """The run that has a thread, as those behind it see it."""

    def give_way(self) -> bool:
        """End yourself if nobody reads you any more (or can); True if you did."""
        ...


async def acquire(
    handle: Handle, run: Holder, turn_id: str, stored_input: bytes, *, on_conflict: OnConflict, runtime: Runtime
) -> OpenRun:
    """Wait for the thread as `on_conflict` says, and open the run. `release` says that it has ended.

    Raises ThreadBusyError, and what `RunLog.open_run` raises.
    """
    store = handle.store

    def try_to_open() -> Handed[OpenRun | Busy]:
        return store.open_run(
            handle.id,
            turn_id,
            stored_input,
            runtime.now_us(),
            intent=handle.intent,
            incarnation=handle.incarnation,
            in_line=on_conflict == "enqueue",
        )

    if handle.incarnation is None:
        await _first_open(handle)
    handed = try_to_open()
    if handle.incarnation is None:
        handle.first_open = handed
        handed.then(handle.seen)
    in_line = False
    try:
        opened = await handed
        while isinstance(opened, Busy):
            in_line = True
            await _until_free(handle, turn_id, opened, on_conflict, runtime)
            handed = try_to_open()
            opened = await handed
    except BaseException:
        handed.then(_giver_back(handle))
        if in_line or on_conflict == "enqueue":
            store.withdraw(handle.id, turn_id)
        raise
    store.cache.holders[store.tenant, handle.id] = run
    return opened


def release(handle: Handle, run: Holder) -> None:
    """Forget that this run has the thread."""
    holders, key = handle.store.cache.holders, (handle.store.tenant, handle.id)
    if holders.get(key) is run:
        holders.pop(key, None)


async def _first_open(handle: Handle) -> None:
    """Let another run of the same handle be the first: it may be making the thread at this moment."""
    while handle.incarnation is None and (first := handle.first_open) is not None:
        with contextlib.suppress(HoldfastError):  # that run is told; this one finds out for itself
            await first
        if handle.first_open is first:
            handle.first_open = None


async def settle(handle: Handle, runtime: Runtime) -> None:
    """Close what a dead process left open on the thread, if it did; what lives is left alone."""
    handed = handle.store.open_run(
        handle.id,
        runtime.new_id("turn"),
        encode_messages(()),
        runtime.now_us(),
        intent="existing",
        incarnation=handle.incarnation,
    )
    handed.then(_giver_back(handle))  # whatever becomes of this task
    opened = await handed
    if isinstance(opened, Busy) and opened.run is not None and not opened.alive:
        await _close_left_over(handle, opened.run, runtime)


async def _until_free(handle: Handle, turn_id: str, busy: Busy, on_conflict: OnConflict, runtime: Runtime) -> None:
    """Do what can be done about a thread that is taken; return when it is worth another try."""
    if busy.run is not None and not busy.alive:
        await _close_left_over(handle, busy.run, runtime)
        return
    if on_conflict == "reject":
        turn = f"turn {busy.run.turn_id}" if busy.run is not None else "other runs"
        raise ThreadBusyError(
            f"Thread {handle.id!r} is taken by {turn}, and this run was not to wait (on_conflict='reject'). "
            "Run it again when that has ended.",
            thread_id=handle.id,
            turn_id=busy.run.turn_id if busy.run is not None else None,
        )
    await handle.store.wait(handle.id, turn_id, seconds=LOOK_SECONDS)
    holder = handle.store.cache.holders.get((handle.store.tenant, handle.id))
    if holder is not None:
        holder.give_way()


def _giver_back(handle: Handle) -> Callable[[OpenRun | Busy], None]:
    """Nobody was asked anything: if the run was opened, close it as if it had never been, from whichever thread."""

    def give_back(opened: OpenRun | Busy) -> None:
        if isinstance(opened, OpenRun):
            handle.store.seal(opened, ())

    return give_back


async def _close_left_over(handle: Handle, left: OpenRun, runtime: Runtime) -> None:
    """Make a turn of what a dead process left: its input, interrupted."""
    sealing: list[Handed[Head]] = []

    def seal(taken: OpenRun | None) -> None:
        """Follows the taking over in whichever thread, also if this task is cancelled meanwhile."""
        if taken is not None:
            record = encode_turn(taken.input)
            turn = NewTurn(taken.turn_id, "interrupted", record, taken.started_us, runtime.now_us())
            # Where nothing was said (a transcript was to be adopted), there is nothing to keep.
            sealing.append(handle.store.seal(taken, () if taken.input == encode_messages(()) else (turn,)))

    handed = handle.store.take_over(left)
    handed.then(seal)
    if await handed is not None:
        log.info("turn %s was left open by a process that is gone; closed as interrupted", left.turn_id)
    for sealed in sealing:
        await sealed
