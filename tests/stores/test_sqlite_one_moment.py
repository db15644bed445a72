"""What is read is of one moment, however many statements it takes, and whatever another process writes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from holdfast import SQLiteStore
from holdfast.ports.stores import OpenRun
from holdfast.testing.contracts_bench import new_turn

Read = Callable[[SQLiteStore, str], Awaitable[Any]]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "threads.db")
    yield store
    store.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SQLiteStore]:
    """The same file, as another process has it open."""
    store = SQLiteStore(tmp_path / "threads.db")
    yield store
    store.close()


async def talk(store: SQLiteStore, thread_id: str, turn_id: str) -> None:
    run = await store.open_run(thread_id, turn_id, b'["said"]', 1)
    assert isinstance(run, OpenRun)
    await store.seal(run, [new_turn(turn_id)])


async def with_a_write_before_statement(
    k: int, read: Callable[[], Awaitable[Any]], reader: SQLiteStore, write: Callable[[], None]
) -> bool:
    """Whether the reading had so many statements."""
    asked = 0

    def before(*_: object) -> bool:
        nonlocal asked
        asked += 1
        if asked == k:
            write()
        return True

    connection = reader._shared.database._reading()
    connection.exec_trace = before  # type: ignore[assignment]  # apsw also wants the bindings' exact types
    try:
        seen = await read()
        assert not getattr(seen, "damaged", ())
    finally:
        connection.exec_trace = None
    return asked >= k


READINGS: dict[str, Read] = {
    "get": lambda store, new: store.get(new),
    "list": lambda store, new: store.list(),
    "branches": lambda store, new: store.branches("old"),
    "progress": lambda store, new: store.progress("old", "turn-of-old"),
}


@pytest.mark.parametrize("name", READINGS)
async def test_a_thread_that_comes_to_be_between_two_statements_is_no_damage(
    name: str, reader: SQLiteStore, writer: SQLiteStore
) -> None:
    await talk(writer, "old", "turn-of-old")
    assert await reader.get("old") is not None
    k, went_on = 0, True
    while went_on:
        k += 1

        async def writes(new: str = f"new-{k}", k: int = k) -> None:
            await talk(writer, new, f"turn-{k}")
            await talk(writer, "old", f"old-{k}")

        went_on = await with_a_write_before_statement(
            k, partial(READINGS[name], reader, f"new-{k}"), reader, partial(elsewhere, writes)
        )
        assert (await reader.list()).damaged == ()
    assert k > 2  # the transaction's own, and one at least


def elsewhere(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do it in a thread with a loop of its own, and wait for it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work()).result(timeout=30)
