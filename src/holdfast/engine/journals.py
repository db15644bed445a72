"""Journals: an open run writes down what it says, at most half a second behind.

Rule of this file: nothing waits for a journal, and a turn never fails because of it. It is there for a process that
dies, and for readers elsewhere; the seal does not need it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from holdfast.conversation import journal
from holdfast.conversation.cursors import units, updates_of
from holdfast.conversation.errors import StaleRunError, StoreError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.ports.stores import Handed, OpenRun, RunLog

log = logging.getLogger("holdfast.engine")

# Streamed text is written down so many seconds after it was heard, at the latest.
JOURNAL_SECONDS = 0.5


class Journal:
    """What one run has written down. `heard` is the run's own list of what it has handed on; it only grows."""

    __slots__ = ("_answer", "_handed", "_heard", "_place", "_run", "_store", "_written")

    def __init__(self, store: RunLog, run: OpenRun, heard: Sequence[AgentRunResponseUpdate], written: int) -> None:
        """The first `written` updates are in it already."""
        self._store = store
        self._run = run
        self._heard = heard
        self._written = written
        self._place = self._answer = sum(map(units, heard[:written]))
        self._handed: Handed[None] | None = None

    def keep_up(self) -> None:
        """Write down what was heard since the last time."""
        new = self._heard[self._written :]
        if new:
            self._write(journal.said(self._run.epoch, self._place, new))
            self._written += len(new)
            self._place += sum(map(units, new))

    def answered(self, messages: Sequence[ChatMessage]) -> None:
        """Write down a whole answer with the results of its calls."""
        self._write(journal.done(self._run.epoch, self._answer, messages))
        self._answer += sum(map(units, updates_of(messages)))
        self._place, self._written = self._answer, len(self._heard)

    def asks_again(self) -> None:
        """Write down that what another writer's answer began with is void."""
        self._write(journal.again(self._run.epoch, self._place))

    def _write(self, record: bytes) -> None:
        self._handed = self._store.journal(self._run, (record,))

    async def check(self) -> None:
        """Raise StaleRunError if the last record was refused because the thread has another writer now."""
        handed, self._handed = self._handed, None
        if handed is None:
            return
        try:
            await handed
        except StaleRunError:
            raise
        except StoreError as error:
            log.warning("turn %s: the journal could not be written: %s", self._run.turn_id, error)

    @property
    def waits(self) -> bool:
        """Whether something was written and not checked."""
        return self._handed is not None
