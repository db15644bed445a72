"""Runs: a turn being made, step by step, and what is written down of it meanwhile.

Rule of this file: what counts as said is what was handed on. Updates that arrived but that nobody asked for are not
part of an answer that was broken off. How a run ends stands in `sealing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import operator
import os
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, cast

from msgspec.structs import replace

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.cursors import Cursor, moved, spoken, units, updates_of
from holdfast.conversation.errors import IdempotencyKeyError, InvalidInputError, StaleRunError
from holdfast.conversation.journal import Decision, recorded
from holdfast.conversation.messages import ChatMessage, ToolCallContent
from holdfast.conversation.records import decode_messages, encode_messages
from holdfast.conversation.turns import Turn, output_told, unanswered_calls
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer, sound
from holdfast.engine import endings, history, limits
from holdfast.engine.acting import Acting
from holdfast.engine.effects import Effects, inherited
from holdfast.engine.journals import JOURNAL_SECONDS, Journal
from holdfast.engine.leases import INSIDE, Wish, acquire
from holdfast.engine.sealing import Sealable
from holdfast.engine.specs import RunSpec
from holdfast.ports.clients import ChatClient, ChatRequest
from holdfast.ports.stores import Earlier, OpenRun, Point, Terms, Twin

log = logging.getLogger("holdfast.engine")

# How often a model is asked to mend an answer that is not of the form that was asked for.
REPAIRS = 1
# So many updates are handed on between two looks at how long the answer has become.
UPDATES_PER_LOOK = 256


class _Exchange:
    """A request under way. `next` brings what came; `heard` folds what was handed on; `end` closes the connection."""

    __slots__ = ("_answer", "_batch", "_batches", "_counted", "_heard", "_length", "_rest")

    def __init__(self, client: ChatClient, request: ChatRequest, heard: list[AgentRunResponseUpdate]) -> None:
        self._batches = cast(AsyncGenerator[Sequence[AgentRunResponseUpdate], None], client.ask(request))
        self._answer = Answer()
        self._batch: Sequence[AgentRunResponseUpdate] = ()
        self._rest: Iterator[AgentRunResponseUpdate] = iter(())
        self._heard = heard
        # How many of the last updates were counted, and how far they lead.
        self._counted = self._length = 0

    async def next(self) -> Iterator[AgentRunResponseUpdate] | None:
        """The next updates, to be handed on one by one; None at the end. Asking for more means: all before was read."""
        if self._batch:
            self._answer.add(self._batch)
            self._heard.extend(self._batch)
            self._batch = ()
            self._counted = self._length = 0
        batch = await anext(self._batches, None)
        if batch is None:
            return None
        self._batch = batch
        self._rest = iter(batch)
        return self._rest

    def handed(self) -> Sequence[AgentRunResponseUpdate]:
        """What of the last updates was handed on."""
        return self._batch[: len(self._batch) - operator.length_hint(self._rest)]

    @property
    def length(self) -> int:
        """How far what was handed on of the last updates leads."""
        new = self.handed()[self._counted :]
        self._counted += len(new)
        self._length += sum(map(units, spoken(new)))
        return self._length

    def heard(self) -> Answer:
        """The answer as far as it was handed on. Nothing can be handed on afterwards."""
        handed = self.handed()
        self._answer.add(handed)
        self._heard.extend(handed)
        self._batch = ()
        self._counted = self._length = 0
        for _ in self._rest:  # the stream holds the same iterator
            continue
        return self._answer

    async def end(self) -> None:
        """Close the connection, if it is still open."""
        await self._batches.aclose()


class TurnRun(Sealable):
    """One run on one thread: made by an agent, driven by the loop, read by a stream."""

    __slots__ = (
        "_asked_without_tools",
        "_began",
        "_catching_up",
        "_is_last",
        "_journal",
        "_length",
        "_made_calls",
        "_measured",
        "_repairs",
        "_size",
        "_tail",
        "_told",
        "_tool_seconds",
        "calls",
        "found",
        "heard",
        "is_done",
        "kit",
        "maker",
        "told",
    )

    def __init__(self, spec: RunSpec) -> None:
        """Encode the input. Raises InvalidInputError or ConfigurationError; nothing is opened yet."""
        codec = spec.client.codec
        self.spec = spec
        self.turn_id = spec.runtime.new_id("turn")
        self._said = self._told = history.encode(codec, spec.input)
        if not self._said and spec.input_from == "caller":
            raise InvalidInputError(f"Nothing in the input can be told to {spec.client.service}; pass some text.")
        tools = spec.kit.encoded(codec) if spec.kit.by_name else b""
        self._tail = codec.tail(spec.options, stream=spec.stream, tools=tools)
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
        # The open calls of the last answer, and what is known of all.
        self.calls: list[ToolCallContent] = []
        self.effects = Effects()
        self.kit = spec.kit
        self.requests = ()
        self.value = None
        self._acting = None
        self._repairs = self._made_calls = 0
        self._tool_seconds = 0.0
        # Whether the model may make no more calls, and was told so.
        self._is_last = self._asked_without_tools = False
        self._asked_to_stop = None
        self._rollback = False
        self._lost = self._stalled = None
        # Where the answer begins; how many of its updates were measured, how far they lead, how much they are.
        self._began = self._measured = self._length = self._size = 0
        # What was handed on, for the journal and for those who follow: whole answers, and the pieces of this one.
        self.told: list[AgentRunResponseUpdate] = []
        self.heard: list[AgentRunResponseUpdate] = []
        # What is handed on of a turn that others make or have made, and from where.
        self._catching_up: tuple[Cursor, list[AgentRunResponseUpdate], Iterator[AgentRunResponseUpdate]] | None = None
        self.restarts = ()
        # What a dead process had said of the answer that is asked for again; it counts until there is a new one.
        self._before = []
        # The turn, or the run in flight, that has this run's idempotency key.
        self.found: Earlier | Twin | None = None
        # Whether it ends without a turn of its own.
        self.is_done = False
        # The task that makes the run, where its reader may go away (see `detached`).
        self.maker: asyncio.Task[Any] | None = None
        # What the run raised, for a reader who asks later.
        self.failure = None

    # --- the steps of the loop ---------------------------------------------------------------------------------

    async def open(self) -> bool:
        """Wait for the thread and take it. False if there is something to catch up with first (see `following`)."""
        spec = self.spec
        self._loop = asyncio.get_running_loop()
        if spec.timeout is not None and self._deadline is None:
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
        if isinstance(found, OpenRun):
            self._opened, self._catching_up = found, None
            log.debug("turn %s: open", self.turn_id)
            return True
        self.found = found
        return False

    async def ask(self) -> None:
        """Put what there is to the service."""
        spec = self.spec
        if self._encoded is None:
            assert self._opened is not None
            self._encoded = await history.conversation(
                spec.thread.store, spec.client.codec, spec.instructions, self._opened.head
            )
        body = self._encoded.body(self._told, self._last_tail() if self._is_last else self._tail)
        self._rounds += 1
        self._exchange = _Exchange(spec.client, ChatRequest(body, spec.options, spec.stream), self.heard)

    async def next_updates(self) -> Iterator[AgentRunResponseUpdate] | None:
        """What came of the answer, to be handed on one by one; None when it has ended."""
        if self._status is not None or self._lost is not None:
            raise self._ended_by_others()
        assert self._exchange is not None
        self._handed_at = None
        inside = INSIDE.set((*INSIDE.get(), self.turn_id))
        try:
            async with asyncio.timeout_at(self._deadline) as self._waking:
                updates = await self._exchange.next()
        finally:
            # It knows its task, and that may keep the stream alive: a reader that was cancelled between two updates
            # would then hold the thread until the garbage collector comes by.
            self._waking = None
            with contextlib.suppress(ValueError):  # a loop that was closed in the middle of it left its context
                INSIDE.reset(inside)
        if len(self.heard) - self._measured >= UPDATES_PER_LOOK:
            self._measure()
        if self._status is not None:  # ended by others while the last of it came
            raise self._ended_by_others()
        if updates is not None:
            self._handed_at = self.spec.runtime.monotonic()
            if self._timer is None and self._loop is not None:
                self._timer = self._loop.call_later(JOURNAL_SECONDS, _write_down, weakref.ref(self))
        return updates

    def _refuse_if_ended(self) -> None:
        """Raises what its caller is to know, if somebody else has ended the run meanwhile."""
        if self._status is not None or self._lost is not None:
            raise self._ended_by_others()

    def answered(self) -> None:
        """Make the answer a message of the turn; `calls` is what it calls for."""
        before = len(self._output)
        self._take_answer()
        assert self._encoded is not None
        self._encoded.restore()
        self._measure()
        self.calls = unanswered_calls(self._output)
        # From now on it counts as what it has become: without a call that was cut off, say.
        self._own_journal()  # it begins where this answer began
        self._tell(self._output[before:])
        self.heard = []
        if self.calls:
            self._own_journal().answered(self._output[before:], self._usage, self._rounds)

    def _tell(self, messages: Sequence[ChatMessage]) -> list[AgentRunResponseUpdate]:
        """Messages of the turn that are whole, as those read them who follow it."""
        whole = updates_of(messages)
        self.told.extend(whole)
        self._began += sum(map(units, whole))
        self._measured = self._length = self._size = 0
        return whole

    # --- tool calls ----------------------------------------------------------------------------------------------

    async def next_results(self) -> list[AgentRunResponseUpdate]:
        """What came of the next calls, in their order; [] when there is no more (see `goes_on`)."""
        self._refuse_if_ended()
        if self._acting is None:
            self._acting = self._begin_acting()
        self._handed_at = None
        began = self.spec.runtime.monotonic()
        try:
            async with asyncio.timeout_at(self._deadline) as self._waking:
                messages = await self._acting.next()
        finally:
            self._waking = None
            self._tool_seconds += self.spec.runtime.monotonic() - began
        self._refuse_if_ended()
        if not messages:
            return []
        self._output.extend(messages)
        self._own_journal().results(messages)
        self._handed_at = self.spec.runtime.monotonic()
        return self._tell(messages)

    def _begin_acting(self) -> Acting:
        limits_, journal = self.spec.limits, self._own_journal()
        self._is_last = self._is_last or self._rounds >= limits_.rounds
        seconds = limits_.tool_seconds
        return Acting(
            self.spec,
            self.turn_id,
            self.effects,
            self.calls,
            tools=self.kit.by_name,
            begin=journal.begins,
            apart=journal.result_apart,
            allowed=0 if self._is_last else max(0, limits_.tool_calls - self._made_calls),
            seconds=None if seconds is None else max(0.0, seconds - self._tool_seconds),
        )

    async def has_more(self) -> bool:
        """Whether the service is to be asked again. If not, the turn is whole, or waits for somebody's word."""
        acting, self._acting = self._acting, None
        if acting is None:
            return self._is_to_be_mended()
        self._made_calls += acting.begun
        if acting.requests:
            await self._park(acting.requests, self._own_journal().waits(acting.requests))
            return False
        self.calls = []
        self._told = self._said + history.encode(self.spec.client.codec, output_told(self._output))
        if self._asked_without_tools:
            return False  # it was told so, and calls all the same
        limits_ = self.spec.limits
        time_is_over = limits_.tool_seconds is not None and self._tool_seconds >= limits_.tool_seconds
        self._is_last = self._is_last or time_is_over or self._made_calls >= limits_.tool_calls
        self._asked_without_tools = self._is_last
        return True

    def _is_to_be_mended(self) -> bool:
        """Read the answer, if it is to have a form; True if the model is asked to mend it.

        Raises AnswerFormatError if it was asked already, or has not answered at all.
        """
        shape = self.spec.shape
        if shape is None:
            return False
        answer = self._output[-1] if self._output else None
        try:
            self.value = shape.read(answer.text if answer is not None else "")
        except ValueError as error:
            if answer is None or not answer.text.strip() or self._repairs >= REPAIRS:
                raise endings.bad_form(
                    self.turn_id, self.spec.thread.id, str(error), self.spec.client.service
                ) from None
            self._repairs += 1
            mend = _asks_to_mend(str(error))
            self._output.append(mend)
            self._own_journal().answered(self._output[-2:], self._usage, self._rounds)
            self._told = self._said + history.encode(self.spec.client.codec, output_told(self._output))
            return True
        return False

    def _last_tail(self) -> bytes:
        """The tail of the question that is asked without tools."""
        spec, codec = self.spec, self.spec.client.codec
        options = replace(spec.options, tool_choice="none")
        return codec.tail(options, stream=spec.stream, tools=self.kit.encoded(codec))

    @property
    def stored_input(self) -> bytes:
        """What is said, as the log keeps it."""
        return self._stored_input

    @property
    def deadline(self) -> float | None:
        """When the run's own time is over, in its event loop's time."""
        return self._deadline

    @property
    def known_as(self) -> str:
        """The turn whose words are handed on: its own, or for now the one that has its idempotency key."""
        if self.found is None or self._opened is not None:
            return self.turn_id
        return self.found.turn.turn_id if isinstance(self.found, Earlier) else self.found.turn_id

    @property
    def cursor(self) -> Cursor:
        """The place up to which the turn was handed on."""
        if self._catching_up is not None:
            cursor, batch, left = self._catching_up
            return moved(cursor, batch[: len(batch) - operator.length_hint(left)])
        self._measure(check=False)
        length = self._exchange.length if self._exchange is not None else 0
        return Cursor(self.epoch, self._began + self._length + length)

    def said(self) -> list[AgentRunResponseUpdate]:
        """What was handed on of this answer."""
        return [*self.heard, *self._exchange.handed()] if self._exchange is not None else self.heard

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
        self.effects = inherited(before)
        for answer in self.spec.answers:
            self.effects.decided[answer.call_id] = Decision(answer.approved, answer.why, answer.by)
        self._usage, self._rounds, self._made_calls = before.used, before.asked, len(before.started)
        self._says(opened.input, decode_messages(opened.input))
        self._output = list(before.messages)
        self.calls = unanswered_calls(self._output)
        self._told = self._said + history.encode(self.spec.client.codec, output_told(self._output))
        self.told = updates_of(self._output)
        self._began = sum(map(units, self.told))
        self._before = before.pieces
        self.restarts = before.restarts
        if not before.is_parked:
            # Also if the journal is empty: the last half second may have been read by somebody.
            self.restarts += ((opened.epoch, self._began),)
            self._own_journal().asks_again()
        self.spec.thread.store.cache.holders[self.spec.thread.store.tenant, self.spec.thread.id] = self
        log.info("turn %s was left open, or waited; going on with it", self.turn_id)

    def hands_on(self, updates: list[AgentRunResponseUpdate], cursor: Cursor) -> Iterator[AgentRunResponseUpdate]:
        """What others say or have said of the turn, to be read one by one; it begins at the cursor."""
        left = iter(updates)
        self._catching_up = (cursor, updates, left)
        return left

    def caught_up(self) -> None:
        """From here on the run says its own."""
        self._catching_up = None

    def has_nothing_to_do(self) -> None:
        """There was nothing to go on with."""
        self.is_done = True

    def repeats(self, turn: Turn) -> None:
        """Be another turn, with the same idempotency key. Raises IdempotencyKeyError if it has no whole answer."""
        self.turn_id, self._turn, self._status = turn.id, turn, turn.status
        self.is_done = True
        if turn.status != "completed":
            raise IdempotencyKeyError(
                f"Turn {turn.id}, recorded under idempotency key {self.spec.key!r}, ended as {turn.status}; what there "
                "is of its answer is in .response. Nothing was asked again: do so with agent.regenerate(thread), or "
                "run with another key."
            )

    def waits_already(self, turn_id: str, requests: Sequence[ApprovalRequest], messages: Sequence[ChatMessage]) -> None:
        """Be a run, with the same idempotency key, that waits for somebody's word."""
        self.turn_id, self.requests, self._output = turn_id, tuple(requests), list(messages)
        self._status, self.is_done = "waiting", True

    # --- what is written down while it is made ------------------------------------------------------------------

    def _measure(self, *, check: bool = True) -> None:
        """See how far the answer has come. Raises AnswerTooLargeError."""
        new = self.heard[self._measured :]
        self._measured += len(new)
        self._length += sum(map(units, spoken(new)))
        self._size += sum(map(units, new))
        if check:
            limits.check_length(self._size, self._began + self._size, self.spec.limits, self.spec.client.service)

    def _own_journal(self) -> Journal:
        if self._journal is None:
            assert self._opened is not None
            self._journal = Journal(self.spec.thread.store, self._opened, self._began)
        return self._journal

    def write_down(self) -> None:
        """Bring the journal up to date, as long as the turn is being made."""
        self._timer = None
        if not self.is_open or self._loop is None:
            return
        try:
            self._own_journal().keep_up(self.said())
        except StaleRunError as error:
            self._lost = error
            self._wake()
        else:
            self._timer = self._loop.call_later(JOURNAL_SECONDS, _write_down, weakref.ref(self))


def _asks_to_mend(why: str) -> ChatMessage:
    """What the model is told of an answer that is not of the form that was asked for; it is part of the turn."""
    text = f"{why}\nAnswer again, with nothing but JSON of the form that was asked for."
    return ChatMessage("user", text=sound(text), additional_properties={"holdfast": "repair"})


def _write_down(run: weakref.ref[TurnRun]) -> None:
    alive = run()
    if alive is not None:
        alive.write_down()
