"""Recovery: what becomes of a run whose process is gone.

Rule of this file: it is closed with what its journal holds, through the same seal as any other turn, or handed to
somebody who goes on with it. The same for a run that waits for somebody's word, and whose thread goes another way.
Whatever happens to the task that does so, the thread is not left taken.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from holdfast.conversation.errors import DamagedError, StaleRunError
from holdfast.conversation.journal import Recorded, recorded
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.records import encode_messages, encode_turn
from holdfast.conversation.turns import TurnStatus, unanswered_calls
from holdfast.conversation.updates import Answer
from holdfast.engine.effects import call_ids, inherited, new_call_id
from holdfast.engine.endings import SUPERSEDED, WHY_NOT_MADE
from holdfast.engine.handles import Handle
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Busy, Earlier, Handed, Head, NewTurn, OpenRun

log = logging.getLogger("holdfast.engine")

# The input of a run by which a transcript is adopted, or a thread looked after: nobody said anything.
NOTHING = encode_messages(())


async def close_left_over(handle: Handle, left: OpenRun, runtime: Runtime, *, rollback: bool = False) -> None:
    """Make a turn of what nobody makes any more: its input and what its journal holds.

    It is interrupted if a dead process left it, cancelled if it waited for somebody's word. With `rollback` the thread
    stands where it stood before.
    """
    sealing: list[Handed[Head]] = []

    def seal(taken: OpenRun | None) -> None:
        """Follows the taking over in whichever thread, also if this task is cancelled meanwhile."""
        if taken is not None:
            sealing.append(_close(handle, taken, runtime, waited=left.waiting, rollback=rollback))

    handed = handle.store.take_over(left)
    handed.then(seal)
    if await handed is not None:
        why = "waited to be allowed a call" if left.waiting else "was left open by a process that is gone"
        log.info("turn %s %s; it is closed", left.turn_id, why)
    for sealed in sealing:
        with contextlib.suppress(StaleRunError):  # somebody else has closed it meanwhile; that is as good
            await sealed


async def take_left_over(handle: Handle, left: OpenRun, runtime: Runtime) -> OpenRun | None:
    """Become the writer of what a dead process left, to go on with it; None if somebody else was faster."""
    handed = handle.store.take_over(left)
    try:
        return await handed
    except BaseException:
        handed.then(lambda taken: None if taken is None else _give_up(handle, taken, runtime, waited=left.waiting))
        raise


async def left_over(handle: Handle, *, waiting: bool) -> tuple[OpenRun, tuple[bytes, ...]] | None:
    """The run on the thread that nobody makes, with its journal: a dead process's, or one that waits. None if none."""
    info = await handle.info()
    if info is None or info.busy is None:
        return None
    progress = await handle.store.progress(handle.id, info.busy)
    run = progress.run if progress is not None and not progress.alive else None
    # Where nobody said anything (a transcript was being adopted), there is nothing to go on with.
    if progress is None or run is None or run.input == NOTHING or (run.waiting and not waiting):
        return None
    return run, progress.records


async def settle(handle: Handle, runtime: Runtime) -> None:
    """Close what a dead process left open on the thread, if it did; what lives or waits is left alone."""
    handed = handle.store.open_run(
        handle.id,
        runtime.new_id("turn"),
        NOTHING,
        runtime.now_us(),
        intent="existing",
        incarnation=handle.incarnation,
    )
    handed.then(giver_back(handle))  # whatever becomes of this task
    opened = await handed
    if isinstance(opened, Busy) and opened.run is not None and not opened.alive and not opened.run.waiting:
        await close_left_over(handle, opened.run, runtime)


def giver_back(handle: Handle) -> Callable[[OpenRun | Busy | Earlier], None]:
    """Nobody was asked anything: if the run was opened, close it as if it had never been, from whichever thread."""

    def give_back(opened: OpenRun | Busy | Earlier) -> None:
        if isinstance(opened, OpenRun):
            handle.store.seal(opened, ())

    return give_back


def _give_up(handle: Handle, taken: OpenRun, runtime: Runtime, *, waited: bool) -> Handed[Any]:
    """Give back a run that was taken over and will not be gone on with."""
    if waited:  # it waits on, as before
        return handle.store.park(taken, ())
    return _close(handle, taken, runtime)


def _close(
    handle: Handle, taken: OpenRun, runtime: Runtime, *, waited: bool = False, rollback: bool = False
) -> Handed[Head]:
    if taken.input == NOTHING:
        return handle.store.seal(taken, ())
    output, before = _what_was_done(taken, SUPERSEDED if waited else WHY_NOT_MADE["interrupted"])
    record = encode_turn(taken.input, output, usage=before.used, restarts=before.restarts)
    status: TurnStatus = "cancelled" if waited else "interrupted"
    turn = NewTurn(taken.turn_id, status, record, taken.started_us, runtime.now_us(), taken.key)
    # What began elsewhere and has said nothing leaves the thread where it stood.
    stand = (taken.left or taken.head) if rollback else None if output else taken.left
    return handle.store.seal(taken, (turn,), stand=stand)


def _what_was_done(taken: OpenRun, why: str) -> tuple[list[ChatMessage], Recorded]:
    """The output that a journal holds, every call with a result."""
    before = Recorded([], [])
    with contextlib.suppress(DamagedError):  # nothing that was written down may keep the thread from going on
        before = recorded(taken.journal)
    output = list(before.messages)
    answer = Answer()
    answer.add(before.pieces)
    said = answer.message(
        lambda index: new_call_id(taken.turn_id, index),
        taken=call_ids(output),
    )
    if said is not None:
        output.append(said)
    output.extend(inherited(before).closing(unanswered_calls(output), why))
    return output, before
