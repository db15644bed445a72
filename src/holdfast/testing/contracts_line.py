"""The line before a thread: who finds it taken waits, first come, first served."""

from __future__ import annotations

import asyncio
from unittest import SkipTest

from holdfast.conversation.errors import (
    InvalidInputError,
    QueueFullError,
    StaleRunError,
    ThreadBusyError,
    ThreadDeletedError,
)
from holdfast.ports.stores import Busy, Terms
from holdfast.testing.contracts_bench import Bench, new_turn, opened, refused


class LineTests(Bench):
    async def test_who_waits_is_let_in_in_order(self) -> None:
        run = await self.open("a", "t0")
        for turn_id in ("t1", "t2", "t3"):
            assert await self.stand("a", turn_id) == Busy(run, alive=True)
        await self.store.seal(run, [new_turn("t0")])
        for late in ("t3", "t2", "other"):
            assert await self.store.open_run("a", late, b"[]", 1) == Busy(None, alive=True)
        for turn_id in ("t1", "t2", "t3"):
            mine = opened(await self.stand("a", turn_id))
            await self.store.seal(mine, [new_turn(turn_id)])
        assert await self.history("a") == ["t0", "t1", "t2", "t3"]
        await self.say("a", "other")

    async def test_asking_again_keeps_the_place(self) -> None:
        run = await self.open("a", "t0")
        for turn_id in ("t1", "t2", "t1", "t1", "t2"):
            await self.stand("a", turn_id)
        await self.store.seal(run, [])
        assert isinstance(await self.stand("a", "t2"), Busy)
        await self.store.seal(opened(await self.stand("a", "t1")), [])
        await self.store.seal(opened(await self.stand("a", "t2")), [])
        await self.say("a", "t3")

    async def test_who_does_not_stand_in_line_has_no_place(self) -> None:
        run = await self.open("a", "t0")
        assert isinstance(await self.store.open_run("a", "t1", b"[]", 1), Busy)
        await self.store.seal(run, [])
        await self.say("a", "t2")

    async def test_who_leaves_the_line_is_not_waited_for(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        await self.stand("a", "t2")
        await self.store.withdraw("a", "t1")
        await self.store.withdraw("a", "never stood there")
        await self.store.withdraw("nowhere", "t1")
        await self.store.seal(run, [])
        await self.store.seal(opened(await self.stand("a", "t2")), [new_turn("t2")])
        await self.store.withdraw("a", "t2")
        assert await self.history("a") == ["t2"]

    async def test_lines_of_other_threads_and_tenants_are_other_lines(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        await self.say("b", "t2")
        other = self.store.for_tenant("other")
        opened(await other.open_run("a", "t3", b"[]", 1, in_line=True))
        await other.withdraw("a", "t1")
        await self.store.seal(run, [])
        assert isinstance(await self.store.open_run("a", "t4", b"[]", 1), Busy)

    async def test_a_waiting_run_is_called(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        await self.stand("a", "t2")
        first = asyncio.create_task(self.wait("t1"))
        second = asyncio.create_task(self.wait("t2"))
        await asyncio.sleep(0.02)
        assert not first.done()
        await self.store.seal(run, [new_turn("t0")])
        await asyncio.wait_for(first, 5)
        assert not second.done()
        await self.store.withdraw("a", "t1")
        await asyncio.wait_for(second, 5)
        opened(await self.stand("a", "t2"))

    async def wait(self, turn_id: str) -> None:
        await self.store.wait("a", turn_id, seconds=30)

    async def test_a_call_before_anybody_waits_is_not_missed(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        await self.store.seal(run, [])
        await asyncio.wait_for(self.wait("t1"), 5)

    async def test_waiting_ends_when_it_was_to_end(self) -> None:
        await self.open("a", "t0")
        await self.stand("a", "t1")
        began = asyncio.get_running_loop().time()
        await self.store.wait("a", "t1", seconds=0.05)
        assert 0.04 < asyncio.get_running_loop().time() - began < 5

    async def test_many_wait_and_all_come_in_order(self) -> None:
        async def talk(number: int) -> None:
            turn_id = f"t{number:03}"
            answer = await self.stand("a", turn_id)
            while isinstance(answer, Busy):
                await self.store.wait("a", turn_id, seconds=30)
                answer = await self.stand("a", turn_id)
            await self.store.seal(opened(answer), [new_turn(turn_id)])

        holder = await self.open("a", "first")
        talks = []
        for number in range(40):
            talks.append(asyncio.create_task(talk(number)))
            await asyncio.sleep(0.001)
            await self.soon(lambda number=number: self._stands(f"t{number:03}"))  # type: ignore[misc]
        await self.store.seal(holder, [])
        await asyncio.wait_for(asyncio.gather(*talks), 30)
        assert await self.history("a") == [f"t{number:03}" for number in range(40)]

    async def _stands(self, turn_id: str) -> bool:
        return isinstance(await self.stand("a", turn_id), Busy)

    async def test_a_line_takes_so_many_and_no_more(self) -> None:
        run, few = await self.open("a", "t0"), Terms(max_waiting=2)
        for turn_id in ("t1", "t2"):
            assert await self.stand("a", turn_id, few) == Busy(run, alive=True)
        for _ in range(2):
            with refused(QueueFullError, thread_id="a") as caught:
                await self.stand("a", "t3", few)
            assert "2 runs wait" in str(caught.error)
        assert await self.stand("a", "t1", few) == Busy(run, alive=True), "it stands there already"
        assert await self.store.open_run("a", "t3", b"[]", 1, terms=few) == Busy(run, alive=True)
        await self.store.seal(run, [])
        with refused(QueueFullError):
            await self.stand("a", "t3", few)
        run = opened(await self.stand("a", "t1", few))
        assert await self.stand("a", "t3", few) == Busy(run, alive=True)
        await self.store.withdraw("a", "t2")
        assert await self.stand("a", "t4", few) == Busy(run, alive=True)

    async def test_nobody_may_wait(self) -> None:
        nobody = Terms(max_waiting=0)
        run = opened(await self.stand("a", "t0", nobody))
        with refused(QueueFullError, thread_id="a"):
            await self.stand("a", "t1", nobody)
        await self.store.seal(run, [])
        opened(await self.stand("a", "t1", nobody))

    async def test_lines_of_other_threads_do_not_count(self) -> None:
        one = Terms(max_waiting=1)
        other = self.store.for_tenant("other")
        for thread_id in ("a", "b"):
            await self.open(thread_id, f"{thread_id}0")
            assert isinstance(await self.stand(thread_id, f"{thread_id}1", one), Busy)
        opened(await other.open_run("a", "a0", b"[]", 1))
        assert isinstance(await other.open_run("a", "a1", b"[]", 1, in_line=True, terms=one), Busy)

    async def test_those_who_died_do_not_wait(self) -> None:
        if self.abandon is None:
            raise SkipTest("nobody can die without the store (no abandon hook)")
        run = await self.open("a", "t0")
        for n in range(3):
            await self.stand("a", f"dead {n}")
        self.abandon(self.store, run)
        few = Terms(max_waiting=2)
        for turn_id in ("t1", "t2"):
            assert await self.stand("a", turn_id, few) == Busy(run, alive=False)
        with refused(QueueFullError):
            await self.stand("a", "t3", few)
        await self.store.seal(await self.taken(run), [])
        await self.store.seal(opened(await self.stand("a", "t1", few)), [])
        await self.store.seal(opened(await self.stand("a", "t2", few)), [])
        await self.say("a", "t3")

    async def test_a_thread_that_is_deleted_under_a_run_stays_deleted(self) -> None:
        await self.say("a", "t0")
        run = await self.open("a", "t1")
        await self.stand("a", "t2")
        with refused(ThreadBusyError):
            await self.store.delete("a")
        assert await self.store.delete("a", interrupt=True) is True
        assert await self.store.get("a") is None
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("t1")])
        with refused(ThreadDeletedError):
            await self.store.open_run("a", "t2", b"[]", 1, incarnation=run.incarnation, in_line=True)
        again = await self.open("a", "t3", intent="new")
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("t1")])
        await self.store.seal(again, [new_turn("t3")])
        assert await self.history("a") == ["t3"]

    async def test_who_waits_hears_of_a_seal_that_failed_and_of_a_deletion(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        waiting = asyncio.create_task(self.wait("t1"))
        await asyncio.sleep(0.01)
        with refused(InvalidInputError):
            await self.store.seal(run, [new_turn("")])
        await asyncio.wait_for(waiting, 5)
        taken = await self.store.take_over(run)
        assert taken is not None
        waiting = asyncio.create_task(self.wait("t1"))
        await asyncio.sleep(0.01)
        await self.store.delete("a", interrupt=True)
        await asyncio.wait_for(waiting, 5)
