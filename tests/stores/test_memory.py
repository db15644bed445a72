"""MemoryStore keeps the contract of all stores, and what only a store in memory can promise."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from msgspec.structs import replace

from holdfast.conversation.errors import StaleRunError
from holdfast.ports.runtime import SystemRuntime
from holdfast.ports.stores import Busy, Earlier, Head, NewTurn, OpenRun, Point, Terms, ThreadStore
from holdfast.stores.memory import MemoryStore
from holdfast.stores.memory_log import Log
from holdfast.testing.contracts import StoreContract
from holdfast.testing.contracts_bench import new_turn, opened
from holdfast.testing.state_machine import store_machine


class TestMemoryStore(StoreContract):
    def make_store(self) -> ThreadStore:
        return MemoryStore()

    def damage(self, store: ThreadStore, turn_id: str) -> None:
        log = store._shared.logs[store.tenant]  # type: ignore[attr-defined]
        place = log.places.rows[turn_id]
        turn = log.turns.rows[place]
        log.turns.rows[place] = replace(turn, record=turn.record[:-1] + bytes([turn.record[-1] ^ 1]))


def left_over(store: ThreadStore) -> list[object]:
    """What the tables still hold besides tombstones."""
    logs: list[Log] = list(store._shared.logs.values())  # type: ignore[attr-defined]
    return [table.rows for log in logs for table in log.tables if table.rows and table is not log.threads]


TestAnyOrder = store_machine(MemoryStore, left_over).TestCase
TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    made = MemoryStore()
    yield made
    made.close()


async def say(store: ThreadStore, thread_id: str, *turn_ids: str) -> Head:
    head = Head()
    for turn_id in turn_ids:
        head = await store.seal(opened(await store.open_run(thread_id, turn_id, b"[]", 1)), [new_turn(turn_id)])
    return head


async def history(store: ThreadStore, thread_id: str) -> list[str]:
    info = await store.get(thread_id)
    assert info is not None
    return [turn.turn_id for segment in await store.lineage(info.head) for turn in await store.read(segment)]


async def snapshot(store: ThreadStore) -> dict[str, Any]:
    """Everything that can be seen, but for the numbers of branches."""
    found = {}
    for info in (await store.list()).threads:
        run = await store.progress(info.id, info.busy) if info.busy is not None else None
        found[info.id] = (
            await history(store, info.id),
            (info.title, info.metadata, info.incarnation),
            None if run is None or run.run is None else (run.run.turn_id, run.run.key, run.records),
            tuple(await store.branches(info.id)),
            await store.progress(info.id, "waiting"),
        )
    return found


# --- the clock -------------------------------------------------------------------------------------------------


class StoppedClock(SystemRuntime):
    def now_us(self) -> int:
        return 777


async def test_the_time_is_the_runtimes() -> None:
    store = MemoryStore(runtime=StoppedClock())
    await say(store, "a", "t1")
    forked = await store.fork("a", "b")
    assert (forked.created_us, forked.updated_us) == (777, 777)
    updated = await store.update("a", title="title")
    assert (updated.created_us, updated.updated_us) == (1, 777)


# --- what is left ----------------------------------------------------------------------------------------------


async def test_nothing_but_tombstones_is_left_of_deleted_threads(store: MemoryStore) -> None:
    await say(store, "a", "1", "2", "3")
    await store.fork("a", "b", at="2")
    await say(store, "b", "3b")
    await store.move_head("b", back=3)
    await say(store, "b", "1c")
    for thread_id in ("a", "b"):
        await store.delete(thread_id)
    log = store._shared.logs[""]
    assert left_over(store) == []
    assert all(thread.deleted for thread in log.threads.rows.values())


async def test_branches_of_different_tenants_have_different_numbers(store: MemoryStore) -> None:
    heads = [await say(store.for_tenant(tenant), "a", "t1") for tenant in ("", "x", "y")]
    assert len({head.branch for head in heads}) == 3


async def test_a_head_below_the_beginning_of_its_branch_is_a_turn_of_the_parent(store: MemoryStore) -> None:
    root = await say(store, "a", "1", "2", "3")
    await store.fork("a", "b")
    head = await say(store, "b", "4b")
    (segment,) = await store.lineage(replace(head, seq=2))
    assert (segment.branch, segment.after, segment.upto) == (root.branch, 0, 2)


async def test_a_store_that_is_closed_holds_nothing(store: MemoryStore) -> None:
    await say(store, "a", "t1")
    store.cache.give("key", "slot", 100)
    store.close()
    assert store._shared.logs == {}
    assert store.cache.take("key") is None


async def test_slots_are_bounded_by_the_size_that_was_asked_for() -> None:
    store = MemoryStore(max_cache_bytes=100)
    store.cache.give("large", "slot", 101)
    assert store.cache.take("large") is None
    store.cache.give("small", "slot", 100)
    assert store.cache.take("small") == "slot"


# --- from several threads, and from finalizers -----------------------------------------------------------------


def test_several_threads_and_event_loops_use_one_store(store: MemoryStore) -> None:
    taken: list[OpenRun] = []

    async def talk(number: int) -> None:
        await say(store, f"thread {number}", *(f"turn {number}.{n}" for n in range(50)))
        await store.fork("common", f"fork {number}")
        await say(store, f"fork {number}", f"of {number}")
        answer = await store.open_run("common", f"common {number}", b"[]", 1)
        if isinstance(answer, OpenRun):
            taken.append(answer)

    asyncio.run(say(store, "common", "common"))
    threads = [threading.Thread(target=lambda n=n: asyncio.run(talk(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    found = asyncio.run(snapshot(store))
    for n in range(8):
        assert found[f"thread {n}"][0] == [f"turn {n}.{m}" for m in range(50)]
        assert found[f"fork {n}"][0] == ["common", f"of {n}"]


class Meddling(list[NewTurn]):
    """Turns that strike while they are being sealed, as a finalizer may."""

    strike: Callable[[], object]

    def __iter__(self) -> Iterator[NewTurn]:
        for turn in super().__iter__():
            yield turn
            self.strike()


async def test_a_finalizer_that_seals_in_the_middle_of_a_seal_comes_right_after(store: MemoryStore) -> None:
    run, other = opened(await store.open_run("a", "t1", b"[]", 1)), opened(await store.open_run("b", "t2", b"[]", 1))
    handed: list[Any] = []
    told: list[object] = []

    def strike() -> None:
        handed.append(store.seal(other, [] if handed else [new_turn("t2")]))
        handed[-1].then(told.append)

    turns = Meddling([new_turn("t1"), new_turn("t3")])
    turns.strike = strike
    head = await store.seal(run, turns)
    assert head.seq == 2
    assert (await history(store, "a"), await history(store, "b")) == (["t1", "t3"], ["t2"])
    assert told == [await handed[0]]
    handed[0].then(told.append)
    assert len(told) == 2
    with pytest.raises(StaleRunError):
        await handed[1]


async def test_a_run_that_waits_in_another_thread_does_not_disturb_a_seal(store: MemoryStore) -> None:
    def strike() -> None:
        waiting = threading.Thread(target=lambda: asyncio.run(store.wait("a", "waiting", seconds=0.01)))
        waiting.start()
        waiting.join()

    run = opened(await store.open_run("a", "t1", b"[]", 1))
    await store.open_run("a", "waiting", b"[]", 1, in_line=True)
    turns = Meddling([new_turn("t1"), new_turn("t2")])
    turns.strike = strike
    assert (await store.seal(run, turns)).seq == 2
    assert await history(store, "a") == ["t1", "t2"]


async def test_a_finalizer_that_closes_the_store_lets_the_seal_end_first(store: MemoryStore) -> None:
    turns = Meddling([new_turn("t1")])
    turns.strike = store.close
    assert (await store.seal(opened(await store.open_run("a", "t1", b"[]", 1)), turns)).seq == 1
    assert store._shared.logs == {}


async def test_garbage_that_seals_what_it_held_does_no_harm(store: MemoryStore) -> None:
    class Held:
        """A run in a cycle, as a stream is that nobody reads any more."""

        def __init__(self, number: int) -> None:
            self.itself = self
            self.number = number
            self.run = opened_now(store, f"held {number}", f"held {number}")

        def __del__(self) -> None:
            store.seal(self.run, [new_turn(self.run.turn_id)])

    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for n in range(200):
            Held(n)
            await say(store, "a", f"turn {n}")
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert await history(store, "a") == [f"turn {n}" for n in range(200)]
    for n in range(200):
        assert await history(store, f"held {n}") == [f"held {n}"]


def opened_now(store: MemoryStore, thread_id: str, turn_id: str) -> OpenRun:
    found: list[OpenRun | Busy | Earlier] = []
    store.open_run(thread_id, turn_id, b"[]", 1).then(found.append)
    return opened(found[0])


# --- Ctrl-C ----------------------------------------------------------------------------------------------------


def interrupted(call: Callable[[], object], line: int) -> bool:
    """Make the call, and press Ctrl-C at the n-th line that it passes in the store's files."""
    passed = 0

    def tracer(frame: FrameType, event: str, _: object) -> Any:
        nonlocal passed
        if not frame.f_code.co_filename.endswith(("/memory.py", "/memory_runs.py", "/memory_log.py", "/rules.py")):
            return None
        if event == "line":
            passed += 1
            if passed == line:
                raise KeyboardInterrupt
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


