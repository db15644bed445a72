"""The contract of the journal: what an open run has done so far, for who takes it over, and for who follows it."""

from __future__ import annotations

from typing import cast
from unittest import SkipTest

from msgspec.structs import replace

from holdfast.conversation.errors import InvalidInputError, StaleRunError
from holdfast.ports.stores import OpenRun, Point, Progress, Terms, ThreadStore
from holdfast.testing.contracts_bench import Bench, new_turn, opened, refused


class JournalTests(Bench):
    """Records are written by the run's writer alone, stay as long as the run is open, and go with it."""

    async def records(self, run: OpenRun, store: ThreadStore | None = None) -> tuple[bytes, ...]:
        """What others see of an open run's journal."""
        progress = await (store or self.store).progress(run.thread_id, run.turn_id)
        assert progress is not None
        return progress.records

    async def test_who_takes_a_run_over_has_what_was_written_down(self) -> None:
        run = await self.open("a", "t1")
        await self.store.journal(run, [b"one"])
        await self.store.journal(run, [b"two", b""], durable=True)
        await self.store.journal(run, [])
        await self.store.journal(run, [bytes(range(256)), b"x" * 100_000])
        await self.leave(run)
        taken = await self.taken(run)
        assert taken.journal == (b"one", b"two", b"", bytes(range(256)), b"x" * 100_000)
        assert replace(taken, journal=(), epoch=run.epoch) == run

    async def test_a_run_that_wrote_nothing_down_has_an_empty_journal(self) -> None:
        run = await self.open("a", "t1")
        assert run.journal == ()
        await self.leave(run)
        assert (await self.taken(run)).journal == ()

    async def test_the_next_writer_goes_on_after_what_it_has_seen(self) -> None:
        run = await self.open("a", "t1")
        for n in range(3):
            await self.store.journal(run, [b"%d" % n])
            await self.leave(run)
            run = await self.taken(run)
        assert run.journal == (b"0", b"1", b"2")
        await self.store.journal(run, [b"3"])
        assert await self.records(run) == (b"0", b"1", b"2", b"3")

    async def test_a_record_is_kept_as_it_was_at_the_call(self) -> None:
        run = await self.open("a", "t1")
        record = bytearray(b"as it was")
        records = [cast(bytes, record)]
        written = self.store.journal(run, records)
        record[:] = b"changed  "
        records.append(b"late")
        await written
        assert await self.records(run) == (b"as it was",)

    async def test_a_run_goes_with_its_journal(self) -> None:
        for n, turns in enumerate(([], [new_turn("t")])):
            run = await self.open("a", "run")
            await self.store.journal(run, [b"one", b"two"])
            await self.store.seal(run, turns)
            run = await self.open("b", "run", terms=Terms(key=str(n)))
            assert await self.records(run) == ()
            await self.store.journal(run, [b"of b"])
            await self.leave(run)
            taken = await self.taken(run)
            assert taken.journal == (b"of b",)
            await self.store.seal(taken, [])

    async def test_a_deleted_thread_goes_with_the_journal_of_its_run(self) -> None:
        run = await self.open("a", "run")
        await self.store.journal(run, [b"one"])
        await self.store.delete("a", interrupt=True)
        again = await self.open("a", "run")
        assert await self.records(again) == ()
        with refused(StaleRunError):
            await self.store.journal(run, [b"two"])
        assert await self.records(again) == ()

    async def test_a_seal_that_failed_leaves_the_journal(self) -> None:
        run = await self.open("a", "t1")
        await self.store.journal(run, [b"one"])
        with refused(InvalidInputError):
            await self.store.seal(run, [new_turn("t1"), new_turn("")])
        assert (await self.taken(run)).journal == (b"one",)

    async def test_a_run_that_is_closed_writes_nothing_down(self) -> None:
        run = await self.open("a", "t1")
        await self.store.seal(run, [])
        with refused(StaleRunError, thread_id="a", turn_id="t1"):
            await self.store.journal(run, [b"late"])
        again = await self.open("a", "t1")
        assert await self.records(again) == ()

    async def test_a_writer_that_was_replaced_writes_nothing_down(self) -> None:
        run = await self.open("a", "t1")
        await self.store.journal(run, [b"mine"])
        await self.leave(run)
        taken = await self.taken(run)
        with refused(StaleRunError, thread_id="a", turn_id="t1"):
            await self.store.journal(run, [b"late"])
        assert await self.records(taken) == (b"mine",)
        await self.store.journal(taken, [b"of the next"])
        assert await self.records(taken) == (b"mine", b"of the next")

    async def test_only_the_run_that_was_opened_writes_down(self) -> None:
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
                await self.store.journal(wrong, [b"forged"])
        with refused(StaleRunError):
            await self.store.for_tenant("other").journal(run, [b"forged"])
        assert await self.records(run) == ()
        progress = await self.store.progress("b", "t9")
        assert progress is not None
        assert progress.records == ()

    async def test_all_records_of_a_call_are_written_or_none(self) -> None:
        run = await self.open("a", "t1")
        await self.leave(run)
        await self.taken(run)
        with refused(StaleRunError):
            await self.store.journal(run, [b"one", b"two"])
        assert await self.records(run) == ()

    async def test_runs_have_journals_of_their_own(self) -> None:
        other = self.store.for_tenant("other")
        runs = [await self.open("a", "t1"), await self.open("b", "t2")]
        theirs = opened(await other.open_run("a", "t1", b"[]", 1))
        for n, run in enumerate(runs):
            await self.store.journal(run, [b"%d" % n])
        await other.journal(theirs, [b"theirs"])
        await self.store.seal(runs[0], [])
        assert await self.records(runs[1]) == (b"1",)
        assert await self.records(theirs, other) == (b"theirs",)

    async def test_a_damaged_record_is_dropped_with_those_after_it(self) -> None:
        if self.damage_journal is None:
            raise SkipTest("there is no damage_journal hook")
        run = await self.open("a", "t1")
        await self.store.journal(run, [b"0", b"1", b"2", b"3"])
        self.damage_journal(self.store, "t1", 2)
        assert await self.records(run) == (b"0", b"1")
        await self.leave(run)
        taken = await self.taken(run)
        assert taken.journal == (b"0", b"1")
        await self.store.journal(taken, [b"2b"])
        assert await self.records(taken) == (b"0", b"1", b"2b")


