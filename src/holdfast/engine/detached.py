"""Detached: runs that go on when whoever asked for them goes away (on_disconnect="continue").

Rule of this file: such a run is made by a task of its own, which lives until the turn is sealed or the event loop
ends; the reader only follows it. What the model says counts as said, read or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, Literal, TypeAlias, TypeVar

from holdfast.conversation.cursors import Cursor
from holdfast.conversation.updates import AgentRunResponseUpdate
from holdfast.engine.loop import fold, take_turn
from holdfast.engine.responses import AgentRunResponse
from holdfast.engine.runs import TurnRun

T = TypeVar("T")

# What becomes of a run when whoever reads or awaits it goes away.
OnDisconnect: TypeAlias = Literal["cancel", "continue"]

log = logging.getLogger("holdfast.engine")

# The event loop holds its tasks loosely; these are held here.
_tasks: set[asyncio.Task[Any]] = set()


async def fold_apart(run: TurnRun) -> AgentRunResponse:
    """The response of a run that goes on should this task be cancelled."""
    return await asyncio.shield(_begin(run, fold(run)))


async def read_apart(run: TurnRun) -> AsyncGenerator[Iterator[tuple[AgentRunResponseUpdate, Cursor]], None]:
    """The updates of a run that goes on should this generator be closed, each with the cursor after it."""
    told: list[tuple[AgentRunResponseUpdate, Cursor]] = []
    news = asyncio.Event()

    async def make() -> None:
        async for updates in take_turn(run):
            for update in updates:
                told.append((update, run.cursor))
            news.set()

    task = _begin(run, make())
    task.add_done_callback(lambda _: news.set())
    read = 0
    while not task.done() or read < len(told):
        await news.wait()
        news.clear()
        new = told[read:]
        read += len(new)
        if new:
            yield iter(new)
        if task.done():
            news.set()
    task.result()


def _begin(run: TurnRun, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(work, name=f"holdfast {run.turn_id}")
    run.maker = task
    _tasks.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.info("a run that went on by itself failed: %s", task.exception())
