"""SQLiteStore when the world is against it: bad files, full disks, locks, damage. A clear error, and nothing lost."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import apsw
import pytest

from holdfast import (
    AgentThread,
    ChatAgent,
    ConfigurationError,
    DamagedError,
    NotADatabaseError,
    SchemaVersionError,
    SQLiteStore,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
)
from holdfast.ports.stores import NewTurn, OpenRun
from holdfast.stores import sqlite_db
from holdfast.testing.scripted import ScriptedChatClient


def agent_on(store: SQLiteStore) -> ChatAgent:
    return ScriptedChatClient().create_agent(thread_store=store)


async def opened(store: SQLiteStore, thread_id: str, turn_id: str) -> OpenRun:
    run = await store.open_run(thread_id, turn_id, b"[]", 1)
    assert isinstance(run, OpenRun)
    return run


def turn(turn_id: str, size: int = 10) -> NewTurn:
    return NewTurn(turn_id, "completed", b'{"v":1,"input":[],"more":"%b"}' % (b"x" * size), 1, 2)


# --- files that are none ---------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 200)
    store = SQLiteStore(path)
    with pytest.raises(NotADatabaseError, match=r"letter\.txt"):
        await agent_on(store).run("x", thread=agent_on(store).get_new_thread())
    with pytest.raises(NotADatabaseError):
        await store.list()
    store.close()
    assert path.read_text() == "Dear reader, " * 200


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE letters (text)")
    other.close()
    before = path.read_bytes()
    store = SQLiteStore(path)
    with pytest.raises(NotADatabaseError, match="another program"):
        await store.list()
    store.close()
    assert path.read_bytes() == before


async def test_a_newer_database_is_refused_in_clear_words(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")
    await agent_on(store).run("x", thread=agent_on(store).get_thread("a", create=True))
    store.close()
    connection = apsw.Connection(store.location)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    again = SQLiteStore(store.location)
    with pytest.raises(SchemaVersionError, match=r"version 99.*Update holdfast"):
        await again.get("a")
    again.close()


@pytest.mark.parametrize("path", ["", "a\0b", ":memory:", "sqlite:///x.db", b"bytes", "file:x.db"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError):
        SQLiteStore(path)


@pytest.mark.parametrize("missing", ["nowhere/threads.db", "."])
async def test_a_file_that_cannot_be_made(tmp_path: Path, missing: str) -> None:
    store = SQLiteStore(tmp_path / missing)
    with pytest.raises(StoreUnavailableError, match="Check"):
        await store.list()
    store.close()


def test_a_read_only_database_can_be_read_and_says_so_when_written(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")
    asyncio.run(agent_on(store).run("kept", thread=agent_on(store).get_thread("a", create=True)))  # type: ignore[arg-type]
    store.close()
    script = f"""
import asyncio, os
from holdfast import SQLiteStore, StoreReadOnlyError, StoreUnavailableError
from holdfast.testing.scripted import ScriptedChatClient
if os.geteuid() == 0:
    os.setuid(65534)  # nothing is read-only for root
async def main():
    agent = ScriptedChatClient().create_agent(thread_store=SQLiteStore({store.location!r}))
    thread = agent.get_thread("a")
    print((await thread.turns())[0].input[0].text)
    try:
        await agent.run("x", thread=thread)
    except (StoreReadOnlyError, StoreUnavailableError) as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""
    # The log's index needs a place to stand, so the folder may be written; the database may not.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "popen-")) or folder == tmp_path:
            os.chmod(folder, 0o777)
    os.chmod(store.location, 0o444)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("kept\nStoreReadOnlyError"), done.stdout + done.stderr
    assert "Check the rights" in done.stdout


async def test_the_file_is_its_owners_alone(sqlite: SQLiteStore) -> None:
    await agent_on(sqlite).run("x", thread=agent_on(sqlite).get_thread("a", create=True))
    for ending in ("", "-wal", "-shm", "-owners"):
        assert stat.S_IMODE(os.stat(sqlite.location + ending).st_mode) == 0o600, ending


