"""Runs: a turn being made, step by step, and what is written down of it meanwhile.

Rule of this file: what counts as said is what was handed on. Updates that arrived but that nobody asked for are not
part of an answer that was broken off. How a run ends stands in `sealing`.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import os
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, cast

from holdfast.conversation.cursors import Cursor, units, updates_of
from holdfast.conversation.errors import IdempotencyKeyError, InvalidInputError
from holdfast.conversation.journal import recorded
from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.records import decode_messages, encode_messages
from holdfast.conversation.turns import Turn, output_told, unanswered_calls
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer
from holdfast.engine import history, limits
from holdfast.engine.journals import JOURNAL_SECONDS, Journal
from holdfast.engine.leases import INSIDE, Wish, acquire
from holdfast.engine.sealing import Sealable
from holdfast.engine.specs import RunSpec
from holdfast.ports.clients import ChatClient, ChatRequest
from holdfast.ports.stores import Earlier, OpenRun, Point, Terms, Twin

log = logging.getLogger("holdfast.engine")

# So many updates are handed on between two looks at how long the answer has become.
UPDATES_PER_LOOK = 256


class _Exchange:
    """A request under way. `next` brings what came; `heard` folds what was handed on; `end` closes the connection."""

    __slots__ = ("_answer", "_batch", "_batches", "_heard", "_rest")

    def __init__(self, client: ChatClient, request: ChatRequest, heard: list[AgentRunResponseUpdate]) -> None:
        self._batches = cast(AsyncGenerator[Sequence[AgentRunResponseUpdate], None], client.ask(request))
        self._answer = Answer()
        self._batch: Sequence[AgentRunResponseUpdate] = ()
        self._rest: Iterator[AgentRunResponseUpdate] = iter(())
        self._heard = heard

    async def next(self) -> Iterator[AgentRunResponseUpdate] | None:
        """The next updates, to be handed on one by one; None at the end. Asking for more means: all before was read."""
        if self._batch:
            self._answer.add(self._batch)
            self._heard.extend(self._batch)
            self._batch = ()
        batch = await anext(self._batches, None)
        if batch is None:
            return None
        self._batch = batch
        self._rest = iter(batch)
        return self._rest

    def handed(self) -> Sequence[AgentRunResponseUpdate]:
        """What of the last updates was handed on."""
        return self._batch[: len(self._batch) - operator.length_hint(self._rest)]

    def heard(self) -> Answer:
        """The answer as far as it was handed on. Nothing can be handed on afterwards."""
        handed = self.handed()
        self._answer.add(handed)
        self._heard.extend(handed)
        self._batch = ()
        for _ in self._rest:  # the stream holds the same iterator
            continue
        return self._answer

    async def end(self) -> None:
        """Close the connection, if it is still open."""
        await self._batches.aclose()


class TurnRun(Sealable):
    """One run on one thread: made by an agent, driven by the loop, read by a stream."""

    __slots__ = ("_began", "_journal", "_measured", "_place", "_tail", "_told", "found", "heard", "maker")

    def __init__(self, spec: RunSpec) -> None:
        """Encode the input. Raises InvalidInputError or ConfigurationError; nothing is opened yet."""
        codec = spec.client.codec
        self.spec = spec
        self.turn_id = spec.runtime.new_id("turn")
        self._said = self._told = history.encode(codec, spec.input)
        if not self._said and spec.input_from == "caller":
            raise InvalidInputError(f"Nothing in the input can be told to {spec.client.service}; pass some text.")
        self._tail = codec.tail(spec.options, stream=spec.stream)
        self._stored_input = encode_messages(spec.input)
        if len(self._stored_input) > spec.limits.input_bytes:
            raise limits.too_large_an_input(len(self._stored_input), spec.limits, spec.thread.id)
        self._deadline = None
        self._loop = None
        self._waking = None
        self._opened = None
        self._process = os.getpid()
        self._encoded = None
        self._exchange = None
        self._answer = None
        self._output = []
        self._usage = None
        self._rounds = 0
        self._handed_at = None
        self._status = None
        self._sealing = None
        self._turn = None
        self._journal: Journal | None = None
        self._timer = None
        self._asked_to_stop = None
        self._rollback = False
        # How many of the updates heard were measured, to which place they lead, and where the answer began.
        self._measured = self._place = self._began = 0
        # What was handed on so far, for the journal and for those who follow.
        self.heard: list[AgentRunResponseUpdate] = []
        self.restarts = ()
        # What a dead process had said of the answer that is asked for again; it counts until there is a new one.
        self._before = []
        # The turn, or the run in flight, that has this run's idempotency key.
        self.found: Earlier | Twin | None = None
        # The task that makes the run, where its reader may go away (see `detached`).
        self.maker: asyncio.Task[Any] | None = None
        # What the run raised, for a reader who asks later.
        self.failure = None

    # --- the steps of the loop ---------------------------------------------------------------------------------

    async def open(self) -> bool:
        """Wait for the thread and take it. False if there is something to catch up with first (see `following`)."""
        spec = self.spec
        self._loop = asyncio.get_running_loop()
        if spec.timeout is not None:
            self._deadline = self._loop.time() + spec.timeout
        point = spec.point
        if spec.input_from == "open run":
            return False
        if spec.input_from == "last turn":
            point = await self._says_again()
        wish = Wish(
            self.turn_id,
            self._stored_input,
            Terms(spec.key, point, spec.limits.waiting_runs),
            spec.on_conflict,
            spec.enqueue_timeout,
            spec.runtime,
        )
        async with asyncio.timeout_at(self._deadline):
            found = await acquire(spec.thread, self, wish)
        if type(found) is OpenRun:
            self._opened = found
            log.debug("turn %s: open", self.turn_id)
            return True
        self.found = cast("Earlier | Twin", found)
        return False

    async def ask(self) -> None:
        """Put what there is to the service."""
        spec = self.spec
        if self._encoded is None:
            assert self._opened is not None
            self._encoded = await history.conversation(
                spec.thread.store, spec.client.codec, spec.instructions, self._opened.head
            )
        self._began = self._place
        body = self._encoded.body(self._told, self._tail)
        self._rounds += 1
        self._exchange = _Exchange(spec.client, ChatRequest(body, spec.options, spec.stream), self.heard)

    async def next_updates(self) -> Iterator[AgentRunResponseUpdate] | None:
        """What came of the answer, to be handed on one by one; None when it has ended."""
        if self._status is not None:
            raise self._ended_by_others()
        assert self._exchange is not None
        if self._timer is None and self._handed_at is not None and self._loop is not None:
            # Whoever asks for more has heard what was handed on: it is written down in time, come more or not.
            self._timer = self._loop.call_later(JOURNAL_SECONDS, _write_down, weakref.ref(self))
        self._handed_at = None
        inside = INSIDE.set((*INSIDE.get(), self.turn_id))
        try:
            async with asyncio.timeout_at(self._deadline) as self._waking:
                updates = await self._exchange.next()
        finally:
            # It knows its task, and that may keep the stream alive: a reader that was cancelled between two updates
            # would then hold the thread until the garbage collector comes by.
            self._waking = None
            INSIDE.reset(inside)
        if len(self.heard) - self._measured >= UPDATES_PER_LOOK:
            self._measure()
        if self._journal is not None and self._journal.waits:
            await self._journal.check()
        if updates is not None:
            self._handed_at = self.spec.runtime.monotonic()
        return updates

    def answered(self) -> list[ToolCallContent]:
        """Make the answer a message of the turn; what it calls for."""
        self._take_answer()
        assert self._encoded is not None
        self._encoded.restore()
        self._measure()
        return unanswered_calls(self._output)

    def add_results(self, results: Sequence[ChatMessage]) -> None:
        """Results of tool calls: the next question tells the service of them."""
        self._output.extend(results)
        self._told = self._said + history.encode(self.spec.client.codec, output_told(self._output))
        self._own_journal().answered(self._output[-1 - len(results) :])

    @property
    def stored_input(self) -> bytes:
        """What is said, as the log keeps it."""
        return self._stored_input

    @property
    def rounds(self) -> int:
        """How often the service was asked."""
        return self._rounds

    @property
    def cursor(self) -> Cursor:
        """The place up to which the turn was handed on."""
        self._measure(check=False)
        handed = self._exchange.handed() if self._exchange is not None else ()
        return Cursor(self.epoch, self._place + sum(map(units, handed)))

    async def _says_again(self) -> Point:
        """Take the input of the thread's last turn, and its place. Raises InvalidInputError if there is none."""
        last = await history.last_turn(self.spec.thread)
        if last is None or not last.input:
            raise InvalidInputError("The thread has no turn whose input could be answered again; run something first.")
        self._says(encode_messages(last.input), last.input)
        return Point(last.id, before=True, latest=True)

    def _says(self, stored: bytes, messages: Sequence[ChatMessage]) -> None:
        self._stored_input = stored
        self._said = self._told = history.encode(self.spec.client.codec, messages)

    # --- going on with another's turn --------------------------------------------------------------------------

    def goes_on(self, opened: OpenRun) -> None:
        """Be the run that a dead process left: the same turn, from what it had written down."""
        self.turn_id, self._opened = opened.turn_id, opened
        before = recorded(opened.journal)
        self._says(opened.input, decode_messages(opened.input))
        self._output = list(before.messages)
        self._told = self._said + history.encode(self.spec.client.codec, output_told(self._output))
        self.heard = updates_of(self._output)
        self.restarts = before.restarts
        journal = self._own_journal()
        self._before = before.pieces
        if before.pieces:
            self.restarts += ((opened.epoch, before.place),)
            journal.asks_again()
        self._measured, self._place = 0, 0
        self._measure(check=False)
        self.spec.thread.store.cache.holders[self.spec.thread.store.tenant, self.spec.thread.id] = self
        log.info("turn %s was left open by a process that is gone; going on with it", self.turn_id)

    def repeats(self, turn: Turn) -> None:
        """Be another turn, with the same idempotency key. Raises IdempotencyKeyError if it has no whole answer."""
        self.turn_id, self._turn, self._status = turn.id, turn, turn.status
        if turn.status != "completed":
            raise IdempotencyKeyError(
                f"Turn {turn.id}, recorded under idempotency key {self.spec.key!r}, ended as {turn.status}; what there "
                "is of its answer is in .response. Nothing was asked again: do so with agent.regenerate(thread), or "
                "run with another key."
            )

    # --- what is written down while it is made ------------------------------------------------------------------

    def _measure(self, *, check: bool = True) -> None:
        """See how far the turn has come. Raises AnswerTooLargeError."""
        self._place += sum(map(units, self.heard[self._measured :]))
        self._measured = len(self.heard)
        if check:
            limits.check_length(self._place - self._began, self._place, self.spec.limits, self.spec.client.service)

    def _own_journal(self) -> Journal:
        if self._journal is None:
            assert self._opened is not None
            written = len(self.heard) if self._rounds == 0 else 0
            self._journal = Journal(self.spec.thread.store, self._opened, self.heard, written)
        return self._journal

    def write_down(self) -> None:
        """Bring the journal up to date, if the turn is still being made."""
        self._timer = None
        if self.is_open:
            self._own_journal().keep_up()


def _write_down(run: weakref.ref[TurnRun]) -> None:
    alive = run()
    if alive is not None:
        alive.write_down()
