"""Telling: what of a run was handed on, where its reader is, and what is written down of it meanwhile.

Rule of this file: places in a turn count what was handed on (see `conversation.cursors`), here and in the journal.
"""

from __future__ import annotations

import logging
import operator
import weakref
from collections.abc import Iterator, Sequence

from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.cursors import Cursor, moved, spoken, units, updates_of
from holdfast.conversation.errors import IdempotencyKeyError, StaleRunError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.turns import Turn
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine import limits
from holdfast.engine.journals import JOURNAL_SECONDS, Journal
from holdfast.engine.sealing import Sealable
from holdfast.ports.stores import Earlier, Twin

log = logging.getLogger("holdfast.engine")


class Told(Sealable):
    """A run as those see it who read it, or follow it from elsewhere."""

    __slots__ = (
        "_began",
        "_catching_up",
        "_journal",
        "_length",
        "_measured",
        "_size",
        "found",
        "heard",
        "is_done",
        "told",
    )

    # Where the answer begins; how many of its updates were measured, how far they lead, how much they are.
    _began: int
    _measured: int
    _length: int
    _size: int
    _journal: Journal | None
    # What is handed on of a turn that others make or have made, and from where.
    _catching_up: tuple[Cursor, list[AgentRunResponseUpdate], Iterator[AgentRunResponseUpdate]] | None
    # What was handed on, for the journal and for those who follow: whole answers, and the pieces of this one.
    told: list[AgentRunResponseUpdate]
    heard: list[AgentRunResponseUpdate]
    # The turn, or the run in flight, that has this run's idempotency key.
    found: Earlier | Twin | None
    # Whether it ends without a turn of its own.
    is_done: bool

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

    def _tell(self, messages: Sequence[ChatMessage]) -> list[AgentRunResponseUpdate]:
        """Messages of the turn that are whole, as those read them who follow it."""
        whole = updates_of(messages)
        self.told.extend(whole)
        self.heard = []  # another list: who follows looks at what was told anew
        self._began += sum(map(units, whole))
        self._measured = self._length = self._size = 0
        return whole

    # --- what others say or have said -----------------------------------------------------------------------------

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
            self._timer = self._loop.call_later(JOURNAL_SECONDS, write_down, weakref.ref(self))


def write_down(run: weakref.ref[Told]) -> None:
    alive = run()
    if alive is not None:
        alive.write_down()
