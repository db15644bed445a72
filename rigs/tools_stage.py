"""The stage of the rig of tools: the tools, which write down each step of theirs, and a store that does the same.

Rule of this file: the library is not changed. `Noting` is put in front of a store's class: it says where a talker is
(`rigs.tools_marks`) and writes down what the store has acknowledged, then does what the store does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from msgspec import Struct

from holdfast import ToolContext, ToolError, ToolResultContent, tool
from holdfast.conversation.journal import recorded
from holdfast.ports.stores import Handed, OpenRun
from rigs.tools_evidence import Begun, Closed, Did, Entered, Left, Noted, Opened, Step, Taken
from rigs.tools_marks import ToolSlot
from rigs.tools_talk import BY_NAME, TOO_LONG, Kind, broke, naps_of, told_of

T = TypeVar("T")

# Of the talker whose task runs, or of whose task a tool's thread is.
current: ContextVar[ToolSlot | None] = ContextVar("current", default=None)


def passes(place: str) -> None:
    """The talker at work, if there is one, is there."""
    slot = current.get()
    if slot is not None:
        slot.passes(place)


# --- tools ---------------------------------------------------------------------------------------------------------


class Till:
    """The tools, with a ledger. Planted faults are subclasses.

    `write` takes a line of the ledger; `naps` says how long a call takes before its effect, and after it.
    """

    times = 1  # how often a call has its effect

    def __init__(
        self,
        worker: int,
        write: Callable[[Struct], None],
        naps: Callable[[str], tuple[float, float]] = naps_of,
        too_long: float = TOO_LONG,
    ) -> None:
        self._worker = worker
        self._write = write
        self._naps = naps
        self._too_long = too_long
        self._inside = 0

    def tools(self) -> list[Any]:
        """All tools there are."""
        return [self._made(kind) for kind in BY_NAME.values()]

    def _made(self, kind: Kind) -> Any:
        async def act(what: str, ctx: ToolContext[Any]) -> str:
            with self._noted(what, ctx) as (before, does, after):
                await asyncio.sleep(before)
                does()
                await asyncio.sleep(after if kind.ends != "late" else 60)
            return told_of(what)

        def act_in_thread(what: str, ctx: ToolContext[Any]) -> str:
            with self._noted(what, ctx) as (before, does, after):
                time.sleep(before)
                does()
                time.sleep(after)
            if kind.ends == "broke":
                raise ToolError(broke(what))
            return told_of(what)

        options: dict[str, Any] = {"timeout": self._too_long} if kind.ends == "late" else {}
        made = tool(name=kind.name, idempotent=kind.idempotent, approval=kind.approval, **options)
        return made(act) if kind.is_async else made(act_in_thread)

    @contextlib.contextmanager
    def _noted(self, what: str, ctx: ToolContext[Any]) -> Iterator[tuple[float, Callable[[], None], float]]:
        """Write down that a call is entered, and that it is left; what is given does the deed."""
        passes("begun")

        def step(kind: type[Step]) -> None:
            name = (ctx.turn_id, ctx.call_id, ctx.tool, what, ctx.idempotency_key)
            self._write(kind(self._worker, time.monotonic(), *name))

        def does() -> None:
            passes("several" if self._inside > 1 else "inside")
            for _ in range(self.times):
                step(Did)
            passes("done")

        step(Entered)
        self._inside += 1
        passes("inside")
        try:
            before, after = self._naps(what)
            yield before, does, after
            step(Left)
            passes("left")
        finally:
            self._inside -= 1


# --- the store -----------------------------------------------------------------------------------------------------


class _After(Generic[T]):
    """What was handed over; something is done with what comes of it before anybody else hears of that."""

    def __init__(self, handed: Handed[T], note: Callable[[T], None]) -> None:
        self._handed = handed
        self._note: Callable[[T], None] | None = note
        handed.then(self._once)

    def _once(self, value: T) -> None:
        note, self._note = self._note, None
        if note is not None:
            note(value)

    def __await__(self) -> Generator[Any, None, T]:
        value = yield from self._handed.__await__()
        self._once(value)
        return value

    def then(self, call: Callable[[T], object]) -> None:
        def after(value: T) -> None:
            self._once(value)
            call(value)

        self._handed.then(after)


class Noting:
    """A store's class with this in front of it writes down what the store acknowledges, once it is told how."""

    write: Callable[[Struct], None] = staticmethod(lambda line: None)
    worker = 0

    def open_run(self, *args: Any, **options: Any) -> Any:
        slot = current.get()
        by = slot.by if slot is not None and slot.mode == "says" else ""

        def opened(found: Any) -> None:
            if isinstance(found, OpenRun) and slot is not None and by:
                self.write(Opened(self.worker, time.monotonic(), found.thread_id, found.turn_id, by))
                slot.turn_id = found.turn_id

        return _After(super().open_run(*args, **options), opened)  # type: ignore[misc]

    def take_over(self, holder: OpenRun) -> Any:
        slot = current.get()
        closes = slot is None or slot.mode == "says"

        def taken(found: OpenRun | None) -> None:
            if found is not None:
                by = slot.by if slot is not None else ""
                self.write(Taken(self.worker, time.monotonic(), found.thread_id, found.turn_id, by, closes))
                if slot is not None and not closes:
                    slot.turn_id = found.turn_id
                    slot.passes("taken")

        if closes and slot is not None:
            slot.passes("closing")
        return _After(super().take_over(holder), taken)  # type: ignore[misc]

    def journal(self, run: OpenRun, records: Sequence[bytes], *, durable: bool = False) -> Any:
        before, after = ("begin", "begun") if durable else ("record", "recorded")
        found = recorded(records)
        results = tuple(_results([*found.messages, *found.results.values()]))
        slot = current.get()

        def noted(_: None) -> None:
            self.noted(run, records)
            if slot is not None and (durable or results):
                slot.passes(after)

        if durable or results:
            passes(before)
        return _After(super().journal(run, records, durable=durable), noted)  # type: ignore[misc]

    def noted(self, run: OpenRun, records: Sequence[bytes]) -> None:
        """Write down that these records of a journal are acknowledged."""
        found = recorded(records)
        results = tuple(_results([*found.messages, *found.results.values()]))
        if found.started:
            self.write(Begun(self.worker, time.monotonic(), run.turn_id, tuple(sorted(found.started))))
        if results:
            self.write(Noted(self.worker, time.monotonic(), run.turn_id, results))

    def park(self, run: OpenRun, records: Sequence[bytes]) -> Any:
        passes("park")
        return self._ended(run, super().park(run, records), "parked")  # type: ignore[misc]

    def seal(self, run: OpenRun, turns: Sequence[Any], **options: Any) -> Any:
        passes("seal")
        return self._ended(run, super().seal(run, turns, **options), "sealed")  # type: ignore[misc]

    def _ended(self, run: OpenRun, handed: Handed[Any], place: str) -> Any:
        slot = current.get()
        closes = slot is None or run.turn_id != slot.turn_id

        def ended(_: Any) -> None:
            self.write(Closed(self.worker, time.monotonic(), run.thread_id, run.turn_id, place == "parked", closes))
            if slot is not None:
                slot.passes(place)

        return _After(handed, ended)


def _results(messages: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for message in messages:
        for part in message.contents:
            if isinstance(part, ToolResultContent):
                yield part.call_id, part.result
