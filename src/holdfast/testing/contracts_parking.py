"""The contract of parking: a run waits on disk for an answer from outside, for as long as it takes, made by nobody."""

from __future__ import annotations

import asyncio
from typing import cast
from unittest import SkipTest

from msgspec.structs import replace

from holdfast.conversation.errors import StaleRunError, ThreadBusyError
from holdfast.ports.stores import PLAIN, Busy, Handed, OpenRun, Point, Progress, Terms, ThreadStore, Twin
from holdfast.testing.contracts_bench import PATIENCE, Bench, new_turn, opened, refused
from holdfast.testing.contracts_journal import Told

_SAID = b'[{"role":"user"}]'


class ParkingBench(Bench):
    """Short words for runs that wait."""

    async def parked(self, thread_id: str, turn_id: str, *records: bytes, terms: Terms = PLAIN) -> OpenRun:
        """A run that waits, as others hear of it."""
        run = await self.open(thread_id, turn_id, terms=terms)
        await self.store.park(run, records)
        return await self.seen_waiting(run)

    async def seen_waiting(self, run: OpenRun, store: ThreadStore | None = None) -> OpenRun:
        """What others hear of a run, which must wait."""
        progress = await (store or self.store).progress(run.thread_id, run.turn_id)
        assert progress is not None
        assert progress.run is not None, f"turn {run.turn_id} is not open any more"
        assert (progress.run.waiting, progress.alive) == (True, False), f"turn {run.turn_id} does not wait"
        return progress.run

    async def waiting(self, store: ThreadStore | None = None, limit: int = 50) -> list[str]:
        """The ids of the threads whose run waits, page by page."""
        found: list[str] = []
        cursor: str | None = None
        while True:
            page = await (store or self.store).list(limit=limit, cursor=cursor, waiting=True)
            assert len(page.threads) <= limit
            assert all(info.waiting for info in page.threads)
            found += [info.id for info in page.threads]
            cursor = page.next
            if cursor is None:
                return found
            assert len(page.threads) == limit, "a page is short, and yet says that there is another"


