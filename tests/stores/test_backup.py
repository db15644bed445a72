"""store.backup(): one consistent file, made while others write; what is refused; and going on from a backup."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast import (
    ChatAgent,
    DamagedError,
    InvalidInputError,
    SQLiteStore,
    StoreUnavailableError,
)
from holdfast.ports.stores import NewTurn, OpenRun
from holdfast.ports.verification import Copying
from holdfast.testing.scripted import ScriptedChatClient


def agent_on(store: SQLiteStore) -> ChatAgent:
    return ScriptedChatClient().create_agent(thread_store=store)


async def fill(store: SQLiteStore, *, size: int = 10) -> None:
    for name in ("a", "b"):
        agent = agent_on(store)
        for n in range(4):
            await agent.run(f"{name} {n} {'x' * size}", thread=agent.get_thread(name, create=True))
    other = agent_on(store.for_tenant("other"))
    await other.run("theirs", thread=other.get_new_thread("a"))


async def contents(store: SQLiteStore) -> dict[str, list[str]]:
    page = await store.list(limit=1000)
    return {info.id: [turn.id for turn in await agent_on(store).get_thread(info.id).turns()] for info in page.threads}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the copy ------------------------------------------------------------------------------------------------------


async def test_a_backup_is_a_store_with_everything_in_it(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite)
    target = tmp_path / "backup.db"
    made = await sqlite.backup(target)
    assert (made.path, made.threads, made.turns) == (str(target), 3, 9)
    assert made.bytes == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    copy = SQLiteStore(target)
    for tenant in ("", "other"):
        assert await contents(copy.for_tenant(tenant)) == await contents(sqlite.for_tenant(tenant))
    assert (await copy.verify(all_tenants=True)).sound
    agent = agent_on(copy)
    await agent.run("going on", thread=agent.get_thread("a"))
    assert copy._shared.database._writing().pragma("journal_mode") == "wal"
    copy.close()
    assert len((await contents(sqlite))["a"]) == 4


async def test_how_far_it_has_come_is_told(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite, size=800_000)
    told: list[Any] = []
    await sqlite.backup(tmp_path / "backup.db", progress=told.append)
    assert any(isinstance(where, Copying) and 0 < where.pages <= where.of_pages for where in told)


async def test_nothing_but_the_copy_is_left_in_its_folder(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite)
    folder = tmp_path / "backups"
    folder.mkdir()
    await sqlite.backup(folder / "monday.db")
    await sqlite.backup(folder / "tuesday.db")
    assert names_in(folder) == {"monday.db", "tuesday.db"}


async def test_a_backup_takes_the_place_of_another_only_if_that_is_asked_for(
    sqlite: SQLiteStore, tmp_path: Path
) -> None:
    await fill(sqlite)
    target = tmp_path / "backup.db"
    await sqlite.backup(target)
    before = target.read_bytes()
    await agent_on(sqlite).run("more", thread=agent_on(sqlite).get_new_thread("c"))
    with pytest.raises(InvalidInputError, match=r"There is a file .*backup\.db already"):
        await sqlite.backup(target)
    assert target.read_bytes() == before
    made = await sqlite.backup(target, replace=True)
    assert made.turns == 10


# --- what is refused -----------------------------------------------------------------------------------------------


async def test_what_is_no_place_for_a_backup(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "same").symlink_to(sqlite.location)
    for place, words in (
        (sqlite.location, "in use"),
        (tmp_path / "same", "the store itself"),
        (tmp_path / "folder", "no regular file"),
        (tmp_path / "link", "no regular file"),
        ("", "a file"),
        ("a\0b", "a file"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            await sqlite.backup(place, replace=True)
    with pytest.raises(StoreUnavailableError, match=r"No backup was made at .*No such file or directory"):
        await sqlite.backup(tmp_path / "nowhere" / "backup.db")
    assert not (tmp_path / "elsewhere").exists()


async def test_a_store_that_is_in_use_is_never_replaced(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite)
    other = SQLiteStore(tmp_path / "other.db")
    agent = agent_on(other)
    thread = agent.get_new_thread("theirs")
    await agent.run("x", thread=thread)
    with pytest.raises(InvalidInputError, match="in use, or was not closed"):
        await sqlite.backup(other.location, replace=True)
    await agent.run("y", thread=thread)
    assert len(await thread.turns()) == 2
    other.close()


async def test_there_is_nothing_to_back_up(sqlite: SQLiteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="does not exist yet"):
        await sqlite.backup(tmp_path / "backup.db")
    Path(sqlite.location).touch()
    with pytest.raises(StoreUnavailableError, match="is empty"):
        await sqlite.backup(tmp_path / "backup.db")
    assert not (tmp_path / "backup.db").exists()


async def test_a_damaged_store_takes_no_good_backups_place(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite)
    target = tmp_path / "backup.db"
    await sqlite.backup(target)
    before = target.read_bytes()
    connection = apsw.Connection(sqlite.location)
    connection.execute("UPDATE turns SET ended = 0 WHERE seq = 2")
    connection.close()
    with pytest.raises(DamagedError, match=r"No backup was made: .*Turn \S+ \(number 2\)"):
        await sqlite.backup(target, replace=True)
    assert target.read_bytes() == before
    assert not [name for name in names_in(tmp_path) if name.endswith(".new")]


async def test_who_gives_up_leaves_no_half_of_a_copy(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite, size=2_000_000)
    folder = tmp_path / "backups"
    folder.mkdir()
    going = asyncio.Event()
    copying = asyncio.create_task(sqlite.backup(folder / "backup.db", progress=lambda where: going.set()))
    await going.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    ends = time.monotonic() + 20
    while names_in(folder) and time.monotonic() < ends:  # its thread sees at its next step that nobody waits
        await asyncio.sleep(0.01)
    assert names_in(folder) == set()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    script = f"""
