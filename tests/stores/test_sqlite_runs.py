"""SQLiteStore and its runs: the line, what is damaged of what they noted, and what stands or falls with one commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import apsw
import pytest

from holdfast import SQLiteStore
from holdfast.conversation.errors import StoreError
from holdfast.ports.stores import Busy, OpenRun, Point, Progress, Terms
from holdfast.testing.contracts_bench import new_turn, opened

PATIENCE = 20.0


async def begin(store: SQLiteStore, thread_id: str, turn_id: str, terms: Terms | None = None) -> OpenRun:
    return opened(await store.open_run(thread_id, turn_id, b"[]", 1, terms=terms or Terms()))


def change(store: SQLiteStore, sql: str, *values: object) -> None:
    """Change the file as a broken disk would."""
    connection = apsw.Connection(store.location)
    connection.execute(sql, values)
    assert connection.changes() == 1
    connection.close()


# --- the line ----------------------------------------------------------------------------------------------------


async def test_who_finds_a_free_thread_and_others_before_calls_the_next(
    sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite_runs.LOOK_FIRST", 100.0)
    monkeypatch.setattr("holdfast.stores.sqlite_runs.LOOK_LATER", 100.0)
    run = await begin(sqlite, "a", "t0")
    for turn_id in ("gone", "next"):
        await sqlite.open_run("a", turn_id, b"[]", 1, in_line=True)
    waiting = asyncio.create_task(sqlite.wait("a", "next", seconds=PATIENCE))
    await asyncio.sleep(0.05)
    await sqlite.seal(run, [])  # calls the first in line,
    sqlite._shared.line.give_up(("", "a", "gone"))  # who goes without a word
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert await sqlite.open_run("a", "late", b"[]", 1) == Busy(None, alive=True)
    await asyncio.wait_for(waiting, PATIENCE / 2)
    await begin(sqlite, "a", "next")


@pytest.mark.parametrize("column", ["key = 'other'", "input = CAST('[1]' AS BLOB)", "owner = owner + 1"])
async def test_a_damaged_ticket_is_dropped(sqlite: SQLiteStore, column: str) -> None:
    run = await begin(sqlite, "a", "t0")
    await sqlite.open_run("a", "t1", b"[]", 1, in_line=True, terms=Terms(key="k"))
    change(sqlite, f"UPDATE runs SET {column}")
    assert await sqlite.progress("a", "t1") is None
    for key in ("k", "other"):
        assert await sqlite.open_run("a", "t2", b"[]", 1, terms=Terms(key=key)) == Busy(run, alive=True)
    await sqlite.seal(run, [])
    await begin(sqlite, "a", "t3")


# --- damage to what a run noted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sql", "kept"), [("n = 1", 1), ("n = 0", 0), ("n = 2", 2)])
async def test_a_record_that_is_missing_ends_the_journal(sqlite: SQLiteStore, sql: str, kept: int) -> None:
    run = await begin(sqlite, "a", "t1")
    await sqlite.journal(run, [b"0", b"1", b"2"])
    change(sqlite, f"DELETE FROM journal WHERE {sql}")
    sqlite._shared.die()
    taken = await sqlite.take_over(run)
    assert taken is not None
    assert taken.journal == (b"0", b"1", b"2")[:kept]
    await sqlite.journal(taken, [b"next"])
    progress = await sqlite.progress("a", "t1")
    assert progress is not None
    assert progress.records == (*taken.journal, b"next")


@pytest.mark.parametrize("column", ["turn = 't2'", "n = 0", '"check" = "check" + 1'])
async def test_a_record_counts_in_its_own_place_only(sqlite: SQLiteStore, column: str) -> None:
    run, other = await begin(sqlite, "a", "t1"), await begin(sqlite, "b", "t2")
    await sqlite.journal(run, [b"0", b"1"])
    change(sqlite, "DELETE FROM journal WHERE n = 0")
    change(sqlite, f"UPDATE journal SET {column}")
    assert await sqlite.progress("a", "t1") == Progress(run=run, alive=True)
    assert await sqlite.progress("b", "t2") == Progress(run=other, alive=True)


async def test_where_a_thread_stood_is_not_guessed(sqlite: SQLiteStore) -> None:
    for turn_id in ("1", "2"):
        await sqlite.seal(await begin(sqlite, "a", turn_id), [new_turn(turn_id)])
    run = await begin(sqlite, "a", "2b", Terms(point=Point("1")))
    change(sqlite, "UPDATE journal SET record = CAST(replace(record, ':2', ':1') AS BLOB) WHERE n = -2")
    sqlite._shared.die()
    taken = await sqlite.take_over(run)
    assert taken is not None
    assert taken.left is None
    assert await sqlite.seal(taken, []) == run.head


# --- one transaction -----------------------------------------------------------------------------------------------


def said(store: SQLiteStore) -> list[str]:
    """All statements of the writing connection from now on."""
    told: list[str] = []
    store._shared.database._writing().set_exec_trace(lambda _, sql, __: bool(told.append(sql)) or True)
    return told


def kinds(statements: list[str]) -> list[str]:
    return [statement.split()[0] for statement in statements]


async def test_a_usual_turn_is_a_few_statements(sqlite: SQLiteStore) -> None:
    await sqlite.seal(await begin(sqlite, "a", "t0"), [new_turn("t0")])
    told = said(sqlite)
    run = await begin(sqlite, "a", "t1")
    assert kinds(told) == ["PRAGMA", "BEGIN", "SELECT", "SELECT", "SELECT", "UPDATE", "COMMIT"]
    told.clear()
    await sqlite.seal(run, [new_turn("t1")])
    assert kinds(told) == ["PRAGMA", "BEGIN", "UPDATE", "INSERT", "SELECT", "COMMIT"]


async def test_a_run_is_closed_with_its_journal_in_one_transaction(sqlite: SQLiteStore) -> None:
    run = await begin(sqlite, "a", "t1")
    await sqlite.journal(run, [b"0"])
    told = said(sqlite)
    await sqlite.seal(run, [new_turn("t1")])
    assert [kind for kind in kinds(told) if kind in ("BEGIN", "UPDATE", "DELETE", "COMMIT")] == [
        "BEGIN",
        "UPDATE",
        "DELETE",
        "COMMIT",
    ]


async def test_a_commit_that_fails_leaves_run_and_journal(sqlite: SQLiteStore) -> None:
    await sqlite.seal(await begin(sqlite, "a", "1"), [new_turn("1")])
    run = await begin(sqlite, "a", "2")
    await sqlite.journal(run, [b"0", b"1"])
    with _no_commit(sqlite), pytest.raises(StoreError):
        await sqlite.seal(run, [new_turn("2")])
    assert await sqlite.progress("a", "2") == Progress(run=run, records=(b"0", b"1"))
    taken = await sqlite.take_over(run)
    assert taken is not None
    assert taken.journal == (b"0", b"1")
    with _no_commit(sqlite), pytest.raises(StoreError):
        await sqlite.journal(taken, [b"2"])
    await sqlite.seal(taken, [new_turn("2")])
    info = await sqlite.get("a")
    assert info is not None
    assert info.turns == 2


async def test_a_point_is_taken_with_the_thread_or_not_at_all(sqlite: SQLiteStore) -> None:
    for turn_id in ("1", "2"):
        await sqlite.seal(await begin(sqlite, "a", turn_id), [new_turn(turn_id)])
    before = await sqlite.get("a")
    with _no_commit(sqlite), pytest.raises(StoreError):
        await sqlite.open_run("a", "2b", b"[]", 1, terms=Terms(point=Point("1")))
    assert await sqlite.get("a") == before
    run = await begin(sqlite, "a", "2b")
    assert run.left is None
    sqlite._shared.die()
    taken = await sqlite.take_over(run)
    assert taken is not None
    assert taken.left is None, "a note of a run that was never opened"


@contextlib.contextmanager
def _no_commit(store: SQLiteStore) -> Iterator[None]:
    """Every commit fails meanwhile."""
    writer = store._shared.database._writing()
    writer.set_commit_hook(lambda: True)
    try:
        yield
    finally:
        writer.set_commit_hook(None)


async def test_a_journal_is_synced_if_that_is_asked_for(sqlite: SQLiteStore) -> None:
    run = await begin(sqlite, "a", "t1")
    told = said(sqlite)
    await sqlite.journal(run, [b"0"], durable=True)
    await sqlite.journal(run, [b"1"])
    await sqlite.stop("a", "t1")
    modes = [sql for sql in told if sql.startswith(("PRAGMA", "COMMIT"))]
    assert modes == ["PRAGMA synchronous=FULL", "COMMIT", "PRAGMA synchronous=NORMAL", "COMMIT", "COMMIT"]
