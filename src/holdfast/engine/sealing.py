"""Sealing: how a run that was opened becomes a turn in the log, whoever ends it.

Rules of this file: a run that was opened is closed in every case: when it ends well, when it fails, when it is
cancelled at any await, when others ask it to stop, and when nobody holds it any more. There is one path to the log,
`_hand_over`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Sequence

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.errors import DamagedError, HoldfastError, StaleRunError, StoreError
from holdfast.conversation.records import encode_turn
from holdfast.conversation.turns import RunStatus, TurnStatus, output_told, unanswered_calls
from holdfast.conversation.updates import Answer, sound
from holdfast.engine import endings, history
from holdfast.engine.acting import Acting
from holdfast.engine.effects import Effects
from holdfast.engine.hearing import Heard
from holdfast.engine.leases import release
from holdfast.engine.views import LastTurns, TokenBudget, View
from holdfast.ports.clients import ChatOptions
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun

log = logging.getLogger("holdfast.engine")

# Seconds after which a stream that nobody reads gives way, when another run waits for its thread.
STALLED_SECONDS = 30.0
# Whoever waits looks at least so often at the run before it (see `leases` and the store's beat).
LOOKS_APART = 2.5
# Seconds after which a run that was asked to stop is ended from outside its event loop, which must be blocked.
BLOCKED_SECONDS = 1.0

# Held while it is decided who ends a run: its loop, one who waits, a finalizer.
_deciding = threading.RLock()


class Sealable(Heard):
    """A run as those see it who end it; `TurnRun` adds how it is made."""

    __slots__ = (
        "__weakref__",
        "_acting",
        "_asked_bytes",
        "_asked_to_stop",
        "_deadline",
        "_encoded",
        "_given",
        "_handed_at",
        "_loop",
        "_lost",
        "_opened",
        "_parking",
        "_process",
        "_rollback",
        "_said",
        "_sealing",
        "_stalled",
        "_stored_input",
        "_timer",
        "_untouched",
        "_waking",
        "effects",
        "failure",
        "instructions",
        "options",
        "restarts",
        "view",
    )

    # Set by TurnRun.
    restarts: tuple[tuple[int, int], ...]
    # What the run raised, for a reader who asks later.
    failure: Exception | None
    # What the service is told beside the messages, as middleware may have changed it.
    instructions: str | None
    options: ChatOptions
    view: View | None
    # How many of its messages providers gave, at its beginning.
    _given: int
    # How long the last question was.
    _asked_bytes: int
    effects: Effects
    _acting: Acting | None
    _opened: OpenRun | None
    _sealing: Handed[Head] | None
    _parking: Handed[None] | None
    # Whether it was gone on with by answers to requests, and nothing was done yet.
    _untouched: bool
    _said: bytes
    _stored_input: bytes
    _encoded: history.Encoded | None
    _loop: asyncio.AbstractEventLoop | None
    _waking: asyncio.Timeout | None
    _timer: asyncio.TimerHandle | None
    _deadline: float | None
    _handed_at: float | None
    _asked_to_stop: float | None
    _rollback: bool
    _lost: StaleRunError | None
    _stalled: tuple[object, float, float] | None
    _process: int

    @property
    def is_open(self) -> bool:
        """Whether the turn is being made: opened, and not closed."""
        return self._opened is not None and self._status is None

    @property
    def epoch(self) -> int:
        """Whose words these are; 0 before the run is open."""
        if self._turn is not None:
            return max((epoch for epoch, _ in self._turn.restarts), default=0)
        return self._opened.epoch if self._opened is not None else 0

    @property
    def status(self) -> RunStatus | None:
        """How the turn ended, or that it waits for somebody's word; None while it is being made."""
        return self._status

    async def close(self, error: BaseException | None = None) -> None:
        """Seal the turn as what it has become; nothing if it was never opened, or waits for somebody's word.

        Raises StoreError, which carries the answer, if the turn could not be recorded.
        """
        self.failure = error if isinstance(error, Exception) else None
        try:
            if self._acting is not None and self.is_open:
                await self._acting.end()
        except BaseException:
            # Cancelled once more while tools are waited for: what is left to do here is what awaits nothing.
            self._close_at_once(error)
            release(self.spec.thread, self)
            raise
        # Handed over before anything else is awaited: whatever is cancelled from here on, it is on its way.
        self._close_at_once(error)
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

    def _close_at_once(self, error: BaseException | None) -> None:
        if not self.is_open:
            return
        if error is not None and self._untouched and self._asked_to_stop is None:
            self._wait_on()
        else:
            self._hand_over(endings.status_after(error), error)

    def _wait_on(self) -> None:
        """What was answered was not used yet: it waits for an answer as before."""
        assert self._opened is not None
        with _deciding:
            self._status = "waiting"
        self.requests = tuple(self.effects.waits.values())
        if self._timer is not None:
            self._timer.cancel()
        self._parking = self.spec.thread.store.park(self._opened, ())

    async def _park(self, requests: Sequence[ApprovalRequest], records: Sequence[bytes]) -> None:
        """Leave the run waiting on the disk: from now on whoever answers the requests goes on with it."""
        assert self._opened is not None
        with _deciding:
            if self._status is not None:
                raise self._ended_by_others()
            self._status = "waiting"
        if self._timer is not None:
            self._timer.cancel()
        parking = self.spec.thread.store.park(self._opened, records)
        self.requests = tuple(requests)
        await parking

    async def _end_exchange(self) -> None:
        if self._exchange is None:
            return
        try:
            await self._exchange.end()
        except Exception as error:
            log.warning("turn %s: the client failed to close its connection (%s)", self.turn_id, type(error).__name__)

    async def _sealed(self) -> None:
        """Wait until the turn is on disk; then the cache may know of it."""
        if self._parking is not None:
            await self._parking
        if self._sealing is None:
            self._give_back()
            return
        try:
            head = await self._sealing
        except StaleRunError:
            raise
        except StoreError:
            # Did the commit fail, or only the word that it was done? The turn's id settles it.
            if not await self._is_recorded():
                raise
            return
        log.debug("turn %s: %s", self.turn_id, self._status)
        if self._encoded is None:
            return
        self._encoded.restore()
        if self._status == "failed" and not self._output:
            self._encoded.append(b"")
        else:
            told = history.encode(self.spec.client.codec, output_told(self._output))
            self._encoded.append(self._said + told)
        used = self._answer.usage if self._answer is not None else None
        if used is not None and used.input_tokens and self._asked_bytes:
            self._encoded.ratio = used.input_tokens / self._asked_bytes
        self._keep(head)

    def _keep(self, head: Head) -> None:
        """Let the cache have the conversation, as far as this run's view shows it."""
        store, codec, view = self.spec.thread.store, self.spec.client.codec, self.view
        assert self._encoded is not None
        if view is None:
            history.keep(store, codec, self.instructions, head, self._encoded)
        elif isinstance(view, (LastTurns, TokenBudget)):  # what a function chooses, it chooses anew
            history.keep(store, codec, self.instructions, head, self._encoded, view.key)

    def _give_back(self) -> None:
        """The run waits, and the conversation is still what it was before."""
        if self._encoded is not None and self._opened is not None:
            self._encoded.restore()
            self._keep(self._opened.head)

    async def _is_recorded(self) -> bool:
        with contextlib.suppress(StoreError):
            progress = await self.spec.thread.store.progress(self.spec.thread.id, self.turn_id)
            return progress is not None and progress.turn is not None
        return False

    # --- the one path to the log -------------------------------------------------------------------------------

    def _hand_over(self, status: TurnStatus, error: BaseException | None) -> None:
        """Give the finished turn to the store. Not a coroutine: nothing can come between."""
        assert self._opened is not None
        with _deciding:
            if self._status is not None or self._process != os.getpid():
                return  # somebody else was faster; or this is a forked copy, and the turn the parent's
            self._status = status
        if self._timer is not None:
            self._timer.cancel()
        store = self.spec.thread.store
        try:
            turn = self._finished(status, error)
        except Exception:
            # What cannot be written down must not keep the thread; the caller gets the error.
            self._sealing = store.seal(self._opened, ())
            raise
        stand = self._stands_at(status)
        self._sealing = store.seal(self._opened, (turn,), stand=stand) if stand else store.seal(self._opened, (turn,))

    def _stands_at(self, status: TurnStatus) -> Head | None:
        """Where the thread is to stand, if not at this turn: what was rolled back, or began elsewhere for nothing."""
        assert self._opened is not None
        if self._rollback:
            return self._opened.left or self._opened.head
        return self._opened.left if status != "completed" and not self._output else None

    def _finished(self, status: TurnStatus, error: BaseException | None) -> NewTurn:
        """The turn as the log keeps it."""
        assert self._opened is not None
        self._take_answer()
        if self._before and status != "completed":
            self._recall()
        if status != "completed" and len(self._output) == self._given:
            self._output.clear()  # nothing has happened: what providers gave is no part of it
        calls = unanswered_calls(self._output)
        if calls:
            self._output.extend(self.effects.closing(calls, endings.WHY_NOT_MADE[status]))
        answer = self._answer or Answer()
        record = encode_turn(
            self._stored_input,
            self._output,
            usage=self._usage,
            model=answer.model and sound(answer.model),
            service=self.spec.client.service,
            finish_reason=answer.finish_reason and sound(answer.finish_reason),
            error=endings.turn_error(error) if status == "failed" else None,
            restarts=self.restarts,
        )
        # A failed turn in which nothing happened frees its key: the retry may try again.
        key = None if status == "failed" and not self._output else self._opened.key
        return NewTurn(self.turn_id, status, record, self._opened.started_us, self.spec.runtime.now_us(), key)

    # --- ended by others ---------------------------------------------------------------------------------------

    def give_way(self) -> bool:
        """End as cancelled if the reader has not read anything for long (another run waits)."""
        if self._status is not None or self._handed_at is None or self._exchange is None:
            self._stalled = None
            return False
        now, read = self.spec.runtime.monotonic(), (self._rounds, self._handed_at, len(self._exchange.handed()))
        # Only time in which somebody looked counts: if the machine slept, so did the reader.
        seen, since, looked = self._stalled or (None, now, now)
        if seen != read or now - looked > 5 * LOOKS_APART:
            since = self._handed_at if seen is None and now - self._handed_at < 5 * LOOKS_APART else now
        self._stalled = (read, since, now)
        if now - since < STALLED_SECONDS:
            return False
        self._let_go()
        return True

    def stop(self, turn_id: str, *, rollback: bool) -> None:
        """End as cancelled, in this run's event loop; from outside it if the loop turns out to be blocked."""
        loop, now = self._loop, self.spec.runtime.monotonic()
        if turn_id != self.turn_id or not self.is_open or loop is None:
            return
        self._rollback = self._rollback or rollback
        first, self._asked_to_stop = self._asked_to_stop is None, self._asked_to_stop or now
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody drives the run any more
            if first:
                loop.call_soon_threadsafe(self._stop_here)
                return
            if now - self._asked_to_stop < BLOCKED_SECONDS:
                return
            loop.call_soon_threadsafe(self._stop_here)
        self._let_go()

    async def cancelled(self) -> None:
        """End as cancelled, from a task of the run's own event loop; return when that is recorded."""
        if self.is_open:
            self._asked_to_stop = self.spec.runtime.monotonic()
            self._stop_here()
        with contextlib.suppress(HoldfastError):  # whoever makes the run is told
            if self._sealing is not None:
                await self._sealing

    def _stop_here(self) -> None:
        # While tools run, whoever drives the run ends them first, and seals it then.
        if self.is_open and self._acting is None:
            self._let_go()
        self._wake()

    def _wake(self) -> None:
        """Have whoever drives the run find out that others have ended it."""
        if self._waking is not None and not self._waking.expired():
            with contextlib.suppress(RuntimeError):  # it does not wait at this moment, and finds out when it goes on
                self._waking.reschedule(0)

    def _let_go(self) -> None:
        """Seal as cancelled from outside the loop, and let the next run have the thread and its cache."""
        self._hand_over("cancelled", None)
        if self._acting is not None:
            self._acting.give_up(self._loop)
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
        """The error as the caller gets it: a typed one where others ended the run, or its own time ran out."""
        if not isinstance(error, Exception) or isinstance(error, HoldfastError):
            return error
        stopped = self._asked_to_stop is not None and (self._status == "cancelled" or self._acting is not None)
        if self._lost is not None or stopped:
            return self._ended_by_others()  # whatever the client made of being stopped
        if not isinstance(error, TimeoutError):
            return error
        if self._deadline is None or asyncio.get_running_loop().time() < self._deadline:
            return error  # somebody else's timeout
        opened = self.turn_id if self._opened is not None else None
        return endings.timed_out(opened, self.spec.thread.id, self.spec.timeout)

    def _ended_by_others(self) -> HoldfastError:
        thread_id = self.spec.thread.id
        if self._lost is not None:
            return self._lost
        if self._asked_to_stop is None:
            return endings.gave_way(self.turn_id, thread_id, STALLED_SECONDS)
        return endings.stopped(self.turn_id, thread_id, rollback=self._rollback)

    def _tell_what_there_is(self, error: HoldfastError) -> None:
        error.thread_id = error.thread_id or self.spec.thread.id
        if self._status is not None:
            if not isinstance(error, DamagedError):  # that one names the turn that is damaged
                error.turn_id = self.turn_id
            error.response = self.response()
