"""store.verify(): a sound store is called sound whatever goes on in it; damage is located, and told with a way on."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from holdfast import (
    AgentThread,
    ChatAgent,
    ChatMessage,
    DamagedError,
    MemoryStore,
    SQLiteStore,
    StoreUnavailableError,
    ThreadStore,
)
from holdfast.conversation.errors import HoldfastError
from holdfast.ports.stores import OpenRun
from holdfast.ports.verification import Damage, Verification, Verifying
from holdfast.testing.scripted import ScriptedChatClient


def agent_on(store: ThreadStore) -> ChatAgent:
    return ScriptedChatClient().create_agent(thread_store=store)


async def talk(agent: ChatAgent, thread_id: str, turns: int) -> AgentThread:
    thread = agent.get_new_thread(thread_id)
    for n in range(turns):
        await agent.run(f"{thread_id} {n}", thread=thread)
    return thread


async def fill(store: ThreadStore) -> dict[str, list[str]]:
    """Threads `a` of five turns, `fork` of it after the third with one more, `b`; the ids of their turns."""
    agent = agent_on(store)
    a = await talk(agent, "a", 5)
    fork = await a.fork((await a.turns())[2].id, "fork")
    await agent.run("on the fork", thread=fork)
    await talk(agent, "b", 3)
    await talk(agent_on(store.for_tenant("other")), "a", 2)
    return {name: [turn.id for turn in await agent.get_thread(name).turns()] for name in ("a", "fork", "b")}


# --- what is sound -----------------------------------------------------------------------------------------------


async def test_a_sound_store_is_sound(store: ThreadStore) -> None:
    assert (await store.verify()).sound
    ids = await fill(store)
    told: list[Verifying] = []
    found = await store.verify(progress=told.append)
    assert found.sound
    assert (found.threads, found.turns) == (3, 9)
    assert found.record_bytes > 500
    assert told
    assert all(where.of_turns >= 9 for where in told)
    everybody = await store.verify(all_tenants=True)
    assert (everybody.threads, everybody.turns) == (4, 11)
    assert len(await agent_on(store).get_thread("a").turns()) == len(ids["a"])


async def test_progress_is_told_where_the_caller_is(store: ThreadStore) -> None:
    await fill(store)
    threads: set[int] = set()
    await store.verify(progress=lambda where: threads.add(threading.get_ident()))
    assert threads == {threading.get_ident()}


async def test_what_was_rewound_deleted_and_left_open_is_sound(store: ThreadStore) -> None:
    await fill(store)
    agent = agent_on(store)
    b = agent.get_thread("b")
    await b.rewind(2)
    await agent.run("another way", thread=b)
    await agent.get_thread("a").delete()
    run = await store.open_run("b", "open", b"[]", 1)
    assert isinstance(run, OpenRun)
    await store.journal(run, [b'{"e":1,"at":0}', b'{"e":1,"at":1}'])
    await store.open_run("b", "waiting", b"[]", 1, in_line=True)
    found = await store.verify(all_tenants=True)
    assert found.damage == ()
    # Of `a` three turns are left that `fork` needs; `b` has its three and the new one.
    assert (found.threads, found.turns) == (3, 3 + 1 + 4 + 2)


async def test_nothing_is_changed_and_nothing_is_left_behind(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")
    await fill(store)
    store.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = SQLiteStore(tmp_path / "threads.db")
    assert (await again.verify(all_tenants=True)).sound
    again.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


async def test_a_store_that_was_never_used_is_sound_and_is_not_made(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "threads.db")
    assert await store.verify() == Verification()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "threads.db").touch()
    (note,) = (await store.verify()).notes
    assert "is empty" in note
    store.close()


async def test_a_closed_store_says_so(store: ThreadStore) -> None:
    store.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        await store.verify()


async def test_others_may_write_fork_and_delete_meanwhile(store: ThreadStore) -> None:
    await fill(store)
    over = False

    async def busy(name: str) -> int:
        agent, done = agent_on(store), 0
        while not over:
            thread = await talk(agent, f"{name} {done}", 3)
            fork = await thread.fork((await thread.turns())[1].id)
            await agent.run("further", thread=fork)
            await thread.delete()
            if done % 2:
                await fork.rewind()
            done += 1
            await asyncio.sleep(0)
        return done

    writers = [asyncio.create_task(busy(f"writer {n}")) for n in range(3)]
    for _ in range(15):
        assert (await store.verify(all_tenants=True)).damage == ()
    over = True
    assert min(await asyncio.gather(*writers)) > 0
    assert (await store.verify()).damage == ()


async def test_who_gives_up_leaves_nothing_running(sqlite: SQLiteStore) -> None:
    thread = agent_on(sqlite).get_new_thread("long")
    await thread.add_messages([ChatMessage("user", text=f"{n}") for n in range(4000)])
    going = asyncio.Event()
    verifying = asyncio.create_task(sqlite.verify(progress=lambda where: going.set()))
    await going.wait()
    verifying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await verifying
    ended = time.monotonic() + 20
    while any("sqlite_verify.py" in frame for frame in _frames()) and time.monotonic() < ended:
        await asyncio.sleep(0.01)
    assert time.monotonic() < ended


def _frames() -> list[str]:
    return [str(traceback.extract_stack(frame)) for frame in sys._current_frames().values()]


# --- what is damaged -----------------------------------------------------------------------------------------------


@pytest.fixture
async def broken(sqlite: SQLiteStore) -> Any:
    """Does something to the tables behind the store's back; what verify says of it."""
    ids = await fill(sqlite)

    async def broken(*statements: str) -> tuple[list[Damage], dict[str, list[str]]]:
        connection = apsw.Connection(sqlite.location)
        for statement in statements:
            connection.execute(statement)
        connection.close()
        return list((await sqlite.verify(all_tenants=True)).damage), ids

    return broken


