"""SQLiteStore and the processes that share it: what they can ask of each other's runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from holdfast import SQLiteStore
from holdfast.ports.stores import Busy, OpenRun, Terms
from holdfast.stores import sqlite_bell
from holdfast.testing.contracts_bench import new_turn, opened
from holdfast.testing.contracts_journal import Told

PATIENCE = 20.0


async def soon(seen: Callable[[], object]) -> None:
    for _ in range(int(PATIENCE / 0.01)):
        if seen():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


async def begin(store: SQLiteStore, thread_id: str, turn_id: str, terms: Terms | None = None) -> OpenRun:
    return opened(await store.open_run(thread_id, turn_id, b"[]", 1, terms=terms or Terms()))


def held(store: SQLiteStore, thread_id: str, holder: Told | None = None) -> Told:
    holder = holder or Told()
    store.cache.holders[store.tenant, thread_id] = holder
    return holder


def change(store: SQLiteStore, sql: str, *values: object) -> None:
    """Change the file as a broken disk would."""
    connection = apsw.Connection(store.location)
    connection.execute(sql, values)
    assert connection.changes() == 1
    connection.close()


# --- stopping across processes -----------------------------------------------------------------------------------

OTHER = """
import asyncio, sys
from holdfast import SQLiteStore
class Holder:
    def give_way(self):
        return False
    def stop(self, turn_id, *, rollback):
        print(turn_id, rollback, flush=True)
async def main():
    store, holder = SQLiteStore(sys.argv[1]), Holder()
    store.cache.holders["", "a"] = holder
    await store.open_run("a", "t1", b"[]", 1)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@contextlib.contextmanager
def other_process(store: SQLiteStore) -> Iterator[subprocess.Popen[str]]:
    """A process that makes turn t1 on thread a, and prints what it is told."""
    command = [sys.executable, "-c", OTHER, store.location]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        yield process
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_a_run_of_another_process_is_told_to_stop(sqlite: SQLiteStore) -> None:
    with other_process(sqlite) as process:
        for rollback in (False, True):
            assert await sqlite.stop("a", "t1", rollback=rollback) is True
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == f"t1 {rollback}\n"
        assert await sqlite.stop("a", "another") is False


async def test_a_process_that_hears_nothing_looks_for_itself(sqlite: SQLiteStore) -> None:
    with other_process(sqlite) as process:
        change(sqlite, "UPDATE owners SET address = NULL")
        assert await sqlite.stop("a", "t1") is True
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "t1 False\n"


async def test_a_run_of_a_dead_process_is_stopped_by_nobody(sqlite: SQLiteStore) -> None:
    with other_process(sqlite):
        assert await sqlite.stop("a", "t1") is True
    assert await sqlite.stop("a", "t1") is False
    busy = await sqlite.open_run("a", "t2", b"[]", 1)
    assert isinstance(busy, Busy)
    assert busy.run is not None
    taken = await sqlite.take_over(busy.run)
    assert taken is not None
    assert taken.journal == ()


async def test_what_is_told_by_a_stranger_stops_nobody(sqlite: SQLiteStore) -> None:
    await begin(sqlite, "a", "t1")
    holder = held(sqlite, "a")
    address = sqlite._shared.ear.address
    assert address is not None
    waiting = asyncio.create_task(sqlite._shared.line.calls.wait(("", "a", "t2"), lambda: 100.0, seconds=PATIENCE))
    await asyncio.sleep(0)
    for said in (("stop", "", "a", "t1"), ("stop", "", "nowhere", "t1"), ("burn", "", "a", "t1"), ("stop",), ()):
        sqlite_bell.call(address, *said)
    sqlite_bell.ring(address, b"\xff\x00")
    sqlite_bell.call(address, "free", "", "a", "t2")
    await asyncio.wait_for(waiting, PATIENCE / 2)  # what was said before this has been followed
    assert holder.stops == []


