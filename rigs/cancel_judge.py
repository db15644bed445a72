"""The judge of cancellations: what a thread and its process look like after a coroutine was cancelled.

It finishes the stage, has the next run made on the thread, and then asks: is each turn absent, whole, or cancelled with
what was read? Does the thread stand where it may? Is anything left that somebody would wait for, or that would never be
given back? It knows what was said on the stage, and nothing of how the library works; only where to look for what a
process keeps (open runs, tickets, connections, tasks, descriptors).

Rule of this file: whatever is wrong is told, and nothing is mended.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from holdfast import ChatMessage, HoldfastError, SQLiteStore, ToolResultContent, Turn
from holdfast.conversation.turns import counts
from holdfast.engine import detached
from rigs.cancel_drive import Outcome
from rigs.cancel_model import AFTER
from rigs.cancel_stage import Stage, calls_of, until
from rigs.oracle import Violation

_GRACE = 1.0  # seconds in which what was let go must be gone


class Noise:
    """What nobody was told of: warnings, errors that nobody retrieved, errors in the log. A context manager."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._log = _Listener(self.heard)
        self._warnings = warnings.catch_warnings()
        self._hook = sys.unraisablehook

    def __enter__(self) -> Noise:
        self._warnings.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, kind, *_: self.heard.append(f"{kind.__name__}: {message}")
        sys.unraisablehook = lambda found: self.heard.append(f"unraisable {found.exc_value!r} in {found.object!r}")
        for name in ("holdfast", "asyncio", "aiohttp"):
            logging.getLogger(name).addHandler(self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._warnings.__exit__(None, None, None)
        sys.unraisablehook = self._hook
        for name in ("holdfast", "asyncio", "aiohttp"):
            logging.getLogger(name).removeHandler(self._log)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear what the loop has to say, too."""
        loop.set_exception_handler(lambda _, told: self.heard.append(f"{told['message']}: {told.get('exception')!r}"))

    def take(self) -> list[str]:
        """What was heard since the last time."""
        gc.collect()
        heard, self.heard[:] = list(self.heard), []
        return heard


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(f"log of {record.name}: {record.getMessage()}")


class Judge:
    """Judges the stages of one world. `descriptors` is how many this process had open before."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._found: list[Violation] = []
        self._descriptors = 0
        self.slowest_next = 0.0

    async def judge(self, stage: Stage, outcome: Outcome) -> list[Violation]:
        """All that is wrong after a coroutine was driven on this stage."""
        self._found = []
        self._ended(outcome)
        for wrong in await stage.finish():
            self._wrong("somebody else", wrong)
        await self._quiet()
        await self._left_over(stage)
        turns = await self._next_run(stage)
        stage.left_open = False
        await self._quiet()
        if turns is not None:
            self._history(stage, turns)
            every = await self._every_turn(stage, turns)
            self._turns(stage, every, outcome)
        await self._left_over(stage)
        self._connections(stage)
        return self._found

    async def resources(self, *, first: bool = False) -> list[Violation]:
        """What the process has not given back. `first`: it is only counted."""
        self._found = []
        if first:
            self._descriptors = descriptors()
            self._noise.take()
            return []
        try:
            await until(lambda: descriptors() <= self._descriptors, "descriptors were given back", 2.0)
        except AssertionError:
            opened = " ".join(sorted(_opened()))
            self._wrong("leaked descriptor", f"{descriptors()} are open, {self._descriptors} were: {opened}")
            self._descriptors = descriptors()
        for heard in self._noise.take():
            self._wrong("never retrieved", heard)
        return self._found

    def _wrong(self, kind: str, what: str) -> None:
        self._found.append(Violation(kind, what))

    # --- the coroutine itself ----------------------------------------------------------------------------------

    def _ended(self, outcome: Outcome) -> None:
        if outcome.ended == "hung":
            self._wrong("hung", outcome.stack)
        elif outcome.reached and outcome.ended != "cancelled" and outcome.way != "inner":
            what = f"it {outcome.ended} {outcome.error if outcome.error is not None else outcome.value!r}"
            self._wrong("cancellation swallowed", what)
        if outcome.error is not None and not isinstance(outcome.error, HoldfastError):
            self._wrong("untyped error", f"{type(outcome.error).__name__}: {outcome.error}")

    # --- what is left ------------------------------------------------------------------------------------------

    async def _quiet(self) -> None:
        """Nobody is at work any more."""

        def others() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {asyncio.current_task()}

        await until(lambda: not others() and not detached._tasks, None, 5 * _GRACE)
        for task in others():
            self._wrong("leaked task", f"{task.get_name()}: {task.get_coro()}")
            task.cancel()

    async def _left_over(self, stage: Stage) -> None:
        """What a cancelled caller has handed over may still be in the queue of another thread, for a moment."""
        found: list[tuple[str, str]] = []

        def nothing() -> bool:
            found[:] = self._what_is_left(stage)
            return not found

        await until(nothing, None, _GRACE)
        for kind, what in found:
            self._wrong(kind, what)

    @staticmethod
    def _what_is_left(stage: Stage) -> Iterator[tuple[str, str]]:
        holders = list(stage.store.cache.holders)
        if holders:
            yield "leaked lease", f"{holders} are still held in this process"
        if not stage.left_open:
            yield from left_over(stage.store)

    def _connections(self, stage: Stage) -> None:
        if stage.model.open:
            self._wrong("leaked connection", f"{stage.model.open} answers were begun and not closed")
        for refusal in stage.model.refused:
            self._wrong("refused request", refusal)
        stage.model.open, stage.model.refused = 0, []

    # --- the thread --------------------------------------------------------------------------------------------

    async def _next_run(self, stage: Stage) -> list[Turn] | None:
        """The next run on the thread, and the turns that are there then."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            response = await stage.after()
            turns = await stage.other_handle().turns()
        except Exception as error:
            self._wrong("wedged thread", f"the next run: {type(error).__name__}: {error}")
            return None
        self.slowest_next = max(self.slowest_next, loop.time() - began)
        if not turns or turns[-1].id != response.turn_id or turns[-1].status != "completed":
            self._wrong("bad head", f"the thread does not stand at its last turn, {response.turn_id}")
        return turns

    def _history(self, stage: Stage, turns: Sequence[Turn]) -> None:
        """The thread stands where it may, and the model was told all of that."""
        history = tuple(said(turn) for turn in turns[:-1])
        if history not in stage.histories:
            self._wrong("bad history", f"{history} is none of {stage.histories}")
        told = [pair for turn in turns[:-1] if counts(turn) for pair in _as_told(turn)]
        expected = [*told, ("user", AFTER)]
        if stage.model.asked[-1] != expected:
            self._wrong("request does not fit", f"{stage.model.asked[-1]} was sent for {expected}")

    async def _every_turn(self, stage: Stage, turns: Sequence[Turn]) -> list[Turn]:
        """The turns on all branches, each once."""
        found = {turn.id: turn for turn in turns}
        thread = stage.other_handle()
        for branch in await thread.branches():
            if branch.turn_id not in found:
                await thread.switch(branch.turn_id)
                found.update({turn.id: turn for turn in await thread.turns()})
        return list(found.values())

    def _turns(self, stage: Stage, turns: Sequence[Turn], outcome: Outcome) -> None:
        for turn in turns:
            for kind, what in self._flaws(stage, turn):
                self._wrong(kind, f"turn {said(turn)!r} ({turn.status}): {what}")
        for text, count in Counter(said(turn) for turn in turns).items():
            if count > stage.times.get(text, 1):
                self._wrong("doubled turn", f"{text!r} stands there {count} times")
        if not any(said(turn) != AFTER for turn in turns) and stage.may_be_gone:
            return
        by_id = {turn.id: turn for turn in turns}
        for text, response in stage.acked.items():
            turn = by_id.get(response.turn_id)  # type: ignore[assignment]
            if turn is None or turn.status != "completed" or output(turn) != response.text:
                self._wrong("acknowledged turn lost", f"{text!r}: there is {turn}")
        whole = {said(turn) for turn in turns if turn.status == "completed"}
        for text in stage.must:
            if text not in whole and outcome.way != "inner" and not stage.troubled:
                self._wrong("turn lost", f"{text!r} was to go on by itself")

    def _flaws(self, stage: Stage, turn: Turn) -> Iterator[tuple[str, str]]:
        """What is wrong with a turn by itself."""
        text, answer = said(turn), output(turn)
        whole = stage.model.whole(text)
        if turn.status == "completed" and answer != whole:
            yield "half turn", f"it holds {answer!r}, not {whole!r}"
        if turn.status != "completed" and not stage.model.begins(text, answer):
            yield "half turn", f"it holds {answer!r}, which nobody has read"
        if turn.status == "cancelled" and text in stage.read and answer != "".join(stage.read[text]):
            yield "not what was read", f"it holds {answer!r}; {''.join(stage.read[text])!r} was read"
        if turn.status == "interrupted" and not stage.somebody_died:
            yield "bad status", "no process has died"
        if turn.status == "failed" and turn.error is None:
            yield "bad status", "it does not say why"
        calls = [part.call_id for message in turn.output for part in message.tool_calls]
        results = [part.call_id for message in turn.output for part in _results(message)]
        if calls != results or len(set(calls)) != len(calls):
            yield "unpaired", f"calls {calls}, results {results}"


def said(turn: Turn) -> str:
    """What was said in a turn by its user."""
    return "".join(message.text for message in turn.input)


def output(turn: Turn) -> str:
    """What was answered."""
    return "".join(message.text for message in turn.output if message.role == "assistant")


def _results(message: ChatMessage) -> list[ToolResultContent]:
    return [part for part in message.contents if isinstance(part, ToolResultContent)]


def _as_told(turn: Turn) -> list[tuple[str, str]]:
    """A turn as a service is told of it."""
    return [
        (message.role, message.text or "".join(part.result for part in _results(message)))
        for message in turn.messages
        if message.contents
    ]


def left_over(store: Any) -> Iterator[tuple[str, str]]:
    """What a store holds of runs, though none is being made: in its tables, and in this process."""
    if calls_of(store)._waiting:
        yield "leaked waiter", str(list(calls_of(store)._waiting))
    shared = store._shared
    if not isinstance(store, SQLiteStore):
        for log in shared.logs.values():
            for thread in log.threads.rows.values():
                if thread.run is not None:
                    yield "open run", f"{thread.run.turn_id} on {thread.id}"
                if thread.line:
                    yield "ticket left", f"{thread.line} before {thread.id}"
            if log.journals.rows:
                yield "journal left", f"of {list(log.journals.rows)}"
        return
    for kind, query in (
        ("open run", "SELECT run, id FROM threads WHERE run IS NOT NULL"),
        ("ticket left", "SELECT turn, thread FROM runs"),
        ("journal left", "SELECT DISTINCT turn, tenant FROM journal"),
    ):
        for row in shared.database.read(lambda connection, query=query: connection.execute(query).fetchall()):
            yield kind, " on ".join(map(str, row))
    if shared._making:
        yield "leaked lease", f"this process says that it makes {shared._making}"


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))


def _opened() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    yield f"{threading.active_count()} threads"
