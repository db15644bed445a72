"""Runs: a turn being made, step by step.

Rules of this file: a step does one thing and leaves the run in a state that can be sealed. What counts as said is what
was handed on: updates that arrived but that nobody asked for are not part of an answer that was broken off. Where
readers are stands in `telling`, what is done between two answers in `rounds`, how a run ends in `sealing`.
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

from holdfast.conversation.cursors import spoken, units, updates_of
from holdfast.conversation.errors import ContextTooLongError, InvalidInputError, ThreadBusyError
from holdfast.conversation.journal import Decision, recorded
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.records import decode_messages, encode_messages
from holdfast.conversation.turns import output_told, unanswered_calls
from holdfast.conversation.updates import AgentRunResponseUpdate, Answer
from holdfast.engine import history, limits, windows
from holdfast.engine.effects import Effects, call_ids, inherited, with_own_ids
from holdfast.engine.journals import JOURNAL_SECONDS
from holdfast.engine.leases import INSIDE, Wish, acquire
from holdfast.engine.middleware import ModelCallContext, RunContext
from holdfast.engine.providers import Provided, gathered
from holdfast.engine.rounds import FREE, Rounds
from holdfast.engine.specs import RunSpec
from holdfast.engine.telling import Told, write_down
from holdfast.engine.views import LastTurns, TokenBudget
from holdfast.ports.clients import ChatClient, ChatRequest
from holdfast.ports.stores import OpenRun, Point, Terms

log = logging.getLogger("holdfast.engine")

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


class TurnRun(Rounds):
    """One run on one thread: made by an agent, driven by the loop, read by a stream."""

    __slots__ = ("_answered_from", "_input", "_is_cut", "_provided", "_tail", "maker")

    # What was said, as the service is told it.
    _input: Sequence[ChatMessage]
    _provided: Provided | None
    # Whether it was asked with a smaller view already.
    _is_cut: bool
    # Where the answer begins among the messages of the turn, if middleware has looked at it already.
    _answered_from: int | None

    def __init__(self, spec: RunSpec) -> None:
        """Encode the input. Raises InvalidInputError or ConfigurationError; nothing is opened yet."""
        codec = spec.client.codec
        self.spec = spec
        self.turn_id = spec.runtime.new_id("turn")
        self._input = spec.input
        self._said = self._opening = self._told = b"".join([codec.message(message) for message in spec.input])
        if not self._said and spec.input_from == "caller":
            raise InvalidInputError(f"Nothing in the input can be told to {spec.client.service}; pass some text.")
        self.options, self.instructions = spec.options, spec.instructions
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
        self._journal = None
        self._timer = None
        self.calls = []
        self.effects = Effects()
        self.kit = spec.kit
        self._provided = self._answered_from = None
        self.view, self._is_cut = spec.view, False
        self._surroundings = None
        self.requests = ()
        self.value = None
        self._acting = None
        self._answers = self._repairs = self._made_calls = 0
        self._tool_seconds = 0.0
        self._is_last = self._asked_without_tools = False
        self._asked_bytes = self._given = 0
        self._parking = None
        self._untouched = False
        self._asked_to_stop = None
        self._rollback = False
        self._lost = self._stalled = None
        self._began = self._measured = self._length = self._size = 0
        self.told = []
        self.heard = []
        self._catching_up = None
        self.restarts = ()
        # What a dead process had said of the answer that is asked for again; it counts until there is a new one.
        self._before = []
        self.found = None
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

    async def ask(self, changed: ModelCallContext | None = None) -> None:
        """Put what there is to the service, as middleware may have changed it."""
        spec, codec = self.spec, self.spec.client.codec
        if self._journal is not None:
            await self._journal.written()
        if self._exchange is not None and changed is not None:
            await self._end_failed_exchange()
        if self._encoded is None:
            assert self._opened is not None
            store, head = spec.thread.store, self._opened.head
            if self.view is None:
                self._encoded = await history.conversation(store, codec, self.instructions, head)
            else:
                self._encoded = await windows.seen(store, codec, self.instructions, head, self.view)
        told, tail, options = self._told, self._tail, self.options
        if changed is not None:
            told, options = history.encode(codec, changed.messages), changed.options
        if changed is not None or self._is_last or (self._answers and options.tool_choice not in FREE):
            tail = self._tail_for(options)
        body = self._encoded.body(told, tail)
        self._rounds += 1
        self._untouched = False
        self._asked_bytes = len(body)
        self._exchange = _Exchange(spec.client, ChatRequest(body, options, spec.stream), self.heard)

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
        except ContextTooLongError:
            if not await self._shows_less():
                raise
            return await self.next_updates()
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
                self._timer = self._loop.call_later(JOURNAL_SECONDS, write_down, weakref.ref[Told](self))
        return updates

    def answered(self) -> None:
        """Make the answer a message of the turn; `calls` is what it calls for."""
        before = self._answered_from if self._answered_from is not None else len(self._output)
        self._answered_from = None
        self._take_answer()
        if self._encoded is not None:
            self._encoded.restore()
        self._measure()
        self.calls = unanswered_calls(self._output)
        self._answers += 1
        # From now on it counts as what it has become: without a call that was cut off, say.
        self._own_journal()  # it begins where this answer began
        self._tell(self._output[before:])
        self.heard = []
        if self.calls:
            self._own_journal().answered(self._output[before:], self._usage, self._rounds)

    async def _shows_less(self) -> bool:
        """Ask once more with the next smaller view, if there is one, and nothing was said yet."""
        if self._is_cut or not isinstance(self.view, (LastTurns, TokenBudget)) or self.said():
            return False
        self._is_cut = True
        await self._end_exchange()
        assert self._encoded is not None
        self._encoded.restore()
        self._encoded.cut(self.view.smaller())
        await self.ask()
        return True

    # --- what middleware and providers do with it ----------------------------------------------------------------

    async def prepare(self) -> None:
        """Ask those who add something to the turn: sources of tools, providers of context."""
        spec, codec = self.spec, self.spec.client.codec
        async with asyncio.timeout_at(self._deadline) as self._waking:
            if spec.providers:
                given = self._provided = await gathered(spec.providers, self.surroundings())
                self.kit = self.kit.joined(given.kit)
                if given.recorded and not self._output:
                    self._output.extend(given.recorded)
                    self._given = len(given.recorded)
                    self._own_journal().answered(given.recorded, None, 0)
            if self.kit.sources:
                self.kit = await self.kit.resolved()
        self._waking = None
        self._tail = codec.tail(self.options, stream=spec.stream, tools=self.kit.encoded(codec))
        self._opens_with(self._input)

    def surroundings(self) -> RunContext:
        """The run as middleware and providers see it."""
        if self._surroundings is None:
            spec = self.spec
            self._surroundings = RunContext(
                agent=spec.agent_name,
                service=spec.client.service,
                thread_id=spec.thread.id,
                turn_id=self.turn_id,
                messages=self._input,
                instructions=self.instructions,
                options=self.options,
                deps=spec.deps,
                stream=spec.stream,
                history=self._history,
                agent_id=spec.agent_id,
                model=getattr(spec.client, "model", None),
                address=getattr(spec.client, "address", None),
            )
        return self._surroundings

    def takes(self, context: RunContext) -> None:
        """Send what middleware has made of the run."""
        codec = self.spec.client.codec
        self.instructions, self.options = context.instructions, context.options
        self._tail = codec.tail(self.options, stream=self.spec.stream, tools=self.kit.encoded(codec))
        self._opens_with(context.messages)

    def messages_so_far(self) -> list[ChatMessage]:
        """This turn's messages, as the service is told them next."""
        before, after = self._beside()
        return [*before, *self._input, *after, *output_told(self._output)]

    def answer_to(self, asked: ModelCallContext) -> ChatMessage | None:
        """The answer that has just ended; what it said of itself is told to who stands around the question."""
        self._answered_from = len(self._output)
        self._take_answer()
        answer = self._answer
        if answer is not None:
            asked.finish_reason, asked.model, asked.usage = answer.finish_reason, answer.model, answer.usage
            asked.response_id = answer.response_id
        return self._output[-1] if len(self._output) > self._answered_from else None

    def answers_with(self, message: ChatMessage) -> None:
        """Take a message for the answer that no model gave, in the place of one that a model did."""
        if self.calls:  # a turn that is gone on with
            self._output.extend(self.effects.closing(self.calls, "This call was not made."))
            self.calls, self._untouched = [], False
        if self._answered_from is None:
            self._take_answer()  # what there was of one that broke off
            self._answered_from = len(self._output)
            self._rounds += 1
        del self._output[self._answered_from :]
        self._output.append(with_own_ids(message, self.turn_id, self._rounds, taken=call_ids(self._output)))

    @property
    def rounds(self) -> int:
        """How often the service was asked."""
        return self._rounds

    def _opens_with(self, messages: Sequence[ChatMessage]) -> None:
        self._input = messages
        before, after = self._beside()
        self._opening = history.encode(self.spec.client.codec, [*before, *messages, *after])
        self._tell_so_far()

    def _beside(self) -> tuple[Sequence[ChatMessage], Sequence[ChatMessage]]:
        """What providers have told before and after what was said, for this turn alone."""
        return ((), ()) if self._provided is None else (self._provided.instructions, self._provided.fleeting)

    async def _history(self) -> list[ChatMessage]:
        assert self._opened is not None
        return await history.messages_of(self.spec.thread.store, self._opened.head)

    async def _end_failed_exchange(self) -> None:
        """Make ready for another question after one that failed. Raises RuntimeError if something was handed on."""
        if self.said():
            raise RuntimeError("The model cannot be asked again: a part of its answer was handed on already.")
        await self._end_exchange()
        self._exchange = None
        if self._encoded is not None:
            self._encoded.restore()

    # --- what it says --------------------------------------------------------------------------------------------

    async def _says_again(self) -> Point:
        """Take the input of the thread's last turn, and its place. Raises InvalidInputError if there is none."""
        info = await self.spec.thread.info()
        if info is not None and info.waiting:
            raise ThreadBusyError(
                f"Turn {info.busy} on thread {self.spec.thread.id!r} waits for somebody to allow a call, and cannot be "
                "answered again before it has ended. Answer its requests (thread.approvals()), or thread.cancel() it.",
                thread_id=self.spec.thread.id,
                turn_id=info.busy,
            )
        last = await history.last_turn(self.spec.thread)
        if last is None or not last.input:
            raise InvalidInputError("The thread has no turn whose input could be answered again; run something first.")
        self._says(encode_messages(last.input), last.input)
        return Point(last.id, before=True, latest=True)

    def _says(self, stored: bytes, messages: Sequence[ChatMessage]) -> None:
        self._stored_input, self._input = stored, messages
        self._said = self._opening = self._told = history.encode(self.spec.client.codec, messages)

    # --- going on with another's turn --------------------------------------------------------------------------

    def goes_on(self, opened: OpenRun) -> None:
        """Be the run that a dead process left: the same turn, from what it had written down."""
        self.turn_id, self._opened = opened.turn_id, opened
        before = recorded(opened.journal)
        self.effects = inherited(before)
        for answer in self.spec.answers:
            self.effects.decided[answer.call_id] = Decision(answer.approved, answer.why, answer.by)
        self._usage, self._rounds, self._made_calls = before.used, before.asked, len(before.started)
        self._answers = before.asked
        self._says(opened.input, decode_messages(opened.input))
        self._output = list(before.messages)
        self._untouched = bool(self.spec.answers and before.is_parked)
        self.calls = unanswered_calls(self._output)
        self._tell_so_far()
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