ON_A = "branch = (SELECT branch FROM turns WHERE tenant = '' AND id = (SELECT min(id) FROM turns WHERE tenant = ''))"

TURN_DAMAGE = {
    "record": f"UPDATE turns SET record = CAST(record || ' ' AS BLOB) WHERE {ON_A} AND seq = 2",
    "status": f"UPDATE turns SET status = 'failed' WHERE {ON_A} AND seq = 2",
    "time": f"UPDATE turns SET started = started + 1 WHERE {ON_A} AND seq = 2",
    "key": f"UPDATE turns SET key = 'k' WHERE {ON_A} AND seq = 2",
    "hash": f"UPDATE turns SET hash = randomblob(32) WHERE {ON_A} AND seq = 2",
}


@pytest.mark.parametrize("what", TURN_DAMAGE)
async def test_a_damaged_turn_is_located_with_all_threads_that_reach_it(
    sqlite: SQLiteStore, broken: Any, what: str
) -> None:
    (damage,), ids = await broken(TURN_DAMAGE[what])
    assert (damage.kind, damage.turn_id, damage.seq, damage.tenant) == ("turn", ids["a"][1], 2, "")
    assert (damage.threads, damage.others) == (("a", "fork"), 0)
    assert damage.fork_at == ids["a"][0]
    assert ids["a"][1] in damage.what
    assert f"thread.fork(at='{damage.fork_at}')" in damage.way
    for name in damage.threads:
        thread = agent_on(sqlite).get_thread(name)
        with pytest.raises(HoldfastError):
            await thread.turns()
        fork = await thread.fork(at=damage.fork_at)
        await agent_on(sqlite).run("going on", thread=fork)
        assert [turn.id for turn in (await fork.turns())[:1]] == ids["a"][:1]
    assert len(await agent_on(sqlite).get_thread("b").turns()) == 3


async def test_a_turn_after_the_fork_is_one_threads_alone(broken: Any) -> None:
    (damage,), ids = await broken(f"UPDATE turns SET ended = 0 WHERE {ON_A} AND seq = 5")
    assert (damage.threads, damage.turn_id, damage.fork_at) == (("a",), ids["a"][4], ids["a"][3])


async def test_a_first_turn_has_no_sound_one_before_it(broken: Any) -> None:
    (damage,), ids = await broken(f"UPDATE turns SET ended = 0 WHERE {ON_A} AND seq = 1")
    assert (damage.turn_id, damage.fork_at) == (ids["a"][0], None)
    assert "Begin a new thread" in damage.way