class ParkingTests(ParkingBench):
    """Who parks a run lets go of it; what it wrote down stays, and its thread is taken."""

    async def test_a_parked_run_waits_with_all_that_it_wrote_down(self) -> None:
        run = await self.open("a", "t1", terms=Terms(key="k"))
        await self.store.journal(run, [b"0"])
        await self.store.park(run, [b"1", b""])
        seen = await self.seen_waiting(run)
        assert seen.epoch > run.epoch
        assert seen == replace(run, epoch=seen.epoch, waiting=True)
        assert await self.store.progress("a", "t1", after=1) == Progress(run=seen, records=(b"1", b""))

    async def test_a_run_is_parked_without_another_record(self) -> None:
        seen = await self.parked("a", "t1")
        assert await self.store.progress("a", "t1") == Progress(run=seen)

    async def test_a_run_that_is_open_or_left_behind_does_not_wait(self) -> None:
        run = await self.open("a", "t1")
        assert (run.waiting, (await self.info("a")).waiting) == (False, False)
        await self.leave(run)
        progress = await self.store.progress("a", "t1")
        assert progress == Progress(run=run)
        assert (await self.info("a")).waiting is False
        assert await self.waiting() == []

    async def test_what_is_written_down_last_is_kept_as_it_was_at_the_call(self) -> None:
        run = await self.open("a", "t1")
        record = bytearray(b"as it was")
        records = [cast(bytes, record)]
        parking = self.store.park(run, records)
        record[:] = b"changed  "
        records.append(b"late")
        await parking
        assert (await self.taken(await self.seen_waiting(run))).journal == (b"as it was",)

    async def test_parking_that_nobody_waits_for_is_done(self) -> None:
        run = await self.open("a", "t1")
        parking = self.store.park(run, [b"0"])
        await self.soon(self._is_parked)
        await parking

    async def _is_parked(self) -> bool:
        return (await self.info("a")).waiting

    # --- who may park ------------------------------------------------------------------------------------------

    async def test_who_parked_a_run_writes_no_more(self) -> None:
        run = await self.open("a", "t1")
        await self.store.park(run, [b"0"])
        await self._refuses_all(run)
        assert await self.store.take_over(run) is None
        assert await self.store.progress("a", "t1") == Progress(run=await self.seen_waiting(run), records=(b"0",))

    async def test_nobody_writes_for_a_run_that_waits(self) -> None:
        seen = await self.parked("a", "t1", b"0")
        await self._refuses_all(seen)
        assert await self.store.progress("a", "t1") == Progress(run=seen, records=(b"0",))

    async def _refuses_all(self, run: OpenRun) -> None:
        """Neither a record nor an end comes from this writer."""
        calls: list[Handed[object]] = [
            self.store.journal(run, [b"late"]),
            self.store.park(run, []),
            self.store.park(run, [b"late"]),
            self.store.seal(run, []),
            self.store.seal(run, [new_turn(run.turn_id)]),
        ]
        for call in calls:
            with refused(StaleRunError, thread_id=run.thread_id, turn_id=run.turn_id):
                await call

    async def test_only_the_run_that_was_opened_is_parked(self) -> None:
        run = await self.open("a", "t1")
        await self.open("b", "t9")
        forged = [
            replace(run, epoch=run.epoch - 1),
            replace(run, epoch=run.epoch + 1),
            replace(run, turn_id="t9"),
            replace(run, incarnation=run.incarnation + 1),
            replace(run, thread_id="b"),
            replace(run, thread_id="nowhere"),
        ]
        for wrong in forged:
            with refused(StaleRunError):
                await self.store.park(wrong, [b"forged"])
        with refused(StaleRunError):
            await self.store.for_tenant("other").park(run, [b"forged"])
        progress = await self.store.progress("a", "t1")
        assert progress is not None
        assert (progress.run, progress.records) == (run, ())
        assert await self.waiting() == []
        await self.store.seal(run, [new_turn("t1")])

    async def test_a_run_that_is_closed_or_taken_over_is_not_parked(self) -> None:
        closed = await self.open("a", "t1")
        await self.store.seal(closed, [new_turn("t1")])
        lost = await self.open("b", "t2")
        await self.leave(lost)
        taken = await self.taken(lost)
        for run in (closed, lost):
            with refused(StaleRunError, thread_id=run.thread_id, turn_id=run.turn_id):
                await self.store.park(run, [b"late"])
        assert await self.waiting() == []
        assert await self.store.progress("b", "t2") == Progress(run=replace(taken, journal=()), alive=True)

    # --- who asks for the thread -------------------------------------------------------------------------------

    async def test_whoever_asks_for_the_thread_is_told_at_once(self) -> None:
        seen = await self.parked("a", "t1", terms=Terms(key="k"))
        assert await self.store.open_run("a", "t2", _SAID, 1) == Busy(seen, alive=False)
        assert await self.stand("a", "t3") == Busy(seen, alive=False)
        await asyncio.wait_for(self.store.wait("a", "t3", seconds=PATIENCE), PATIENCE / 2)
        twin = Twin("t1", seen.input)
        assert await self.stand("a", "t4", Terms(key="k")) == Busy(seen, alive=False, twin=twin)
        assert await self.store.progress("a", "t4") is None

    async def test_whoever_waited_before_is_called(self) -> None:
        run = await self.open("a", "t1")
        await self.stand("a", "t2")
        waiting = asyncio.ensure_future(self.store.wait("a", "t2", seconds=PATIENCE))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await self.store.park(run, [])
        await asyncio.wait_for(waiting, PATIENCE / 2)
        seen = await self.seen_waiting(run)
        assert await self.stand("a", "t2") == Busy(seen, alive=False)
        await self.store.seal(await self.taken(seen), [new_turn("t1")])
        await self.store.seal(opened(await self.stand("a", "t2")), [new_turn("t2")])
        assert await self.history("a") == ["t1", "t2"]

    async def test_a_run_that_waits_is_asked_by_nobody_to_stop(self) -> None:
        run = await self.open("a", "t1")
        holder = Told()
        self.store.cache.holders[self.store.tenant, "a"] = holder
        await self.store.park(run, [b"0"])
        before = await self.store.progress("a", "t1")
        for rollback in (False, True):
            assert await self.store.stop("a", "t1", rollback=rollback) is False
        assert await self.store.progress("a", "t1") == before
        taken = await self.taken(await self.seen_waiting(run))
        assert (taken.journal, holder.stops) == ((b"0",), [])
        assert await self.store.stop("a", "t1") is True
        assert holder.stops == [("t1", False)]