class ProgressTests(Bench):
    """Whoever knows a turn's id learns how far it has come, from whichever process."""

    async def test_a_run_that_is_open(self) -> None:
        run = await self.open("a", "t1", terms=Terms(key="k"))
        assert await self.store.progress("a", "t1") == Progress(run=run, alive=True)
        await self.store.journal(run, [b"0", b"1", b"2"])
        assert await self.store.progress("a", "t1") == Progress(run=run, alive=True, records=(b"0", b"1", b"2"))
        await self.leave(run)
        assert await self.store.progress("a", "t1") == Progress(run=run, records=(b"0", b"1", b"2"))

    async def test_the_first_records_are_left_out(self) -> None:
        run = await self.open("a", "t1")
        await self.store.journal(run, [b"0", b"1", b"2"])
        for after in range(5):
            progress = await self.store.progress("a", "t1", after=after)
            assert progress == Progress(run=run, alive=True, records=(b"0", b"1", b"2")[after:])
        with refused(InvalidInputError):
            await self.store.progress("a", "t1", after=-1)

    async def test_those_who_hear_of_a_run_are_not_told_where_the_thread_stood(self) -> None:
        await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=Terms(point=Point("1")))
        assert run.left is not None
        assert await self.store.progress("a", "2b") == Progress(run=replace(run, left=None), alive=True)

    async def test_a_run_in_line(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        assert await self.store.progress("a", "t1") == Progress(queued=True)
        await self.store.seal(run, [])
        assert await self.store.progress("a", "t1") == Progress(queued=True)
        await self.store.withdraw("a", "t1")
        assert await self.store.progress("a", "t1") is None

    async def test_a_run_in_line_whose_process_died(self) -> None:
        if self.abandon is None:
            raise SkipTest("nobody can die without the store (no abandon hook)")
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        self.abandon(self.store, run)
        assert await self.store.progress("a", "t1") is None

    async def test_a_turn_that_is_recorded(self) -> None:
        head = await self.say("a", "t1", "t2")
        first, second = await self.turns_at(head)
        assert await self.store.progress("a", "t1", after=7) == Progress(turn=first, on_head=True)
        await self.store.move_head("a", back=1)
        await self.say("a", "t3")
        assert await self.store.progress("a", "t1") == Progress(turn=first, on_head=True)
        assert await self.store.progress("a", "t2") == Progress(turn=second)

    async def test_a_turn_that_a_fork_shares(self) -> None:
        head = await self.say("a", "1", "2", "3")
        turns = await self.turns_at(head)
        await self.store.fork("a", "b", at="2")
        await self.store.move_head("b", to="1")
        await self.say("b", "2b")
        assert await self.store.progress("b", "1") == Progress(turn=turns[0], on_head=True)
        assert await self.store.progress("b", "2") == Progress(turn=turns[1])
        assert await self.store.progress("b", "3") is None
        assert await self.store.progress("a", "2b") is None

    async def test_a_turn_that_the_thread_does_not_know(self) -> None:
        await self.say("a", "t1")
        run = await self.open("b", "t2")
        await self.stand("b", "t3")
        other = self.store.for_tenant("other")
        for thread_id, turn_id in (("a", "none"), ("a", "t2"), ("a", "t3"), ("b", "t1"), ("nowhere", "t1")):
            assert await self.store.progress(thread_id, turn_id) is None
        for thread_id, turn_id in (("a", "t1"), ("b", "t2"), ("b", "t3")):
            assert await other.progress(thread_id, turn_id) is None
        await self.store.delete("a")
        assert await self.store.progress("a", "t1") is None
        await self.say("a", "t4")
        assert await self.store.progress("a", "t1") is None
        await self.store.seal(run, [])
        assert await self.store.progress("b", "t2") is None

    async def test_a_turn_that_comes_to_be(self) -> None:
        seen: list[str] = []
        run = await self.open("a", "t0")
        await self.stand("a", "t1")
        for _ in range(3):
            progress = await self.store.progress("a", "t1")
            assert progress is not None
            seen.append("queued" if progress.queued else "open" if progress.run is not None else "recorded")
            if progress.queued:
                await self.store.seal(run, [])
                run = opened(await self.stand("a", "t1"))
            elif progress.run is not None:
                await self.store.seal(run, [new_turn("t1")])
        assert seen == ["queued", "open", "recorded"]


class Told:
    """A run of this process as its store sees it: who is told to stop."""

    def __init__(self) -> None:
        self.stops: list[tuple[str, bool]] = []

    def give_way(self) -> bool:
        return False

    def stop(self, turn_id: str, *, rollback: bool) -> None:
        self.stops.append((turn_id, rollback))


class StopTests(Bench):
    """Whoever makes a run can be asked to end it."""

    def held(self, thread_id: str, holder: Told | None = None) -> Told:
        """A run of this process that has the thread, for as long as what is returned is kept."""
        holder = holder or Told()
        self.store.cache.holders[self.store.tenant, thread_id] = holder
        return holder

    async def test_whoever_makes_a_run_is_told(self) -> None:
        await self.open("a", "t1")
        await self.open("b", "t2")
        holder, other = self.held("a"), self.held("b")
        assert await self.store.stop("a", "t1") is True
        assert (holder.stops, other.stops) == ([("t1", False)], [])
        assert await self.store.stop("a", "t1", rollback=True) is True
        assert holder.stops == [("t1", False), ("t1", True)]

    async def test_where_no_such_run_is_made_nobody_is_told(self) -> None:
        await self.say("a", "t0")
        run = await self.open("a", "t1")
        await self.stand("a", "t2")
        holder = self.held("a")
        for thread_id, turn_id in (("a", "t0"), ("a", "t2"), ("a", "none"), ("nowhere", "t1")):
            assert await self.store.stop(thread_id, turn_id) is False
        assert await self.store.for_tenant("other").stop("a", "t1") is False
        await self.store.seal(run, [new_turn("t1")])
        assert await self.store.stop("a", "t1") is False
        assert holder.stops == []

    async def test_a_run_whose_writer_is_gone_is_made_by_nobody(self) -> None:
        run = await self.open("a", "t1")
        holder = self.held("a")
        await self.leave(run)
        assert await self.store.stop("a", "t1") is False
        assert holder.stops == []
        await self.taken(run)
        assert await self.store.stop("a", "t1") is True
        assert holder.stops == [("t1", False)]

    async def test_a_run_that_nobody_holds_yet_is_asked_all_the_same(self) -> None:
        run = await self.open("a", "t1")
        assert await self.store.stop("a", "t1") is True
        await self.store.seal(run, [new_turn("t1")])
        assert await self.history("a") == ["t1"]

    async def test_a_run_seals_itself_when_it_is_told(self) -> None:
        run = await self.open("a", "t1")
        store = self.store

        class Sealing(Told):
            def stop(self, turn_id: str, *, rollback: bool) -> None:
                super().stop(turn_id, rollback=rollback)
                store.seal(run, [new_turn("t1", status="cancelled")], stand=run.head if rollback else None)

        holder = self.held("a", Sealing())
        assert await self.store.stop("a", "t1", rollback=True) is True
        await self.soon(self._is_free)
        assert holder.stops == [("t1", True)]
        assert await self.history("a") == []
        progress = await self.store.progress("a", "t1")
        assert progress is not None
        assert progress.turn is not None
        assert progress.turn.status == "cancelled"

    async def _is_free(self) -> bool:
        return (await self.info("a")).busy is None

    async def test_a_run_that_fails_to_stop_does_no_harm(self) -> None:
        run = await self.open("a", "t1")

        class Failing(Told):
            def stop(self, turn_id: str, *, rollback: bool) -> None:
                raise RuntimeError("not now")

        holder = self.held("a", Failing())
        assert await self.store.stop("a", "t1") is True
        del holder
        await self.store.seal(run, [new_turn("t1")])
        assert await self.history("a") == ["t1"]

    async def test_the_wish_is_no_record_of_the_run(self) -> None:
        run = await self.open("a", "t1")
        await self.store.stop("a", "t1")
        await self.store.journal(run, [b"0"])
        progress = await self.store.progress("a", "t1")
        assert progress == Progress(run=run, alive=True, records=(b"0",))
        await self.leave(run)
        assert (await self.taken(run)).journal == (b"0",)
