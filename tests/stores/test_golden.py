"""Files that earlier versions wrote, opened by this one: everything is read, and every conversation goes on.

The files in tests/golden are never written again: what reads them must change with the library, not they. Beside each
stands what the holdfast that wrote it read from it, as JSON, and the script that made it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from holdfast import AgentThread, DamagedError, NotADatabaseError, SchemaVersionError, SQLiteStore, ThreadInfo, Turn
from holdfast.conversation.records import encode_messages
from holdfast.ports.stores import NewTurn, OpenRun, StoredTurn
from holdfast.stores.sqlite_files import SCHEMA_VERSION
from holdfast.testing.scripted import ScriptedChatClient

GOLDEN = Path(__file__).parents[1] / "golden"
STORES = sorted(GOLDEN.glob("*.json"))


def expected_of(description: Path) -> dict[str, Any]:
    """What is known of a golden store; its files are as they were made."""
    known: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
    for name, digest in known["files"].items():
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == digest, f"{name} was changed"
    return known


def copied(description: Path, folder: Path) -> Path:
    for name in expected_of(description)["files"]:
        shutil.copy(GOLDEN / name, folder / name)
    return folder / f"{description.stem}.db"


@pytest.fixture(params=STORES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a golden store, and what must be read from it."""
    return copied(request.param, tmp_path), expected_of(request.param)["tenants"]


def told(turn: Turn, row: StoredTurn) -> dict[str, Any]:
    usage, error = turn.usage, turn.error
    return {
        "id": turn.id,
        "seq": turn.seq,
        "status": turn.status,
        "input": json.loads(encode_messages(turn.input)),
        "output": json.loads(encode_messages(turn.output)),
        "usage": None if usage is None else [usage.input_tokens, usage.output_tokens],
        "model": turn.model,
        "service": turn.service,
        "finish": turn.finish_reason,
        "error": None if error is None else [error.code, error.message],
        "times": [turn.started_us, turn.ended_us],
        "key": row.key,
        "reference": row.reference,
        "hash": row.hash.hex(),
    }


async def seen(store: SQLiteStore, info: ThreadInfo) -> dict[str, Any]:
    turns = await AgentThread(store, info.id, intent="existing").turns()
    rows: list[StoredTurn] = []
    for segment in await store.lineage(info.head):
        rows += await store.read(segment)
    return {
        "id": info.id,
        "title": info.title,
        "metadata": info.metadata,
        "incarnation": info.incarnation,
        "created_us": info.created_us,
        "updated_us": info.updated_us,
        "busy": info.busy,
        "head": info.head.hash.hex(),
        "turns": [told(turn, row) for turn, row in zip(turns, rows, strict=True)],
    }


def test_there_is_a_golden_store_of_every_version() -> None:
    versions = {json.loads(path.read_text(encoding="utf-8"))["version"] for path in STORES}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


async def test_everything_is_read_as_it_was_written(golden: tuple[Path, dict[str, Any]]) -> None:
    path, tenants = golden
    store = SQLiteStore(path)
    try:
        for tenant, threads in tenants.items():
            view = store.for_tenant(tenant)
            page = await view.list(limit=100)
            assert [await seen(view, info) for info in page.threads] == threads
        found = await store.verify(all_tenants=True)
        assert found.damage == ()
        assert found.threads == sum(map(len, tenants.values()))
    finally:
        store.close()


async def test_every_conversation_goes_on(golden: tuple[Path, dict[str, Any]]) -> None:
    path, tenants = golden
    store = SQLiteStore(path)
    try:
        for tenant, threads in tenants.items():
            for thread in threads:
                await goes_on(store.for_tenant(tenant), thread)
        assert (await store.verify(all_tenants=True)).damage == ()
    finally:
        store.close()


async def goes_on(store: SQLiteStore, before: dict[str, Any]) -> None:
    """A next turn, a fork, a rewind and a turn after that; what was left open is closed first."""
    client = ScriptedChatClient()
    agent = client.create_agent(thread_store=store)
    thread = agent.get_thread(before["id"])
    assert (await agent.run("And now?", thread=thread)).text == "You said: And now?"
    turns = await thread.turns()
    ids = [turn["id"] for turn in before["turns"]]
    if before["busy"]:
        ids.append(before["busy"])
        assert turns[-2].status == "interrupted"
        assert turns[-2].input[0].text
    assert [turn.id for turn in turns[:-1]] == ids
    sent = [turn for turn in turns if turn.status != "failed" or turn.output]
    told = [message["content"] for message in client.requests[0]["messages"] if message["role"] == "user"]
    texts = [text if isinstance(text, str) else text[0]["text"] for text in told]
    assert texts == [turn.input[-1].text for turn in sent]
    fork = await thread.fork(turns[0].id)
    await agent.run("On the fork", thread=fork)
    await thread.rewind()
    await agent.run("Once more", thread=thread)
    assert [turn.id for turn in (await thread.turns())[:-1]] == ids
    assert [turn.id for turn in (await fork.turns())[:-1]] == [turns[0].id]
    await fork.delete()


