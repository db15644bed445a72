"""Under way: a turn that has not ended: whether somebody makes it still, what there is of it, and how to end it.

Rule of this file: what a dead program left is told apart from what another one is making at this moment, for the one
can be gone on with and the other waited for or stopped.
"""

from __future__ import annotations

import contextlib

from msgspec import Struct

from holdfast.cli.terminal import safe
from holdfast.cli.trouble import Trouble
from holdfast.conversation.errors import DamagedError
from holdfast.conversation.journal import recorded
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.records import decode_messages
from holdfast.conversation.turns import Turn
from holdfast.conversation.updates import Answer
from holdfast.engine.history import decoded
from holdfast.engine.threads import AgentThread
from holdfast.ports.stores import OpenRun, Progress, ThreadInfo, ThreadStore


class OpenTurn(Struct, frozen=True):
    """A turn that has not ended. `alive`: its program is there still; `turn`: what there is of it, as it is now.

    `waiting`: it waits for somebody to allow its calls, and no program makes it.
    """

    turn: Turn
    alive: bool
    waiting: bool = False

    @property
    def told(self) -> str:
        """What is to be said of it."""
        if self.waiting:
            return f"(turn {safe(self.turn.id)} waits: somebody must allow what it calls)"
        state = (
            "another program is answering on this thread now"
            if self.alive
            else "the program that was answering ended in the middle of it"
        )
        return f"(turn {safe(self.turn.id)} is open: {state})"


async def open_turn(store: ThreadStore, info: ThreadInfo) -> OpenTurn | None:
    """The turn that a thread is in the middle of; None if it is in none."""
    if info.busy is None:
        return None
    progress = await store.progress(info.id, info.busy)
    if progress is None or progress.run is None:
        return None  # it has ended meanwhile
    return OpenTurn(_so_far(progress.run, progress, info.turns + 1), progress.alive, progress.run.waiting)


def _so_far(run: OpenRun, progress: Progress, seq: int) -> Turn:
    """What was said, and what was written down of the answer, at most half a second behind."""
    said: tuple[ChatMessage, ...] = ()
    output: list[ChatMessage] = []
    with contextlib.suppress(DamagedError):  # less is shown then; whoever goes on with it is told
        said = tuple(decode_messages(run.input))
        journal = recorded(progress.records)
        answer = Answer()
        answer.add(journal.pieces)
        begun = answer.message(lambda index: f"call_{index}")
        output = [*journal.messages, *([begun] if begun is not None else [])]
    return Turn(run.turn_id, seq, "interrupted", said, tuple(output), started_us=run.started_us)


async def stop_run(thread: AgentThread) -> Turn | None:
    """End the run that is being made on a thread, in whichever program; the turn that it has become.

    None if nothing is kept of it. Raises Trouble if none is being made: what a dead program left can be gone on with,
    so it is not closed by the way.
    """
    info = await thread.info()
    left = await open_turn(thread.store, info) if info is not None else None
    if left is None:
        raise Trouble("No answer is being made on this thread, so there is nothing to stop.")
    if left.alive or left.waiting:
        await thread.cancel(left.turn.id)
    found = await thread.store.progress(thread.id, left.turn.id)
    if found is not None and found.run is not None:
        raise Trouble(
            "The program that was answering has ended already, so there is nothing to stop. In a chat, /resume goes on "
            "with the answer; the next message closes it as interrupted."
        )
    return decoded(found.turn) if found is not None and found.turn is not None else None


def stop_told(turn: Turn | None) -> str:
    """What came of a stop."""
    if turn is None:
        return "It has ended, and nothing is kept of it."
    if turn.status == "completed":
        return "The answer was complete already; all of it is kept."
    if turn.status == "interrupted":
        kept = "What had come of the answer is kept." if turn.output else "No answer had come. The message is kept."
        return f"The program that was answering was dead or hung. {kept}"
    if turn.output:
        return "Stopped. What had come of the answer is kept."
    return "Stopped before an answer came. The message is kept."
