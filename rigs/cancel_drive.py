"""Driving: a coroutine run step by step, cancelled at the k-th time that it waits for something.

Rule of this file: what is driven runs as a task of the real event loop and is cancelled by the task's own `cancel`,
so that timeouts, shields and nested tasks behave as they do for users. Where it was cancelled is told by the frames
of the library that waited, down to async generators.

There are four ways to cancel at a point:

    asked      at once: what is waited for is cancelled with it
    answered   when what is waited for has come, but nobody has seen it yet: it is lost
    again      at once, and at every point afterwards too, while it cleans up (as cancel scopes of anyio do)
    inner      not the coroutine itself but a task that the library has made for it, as the end of a loop does
"""

from __future__ import annotations

import asyncio
import gc
import io
import random
import types
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import aiohttp
from msgspec import Struct

import holdfast
from holdfast.engine.middleware import driven

Way: TypeAlias = Literal["asked", "answered", "again", "inner"]
WAYS: tuple[Way, ...] = get_args(Way)

# A line of the library that waits: the file below `holdfast`, and the line.
Place: TypeAlias = tuple[str, int]

LIBRARY = str(Path(holdfast.__file__).parent) + "/"
_MAKERS = (LIBRARY, str(Path(aiohttp.__file__).parent) + "/")
PATIENCE = 10.0  # seconds; whatever takes longer has hung
_DRIVEN = driven.__code__
_ENOUGH = 3000  # suspensions after which a coroutine that is cancelled again and again is taken to go on for ever


class Outcome(Struct):
    """What became of a coroutine. `reached`: it waited often enough to be cancelled.

    `places` are the lines that waited where it was cancelled (or, if it never was, wherever it waited).
    """

    reached: bool
    way: Way
    ended: Literal["returned", "raised", "cancelled", "hung"]
    value: Any = None
    error: BaseException | None = None
    suspensions: int = 0
    places: frozenset[Place] = frozenset()
    stack: str = ""


# Set in what is driven, and in all tasks that are made from there.
_driven: ContextVar[Strike | None] = ContextVar("driven", default=None)


class Strike:
    """A wish to cancel a coroutine at its k-th suspension; with `k=None` it is only watched."""

    def __init__(self, k: int | None, way: Way = "asked", *, jitter: random.Random | None = None) -> None:
        self.k = k
        self.way = way
        self.jitter = jitter
        self.seen = 0
        self.places: set[Place] = set()

    @property
    def reached(self) -> bool:
        return self.k is not None and self.seen >= self.k

    def suspended(self, work: object, waits_for: Any, *, inner: bool) -> None:
        """The coroutine waits, or a task that was made for it. Called in the middle of that task's step."""
        if inner != (self.way == "inner"):
            return
        task = asyncio.current_task()
        assert task is not None
        self.seen += 1
        if self.k is None:
            self.places.update(places_of(work))
        elif self.seen == self.k:
            self.places.update(places_of(work))
            if self.way == "answered" and asyncio.isfuture(waits_for):
                # Called before the task is woken, for the task adds its own callback after this one.
                waits_for.add_done_callback(lambda _: task.cancel())
                return
            task.cancel()
        elif self.seen > self.k and self.way == "again" and self.seen < _ENOUGH:
            self.places.update(places_of(work))
            task.cancel()

    async def drive(self, work: Awaitable[Any], *, patience: float = PATIENCE) -> Outcome:
        """Run it to its end."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(_watched)
        context = copy_context()
        context.run(_driven.set, self)
        task = asyncio.Task(_Stepped(_as_coroutine(work), self, inner=False), loop=loop, name="driven", context=context)
        await asyncio.wait((task,), timeout=patience)
        found = Outcome(self.reached, self.way, "returned", suspensions=self.seen, places=frozenset(self.places))
        if not task.done():
            found.ended, found.stack = "hung", stack_of(task)
            task.cancel()
            await asyncio.wait((task,), timeout=1)
        elif task.cancelled():
            found.ended = "cancelled"
        elif (error := task.exception()) is not None:
            found.ended, found.error = "raised", error
        else:
            found.value = task.result()
        return found


def _watched(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """A task, as the loop makes them; those that are made for what is driven, by the library or by what it uses to
    speak HTTP, are watched too."""
    context = options.get("context")
    strike = _driven.get() if context is None else context.get(_driven)
    code = getattr(work, "cr_code", None)
    if strike is not None and code is not None and code.co_filename.startswith(_MAKERS):
        work = _Stepped(work, strike, inner=True)
    return asyncio.Task(work, loop=loop, **options)


class _Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells each time that it waits."""

    def __init__(self, work: Coroutine[Any, Any, Any], strike: Strike, *, inner: bool) -> None:
        self.work = work
        self._strike = strike
        self._inner = inner
        self._delay = 0

    def send(self, value: Any) -> Any:
        if self._delay:
            self._delay -= 1
            return None  # as if somebody else had been faster
        return self._waits(self.work.send(value))

    def throw(self, *error: Any) -> Any:
        try:
            return self._waits(self.work.throw(*error))
        finally:
            error = ()  # it holds this frame, and what the frame holds would wait for the garbage collector

    def close(self) -> None:
        self.work.close()

    def __await__(self) -> Any:
        return self

    def _waits(self, what: Any) -> Any:
        jitter = self._strike.jitter
        self._delay = jitter.choice((0, 0, 0, 1, 3)) if jitter is not None else 0
        self._strike.suspended(self.work, what, inner=self._inner)
        return what


async def _as_coroutine(work: Awaitable[Any]) -> Any:
    return await work


def places_of(work: object) -> set[Place]:
    """The lines of the library that wait, from a suspended coroutine down to what waits in the end."""
    found: set[Place] = set()
    waiting: Any = work
    while waiting is not None:
        frame, inner = _frame_and_inner(waiting)
        if frame is not None and frame.f_code.co_filename.startswith(LIBRARY):
            found.add((frame.f_code.co_filename.removeprefix(LIBRARY), frame.f_lineno))
        waiting = inner
    return found


def _frame_and_inner(waiting: Any) -> tuple[types.FrameType | None, Any]:
    """The frame of what waits, if it has one, and what that waits for."""
    if isinstance(waiting, types.CoroutineType):
        return waiting.cr_frame, waiting.cr_await
    if isinstance(waiting, types.AsyncGeneratorType):
        if waiting.ag_code is _DRIVEN:  # it steps a coroutine by hand
            return waiting.ag_frame, waiting.ag_frame.f_locals["work"] if waiting.ag_frame else None
        return waiting.ag_frame, waiting.ag_await
    if isinstance(waiting, types.GeneratorType):
        return waiting.gi_frame, waiting.gi_yieldfrom
    if asyncio.isfuture(waiting):
        return None, None
    # The awaitables that stand for a step of an async generator say nothing of it; only what they refer to does.
    for inner in gc.get_referents(waiting):
        if isinstance(inner, (types.CoroutineType, AsyncGenerator, types.GeneratorType)) or _stands_for_a_step(inner):
            return None, inner
    return None, None


def _stands_for_a_step(thing: object) -> bool:
    return type(thing).__name__ in ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper")


def stack_of(task: asyncio.Task[Any]) -> str:
    """Where a task waits, in words."""
    told = io.StringIO()
    task.print_stack(file=told)
    chain = sorted(places_of(getattr(task.get_coro(), "work", None)))
    return f"{told.getvalue()}in the library: {', '.join(f'{file}:{line}' for file, line in chain)}"