async def test_a_turn_that_is_missing(broken: Any) -> None:
    (damage,), ids = await broken(f"DELETE FROM turns WHERE {ON_A} AND seq = 2")
    assert (damage.kind, damage.turn_id, damage.seq, damage.fork_at) == ("turn", None, 2, ids["a"][0])
    assert damage.threads == ("a", "fork")


async def test_a_last_turn_that_is_missing_is_missed_by_its_thread(sqlite: SQLiteStore, broken: Any) -> None:
    (damage,), ids = await broken(f"DELETE FROM turns WHERE {ON_A} AND seq = 5")
    assert (damage.kind, damage.threads, damage.fork_at) == ("thread", ("a",), ids["a"][3])
    assert "turn 5 of branch" in damage.what
    fork = await agent_on(sqlite).get_thread("a").fork(at=damage.fork_at)
    assert [turn.id for turn in await fork.turns()] == ids["a"][:4]


async def test_two_turns_are_two_pieces_of_damage_and_the_fork_is_before_both(broken: Any) -> None:
    first, second = f"UPDATE turns SET ended = 0 WHERE {ON_A} AND seq = 2", f"WHERE {ON_A} AND seq = 4"
    (one, two), ids = await broken(first, f"UPDATE turns SET ended = 0 {second}")
    assert [one.seq, two.seq] == [2, 4]
    assert one.fork_at == two.fork_at == ids["a"][0]


async def test_damage_on_a_branch_that_nobody_stands_on(sqlite: SQLiteStore, broken: Any) -> None:
    agent = agent_on(sqlite)
    b = agent.get_thread("b")
    left = (await b.turns())[2].id
    await b.rewind()
    await agent.run("another way", thread=b)
    (damage,), _ = await broken(f"UPDATE turns SET ended = 0 WHERE id = '{left}'")
    assert (damage.turn_id, damage.threads, damage.fork_at) == (left, ("b",), None)
    assert "no thread stands on" in damage.what
    assert "Nothing needs to be done" in damage.way


async def test_a_record_that_cannot_be_read_though_it_is_what_was_written(sqlite: SQLiteStore) -> None:
    from holdfast.ports.stores import NewTurn

    run = await sqlite.open_run("a", "t1", b"[]", 1)
    assert isinstance(run, OpenRun)
    await sqlite.seal(run, [NewTurn("t1", "completed", b"no JSON", 1, 2)])
    (damage,) = (await sqlite.verify()).damage
    assert (damage.kind, damage.turn_id) == ("turn", "t1")
    assert "cannot be read" in damage.what


OTHER_DAMAGE = {
    "a thread's row": ("UPDATE threads SET epoch = epoch + 1 WHERE tenant = '' AND id = 'a'", "thread", ("a",)),
    "a tombstone": ("UPDATE threads SET tombstone = 1 WHERE tenant = '' AND id = 'b'", "thread", ("b",)),
    "a title": ("UPDATE threads SET title = 'x' WHERE tenant = '' AND id = 'b'", "labels", ("b",)),
    "where a branch begins": ("UPDATE branches SET parent_seq = 2 WHERE thread = 'fork'", "branch", ("fork",)),
    "whose a branch is": ("UPDATE branches SET incarnation = 2 WHERE thread = 'fork'", "branch", ("fork",)),
    "a branch that is gone": ("DELETE FROM branches WHERE thread = 'fork'", "branch", ("fork",)),
    "a table too many": ("CREATE TABLE more (x)", "file", ()),
    "an index that is gone": ("DROP INDEX threads_recent", "file", ()),
    "a trigger": ("CREATE TRIGGER t AFTER INSERT ON turns BEGIN DELETE FROM turns; END", "file", ()),
    "a number given": ("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'branches'", "file", ()),
    "a version that never was": ("PRAGMA user_version = 0", "file", ()),
}


@pytest.mark.parametrize("what", OTHER_DAMAGE)
async def test_damage_that_is_in_no_turn(broken: Any, what: str) -> None:
    statement, kind, threads = OTHER_DAMAGE[what]
    found, _ = await broken(statement)
    assert [(damage.kind, damage.threads) for damage in found] == [(kind, threads)]
    assert found[0].way


