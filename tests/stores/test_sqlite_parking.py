"""SQLiteStore and runs that wait: in one commit or not at all, through kills, restarts, backups and damage."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from holdfast import SQLiteStore
from holdfast.conversation.errors import DamagedError, StaleRunError, StoreError
from holdfast.ports.stores import Busy, OpenRun, Progress
from holdfast.stores.sqlite_look import LeftOpen, look
from holdfast.testing.contracts_bench import new_turn, opened
from holdfast.testing.contracts_journal import Told

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
SAID = b'[{"role":"user"}]'


async def begin(store: SQLiteStore, thread_id: str, turn_id: str) -> OpenRun:
    return opened(await store.open_run(thread_id, turn_id, SAID, 1))


async def parked(store: SQLiteStore, thread_id: str, turn_id: str, *records: bytes) -> OpenRun:
    """A run that waits, as others hear of it."""
    await store.park(await begin(store, thread_id, turn_id), records)
    return await heard(store, thread_id, turn_id)


async def heard(store: SQLiteStore, thread_id: str, turn_id: str) -> OpenRun:
    """An open run, as others hear of it."""
    progress = await store.progress(thread_id, turn_id)
    assert progress is not None
    assert progress.run is not None
    return progress.run


def change(store: SQLiteStore, sql: str, *values: object) -> None:
    """Change the file as a broken disk would."""
    connection = apsw.Connection(store.location)
    connection.execute(sql, values)
    assert connection.changes() == 1
    connection.close()


@contextlib.contextmanager
def no_commit(store: SQLiteStore) -> Iterator[None]:
    """Every commit fails meanwhile."""
    writer = store._shared.database._writing()
    writer.set_commit_hook(lambda: True)
    try:
        yield
    finally:
        writer.set_commit_hook(None)


# --- one commit --------------------------------------------------------------------------------------------------


async def test_parking_is_one_commit_and_on_disk_when_it_is_acknowledged(sqlite: SQLiteStore) -> None:
    run = await begin(sqlite, "a", "t1")
    told: list[str] = []
    sqlite._shared.database._writing().set_exec_trace(lambda _, sql, __: bool(told.append(sql)) or True)
    await sqlite.park(run, [b"0", b"1"])
    assert told[:2] == ["PRAGMA synchronous=FULL", "BEGIN IMMEDIATE"]
    wrote = [sql.split()[0] for sql in told if not sql.startswith(("SELECT", "PRAGMA"))]
    assert wrote == ["BEGIN", "INSERT", "INSERT", "UPDATE", "COMMIT"]


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_run_that_could_not_be_parked_is_as_a_dead_process_left_it(sqlite: SQLiteStore, threaded: bool) -> None:
    run = await begin(sqlite, "a", "t1")
    await sqlite.journal(run, [b"0"])
    await sqlite.open_run("a", "t2", SAID, 1, in_line=True)
    if threaded:
        sqlite._shared.database._commit_seconds = 1e9
    waiting = asyncio.ensure_future(sqlite.wait("a", "t2", seconds=PATIENCE))
    await asyncio.sleep(0.05)
    with no_commit(sqlite), pytest.raises(StoreError):
        await sqlite.park(run, [b"1"])
    await asyncio.wait_for(waiting, PATIENCE / 2)
    assert await sqlite.progress("a", "t1") == Progress(run=run, records=(b"0",))
    assert await sqlite.open_run("a", "t2", SAID, 1, in_line=True) == Busy(run, alive=False)
    assert (await sqlite.list(waiting=True)).threads == ()
    taken = await sqlite.take_over(run)
    assert taken is not None
    assert taken.journal == (b"0",)
    with pytest.raises(StaleRunError):
        await sqlite.park(run, [b"late"])
    await sqlite.park(taken, [b"1"])
    assert (await heard(sqlite, "a", "t1")).waiting


async def test_who_parks_a_run_calls_the_next_in_line(sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite_runs.LOOK_FIRST", 100.0)
    monkeypatch.setattr("holdfast.stores.sqlite_runs.LOOK_LATER", 100.0)
    run = await begin(sqlite, "a", "t1")
    await sqlite.open_run("a", "t2", SAID, 1, in_line=True)
    waiting = asyncio.ensure_future(sqlite.wait("a", "t2", seconds=PATIENCE))
    await asyncio.sleep(0.05)
    await sqlite.park(run, [])
    await asyncio.wait_for(waiting, PATIENCE / 2)


async def test_who_has_only_parked_runs_has_nothing_to_do(sqlite: SQLiteStore) -> None:
    for n in range(5):
        await parked(sqlite, f"thread {n}", f"turn {n}", b"0")
    assert sqlite._shared._making == set()
    assert sqlite._shared.database.open_runs == 0


async def test_a_wish_to_stop_that_was_not_followed_stays_with_the_run(sqlite: SQLiteStore) -> None:
    run = await begin(sqlite, "a", "t1")
    assert await sqlite.stop("a", "t1") is True
    await sqlite.park(run, [])
    holder = Told()
    sqlite.cache.holders["", "a"] = holder
    sqlite._shared.ear.obey(("", "a"))
    assert holder.stops == [], "nobody makes it"
    assert await sqlite.take_over(await heard(sqlite, "a", "t1")) is not None
    sqlite._shared.ear.obey(("", "a"))
    assert holder.stops == [("t1", False)]


# --- other processes -----------------------------------------------------------------------------------------------


async def test_of_two_processes_that_answer_at_once_one_goes_on(sqlite: SQLiteStore) -> None:
    run = await parked(sqlite, "a", "t1", b"0")
    other = SQLiteStore(sqlite.location)  # with an owner of its own, as of another process
    try:
        answers = await asyncio.gather(*(asyncio.to_thread(_taken, store, run) for store in (sqlite, other)))
        (taken,) = [answer for answer in answers if answer is not None]
        assert (taken.journal, taken.waiting) == ((b"0",), False)
        for store in (sqlite, other):
            progress = await store.progress("a", "t1")
            assert progress is not None
            assert progress.alive
        await sqlite.seal(taken, [new_turn("t1")])
        info = await other.get("a")
        assert info is not None
        assert (info.turns, info.waiting, info.busy) == (1, False, None)
    finally:
        other.close()


def _taken(store: SQLiteStore, run: OpenRun) -> OpenRun | None:
    async def take() -> OpenRun | None:
        return await store.take_over(run)

    return asyncio.run(take())


# Parks a run in a process of its own for each call that this makes of the disk, and is killed at it: before the call
# where the number is even, after it where it is odd.
KILLED = """
import asyncio, os, signal, sys
from holdfast import SQLiteStore
from rigs.disk_vfs import Disk