async def _prepared() -> tuple[MemoryStore, dict[str, OpenRun]]:
    store = MemoryStore()
    await say(store, "a", "1", "2", "3")
    await store.fork("a", "b", at="2")
    await say(store, "b", "3b", "4b")
    await store.fork("a", "c")
    await say(store, "d", "1d", "2d")
    await store.fork("d", "e", at="1d")
    await store.move_head("b", to="3b")
    runs = {name: opened(await store.open_run(name, f"run of {name}", b"[]", 1)) for name in ("a", "b")}
    runs["f"] = await _elsewhere(store)
    await store.open_run("a", "waiting", b"[]", 1, in_line=True)
    return store, runs


async def _elsewhere(store: MemoryStore) -> OpenRun:
    """A run that began elsewhere than at the head, and has written something down."""
    await say(store, "f", "1f", "2f")
    run = opened(await store.open_run("f", "run of f", b"[]", 1, terms=Terms("k", Point("1f"))))
    await store.journal(run, [b"0"])
    return run


KEPT = [new_turn("2g", key="k")]
ELSEWHERE = Terms("key", Point("1d"))

Work = Callable[[MemoryStore, dict[str, OpenRun]], object]

WRITES: dict[str, Work] = {
    "open_run": lambda store, runs: store.open_run("c", "new", b"[]", 1),
    "open_run, new": lambda store, runs: store.open_run("new", "new", b"[]", 1),
    "seal": lambda store, runs: store.seal(runs["a"], [new_turn("4"), new_turn("5")]),
    "seal, new branch": lambda store, runs: store.seal(runs["b"], [new_turn("4c"), new_turn("5c")]),
    "seal nothing": lambda store, runs: store.seal(runs["a"], []),
    "seal nothing, elsewhere": lambda store, runs: store.seal(runs["f"], []),
    "seal, and stand where it began": lambda store, runs: store.seal(runs["f"], KEPT, stand=runs["f"].head),
    "seal, and stand where it was left": lambda store, runs: store.seal(runs["f"], KEPT, stand=runs["f"].left),
    "open_run, under a key, elsewhere": lambda store, runs: store.open_run("d", "new", b"[]", 1, terms=ELSEWHERE),
    "open_run, in line": lambda store, runs: store.open_run("f", "waiting", b"[]", 1, in_line=True),
    "journal": lambda store, runs: store.journal(runs["f"], [b"1", b"2"]),
    "fork": lambda store, runs: store.fork("b", "new", at="2"),
    "move_head": lambda store, runs: store.move_head("c", back=2),
    "delete": lambda store, runs: store.delete("d"),
    "update": lambda store, runs: store.update("c", title="title", metadata={"k": 1}),
}


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_is_interrupted_is_done_or_not_done(name: str) -> None:
    work = WRITES[name]
    store, runs = await _prepared()
    before = await snapshot(store)
    work(store, runs)
    after = await snapshot(store)
    assert before != after
    line, outcomes = 0, set()
    while True:
        line += 1
        store, runs = await _prepared()
        if not interrupted(lambda store=store, runs=runs: work(store, runs), line):
            break
        found = await snapshot(store)
        assert found in (before, after), f"half done, interrupted at line {line}"
        outcomes.add(found == after)
        if found == before and not name.startswith("seal"):
            work(store, runs)
            assert await snapshot(store) == after
        await _is_sound(store, runs)
    assert outcomes == {True, False}
    assert line > 20


async def _is_sound(store: MemoryStore, runs: dict[str, OpenRun]) -> None:
    """Every thread can be used and deleted, and then nothing is left."""
    for thread_id in ("a", "f"):
        await store.withdraw(thread_id, "waiting")
    for info in (await store.list()).threads:
        if info.busy is None:
            await say(store, info.id, f"more of {info.id}")
        else:
            answer = await store.open_run(info.id, "more", b"[]", 1)
            assert isinstance(answer, Busy)
            run = answer.run if answer.alive else await store.take_over(answer.run)
            assert run is not None
            await store.seal(run, [new_turn(f"more of {info.id}")])
        assert (await history(store, info.id))[-1] == f"more of {info.id}"
    for info in (await store.list()).threads:
        assert await store.delete(info.id)
    assert left_over(store) == []