async def test_two_first_turns_that_have_changed_places_are_each_sound_and_stand_wrong(sqlite: SQLiteStore) -> None:
    """Each fits what is before it, which is nothing; only the threads' heads know which is whose."""
    agent = agent_on(sqlite)
    for name in ("a", "b"):
        await talk(agent, name, 1)
    connection = apsw.Connection(sqlite.location)
    connection.execute("UPDATE turns SET branch = -branch")
    connection.execute("UPDATE turns SET branch = 3 + branch")
    connection.close()
    found = (await sqlite.verify()).damage
    assert [(damage.kind, damage.threads) for damage in found] == [("thread", ("a",)), ("thread", ("b",))]
    again = SQLiteStore(sqlite.location)
    for name in ("a", "b"):
        with pytest.raises(DamagedError, match="not the one at which the thread stands"):
            await agent_on(again).get_thread(name).turns()
        with pytest.raises(DamagedError):
            await agent_on(again).run("x", thread=agent_on(again).get_thread(name))
    again.close()


async def test_a_thread_whose_row_is_gone(broken: Any) -> None:
    (damage,), _ = await broken("DELETE FROM threads WHERE tenant = '' AND id = 'b'")
    assert (damage.kind, damage.threads) == ("thread", ("b",))
    assert "missing" in damage.what


async def test_what_runs_leave_is_looked_at_too(sqlite: SQLiteStore) -> None:
    run = await sqlite.open_run("a", "open", b"[]", 1)
    assert isinstance(run, OpenRun)
    await sqlite.journal(run, [b"{}", b"{}"])
    await sqlite.open_run("a", "waiting", b"[]", 1, in_line=True)
    connection = apsw.Connection(sqlite.location)
    connection.execute("UPDATE journal SET record = CAST('[]' AS BLOB) WHERE n = 1")
    connection.execute("UPDATE runs SET owner = 7")
    connection.close()
    ticket, journal = (await sqlite.verify()).damage
    assert (ticket.kind, ticket.threads) == ("ticket", ("a",))
    assert (journal.kind, journal.turn_id) == ("journal", "open")


async def test_an_index_that_has_lost_a_row_is_told_by_sqlite(sqlite: SQLiteStore) -> None:
    await fill(sqlite)
    connection = apsw.Connection(sqlite.location)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.execute("PRAGMA writable_schema = ON")
    kept = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'branches_thread'").get
    connection.execute("UPDATE sqlite_schema SET sql = sql || ' WHERE id > 1' WHERE name = 'branches_thread'")
    connection.close()
    connection = apsw.Connection(sqlite.location)
    connection.execute("REINDEX branches_thread")
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = 'branches_thread'", (kept,))
    connection.close()
    found = (await sqlite.verify()).damage
    assert {damage.kind for damage in found} == {"file"}
    assert any("missing from index branches_thread" in damage.what for damage in found)
    assert "REINDEX" in found[0].way


async def test_one_tenant_is_told_of_its_own_damage_alone(sqlite: SQLiteStore, broken: Any) -> None:
    await broken("UPDATE turns SET ended = 0 WHERE tenant = 'other'", "UPDATE threads SET title = 'x' WHERE id = 'b'")
    assert [damage.tenant for damage in (await sqlite.verify()).damage] == [""]
    assert {damage.tenant for damage in (await sqlite.for_tenant("other").verify()).damage} == {"other"}
    assert len((await sqlite.verify(all_tenants=True)).damage) == 3


async def test_more_damage_than_anybody_reads(sqlite: SQLiteStore) -> None:
    thread = agent_on(sqlite).get_new_thread("long")
    await thread.add_messages([ChatMessage("user", text=f"{n}") for n in range(1100)])
    connection = apsw.Connection(sqlite.location)
    connection.execute("UPDATE turns SET ended = 0")
    connection.close()
    found = await sqlite.verify()
    assert (len(found.damage), found.unlisted) == (1000, 100)


# --- the log -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """The files that a process leaves that is killed while turns are in the log alone."""
    store = SQLiteStore(tmp_path / "threads.db")
    await fill(store)
    left = tmp_path / "left"
    left.mkdir()
    for ending in ("", "-wal"):
        (left / f"threads.db{ending}").write_bytes(Path(f"{store.location}{ending}").read_bytes())
    store.close()
    return left / "threads.db"