class AnsweringTests(ParkingBench):
    """Whoever has the answer takes the run over and goes on with it."""

    async def test_who_takes_a_waiting_run_over_goes_on_with_it(self) -> None:
        left = await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=Terms("k", Point("1")))
        await self.store.journal(run, [b"0"])
        await self.store.park(run, [b"1"])
        seen = await self.seen_waiting(run)
        taken = await self.taken(seen)
        assert taken == replace(run, epoch=taken.epoch, journal=(b"0", b"1"))
        assert (taken.left, taken.waiting, taken.epoch > seen.epoch) == (left, False, True)
        await self.store.journal(taken, [b"2"])
        progress = await self.store.progress("a", "2b")
        assert progress is not None
        assert (progress.alive, progress.records) == (True, (b"0", b"1", b"2"))
        assert (await self.info("a")).waiting is False
        await self.store.seal(taken, [new_turn("2b", key="k")])
        assert await self.history("a") == ["1", "2b"]

    async def test_of_two_that_answer_at_once_one_goes_on(self) -> None:
        seen = await self.parked("a", "t1", b"0")
        answers = [self.store.take_over(seen) for _ in range(3)]
        found = [taken for taken in [await answer for answer in answers] if taken is not None]
        assert len(found) == 1
        assert await self.store.take_over(seen) is None
        await self.store.seal(found[0], [new_turn("t1")])
        assert await self.store.take_over(seen) is None
        assert await self.history("a") == ["t1"]

    async def test_a_run_waits_again_and_again(self) -> None:
        run = await self.open("a", "t1")
        epochs = [run.epoch]
        for n in range(3):
            await self.store.park(run, [b"%d" % n])
            epochs.append((await self.seen_waiting(run)).epoch)
            run = await self.taken(await self.seen_waiting(run))
            epochs.append(run.epoch)
        assert run.journal == (b"0", b"1", b"2")
        assert sorted(set(epochs)) == epochs
        await self.store.seal(run, [new_turn("t1")])
        (turn,) = await self.turns_at((await self.info("a")).head)
        assert await self.store.progress("a", "t1") == Progress(turn=turn, on_head=True)

    async def test_who_took_a_waiting_run_over_may_die_with_it(self) -> None:
        run = await self.taken(await self.parked("a", "t1", b"0"))
        await self.leave(run)
        progress = await self.store.progress("a", "t1")
        assert progress == Progress(run=replace(run, journal=()), records=(b"0",))
        assert (await self.taken(run)).journal == (b"0",)

    async def test_a_waiting_run_outlives_who_parked_it(self) -> None:
        if self.abandon is None:
            raise SkipTest("nobody can die without the store (no abandon hook)")
        seen = await self.parked("a", "t1", b"0")
        self.abandon(self.store, seen)
        await self.say("b", "another")  # whoever comes next clears away what the dead have left
        assert await self.seen_waiting(seen) == seen
        assert (await self.taken(seen)).journal == (b"0",)