# --- no room, no lock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_full_disk_is_said_and_survived(sqlite: SQLiteStore, threaded: bool) -> None:
    agent = agent_on(sqlite)
    thread = agent.get_new_thread()
    kept = [(await agent.run("fits", thread=thread)).turn_id]
    database = sqlite._shared.database
    if threaded:
        database._commit_seconds = 1e9
    writer = database._writing()
    writer.pragma("max_page_count", writer.pragma("page_count") + 2)
    with pytest.raises(StoreFullError, match="Free some space"):
        await _until_full(agent, thread, kept)
    # Nothing acknowledged is lost, and reading goes on.
    assert [t.id for t in await thread.turns()] == kept
    writer.pragma("max_page_count", 2**30)
    kept.append((await agent.run("room again", thread=thread)).turn_id)
    turns = await thread.turns()
    assert [t.id for t in turns if t.status == "completed"] == kept


async def _until_full(agent: ChatAgent, thread: AgentThread, kept: list[str]) -> None:
    for _ in range(100):
        kept.append((await agent.run("y" * 3000, thread=thread)).turn_id)


async def test_the_answer_comes_with_the_error_when_only_the_seal_finds_no_room(sqlite: SQLiteStore) -> None:
    client = ScriptedChatClient("short", "z" * 20_000, "again")
    agent = client.create_agent(thread_store=sqlite)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    writer = sqlite._shared.database._writing()
    writer.pragma("max_page_count", writer.pragma("page_count"))
    with pytest.raises(StoreFullError) as caught:
        await agent.run("b", thread=thread)
    assert caught.value.response.text == "z" * 20_000
    writer.pragma("max_page_count", 2**30)
    await agent.run("c", thread=thread)
    assert [t.status for t in await thread.turns()] == ["completed", "interrupted", "completed"]


async def test_somebody_elses_write_lock_is_waited_for(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db", busy_timeout=0.2)
    agent = agent_on(store)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    other = apsw.Connection(store.location)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="Try again"):
        await agent.run("b", thread=thread)
    running = asyncio.create_task(agent.run("c", thread=thread))
    began = time.monotonic()
    await asyncio.sleep(0.05)  # the event loop is free meanwhile
    assert time.monotonic() - began < 0.15
    other.execute("ROLLBACK")
    assert (await running).text == "You said: c"
    other.close()
    store.close()
    assert len([t for t in await _turns(store.location, thread.id)]) == 2


async def _turns(path: str, thread_id: str) -> list[str]:
    store = SQLiteStore(path)
    turns = await agent_on(store).get_thread(thread_id).turns()
    store.close()
    return [t.id for t in turns]


# --- a file that goes away -------------------------------------------------------------------------------------


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_file_that_was_moved_is_missed_and_goes_on_when_it_is_back(
    sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch, threaded: bool
) -> None:
    monkeypatch.setattr(sqlite_db, "LOOK_SECONDS", 0.0)
    agent = agent_on(sqlite)
    thread = agent.get_new_thread("a")
    await agent.run("kept", thread=thread)
    if threaded:
        sqlite._shared.database._commit_seconds = 1e9
    place = Path(sqlite.location)
    place.rename(place.with_name("elsewhere.db"))
    with pytest.raises(StoreUnavailableError, match="deleted, moved or replaced"):
        await agent.run("x", thread=thread)
    with pytest.raises(StoreUnavailableError, match="deleted, moved or replaced"):
        await sqlite.list()
    assert not place.exists()
    place.with_name("elsewhere.db").rename(place)
    await agent.run("kept too", thread=thread)
    assert [turn.input[0].text for turn in await thread.turns()] == ["kept", "kept too"]