async def test_a_log_that_a_crash_left_is_read_and_stays_as_it_is(crashed: Path) -> None:
    before = {ending: Path(f"{crashed}{ending}").read_bytes() for ending in ("", "-wal")}
    store = SQLiteStore(crashed)
    found = await store.verify(all_tenants=True)
    store.close()
    assert (found.sound, found.notes, found.turns) == (True, (), 11)
    assert {ending: Path(f"{crashed}{ending}").read_bytes() for ending in before} == before


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.7, 0.999])
async def test_a_log_that_was_changed_is_noted_since_sqlite_leaves_out_the_rest(crashed: Path, part: float) -> None:
    log = bytearray(Path(f"{crashed}-wal").read_bytes())
    log[int(len(log) * part)] ^= 1
    Path(f"{crashed}-wal").write_bytes(log)
    store = SQLiteStore(crashed)
    found = await store.verify(all_tenants=True)
    store.close()
    assert found.damage == ()
    assert found.turns < 11
    (note,) = found.notes if found.turns else found.notes[:1]
    assert "holds more than can be taken in" in note


async def test_a_log_in_use_is_not_taken_for_a_changed_one(sqlite: SQLiteStore) -> None:
    await fill(sqlite)
    assert os.path.getsize(f"{sqlite.location}-wal") > 0
    assert (await sqlite.verify()).notes == ()


# --- memory --------------------------------------------------------------------------------------------------------


async def test_damage_in_memory() -> None:
    store = MemoryStore()
    ids = await fill(store)
    rows = store._shared.logs[""].turns.rows
    place = next(place for place, turn in rows.items() if turn.turn_id == ids["a"][1])
    rows[place] = replace(rows[place], record=b"{}")
    (damage,) = (await store.verify()).damage
    assert (damage.kind, damage.turn_id, damage.threads, damage.fork_at) == (
        *("turn", ids["a"][1], ("a", "fork")),
        ids["a"][0],
    )
    del rows[place]
    (damage,) = (await store.verify()).damage
    assert (damage.turn_id, damage.seq) == (None, 2)


# --- a thread that cannot be found -----------------------------------------------------------------------------------


async def test_a_thread_that_an_index_has_lost_is_not_begun_anew(sqlite: SQLiteStore) -> None:
    """The entry of `b` in the index is changed, as a disk may do it; everything else is sound."""
    await fill(sqlite)
    sqlite.close()
    path = Path(sqlite.location)
    data = bytearray(path.read_bytes())
    page = _page_of(path, "sqlite_autoindex_threads_1")
    entry = data.index(b"\x01b", page)  # the row's serial types, the tenant (empty), the id
    while data[entry - 3 : entry] != b"\x04\x0d\x0f":
        entry = data.index(b"\x01b", entry + 1)
    data[entry + 1] ^= 1
    path.write_bytes(data)
    store = SQLiteStore(path)
    agent = agent_on(store)
    for thread in (agent.get_thread("b"), agent.get_thread("b", create=True)):
        with pytest.raises(HoldfastError, match="index by which thread 'b'"):
            await agent.run("Hello again", thread=thread)
    assert not (await store.verify()).sound
    await agent.run("somebody else", thread=agent.get_new_thread("z"))
    store.close()


def _page_of(path: Path, name: str) -> int:
    connection = apsw.Connection(str(path))
    try:
        return int(connection.execute("SELECT pgoffset FROM dbstat WHERE name = ?", (name,)).get)
    finally:
        connection.close()


async def test_one_damaged_thread_hides_no_other_from_a_listing(sqlite: SQLiteStore, broken: Any) -> None:
    await broken("UPDATE threads SET epoch = 0 WHERE tenant = '' AND id = 'fork'")
    page = await sqlite.list()
    assert ({info.id for info in page.threads}, page.damaged) == ({"a", "b"}, ("fork",))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await sqlite.list(limit=1, cursor=cursor)
        seen += [*(info.id for info in page.threads), *page.damaged]
        cursor = page.next
        if cursor is None:
            break
    assert sorted(seen) == ["a", "b", "fork"]
