"""Situations: a store's own methods, cancelled: those who build on the port use them alone.

Rule of this file: what a store was told is done at the call, so whoever cancels the waiting has still to give back
what it was given: a run that it opened is sealed afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from holdfast import ChatMessage, SQLiteStore
from holdfast.conversation.records import encode_messages, encode_turn
from holdfast.ports.stores import Handed, NewTurn, OpenRun, Segment
from rigs.cancel_model import BEFORE, DRIVEN, HELD
from rigs.cancel_stage import Stage, situation, until

SAID = encode_messages((ChatMessage("user", text=DRIVEN),))
ANSWER = encode_turn(SAID, (ChatMessage("assistant", text="one two three"),))


def _port(name: str) -> tuple[str, str]:
    return f"MemoryStore.{name}", f"SQLiteStore.{name}"


async def _opened(stage: Stage) -> OpenRun:
    """An open run on a thread with a turn."""
    await stage.before()
    opened = await _open(stage)
    assert isinstance(opened, OpenRun)
    return opened


def _open(stage: Stage, *, in_line: bool = False) -> Handed[Any]:
    turn_id = stage.world.runtime.new_id("turn")
    return stage.store.open_run(stage.thread.id, turn_id, SAID, 1, intent="existing", in_line=in_line)


def _turn(run: OpenRun) -> NewTurn:
    return NewTurn(run.turn_id, "completed", ANSWER, 1, 2)


@situation(*_port("open_run"))
async def opening(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))

    async def opened() -> None:
        handed = _open(stage)

        async def give_back() -> None:
            await stage.store.seal(await handed, ())

        stage.afterwards.append(give_back)
        await handed

    return opened()


@situation(*_port("wait"), *_port("withdraw"))
async def standing_in_line(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.may_become((HELD,))
    turn_id = stage.world.runtime.new_id("turn")

    async def stand() -> None:
        store, name = stage.store, stage.thread.id
        try:
            await store.open_run(name, turn_id, SAID, 1, intent="existing", in_line=True)
            await store.wait(name, turn_id, seconds=0.005)
            stage.beside(_let_go(stage))
            await store.wait(name, turn_id, seconds=5)
        finally:
            await store.withdraw(name, turn_id)

    return stand()


async def _let_go(stage: Stage) -> None:
    stage.hold.set()


@situation(*_port("take_over"))
async def taking_over(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    left = await stage.left_over("one ")
    stage.may_become((BEFORE,), (BEFORE, DRIVEN))

    async def take_over() -> None:
        handed = stage.store.take_over(left)

        async def give_back() -> None:
            if (taken := await handed) is not None:
                await stage.store.seal(taken, ())

        stage.afterwards.append(give_back)
        await handed

    return take_over()


@situation(*_port("journal"), *_port("progress"), *_port("seal"))
async def making_a_run(stage: Stage) -> Awaitable[Any]:
    run = await _opened(stage)
    store = stage.store

    async def seal() -> None:
        handed: list[Any] = []
        stage.afterwards.append(lambda: _sealed(stage, run, handed))
        await store.journal(run, [b'{"e":1,"at":0,"said":[]}'], durable=True)
        await store.progress(run.thread_id, run.turn_id)
        handed.append(store.seal(run, (_turn(run),)))
        await handed[0]

    return seal()


async def _sealed(stage: Stage, run: OpenRun, handed: list[Any]) -> None:
    """Whoever opened a run seals it; what was handed over already is only waited for."""
    await (handed[0] if handed else stage.store.seal(run, ()))


@situation(*_port("park"))
async def parking_a_run(stage: Stage) -> Awaitable[Any]:
    run = await _opened(stage)
    stage.may_become((BEFORE,))

    async def park() -> None:
        handed: list[Any] = []
        stage.afterwards.append(lambda: _answered(stage, run, handed))
        handed.append(stage.store.park(run, [b'{"e":1,"at":0,"said":[]}']))
        await handed[0]

    return park()


async def _answered(stage: Stage, run: OpenRun, handed: list[Any]) -> None:
    """A run that waits is taken over before it is sealed; one that was not handed over to wait is sealed as it is."""
    if handed:
        await handed[0]
        progress = await stage.store.progress(run.thread_id, run.turn_id)
        assert progress is not None
        assert progress.run is not None
        assert progress.run.waiting
        taken = await stage.store.take_over(progress.run)
        assert taken is not None
        run = taken
    await stage.store.seal(run, ())


@situation(*_port("stop"))
async def stopping_by_the_port(stage: Stage) -> Awaitable[Any]:
    await stage.held()
    stage.may_become((HELD,))
    holder = next(iter(stage.store.cache.holders.values()))
    return stage.store.stop(stage.thread.id, holder.turn_id)


@situation(*_port("get"), *_port("list"), *_port("lineage"), *_port("read"), *_port("branches"))
async def reading_by_the_port(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    store, name = stage.store, stage.thread.id

    async def read() -> None:
        info = await store.get(name)
        assert info is not None
        await store.list(limit=3)
        (segment,) = await store.lineage(info.head)
        await store.read(Segment(segment.branch, 0, 1))
        await store.branches(name)

    return read()


@situation(*_port("update"), *_port("fork"), *_port("move_head"))
async def changing_by_the_port(stage: Stage) -> Awaitable[Any]:
    await stage.before(BEFORE, "again")
    stage.may_become((BEFORE, "again"), (BEFORE,))
    store, name = stage.store, stage.thread.id

    async def change() -> None:
        await store.update(name, title="x")
        await store.fork(name, f"{name}-fork")
        await store.move_head(name, back=1)

    return change()


@situation(*_port("delete"))
async def deleting_by_the_port(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((), (BEFORE,))
    stage.may_be_gone = True
    return stage.store.delete(stage.thread.id)


@situation("MemoryStore.verify", on=("memory",))
async def verifying_a_store_in_memory(stage: Stage) -> Awaitable[Any]:
    return await _verifying(stage)


@situation("SQLiteStore.verify", on=("sqlite",))
async def verifying_a_file(stage: Stage) -> Awaitable[Any]:
    return await _verifying(stage)


async def _verifying(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    return stage.store.verify(progress=lambda _: None)


@situation("SQLiteStore.backup", on=("sqlite",))
async def backing_a_file_up(stage: Stage) -> Awaitable[Any]:
    await stage.before()
    stage.may_become((BEFORE,))
    store = stage.store
    assert isinstance(store, SQLiteStore)
    folder = Path(tempfile.mkdtemp(dir=os.path.dirname(store.location)))

    async def nothing_half() -> None:
        """Either there is a whole copy, or none."""
        await until(lambda: {made.name for made in folder.iterdir()} <= {"copy.db"}, "nothing half is left")
        for made in list(folder.iterdir()):
            copy = SQLiteStore(made)
            assert (await copy.verify()).sound, "the backup is damaged"
            copy.close()

    stage.afterwards.append(nothing_half)
    return store.backup(folder / "copy.db")