async def test_a_run_is_told_while_no_lock_is_held(sqlite: SQLiteStore) -> None:
    await begin(sqlite, "a", "t1")
    free: list[bool] = []

    class Looking(Told):
        def stop(self, turn_id: str, *, rollback: bool) -> None:
            locks = (sqlite._shared.database._lock, sqlite._shared.database._read_lock)
            thread = threading.Thread(target=lambda: free.extend(_can_be_had(lock) for lock in locks))
            thread.start()
            thread.join()

    holder = held(sqlite, "a", Looking())
    await sqlite.stop("a", "t1")
    assert free == [True, True]
    sqlite._shared.database._commit_seconds = 1e9  # to the writer's thread
    await sqlite.stop("a", "t1")
    assert free == [True, True, True, True]
    sqlite._shared.beat()
    assert free == [True] * 6
    del holder


def _can_be_had(lock: threading.Lock) -> bool:
    got = lock.acquire(timeout=1)
    if got:
        lock.release()
    return got


async def test_a_wish_is_forgotten_with_its_run(sqlite: SQLiteStore) -> None:
    holder = held(sqlite, "a")
    for turns in ([], [new_turn("other")]):
        run = await begin(sqlite, "a", "t1")
        await sqlite.stop("a", "t1")
        await sqlite.seal(run, turns)
        holder.stops.clear()
        again = await begin(sqlite, "a", "t1")
        sqlite._shared.beat()
        assert holder.stops == []
        await sqlite.seal(again, [])


async def test_who_goes_on_with_a_run_is_told_what_was_wished(sqlite: SQLiteStore) -> None:
    run = await begin(sqlite, "a", "t1")
    await sqlite.stop("a", "t1", rollback=True)
    sqlite._shared.die()
    assert await sqlite.take_over(run) is not None
    holder = held(sqlite, "a")
    sqlite._shared.beat()
    assert holder.stops == [("t1", True)]


async def test_a_wish_that_is_damaged_stops_nobody(sqlite: SQLiteStore) -> None:
    await begin(sqlite, "a", "t1")
    await sqlite.stop("a", "t1")
    change(sqlite, "UPDATE journal SET record = CAST('rollback' AS BLOB) WHERE n = -1")
    holder = held(sqlite, "a")
    sqlite._shared.beat()
    assert holder.stops == []


async def test_a_process_that_was_struck_off_the_list_lists_itself_again(sqlite: SQLiteStore) -> None:
    await begin(sqlite, "a", "t1")
    change(sqlite, "DELETE FROM owners")
    sqlite._shared.beat()
    connection = apsw.Connection(sqlite.location)
    assert connection.execute("SELECT id, address FROM owners").fetchall() == [
        (sqlite._shared.owner, sqlite._shared.ear.address)
    ]
    connection.close()


# --- processes ---------------------------------------------------------------------------------------------------


def test_a_forked_child_leaves_its_parents_ear_alone(sqlite: SQLiteStore) -> None:
    async def parent() -> None:
        await begin(sqlite, "a", "t1")
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                asyncio.run(_in_the_child(sqlite))
                code = 0
            os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        holder = held(sqlite, "a")
        assert await asyncio.to_thread(_stop_from_elsewhere, sqlite.location)
        await soon(lambda: holder.stops)

    asyncio.run(parent())


async def _in_the_child(store: SQLiteStore) -> None:
    address = store._shared.ear.address
    await begin(store, "b", "t2")
    assert store._shared.ear.address not in (None, address)
    store.close()


def _stop_from_elsewhere(path: str) -> bool:
    async def stop() -> bool:
        store = SQLiteStore(path)
        try:
            return await store.stop("a", "t1")
        finally:
            store.close()

    return asyncio.run(stop())


def test_a_store_that_was_dropped_gives_its_ear_back(tmp_path: Path) -> None:
    async def use() -> str | None:
        store = SQLiteStore(tmp_path / "threads.db")
        await begin(store, "a", "t1")
        assert any(thread.name == "holdfast-bell" for thread in threading.enumerate())
        return store._shared.ear.address

    before = {thread for thread in threading.enumerate() if thread.name == "holdfast-bell"}
    assert asyncio.run(use()) is not None
    for _ in range(1000):
        if {thread for thread in threading.enumerate() if thread.name == "holdfast-bell"} <= before:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the thread of a store that is gone listens for ever")