import asyncio, resource, signal
from pathlib import Path
from holdfast import SQLiteStore, StoreError
from holdfast.testing.scripted import ScriptedChatClient
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    store = SQLiteStore({str(tmp_path / "threads.db")!r})
    agent = ScriptedChatClient().create_agent(thread_store=store)
    await agent.run("x" * 300_000, thread=agent.get_new_thread())
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        await store.backup({str(tmp_path / "backups" / "backup.db")!r})
    except StoreError as error:
        print(type(error).__name__)
asyncio.run(main())
"""
    (tmp_path / "backups").mkdir()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() in ("StoreFullError", "StoreUnavailableError"), done.stdout + done.stderr
    assert names_in(tmp_path / "backups") == set()


# --- going on from it ------------------------------------------------------------------------------------------------


async def test_a_turn_that_was_being_made_is_closed_at_once_in_the_copy_and_goes_on_in_the_store(
    sqlite: SQLiteStore, tmp_path: Path
) -> None:
    """Also in the very process that makes that turn in the original, and still makes it."""
    await fill(sqlite)
    run = await sqlite.open_run("a", "turn_in_the_middle", b'[{"role":"user"}]', 1)
    assert isinstance(run, OpenRun)
    await sqlite.open_run("a", "turn_in_line", b"[]", 1, in_line=True)
    await sqlite.backup(tmp_path / "backup.db")
    copy = SQLiteStore(tmp_path / "backup.db")
    agent = agent_on(copy)
    began = time.monotonic()
    await agent.run("going on", thread=agent.get_thread("a"))
    assert time.monotonic() - began < 5  # a lease is ten seconds
    turns = await agent.get_thread("a").turns()
    assert [(turn.id, turn.status) for turn in turns[4:5]] == [("turn_in_the_middle", "interrupted")]
    assert turns[5].status == "completed"
    assert (await copy.verify()).sound
    copy.close()
    await sqlite.seal(run, [NewTurn("turn_in_the_middle", "completed", b'{"v":1,"input":[]}', 1, 2)])
    assert [turn.status for turn in await agent_on(sqlite).get_thread("a").turns()] == ["completed"] * 5


_TAKES_A_TURN = """
import asyncio, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient
agent = ScriptedChatClient().create_agent(thread_store=SQLiteStore(sys.argv[1]))
thread = agent.get_thread("a")
asyncio.run(agent.run("going on", thread=thread))
print([turn.status for turn in asyncio.run(thread.turns())][4:])
"""


async def test_the_same_in_another_process_while_the_first_one_lives(sqlite: SQLiteStore, tmp_path: Path) -> None:
    await fill(sqlite)
    assert isinstance(await sqlite.open_run("a", "turn_in_the_middle", b"[]", 1), OpenRun)
    await sqlite.backup(tmp_path / "backup.db")
    command = [sys.executable, "-c", _TAKES_A_TURN, str(tmp_path / "backup.db")]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert "completed" in out.decode()


# --- while others write ----------------------------------------------------------------------------------------------

_WRITES = """
import asyncio, json, os, sys
from holdfast import SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient

path, acks, name = sys.argv[1:]
acknowledged = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

async def talker(agent, thread):
    n = 0
    while not os.path.exists(acks + ".over"):
        answer = await agent.run(f"{name} {n} " + "x" * (n % 7 * 500), thread=agent.get_thread(thread, create=True))
        os.write(acknowledged, (json.dumps([thread, answer.turn_id]) + "\\n").encode())
        n += 1

async def main():
    store = SQLiteStore(path)
    agent = ScriptedChatClient().create_agent(thread_store=store)
    await asyncio.gather(*(talker(agent, thread) for thread in ("shared", "also shared", f"of {name} alone")))
    store.close()

asyncio.run(main())
"""


@pytest.fixture
def writers(sqlite: SQLiteStore, tmp_path: Path) -> Iterator[Path]:
    """Two processes that take turns on the store, and write down what was acknowledged."""
    acks = tmp_path / "acks"
    commands = [[sys.executable, "-c", _WRITES, sqlite.location, str(acks), name] for name in ("one", "two")]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield acks
    finally:
        Path(f"{acks}.over").touch()
        for process in processes:
            assert process.wait(60) == 0


def acknowledged(acks: Path) -> list[tuple[str, str]]:
    lines = acks.read_text().splitlines(keepends=True) if acks.exists() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]


async def test_backups_while_others_write_are_prefixes_with_all_that_was_acknowledged(
    sqlite: SQLiteStore, writers: Path, tmp_path: Path
) -> None:
    async def until_acknowledged(turns: int) -> None:
        ends = time.monotonic() + 60
        while len(acknowledged(writers)) < turns and time.monotonic() < ends:
            await asyncio.sleep(0.01)

    taken: list[tuple[list[tuple[str, str]], Path]] = []
    for n in range(8):
        await until_acknowledged(60 * (n + 1))
        taken.append((acknowledged(writers), tmp_path / f"backup-{n}.db"))
        await sqlite.backup(taken[-1][1])
    copies = [(before, await read_aside(path)) for before, path in taken]
    await until_acknowledged(len(acknowledged(writers)) + 60)
    final = await contents(sqlite)
    for before, copy in copies:
        for thread, turns in copy.items():
            assert turns == final[thread][: len(turns)]
        for thread, turn in before:
            assert turn in copy[thread]
        assert sum(map(len, copy.values())) < sum(map(len, final.values()))
    assert len(copies[-1][0]) >= 480


async def read_aside(path: Path) -> dict[str, list[str]]:
    """What is in a backup, which is sound."""
    store = SQLiteStore(path)
    try:
        assert (await store.verify()).sound
        return await contents(store)
    finally:
        store.close()