class WaitingThreadTests(ParkingBench):
    """What can be done meanwhile with the thread, and how the threads with such runs are found."""

    async def test_a_thread_whose_run_waits_is_taken(self) -> None:
        await self.say("a", "1", "2")
        seen = await self.parked("a", "3")
        for call in (self.store.move_head("a", back=1), self.store.move_head("a", to="1"), self.store.delete("a")):
            with refused(ThreadBusyError, thread_id="a", turn_id="3"):
                await call
        info = await self.store.update("a", title="title")
        assert (info.busy, info.waiting, info.title) == ("3", True, "title")
        await self.store.fork("a", "b", at="1")
        await self.store.fork("a", "c")
        assert (await self.history("b"), await self.history("c")) == (["1"], ["1", "2"])
        assert ((await self.info("b")).waiting, (await self.info("c")).busy) == (False, None)
        assert [tip.turn_id for tip in await self.store.branches("a")] == ["2"]
        assert await self.seen_waiting(seen) == seen

    async def test_a_deleted_thread_goes_with_its_waiting_run(self) -> None:
        seen = await self.parked("a", "t1", b"0")
        assert await self.store.delete("a", interrupt=True) is True
        assert await self.store.progress("a", "t1") is None
        assert await self.waiting() == []
        assert await self.store.take_over(seen) is None
        with refused(StaleRunError):
            await self.store.park(seen, [b"late"])
        again = await self.open("a", "t1")
        assert await self.store.progress("a", "t1") == Progress(run=again, alive=True)

    async def test_threads_whose_run_waits_are_listed_by_themselves(self) -> None:
        for name in ("a", "b", "c", "d", "e"):
            await self.say(name, f"{name}1")
        await self.open("d", "open")
        await self.leave(await self.open("e", "left"))
        for name in ("a", "b", "c"):
            await self.parked(name, f"{name}2")
        other = self.store.for_tenant("other")
        theirs = opened(await other.open_run("a", "a2", _SAID, 1))
        await other.park(theirs, [])
        in_order = [info.id for info in await self.listed() if info.id in ("a", "b", "c")]
        for limit in (1, 2, 3, 50):
            assert await self.waiting(limit=limit) == in_order
        assert await self.waiting(other) == ["a"]
        infos = {info.id: info.waiting for info in await self.listed()}
        assert infos == {"a": True, "b": True, "c": True, "d": False, "e": False}
        await self.store.seal(await self.taken(await self.seen_waiting(theirs)), [])
        await self.taken(await self.parked("f", "f1"))
        assert sorted(await self.waiting()) == ["b", "c"]

    async def test_the_cursor_of_a_waiting_thread_is_one_of_any_listing(self) -> None:
        for name in ("a", "b", "c"):
            await self.parked(name, f"{name}1")
        await self.say("d", "d1")
        page = await self.store.list(limit=1, waiting=True)
        assert page.next is not None
        rest = (await self.store.list(cursor=page.next)).threads
        assert {info.id for info in page.threads + rest} >= {"a", "b", "c"}
        assert not {info.id for info in page.threads} & {info.id for info in rest}

    async def test_a_run_that_waits_is_no_damage(self) -> None:
        run = opened(await self.store.open_run("a", "t1", _SAID, 10))
        await self.store.journal(run, [b"0"])
        await self.store.park(run, [b"1"])
        found = await self.store.verify()
        assert (found.damage, found.threads, found.turns) == ((), 1, 0)


class KeepingParkedTests(ParkingBench):
    """Of stores that outlive their process: so does a run that waits."""

    async def test_a_waiting_run_outlives_its_store(self) -> None:
        left = await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=Terms("k", Point("2", before=True)))
        await self.store.journal(run, [b"0"])
        await self.store.park(run, [b"1"])
        seen = await self.seen_waiting(run)
        store = self.reopened()
        assert await self.seen_waiting(run) == seen
        assert await self.waiting() == ["a"]
        assert await store.open_run("a", "3", _SAID, 1) == Busy(seen, alive=False)
        with refused(StaleRunError):
            await store.seal(run, [])
        store = self.reopened()
        taken = await self.taken(seen)
        assert taken == replace(run, epoch=taken.epoch, journal=(b"0", b"1"))
        assert (taken.left, taken.key) == (left, "k")
        assert await store.seal(taken, []) == left

    async def test_what_was_parked_before_the_store_was_closed_waits(self) -> None:
        run = await self.open("a", "t1")
        self.store.park(run, [b"0"])
        self.reopened()
        assert (await self.taken(await self.seen_waiting(run))).journal == (b"0",)
