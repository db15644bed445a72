"""Runs: a turn being made, from its opening to its seal.

Rules of this file: a run that was opened is closed in every case: when it ends well, when it fails, when it is
cancelled at any await, and when nobody holds it any more. There is one path to the log, `_hand_over`. What counts
as said is what was handed on: updates that arrived but that nobody asked for are not part of an answer that was
broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from msgspec import Struct

from holdfast.conversation.errors import DamagedError, HoldfastError, InvalidInputError, RunTimeoutError, StaleRunError
from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.records import encode_messages, encode_turn
from holdfast.conversation.turns import (
    TurnError,
    TurnStatus,
    output_told,
    results_for,
    unanswered_calls,
)
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer, Usage, sound
from holdfast.engine import history
from holdfast.engine.handles import Handle
from holdfast.engine.leases import OnConflict, acquire, release
from holdfast.engine.responses import AgentRunResponse
from holdfast.ports.clients import ChatClient, ChatOptions, ChatRequest
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun

log = logging.getLogger("holdfast.engine")

# Seconds after which a stream that nobody reads gives way, when another run waits for its thread.
STALLED_SECONDS = 30.0


# What the model is told of calls that the end of a turn left without a result.
_WHY_NOT_MADE: dict[TurnStatus, str] = {
    "completed": "The limit of rounds in one turn was reached; this call was not made.",
    "failed": "The run failed; this call was not made.",
    "cancelled": "The run was cancelled; this call was not made.",
}


# Held while it is decided who ends a run: its loop, one who waits, a finalizer.
_deciding = threading.RLock()


class RunSpec(Struct, frozen=True):
    """All that a run is made from; nothing else is known to the loop."""

    client: ChatClient
    thread: Handle
    input: tuple[ChatMessage, ...]
    instructions: str | None
    options: ChatOptions
    stream: bool
    runtime: Runtime
    timeout: float | None = None
    on_conflict: OnConflict = "enqueue"
    agent_name: str | None = None


class _Exchange:
    """A request under way. `next` brings what came; `heard` folds what was handed on; `end` closes the connection."""

    __slots__ = ("_answer", "_batch", "_batches", "_rest")

    def __init__(self, client: ChatClient, request: ChatRequest) -> None:
        self._batches = cast(AsyncGenerator[Sequence[AgentRunResponseUpdate], None], client.ask(request))
        self._answer = Answer()
        self._batch: Sequence[AgentRunResponseUpdate] = ()
        self._rest: Iterator[AgentRunResponseUpdate] = iter(())

    async def next(self, deadline: float | None) -> Iterator[AgentRunResponseUpdate] | None:
        """The next updates, to be handed on one by one; None at the end. Asking for more means: all before was read.

        `deadline` is in the event loop's time; TimeoutError after it.
        """
        if self._batch:
            self._answer.add(self._batch)
            self._batch = ()
        async with asyncio.timeout_at(deadline):
            batch = await anext(self._batches, None)
        if batch is None:
            return None
        self._batch = batch
        self._rest = iter(batch)
        return self._rest

    def heard(self) -> Answer:
        """The answer as far as it was handed on. Nothing can be handed on afterwards."""
        seen = len(self._batch) - operator.length_hint(self._rest)
        self._answer.add(self._batch[:seen])
        self._batch = ()
        for _ in self._rest:  # the stream holds the same iterator
            continue
        return self._answer

    async def end(self) -> None:
        """Close the connection, if it is still open."""
        await self._batches.aclose()


class TurnRun:
    """One run on one thread: made by an agent, driven by the loop, read by a stream."""

    __slots__ = (
        "__weakref__",
        "_answer",
        "_deadline",
        "_encoded",
        "_exchange",
        "_handed_at",
        "_opened",
        "_output",
        "_process",
        "_rounds",
        "_said",
        "_sealing",
        "_status",
        "_stored_input",
        "_tail",
        "_told",
        "_usage",
        "failure",
        "spec",
        "turn_id",
    )

    def __init__(self, spec: RunSpec) -> None:
        """Encode the input. Raises InvalidInputError or ConfigurationError; nothing is opened yet."""
        codec = spec.client.codec
        self.spec = spec
        self.turn_id = spec.runtime.new_id("turn")
        self._said = self._told = history.encode(codec, spec.input)
        if not self._said:
            raise InvalidInputError(f"Nothing in the input can be told to {spec.client.service}; pass some text.")
        self._tail = codec.tail(spec.options, stream=spec.stream)
        self._stored_input = encode_messages(spec.input)
        self._deadline: float | None = None
        self._opened: OpenRun | None = None
        self._process = os.getpid()
        self._encoded: history.Encoded | None = None
        self._exchange: _Exchange | None = None
        self._answer: Answer | None = None
        self._output: list[ChatMessage] = []
        self._usage: Usage | None = None
        self._rounds = 0
        self._handed_at: float | None = None
        self._status: TurnStatus | None = None
        self._sealing: Handed[Head] | None = None
        # What the run raised, for a reader who asks later.
        self.failure: Exception | None = None

    # --- the steps of the loop ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Wait for the thread and take it."""
        spec = self.spec
        if spec.timeout is not None:
            self._deadline = asyncio.get_running_loop().time() + spec.timeout
        async with asyncio.timeout_at(self._deadline):
            self._opened = await acquire(
                spec.thread,
                self,
                self.turn_id,
                self._stored_input,
                on_conflict=spec.on_conflict,
                runtime=spec.runtime,
            )
        log.debug("turn %s: open", self.turn_id)

    async def ask(self) -> None:
        """Put what there is to the service."""
        spec = self.spec
        if self._encoded is None:
            assert self._opened is not None
            self._encoded = await history.conversation(
                spec.thread.store, spec.client.codec, spec.instructions, self._opened.head
            )
        body = self._encoded.body(self._told, self._tail)
        self._rounds += 1
        self._exchange = _Exchange(spec.client, ChatRequest(body, spec.options, spec.stream))

    async def next_updates(self) -> Iterator[AgentRunResponseUpdate] | None:
        """What came of the answer, to be handed on one by one; None when it has ended."""
        if self._status is not None:
            raise self._gave_way()
        assert self._exchange is not None
        self._handed_at = None
        updates = await self._exchange.next(self._deadline)
        if updates is not None:
            self._handed_at = self.spec.runtime.monotonic()
        return updates

    def answered(self) -> list[ToolCallContent]:
        """Make the answer a message of the turn; what it calls for."""
        self._take_answer()
        assert self._encoded is not None
        self._encoded.restore()
        return unanswered_calls(self._output)

    def add_results(self, results: Sequence[ChatMessage]) -> None:
        """Results of tool calls: the next question tells the service of them."""
        self._output.extend(results)
        self._told = self._said + history.encode(self.spec.client.codec, output_told(self._output))

    @property
    def status(self) -> TurnStatus | None:
        """How the turn ended; None while it has not."""
        return self._status

    @property
    def rounds(self) -> int:
        """How often the service was asked."""
        return self._rounds

    async def close(self, error: BaseException | None = None) -> None:
        """Seal the turn as what it has become; nothing if it was never opened.

        Raises StoreError, which carries the answer, if the turn could not be recorded.
        """
        self.failure = error if isinstance(error, Exception) else None
        # Handed over before the first await: whatever is cancelled from here on, the seal is on its way.
        if self._opened is not None and self._status is None:
            self._hand_over(_status_after(error), error)
        if isinstance(error, HoldfastError):
            self._tell_what_there_is(error)
        if self._opened is None:
            return
        try:
            await self._end_exchange()
            await self._sealed()
        except HoldfastError as failure:
            if error is not None and not isinstance(error, Exception):
                log.warning("turn %s was stopped, and could not be recorded: %s", self.turn_id, failure)
                return
            self.failure = failure
            self._tell_what_there_is(failure)
            raise failure from error
        finally:
            release(self.spec.thread, self)

    async def _end_exchange(self) -> None:
        if self._exchange is None:
            return
        try:
            await self._exchange.end()
        except Exception as error:
            log.warning("turn %s: the client failed to close its connection (%s)", self.turn_id, type(error).__name__)

    async def _sealed(self) -> None:
        """Wait until the turn is on disk; then the cache may know of it."""
        if self._sealing is None:
            return
        head = await self._sealing
        log.debug("turn %s: %s", self.turn_id, self._status)
        if self._encoded is None:
            return
        self._encoded.restore()
        if self._status == "failed" and not self._output:
            self._encoded.append(b"")
        else:
            told = history.encode(self.spec.client.codec, output_told(self._output))
            self._encoded.append(self._said + told)
        spec = self.spec
        history.keep(spec.thread.store, spec.client.codec, spec.instructions, head, self._encoded)

    # --- the answer, as far as it was heard --------------------------------------------------------------------

    def _take_answer(self) -> None:
        if self._exchange is None or self._exchange.heard() is self._answer:
            return
        self._answer = self._exchange.heard()
        message = self._answer.message(
            lambda index: f"call_{self.turn_id}_{self._rounds}_{index}",
            taken=[call.call_id for message in self._output for call in message.tool_calls],
            author_name=self.spec.agent_name,
        )
        if message is not None:
            self._output.append(message)
        used = self._answer.usage
        if used is not None:
            self._usage = used if self._usage is None else self._usage + used

    def response(self) -> AgentRunResponse:
        """What there is of the agent's part, once the turn is sealed."""
        answer = self._answer or Answer()
        return AgentRunResponse(
            tuple(self._output),
            self.turn_id,
            self.spec.thread.id,
            self._status or "failed",
            self._usage,
            answer.finish_reason,
            answer.model,
            answer.response_id,
        )

    # --- the one path to the log -------------------------------------------------------------------------------

    def _hand_over(self, status: TurnStatus, error: BaseException | None) -> None:
        """Give the finished turn to the store. Not a coroutine: nothing can come between."""
        assert self._opened is not None
        with _deciding:
            if self._status is not None or self._process != os.getpid():
                return  # somebody else was faster; or this is a forked copy, and the turn the parent's
            self._status = status
        try:
            turn = self._finished(status, error)
        except Exception:
            # What cannot be written down must not keep the thread; the caller gets the error.
            self._sealing = self.spec.thread.store.seal(self._opened, ())
            raise
        self._sealing = self.spec.thread.store.seal(self._opened, (turn,))

    def _finished(self, status: TurnStatus, error: BaseException | None) -> NewTurn:
        """The turn as the log keeps it."""
        assert self._opened is not None
        self._take_answer()
        self._output.extend(results_for(unanswered_calls(self._output), _WHY_NOT_MADE[status]))
        answer = self._answer or Answer()
        record = encode_turn(
            self._stored_input,
            self._output,
            usage=self._usage,
            model=answer.model and sound(answer.model),
            service=self.spec.client.service,
            finish_reason=answer.finish_reason and sound(answer.finish_reason),
            error=_turn_error(error) if status == "failed" else None,
        )
        return NewTurn(self.turn_id, status, record, self._opened.started_us, self.spec.runtime.now_us())

    def give_way(self) -> bool:
        """End as cancelled if the reader has not asked for anything for long (another run waits)."""
        stalled_since = self._handed_at
        if self._status is not None or stalled_since is None:
            return False
        if self.spec.runtime.monotonic() - stalled_since < STALLED_SECONDS:
            return False
        self._let_go()
        return True

    def _let_go(self) -> None:
        """Seal as cancelled from outside the loop, and let the next run have the thread and its cache."""
        self._hand_over("cancelled", None)
        self._encoded = None
        release(self.spec.thread, self)

    def __del__(self) -> None:
        # An event loop that was closed in the middle of a stream never finishes its generator. The store can still
        # be told; without this the thread would wait for a run that nobody makes.
        if getattr(self, "_opened", None) is not None and self._status is None:
            with contextlib.suppress(Exception):  # at the end of the interpreter there may be nobody left to tell
                self._let_go()

    # --- errors ------------------------------------------------------------------------------------------------

    def explained(self, error: BaseException) -> BaseException:
        """The error as the caller gets it: a typed one where the run's own time ran out."""
        if not isinstance(error, TimeoutError) or isinstance(error, HoldfastError) or self._deadline is None:
            return error
        if asyncio.get_running_loop().time() < self._deadline:
            return error  # somebody else's timeout
        where = f"on thread {self.spec.thread.id!r}"
        if self._opened is None:
            return RunTimeoutError(
                f"Another run {where} did not end within this run's timeout of {self.spec.timeout:g} s. Nothing was "
                "sent or recorded; run again, or with a longer timeout."
            )
        return RunTimeoutError(
            f"Turn {self.turn_id} {where} took longer than its timeout of {self.spec.timeout:g} s. What had arrived is "
            "kept in the log; run again with a longer timeout."
        )

    def _tell_what_there_is(self, error: HoldfastError) -> None:
        error.thread_id = error.thread_id or self.spec.thread.id
        if self._status is not None:
            if not isinstance(error, DamagedError):  # that one names the turn that is damaged
                error.turn_id = self.turn_id
            error.response = self.response()

    def _gave_way(self) -> StaleRunError:
        return StaleRunError(
            f"Turn {self.turn_id} was closed as cancelled: its stream had not been read for {STALLED_SECONDS:.0f} s "
            f"and another run waited for thread {self.spec.thread.id!r}. What had been read of it is in the log."
        )


def _status_after(error: BaseException | None) -> TurnStatus:
    if error is None:
        return "completed"
    # Whatever is no Exception (a closed generator, a cancelled task, Ctrl-C) is somebody's wish to stop.
    return "failed" if isinstance(error, Exception) else "cancelled"


def _turn_error(error: BaseException | None) -> TurnError:
    if isinstance(error, HoldfastError):
        return TurnError(error.code, sound(str(error)[:1000]))
    # The message of an error that is not ours may hold anything; its type is enough for the log.
    return TurnError(type(error).__name__, "An error outside holdfast; see the caller's own log.")