class Killer:
    def __init__(self, at):
        self.at, self.seen = at, 0
    def before(self, call):
        self.strike()
        return 0
    def after(self, call):
        self.strike()
    def strike(self):
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1

async def park(path, at, threaded):
    disk = Disk()
    store = SQLiteStore(path)
    run = await store.open_run("a", "t1", b'[{"role":"user"}]', 1)
    await store.journal(run, [b"0"])
    if threaded:
        store._shared.database._commit_seconds = 1e9
    disk.watch(Killer(at), os.path.realpath(path))
    await store.park(run, [b"1", b"x" * 9000])
    os.write(1, b"parked %d\\n" % at)
    os.kill(os.getpid(), signal.SIGKILL)

folder, threaded = sys.argv[1], sys.argv[2] == "True"
at = 0
while True:
    child = os.fork()
    if not child:
        try:
            asyncio.run(park(f"{folder}/{at}.db", at, threaded))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), status
    assert at < 400, "it never comes to its end"
    with open(f"{folder}/log") as log:
        if f"parked {at}\\n" in log.read():
            break
    at += 1
"""


@pytest.mark.parametrize("threaded", [False, True])
async def test_killed_at_any_call_of_the_disk_a_run_is_open_or_waits(tmp_path: Path, threaded: bool) -> None:
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(threaded)]
        await asyncio.to_thread(subprocess.run, command, stdout=log, cwd=ROOT, check=True, timeout=300)
    acknowledged = (tmp_path / "log").read_text().split()[1]
    found = {"open": 0, "waiting": 0}
    for path in tmp_path.glob("*.db"):
        store = SQLiteStore(path)
        try:
            how = await _open_or_waiting(store)
            assert path.stem != acknowledged or how == "waiting"
            found[how] += 1
        finally:
            store.close()
    assert found["open"] > 1
    assert found["waiting"] > 1, "no kill fell between the commit and its acknowledgement"


async def _open_or_waiting(store: SQLiteStore) -> str:
    """Which of the two it is, wholly; and it can be gone on with."""
    progress = await store.progress("a", "t1")
    assert progress is not None
    assert progress.run is not None
    waits = progress.run.waiting
    assert progress.alive is False
    assert progress.records == ((b"0", b"1", b"x" * 9000) if waits else (b"0",))
    assert progress.run.epoch == (2 if waits else 1)
    assert [info.id for info in (await store.list(waiting=True)).threads] == (["a"] if waits else [])
    assert (await store.verify()).damage == ()
    taken = await store.take_over(progress.run)
    assert taken is not None
    await store.seal(taken, [new_turn("t1")])
    return "waiting" if waits else "open"


# --- looks and copies ----------------------------------------------------------------------------------------------


async def test_a_look_does_not_take_a_waiting_run_for_one_that_was_left_open(sqlite: SQLiteStore) -> None:
    await parked(sqlite, "a", "a1")
    await parked(sqlite, "b", "b1")
    await sqlite.delete("b", interrupt=True)
    await begin(sqlite, "c", "c1")
    sqlite._shared.die()
    seen = look(sqlite.location)
    assert (seen.waiting, seen.open_turns, seen.damage) == (1, (LeftOpen("c", "c1", False),), "")


async def test_a_run_waits_in_a_backup_too_and_is_answered_there_on_its_own(
    sqlite: SQLiteStore, tmp_path: Path
) -> None:
    run = await parked(sqlite, "a", "t1", b"0")
    await sqlite.backup(tmp_path / "copy.db")
    copy = SQLiteStore(tmp_path / "copy.db")
    try:
        assert await heard(copy, "a", "t1") == run
        taken = await copy.take_over(run)
        assert taken is not None
        assert taken.journal == (b"0",)
        await copy.seal(taken, [new_turn("t1")])
        assert await heard(sqlite, "a", "t1") == run
    finally:
        copy.close()


async def test_who_clears_away_what_the_dead_left_leaves_waiting_runs_alone(sqlite: SQLiteStore) -> None:
    run = await parked(sqlite, "a", "t1", b"0")
    for n in range(3):
        sqlite._shared.die()
        await sqlite.seal(await begin(sqlite, "b", f"b{n}"), [new_turn(f"b{n}")])
    assert await heard(sqlite, "a", "t1") == run
    assert sqlite._shared.database._writing().execute("SELECT count(*) FROM owners").get == 1


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["owner = 7", "run = 't2'", "epoch = epoch - 1", "key = 'k'", "tombstone = 1"])
async def test_damage_to_a_run_that_waits_is_noticed(sqlite: SQLiteStore, column: str) -> None:
    run = await parked(sqlite, "a", "t1", b"0")
    await parked(sqlite, "b", "b1")
    change(sqlite, f"UPDATE threads SET {column} WHERE id = 'a'")
    calls = [
        sqlite.open_run("a", "t3", SAID, 1),
        sqlite.progress("a", "t1"),
        sqlite.take_over(run),
        sqlite.stop("a", "t1"),
        sqlite.park(run, []),
    ]
    for call in calls:
        with pytest.raises(DamagedError):
            await call
    (damage,) = [damage for damage in (await sqlite.verify()).damage if damage.kind == "thread"]
    assert damage.threads == ("a",)
    page = await sqlite.list(waiting=True)
    assert [info.id for info in page.threads] == ["b"]
    assert page.damaged == (() if column == "tombstone = 1" else ("a",))


async def test_a_run_that_lost_its_owner_to_a_broken_disk_does_not_wait(sqlite: SQLiteStore) -> None:
    await begin(sqlite, "a", "t1")
    change(sqlite, "UPDATE threads SET owner = NULL")
    with pytest.raises(DamagedError):
        await sqlite.open_run("a", "t2", SAID, 1)
    page = await sqlite.list(waiting=True)
    assert (page.threads, page.damaged) == ((), ("a",))


async def test_what_was_written_down_last_may_be_damaged_and_the_run_waits_all_the_same(sqlite: SQLiteStore) -> None:
    run = await parked(sqlite, "a", "t1", b"0", b"1")
    change(sqlite, "UPDATE journal SET record = CAST('2' AS BLOB) WHERE n = 1")
    assert await sqlite.progress("a", "t1") == Progress(run=run, records=(b"0",))
    (damage,) = (await sqlite.verify()).damage
    assert (damage.kind, damage.turn_id) == ("journal", "t1")
    taken = await sqlite.take_over(run)
    assert taken is not None
    assert taken.journal == (b"0",)
