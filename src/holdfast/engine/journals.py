"""Journals: an open run writes down what it says, at most half a second behind.

Rule of this file: nothing waits for a journal, and a turn never fails because of it, with one exception: no tool is
begun before that is written down. It is there for a process that dies, and for readers elsewhere; the seal does not
need it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from holdfast.conversation import journal
from holdfast.conversation.approvals import ApprovalRequest
from holdfast.conversation.cursors import spoken, units, updates_of
from holdfast.conversation.errors import StaleRunError, StoreError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.updates import AgentRunResponseUpdate, Usage
from holdfast.ports.stores import Handed, OpenRun, RunLog

log = logging.getLogger("holdfast.engine")

# Streamed text is written down so many seconds after it was heard, at the latest.
JOURNAL_SECONDS = 0.5


class Journal:
    """What one run has written down. `place` is where its answer begins."""

    __slots__ = ("_answer", "_handed", "_held", "_place", "_run", "_store", "_written")

    def __init__(self, store: RunLog, run: OpenRun, place: int) -> None:
        self._store = store
        self._run = run
        self._written = 0  # updates of this answer that are written down
        self._place = self._answer = place
        self._handed: Handed[None] | None = None
        self._held: list[bytes] = []  # to be written before anything else

    def keep_up(self, heard: Sequence[AgentRunResponseUpdate]) -> None:
        """Write down what is new, given all that was heard of the answer. Raises StaleRunError (see `_check`)."""
        self._check()
        new = heard[self._written :]
        if new:
            self._write(journal.said(self._run.epoch, self._place, new))
            self._written += len(new)
            self._place += sum(map(units, spoken(new)))

    def answered(self, messages: Sequence[ChatMessage], used: Usage | None, asked: int) -> None:
        """Take in a whole answer. It is written with what comes next: calls that are begun, or their results."""
        self._held.append(journal.done(self._run.epoch, self._answer, messages, used, asked))
        self._moved(messages)

    async def begins(self, calls: Sequence[str], decided: Mapping[str, journal.Decision]) -> None:
        """Write down, on the disk, that calls are begun. Raises StoreError: then none of them may be."""
        record = journal.started(self._run.epoch, self._place, calls, decided)
        await self._store.journal(self._run, self._with_held(record), durable=True)

    async def written(self) -> None:
        """Wait until what was written down last is there: no service is to know of a result that is not.

        Raises StaleRunError if it was refused because the thread has another writer.
        """
        if self._handed is not None:
            try:
                await self._handed
            except StaleRunError:
                raise
            except StoreError as error:
                self._handed = None
                log.warning("turn %s: the journal could not be written: %s", self._run.turn_id, error)

    def results(self, messages: Sequence[ChatMessage]) -> None:
        """Write down the next results in the order of the calls."""
        self._write(journal.done(self._run.epoch, self._answer, messages))
        self._moved(messages)

    def result_apart(self, message: ChatMessage) -> None:
        """Write down a result that comes before its turn."""
        self._write(journal.result(self._run.epoch, self._place, message))

    def waits(self, requests: Sequence[ApprovalRequest], known: Iterable[ChatMessage]) -> tuple[bytes, ...]:
        """The records of a run that is about to wait, for the store to write as it does so.

        `known` are results that stand behind a call that waits, a rejection among them.
        """
        self._held += [journal.result(self._run.epoch, self._place, message) for message in known]
        return self._with_held(journal.waits(self._run.epoch, self._place, requests))

    def _moved(self, messages: Sequence[ChatMessage]) -> None:
        self._answer += sum(map(units, updates_of(messages)))
        self._place, self._written = self._answer, 0

    def _with_held(self, record: bytes) -> tuple[bytes, ...]:
        held, self._held = self._held, []
        return (*held, record)

    def asks_again(self) -> None:
        """Write down that what another writer's answer began with is void."""
        self._write(journal.again(self._run.epoch, self._place))

    def _write(self, record: bytes) -> None:
        self._handed = self._store.journal(self._run, self._with_held(record))

    def _check(self) -> None:
        """See what became of the last record, if that is known by now.

        Raises StaleRunError if it was refused because the thread has another writer.
        """
        handed, self._handed = self._handed, None
        if handed is None:
            return
        looking = handed.__await__()
        try:
            next(looking)
        except StopIteration:
            return
        except StaleRunError:
            raise
        except StoreError as error:
            log.warning("turn %s: the journal could not be written: %s", self._run.turn_id, error)
        else:
            looking.close()  # not written yet; nobody waits for it
