"""The contract of handing over: a write is done once its method was called, whoever still waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings

from holdfast.conversation.errors import HoldfastError, StaleRunError
from holdfast.conversation.records import ROOT
from holdfast.ports.stores import Head, OpenRun, Segment
from holdfast.testing.contracts_bench import PATIENCE, Bench, Calls, every_method, new_turn, opened, refused


class HandingOverTests(Bench):
    """Whatever is written is handed over at the call, not at the await."""

    async def test_a_seal_is_done_though_the_task_that_waits_for_it_is_cancelled(self) -> None:
        run = await self.open("a", "t1")

        async def sealing() -> None:
            await self.store.seal(run, [new_turn("t1")])
            await asyncio.sleep(PATIENCE)

        task = asyncio.create_task(sealing())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self.soon(lambda: self._has("a", "t1"))
        assert (await self.info("a")).busy is None

    async def test_writes_nobody_waits_for_are_done_in_order(self) -> None:
        run = await self.open("a", "t1")
        self.store.seal(run, [new_turn("t1")])
        self.store.fork("a", "b")
        self.store.open_run("b", "t2", b"[]", 1).then(lambda run: self.store.seal(opened(run), [new_turn("t2")]))
        self.store.update("a", title="title")
        await self.soon(lambda: self._has("b", "t1", "t2"))
        await self.soon(lambda: self._titled("a", "title"))
        assert await self.history("a") == ["t1"]

    async def _has(self, thread_id: str, *turn_ids: str) -> bool:
        return await self.store.get(thread_id) is not None and await self.history(thread_id) == [*turn_ids]

    async def _titled(self, thread_id: str, title: str) -> bool:
        return (await self.info(thread_id)).title == title

    async def test_what_a_run_writes_down_is_written_before_it_is_sealed(self) -> None:
        run = await self.open("a", "t1")
        for n in range(20):
            self.store.journal(run, [b"%d" % n], durable=n % 5 == 0)
        await self.store.journal(run, [b"last"])
        progress = await self.store.progress("a", "t1")
        assert progress is not None
        assert progress.records == (*(b"%d" % n for n in range(20)), b"last")
        self.store.journal(run, [b"more"])
        await self.store.seal(run, [new_turn("t1")])
        assert await self.history("a") == ["t1"]

    async def test_what_was_handed_over_can_be_awaited_again(self) -> None:
        opening = self.store.open_run("a", "t1", b"[]", 1)
        run = await opening
        assert await opening == run
        sealing = self.store.seal(opened(run), [new_turn("t1")])
        assert await sealing == await sealing
        again = self.store.seal(opened(run), [new_turn("t1")])
        for _ in range(2):
            with refused(StaleRunError):
                await again

    async def test_then_is_called_with_what_came_of_it(self) -> None:
        told: list[object] = []
        opening = self.store.open_run("a", "t1", b"[]", 1)
        opening.then(told.append)
        run = await opening
        opening.then(told.append)
        await self.soon(lambda: _settled(len(told) == 2))
        assert told == [run, run]

    async def test_then_is_never_called_for_a_failure(self) -> None:
        told: list[object] = []
        sealing = self.store.seal(OpenRun("a", "t1", 1, 1, Head(), b"", 1), [])
        sealing.then(told.append)
        with refused(StaleRunError):
            await sealing
        sealing.then(told.append)
        await asyncio.sleep(0.02)
        assert told == []

    async def test_errors_come_at_the_await(self) -> None:
        await self.open("busy", "t1")
        failing: Calls = {
            **every_method(self.store, "no such thread"),
            **{f"{name}, bad id": call for name, call in every_method(self.store, "\x00").items()},
            "take_over": lambda: self.store.take_over(OpenRun("\x00", "t", 1, 1, Head(), b"", 1)),
            "seal": lambda: self.store.seal(OpenRun("a", "t", 1, 1, Head(), b"", 1), []),
            "journal": lambda: self.store.journal(OpenRun("a", "t", 1, 1, Head(), b"", 1), [b"record"]),
            "progress": lambda: self.store.progress("\x00", "t"),
            "progress after": lambda: self.store.progress("a", "t", after=-1),
            "stop": lambda: self.store.stop("\x00", "t"),
            "lineage": lambda: self.store.lineage(Head(10**9, 1, ROOT)),
            "read": lambda: self.store.read(Segment(10**9, 0, 1)),
            "list": lambda: self.store.list(limit=0),
            "delete": lambda: self.store.delete("busy"),
        }
        for name, call in failing.items():
            awaitable = call()  # does not raise
            with contextlib.suppress(HoldfastError):
                assert await awaitable is None, name

    async def test_a_failure_nobody_waits_for_is_silent(self) -> None:
        loud: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: loud.append(context))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for call in every_method(self.store, "no such thread").values():
                call()
            stale = OpenRun("a", "t", 1, 1, Head(), b"", 1)
            self.store.seal(stale, [])
            self.store.journal(stale, [b"record"])
            self.store.stop("\x00", "t")
            await asyncio.sleep(0.02)
            gc.collect()
            await asyncio.sleep(0.02)
        asyncio.get_running_loop().set_exception_handler(None)
        assert ([str(warning.message) for warning in warned], loud) == ([], [])

    async def test_threads_are_written_from_many_tasks_at_once(self) -> None:
        async def talk(thread_id: str) -> None:
            await self.say(thread_id, *(f"{thread_id} {n}" for n in range(10)))

        await asyncio.gather(*(talk(f"thread {n}") for n in range(20)))
        for n in range(20):
            assert await self.history(f"thread {n}") == [f"thread {n} {turn}" for turn in range(10)]


async def _settled(value: bool) -> bool:
    return value