async def test_a_file_that_was_replaced_is_not_written_to(
    sqlite: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_db, "LOOK_SECONDS", 0.0)
    agent = agent_on(sqlite)
    thread = agent.get_new_thread("a")
    await agent.run("kept", thread=thread)
    await sqlite.backup(tmp_path / "copy.db")
    before = (tmp_path / "copy.db").read_bytes()
    os.replace(tmp_path / "copy.db", sqlite.location)
    with pytest.raises(StoreUnavailableError, match="deleted, moved or replaced"):
        await agent.run("x", thread=thread)
    sqlite.close()
    assert Path(sqlite.location).read_bytes() == before


# --- damage ----------------------------------------------------------------------------------------------------

DAMAGE: dict[str, str] = {
    "the thread's epoch": "UPDATE threads SET epoch = epoch + 1 WHERE id = 'a'",
    "the thread's head": "UPDATE threads SET seq = seq - 1 WHERE id = 'a'",
    "the thread's hash": "UPDATE threads SET hash = zeroblob(32) WHERE id = 'a'",
    "the thread's title": "UPDATE threads SET title = 'other' WHERE id = 'a'",
    "a branch's parent": "UPDATE branches SET parent = 1, parent_seq = 1 WHERE thread = 'a'",
    "a turn's record": "UPDATE turns SET record = CAST(record || ' ' AS BLOB) WHERE id = 'a1'",
    "a turn's status": "UPDATE turns SET status = 'failed' WHERE id = 'a1'",
    "a turn's time": "UPDATE turns SET ended = ended + 1 WHERE id = 'a1'",
    "a turn's depth": "UPDATE turns SET seq = 7 WHERE id = 'a1'",
    "a turn that is gone": "DELETE FROM turns WHERE id = 'a1'",
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_is_noticed_and_the_rest_goes_on(sqlite: SQLiteStore, what: str) -> None:
    for name in ("a", "b"):
        for n in (1, 2, 3):
            await sqlite.seal(await opened(sqlite, name, f"{name}{n}"), [turn(f"{name}{n}")])
    connection = apsw.Connection(sqlite.location)
    connection.execute(DAMAGE[what])
    assert connection.changes() == 1
    connection.close()
    agent = agent_on(sqlite)
    with pytest.raises(DamagedError):
        await agent.get_thread("a").turns()
    if what != "the thread's title":
        with pytest.raises(DamagedError):
            await agent.run("x", thread=agent.get_thread("a"))
    assert len(await agent.get_thread("b").turns()) == 3
    if "turn" in what:
        assert len((await sqlite.list()).threads) == 2


# --- group commit ----------------------------------------------------------------------------------------------


async def test_what_arrives_together_commits_together(sqlite: SQLiteStore) -> None:
    await sqlite.seal(await opened(sqlite, "first", "first"), [turn("first")])
    database = sqlite._shared.database
    database._commit_seconds = 1e9  # to the writer's thread
    before = database._commits
    runs = await asyncio.gather(*(opened(sqlite, f"t{n}", f"turn{n}") for n in range(200)))
    await asyncio.gather(*(sqlite.seal(run, [turn(run.turn_id)]) for run in runs))
    assert database._commits - before < 40


async def test_one_that_fails_does_not_spoil_the_others(sqlite: SQLiteStore) -> None:
    sqlite._shared.database._commit_seconds = 1e9
    runs = await asyncio.gather(*(opened(sqlite, f"t{n}", f"turn{n}") for n in range(20)))
    ids = [run.turn_id if n != 7 else runs[6].turn_id for n, run in enumerate(runs)]
    sealed = [sqlite.seal(run, [turn(id_)]) for run, id_ in zip(runs, ids, strict=True)]
    results = await asyncio.gather(*(_outcome(handed) for handed in sealed))
    assert [n for n, result in enumerate(results) if result != "done"] == [7]


async def _outcome(handed: object) -> str:
    try:
        await handed  # type: ignore[misc]
    except Exception as error:
        return type(error).__name__
    return "done"


async def test_the_seal_is_synced_and_the_opening_is_not(sqlite: SQLiteStore) -> None:
    agent = agent_on(sqlite)
    thread = agent.get_new_thread()
    await agent.run("a", thread=thread)
    said: list[str] = []
    writer = sqlite._shared.database._writing()
    writer.set_exec_trace(lambda _, sql, __: bool(said.append(sql)) or True)
    await agent.run("b", thread=thread)
    writer.set_exec_trace(None)
    modes = [sql for sql in said if sql.startswith(("PRAGMA synchronous", "COMMIT"))]
    assert modes == ["PRAGMA synchronous=NORMAL", "COMMIT", "PRAGMA synchronous=FULL", "COMMIT"]
    assert writer.pragma("journal_mode") == "wal"
    assert writer.pragma("mmap_size") == 0


async def test_a_turn_writes_the_same_at_any_length(sqlite: SQLiteStore) -> None:
    from holdfast import ChatMessage

    agent = agent_on(sqlite)
    wrote: dict[int, tuple[int, int]] = {}
    for length in (10, 2000):
        thread = agent.get_new_thread()
        messages = [ChatMessage("user" if n % 2 == 0 else "assistant", text="x" * 200) for n in range(length)]
        await thread.add_messages(messages)
        await agent.run("warm", thread=thread)
        said: list[str] = []
        writer = sqlite._shared.database._writing()
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        writer.set_exec_trace(lambda _, sql, __, said=said: bool(said.append(sql)) or True)
        for n in range(10):
            await agent.run(f"measured {n}", thread=agent.get_thread(thread.id))
        writer.set_exec_trace(None)
        wrote[length] = (len(said), os.path.getsize(sqlite.location + "-wal") // 4120)
    assert wrote[10][0] == wrote[2000][0]
    assert abs(wrote[10][1] - wrote[2000][1]) <= 15  # of about sixty: pages that happen to be full


async def test_the_log_does_not_grow_for_ever(sqlite: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_db, "CHECKPOINT_BYTES", 200_000)
    agent = agent_on(sqlite)
    thread = agent.get_new_thread()
    for n in range(400):
        await agent.run(str(n), thread=thread)
    assert os.path.getsize(sqlite.location + "-wal") < 3_000_000


# --- deletion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50, 30_000])
async def test_nothing_of_a_deleted_thread_is_left_in_the_files(sqlite: SQLiteStore, size: int) -> None:
    secret = "the-secret-of-the-deleted-thread"
    agent = agent_on(sqlite)
    keep, drop = agent.get_new_thread(), agent.get_new_thread()
    for n in range(5):
        await agent.run(f"harmless {n}", thread=keep)
        await agent.run(f"{secret} {n} {'x' * size}", thread=drop)
    await sqlite.update(drop.id, title=secret, metadata={"k": secret})
    await drop.delete()
    for ending in ("", "-wal"):
        assert secret.encode() not in Path(sqlite.location + ending).read_bytes(), ending
    assert len(await keep.turns()) == 5


# --- closing ---------------------------------------------------------------------------------------------------


async def test_what_was_handed_over_is_written_before_the_store_closes(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")
    run = await opened(store, "a", "t1")
    store._shared.database._commit_seconds = 1e9
    handed = store.seal(run, [turn("t1")])
    store.close()
    assert (await handed).seq == 1
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.open_run("a", "t2", b"[]", 1)
    store.close()


def test_a_store_that_is_never_closed_writes_everything_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    script = f"""
import asyncio
from holdfast import SQLiteStore
from holdfast.ports.stores import NewTurn
store = SQLiteStore({str(path)!r})
async def main():
    run = await store.open_run("a", "t1", b"[]", 1)
    store._shared.database._commit_seconds = 1e9
    store.seal(run, [NewTurn("t1", "completed", b'{{"v":1,"input":[]}}', 1, 2)])
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert asyncio.run(_turns(str(path), "a")) == ["t1"]