async def test_everything_can_be_deleted(golden: tuple[Path, dict[str, Any]]) -> None:
    path, tenants = golden
    store = SQLiteStore(path)
    try:
        for tenant, threads in tenants.items():
            for thread in threads:
                await AgentThread(store.for_tenant(tenant), thread["id"], intent="existing").delete()
        found = await store.verify(all_tenants=True)
        assert (found.threads, found.turns, found.damage) == (0, 0, ())
    finally:
        store.close()


async def test_deleted_threads_of_an_earlier_version_stay_deleted(tmp_path: Path) -> None:
    store = SQLiteStore(copied(GOLDEN / "v1-closed.json", tmp_path))
    try:
        for thread_id in ("deleted", "deleted, with a fork"):
            info = await store.get(thread_id, deleted=True)
            assert info is not None
            assert info.deleted
            assert await store.get(thread_id) is None
        again = await store.get("deleted, and begun again")
        assert again is not None
        assert again.incarnation == 2
    finally:
        store.close()


async def test_runs_in_line_of_a_dead_process_hold_nobody_up(tmp_path: Path) -> None:
    store = SQLiteStore(copied(GOLDEN / "v1-killed.json", tmp_path))
    try:
        agent = ScriptedChatClient().create_agent(thread_store=store)
        thread = agent.get_thread("waited for")
        await agent.run("And now?", thread=thread)
        assert [turn.status for turn in await thread.turns()] == ["completed", "interrupted", "completed"]
        connection = store._shared.database._writing()
        assert connection.execute("SELECT count(*) FROM runs").get == 0
    finally:
        store.close()


async def test_runs_that_a_dead_process_left_open_do_not_wait_for_an_answer(tmp_path: Path) -> None:
    store = SQLiteStore(copied(GOLDEN / "v1-killed.json", tmp_path))
    try:
        assert (await store.list(waiting=True)).threads == ()
        infos = (await store.list()).threads
        assert any(info.busy for info in infos)
        assert not any(info.waiting for info in infos)
    finally:
        store.close()


# --- what is newer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", STORES, ids=lambda path: path.stem)
async def test_newer_tables_are_refused_and_not_a_byte_is_changed(description: Path, tmp_path: Path) -> None:
    path = copied(description, tmp_path)
    with_version(path, 60, SCHEMA_VERSION + 1)
    before = files_in(tmp_path)
    store = SQLiteStore(path)
    agent = ScriptedChatClient().create_agent(thread_store=store)
    words = rf"version {SCHEMA_VERSION + 1}.*Update holdfast"
    with pytest.raises(SchemaVersionError, match=words):
        await store.list()
    with pytest.raises(SchemaVersionError, match=words):
        await agent.run("Hello?", thread=agent.get_new_thread())
    with pytest.raises(SchemaVersionError, match=words):
        await store.verify()
    with pytest.raises(SchemaVersionError, match=words):
        await store.backup(tmp_path / "backup.db")
    store.close()
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("description", STORES, ids=lambda path: path.stem)
async def test_another_programs_database_is_not_changed_by_a_byte(description: Path, tmp_path: Path) -> None:
    path = copied(description, tmp_path)
    with_version(path, 68, 7)  # SQLite's application_id
    before = files_in(tmp_path)
    store = SQLiteStore(path)
    with pytest.raises(NotADatabaseError):
        await store.list()
    with pytest.raises(NotADatabaseError):
        await store.verify()
    store.close()
    assert files_in(tmp_path) == before


def with_version(path: Path, offset: int, number: int) -> None:
    """Write a number into the header of a database. (No golden log has a first page of its own.)"""
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = number.to_bytes(4, "big")
    path.write_bytes(data)


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


async def test_a_newer_record_is_refused_and_the_thread_stays_usable_for_who_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    store = SQLiteStore(path)
    agent = ScriptedChatClient().create_agent(thread_store=store)
    try:
        thread = agent.get_new_thread("from the future")
        await agent.run("Of today", thread=thread)
        first = (await thread.turns())[0].id
        run = await store.open_run("from the future", "turn_of_tomorrow", b"[]", 1)
        assert isinstance(run, OpenRun)
        await store.seal(run, [NewTurn("turn_of_tomorrow", "completed", b'{"v":2,"said":"all"}', 1, 2)])
        with pytest.raises(SchemaVersionError, match=r"turn_of_tomorrow.*form 2.*Update holdfast") as caught:
            await thread.turns()
        assert caught.value.turn_id == "turn_of_tomorrow"
        with pytest.raises(SchemaVersionError):
            await agent.run("And now?", thread=thread)
        (damage,) = (await store.verify()).damage
        assert (damage.turn_id, damage.way) == ("turn_of_tomorrow", "Update holdfast.")
        info = await store.get("from the future")
        assert info is not None
        assert info.busy is None
        fork = await thread.fork(first)
        await agent.run("Go on from here", thread=fork)
        assert len(await fork.turns()) == 2
    finally:
        store.close()


async def test_a_record_that_is_none_is_damage_and_no_newer_one(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")
    try:
        run = await store.open_run("a", "t", b"[]", 1)
        assert isinstance(run, OpenRun)
        await store.seal(run, [NewTurn("t", "completed", b'{"v":"1"}', 1, 2)])
        with pytest.raises(DamagedError, match="turn t"):
            await AgentThread(store, "a", intent="existing").turns()
    finally:
        store.close()
