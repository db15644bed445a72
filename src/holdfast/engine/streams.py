"""Streams: a run as its reader sees it.

Rule of this file: nothing is opened before the first update is asked for, and the run goes on only when the next
one is. Leaving the stream in whichever way ends the turn as cancelled with what was read; unless the run was asked
to go on by itself (`detached`), which only `cancel` ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from types import TracebackType
from typing import Any, cast

from holdfast.conversation.cursors import Cursor
from holdfast.conversation.errors import CallerError, RunCancelledError
from holdfast.conversation.turns import RunStatus
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.detached import read_apart
from holdfast.engine.loop import take_turn
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun


class AgentRunStream:
    """The updates of a run, as they come.

        async for update in agent.run_stream("Tell me a joke.", thread=thread):
            print(update.text, end="")

        async with agent.run_stream("Tell me a joke.", thread=thread) as stream:
            async for update in stream: ...
            response = await stream.response()

    To leave `async with`, to cancel the task, `cancel()`, or to break out of a loop over a stream that nobody else
    holds, ends the turn as cancelled; the log keeps what had been read. (With on_disconnect="continue" only `cancel`
    does; otherwise the run goes on, and `thread.follow` reads the rest.) A stream that is kept in a variable and not
    read on has its thread until it is closed; if another run waits for the thread, it gives way after a while. To be
    read by one task at a time.
    """

    __slots__ = ("__weakref__", "_apart", "_cancelled", "_place", "_reader", "_run", "_steps", "_stopped", "_updates")

    def __init__(self, run: TurnRun) -> None:
        self._run = run
        self._apart = apart = run.spec.apart
        self._steps: AsyncGenerator[Iterator[Any], None] = read_apart(run) if apart else take_turn(run)
        self._updates: Iterator[Any] = iter(())
        self._reader: asyncio.Task[Any] | None = None
        self._stopped: asyncio.Event | None = None
        self._cancelled = False
        self._place: Cursor | None = None  # how far the reader is, where the run is further

    @property
    def turn_id(self) -> str:
        """The id of the turn that this run becomes; known before anything is sent.

        Should the run's idempotency key be taken, it becomes the id of the turn that has it.
        """
        return self._run.known_as

    @property
    def status(self) -> RunStatus | None:
        """How the turn ended, or that it waits for somebody's word; None as long as it is being made."""
        return self._run.status

    @property
    def cursor(self) -> str:
        """The place after the update that was read last: `thread.follow(turn_id, after=cursor)` gives the rest."""
        return str(self._place or Cursor() if self._apart else self._run.cursor)

    def __aiter__(self) -> AgentRunStream:
        return self

    async def __anext__(self) -> AgentRunResponseUpdate:
        while True:
            for update in self._updates:
                if self._apart:
                    update, self._place = update
                return cast(AgentRunResponseUpdate, update)
            self._updates = await self._next_batch()

    async def _next_batch(self) -> Iterator[Any]:
        self._reader = asyncio.current_task()
        try:
            return await anext(self._steps)
        except RunCancelledError:
            if self._cancelled:  # by this stream's own `cancel`: the loop just ends
                raise StopAsyncIteration from None
            raise
        except asyncio.CancelledError:
            if self._apart and self._cancelled and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise StopAsyncIteration from None  # it was the run's own task that `cancel` has ended
            if self._stopped is None or self._reader is None:
                raise
            # It was `cancel` that stopped us, not somebody who wants this task to end.
            if self._reader.uncancel() > 0:
                raise
            raise StopAsyncIteration from None
        finally:
            self._reader = None
            if self._stopped is not None:
                self._stopped.set()

    async def __aenter__(self) -> AgentRunStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._apart:
            await self.cancel()
        elif self._reader is None:
            await self._steps.aclose()

    async def cancel(self) -> None:
        """End the run now, from whichever task of this event loop; return when it is sealed.

        The turn is cancelled with what was read; its reader's loop just ends. Nothing happens if it has ended.
        """
        self._cancelled = True
        self._updates = iter(())
        if self._apart:
            await self._end_maker()
        if self._reader is asyncio.current_task():  # from within the turn: whoever reads finds out
            await self._run.cancelled()
            return
        if self._reader is None:
            await self._steps.aclose()
            return
        if self._stopped is None:
            self._stopped = asyncio.Event()
            if not self._apart:
                self._reader.cancel()
        await self._stopped.wait()

    async def _end_maker(self) -> None:
        """End the run that goes on by itself; one that still waits for its thread never opens."""
        await self._run.cancelled()
        maker = self._run.maker
        if maker is not None and not maker.done():
            if self._run.status is None:
                maker.cancel()
            await asyncio.wait((maker,))

    async def response(self) -> AgentRunResponse:
        """The whole response. Reads what has not been read yet; may be asked for again.

        Raises what the run raised; CallerError if the run was cancelled before it ended (the error's `response`
        holds what was read).
        """
        while True:
            try:
                await self._next_batch()
            except StopAsyncIteration:
                break
        self._updates = iter(())
        if self._run.status in ("completed", "waiting"):
            return self._run.response()
        raise self._run.failure or self._incomplete()

    def _incomplete(self) -> CallerError:
        if self._run.status is None:
            return CallerError(
                "This stream has no response: nothing was open on the thread that could be gone on with."
            )
        error = RunCancelledError(
            f"Turn {self.turn_id} has no whole response: it was cancelled. What was read of it is in this error's "
            ".response and in the log.",
            thread_id=self._run.spec.thread.id,
            turn_id=self.turn_id,
        )
        error.response = self._run.response()
        return error
