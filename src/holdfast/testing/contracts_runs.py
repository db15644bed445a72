"""The contract of runs: opened by one writer at a time, sealed whole or not at all."""

from __future__ import annotations

import asyncio
from typing import cast

from msgspec.structs import replace

from holdfast.conversation.errors import (
    InvalidInputError,
    StaleRunError,
    ThreadBusyError,
    ThreadExistsError,
    ThreadNotFoundError,
)
from holdfast.conversation.turns import TurnStatus
from holdfast.ports.stores import Busy, Head, NewTurn, OpenRun
from holdfast.testing.contracts_bench import HOSTILE_IDS, INTENTS, REFUSED_IDS, Bench, new_turn, refused


class OpeningTests(Bench):
    """Runs are opened by one writer at a time, on the thread that their handle means."""

    async def test_a_thread_is_created_by_its_first_run(self) -> None:
        run = await self.store.open_run("a", "t1", b'["hello"]', 1234, intent="new")
        assert isinstance(run, OpenRun)
        assert (run.thread_id, run.turn_id, run.input, run.started_us) == ("a", "t1", b'["hello"]', 1234)
        assert (run.head, run.epoch > 0) == (Head(), True)
        info = await self.info("a")
        assert (info.id, info.busy, info.turns, info.head, info.deleted) == ("a", "t1", 0, Head(), False)
        assert (info.created_us, info.updated_us, info.incarnation) == (1234, 1234, run.incarnation)
        assert (info.title, info.metadata) == (None, None)

    async def test_a_run_begins_at_the_head(self) -> None:
        head = await self.say("a", "t1", "t2")
        assert (await self.open("a", "t3")).head == head == (await self.info("a")).head

    async def test_a_second_run_is_told_which_one_has_the_thread(self) -> None:
        run = await self.open("a", "t1")
        for intent in INTENTS[1:]:
            busy = await self.store.open_run("a", "t2", b"[]", 11, intent=intent)
            assert busy == Busy(run, alive=True)
        assert await self.store.open_run("a", "t2", b"[]", 11, incarnation=run.incarnation) == Busy(run, alive=True)
        assert (await self.info("a")).busy == "t1"
        await self.store.seal(run, [new_turn("t1")])
        assert await self.history("a") == ["t1"]

    async def test_runs_on_different_threads_do_not_meet(self) -> None:
        runs = [await self.open(name, f"turn of {name}") for name in "abc"]
        for run in runs:
            await self.store.seal(run, [new_turn(run.turn_id)])
        assert [await self.history(name) for name in "abc"] == [[f"turn of {name}"] for name in "abc"]

    async def test_of_many_that_open_at_once_one_gets_the_thread(self) -> None:
        answers = await asyncio.gather(*(self.store.open_run("a", f"t{n}", b"[]", 1) for n in range(20)))
        runs = [answer for answer in answers if isinstance(answer, OpenRun)]
        assert len(runs) == 1
        assert all(answer == Busy(runs[0], alive=True) for answer in answers if isinstance(answer, Busy))

    async def test_a_new_thread_is_refused_where_there_is_one(self) -> None:
        await self.say("a", "t1")
        with refused(ThreadExistsError, thread_id="a"):
            await self.store.open_run("a", "t2", b"[]", 1, intent="new")
        run = await self.open("a", "t2")
        with refused(ThreadExistsError, thread_id="a"):
            await self.store.open_run("a", "t3", b"[]", 1, intent="new")
        await self.store.seal(run, [new_turn("t2")])
        assert await self.history("a") == ["t1", "t2"]

    async def test_an_existing_thread_is_refused_where_there_is_none(self) -> None:
        with refused(ThreadNotFoundError, thread_id="a"):
            await self.store.open_run("a", "t1", b"[]", 1, intent="existing")
        assert await self.store.get("a", deleted=True) is None
        await self.say("a", "t1")
        await self.store.delete("a")
        with refused(ThreadNotFoundError, thread_id="a"):
            await self.store.open_run("a", "t1", b"[]", 1, intent="existing")
        assert await self.store.get("a") is None

    async def test_a_handle_that_saw_the_thread_means_that_one(self) -> None:
        run = await self.open("a", "t1", intent="new")
        await self.store.seal(run, [new_turn("t1")])
        for n, intent in enumerate(INTENTS):
            again = await self.open("a", f"again {n}", intent=intent, incarnation=run.incarnation)
            assert again.incarnation == run.incarnation
            await self.store.seal(again, [])

    async def test_a_handle_of_a_thread_that_was_never_here_finds_none(self) -> None:
        with refused(ThreadNotFoundError, thread_id="a"):
            await self.store.open_run("a", "t1", b"[]", 1, incarnation=1)
        assert await self.store.get("a", deleted=True) is None

    async def test_every_opening_raises_the_epoch(self) -> None:
        epochs = []
        for n in range(3):
            run = await self.open("a", f"t{n}")
            epochs.append(run.epoch)
            await self.store.seal(run, [new_turn(f"t{n}")] if n else [])
        assert epochs == sorted(set(epochs))

    async def test_the_epoch_goes_on_over_all_lives_of_an_id(self) -> None:
        epochs = []
        for n in range(3):
            run = await self.open("a", f"t{n}", intent="new")
            epochs.append(run.epoch)
            await self.store.seal(run, [])
            await self.store.delete("a")
        await self.say("b", "t")
        await self.store.fork("b", "a")
        epochs.append((await self.open("a", "t4")).epoch)
        assert epochs == sorted(set(epochs))

    async def test_an_input_is_kept_as_it_was_at_the_call(self) -> None:
        said = bytearray(b'["\x00\xff"]')
        opening = self.store.open_run("a", "t1", cast(bytes, said), 1)
        said[:] = b"changed"
        run = await opening
        busy = await self.store.open_run("a", "t2", b"[]", 1)
        assert isinstance(run, OpenRun)
        assert isinstance(busy, Busy)
        assert busy.run is not None
        assert run.input == busy.run.input == b'["\x00\xff"]'


class SealingTests(Bench):
    """A turn is stored whole or not at all, and only by the writer that holds the thread."""

    async def test_nothing_of_a_turn_is_seen_before_it_is_sealed(self) -> None:
        await self.say("a", "t1")
        run = await self.open("a", "t2")
        assert (await self.history("a"), (await self.info("a")).busy) == (["t1"], "t2")
        head = await self.store.seal(run, [new_turn("t2")])
        assert (await self.history("a"), (await self.info("a")).busy) == (["t1", "t2"], None)
        assert (await self.info("a")).head == head
        assert (head.seq, head.own_tip) == (2, True)

    async def test_what_is_stored_comes_back_as_it_was(self) -> None:
        statuses: tuple[TurnStatus, ...] = ("completed", "failed", "cancelled", "interrupted")
        records = (b"", bytes(range(256)), b'{"v": 1,  "\xf0\x9f\x98\x80": [1.0, 1e400]}\n', b"\x00" * 1_000_000)
        extras = ((None, None), ("", ""), ("key", "reference"), ("'; --", "😀"))
        turns = [
            NewTurn(f"t{n}", status, record, n - 1, 2**53 + n, key, reference)
            for n, (status, record, (key, reference)) in enumerate(zip(statuses, records, extras, strict=True))
        ]
        head = await self.store.seal(await self.open("a", "t0"), turns[:1])
        for turn in turns[1:]:
            head = await self.store.seal(await self.open("a", turn.turn_id), [turn])
        for turn, stored in zip(turns, await self.turns_at(head), strict=True):
            assert all(getattr(stored, name) == getattr(turn, name) for name in NewTurn.__struct_fields__)

    async def test_a_record_is_kept_as_it_was_at_the_call(self) -> None:
        record = bytearray(b"as it was")
        sealing = self.store.seal(await self.open("a", "t1"), [new_turn("t1", record=cast(bytes, record))])
        record[:] = b"changed  "
        (stored,) = await self.turns_at(await sealing)
        assert (stored.record, type(stored.record)) == (b"as it was", bytes)

    async def test_the_thread_was_last_used_when_its_last_turn_ended(self) -> None:
        await self.store.seal(await self.open("a", "t1"), [replace(new_turn("t1"), ended_us=777)])
        info = await self.info("a")
        assert (info.created_us, info.updated_us) == (10, 777)
        await self.store.seal(await self.open("a", "t2"), [replace(new_turn("t2"), ended_us=888)])
        assert ((await self.info("a")).created_us, (await self.info("a")).updated_us) == (10, 888)

    async def test_sealing_nothing_gives_the_thread_back_as_it_was(self) -> None:
        await self.say("a", "t1")
        before = await self.info("a")
        run = await self.open("a", "t2")
        assert await self.store.seal(run, []) == before.head
        assert await self.info("a") == before
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("t2")])
        assert await self.history("a") == ["t1"]

    async def test_a_thread_whose_first_run_sealed_nothing_stays_and_is_empty(self) -> None:
        assert await self.store.seal(await self.open("a", "t1"), []) == Head()
        info = await self.info("a")
        assert (info.turns, info.busy, await self.history("a")) == (0, None, [])
        assert await self.say("a", "t1") == (await self.info("a")).head

    async def test_many_turns_are_sealed_at_once(self) -> None:
        await self.say("a", "t1")
        names = [f"adopted {n}" for n in range(300)]
        run = await self.open("a", "adopting")
        head = await self.store.seal(run, [new_turn(name) for name in names])
        assert (head.seq, head.own_tip) == (301, True)
        assert await self.history("a") == ["t1", *names]
        await self.say("a", "t2")
        assert await self.history("a") == ["t1", *names, "t2"]

    async def test_a_run_is_sealed_once(self) -> None:
        run = await self.open("a", "t1")
        await self.store.seal(run, [new_turn("t1")])
        for turns in ([], [new_turn("t1")], [new_turn("another")]):
            with refused(StaleRunError, thread_id="a", turn_id="t1"):
                await self.store.seal(run, turns)
        assert await self.history("a") == ["t1"]

    async def test_a_writer_of_an_earlier_run_is_stale(self) -> None:
        old = await self.open("a", "t1")
        await self.store.seal(old, [])
        run = await self.open("a", "t1")
        with refused(StaleRunError):
            await self.store.seal(old, [new_turn("t1")])
        assert await self.store.open_run("a", "t2", b"[]", 1) == Busy(run, alive=True), "the stale one left its mark"
        await self.store.seal(run, [new_turn("t1")])
        assert await self.history("a") == ["t1"]

    async def test_only_the_run_that_was_opened_fits(self) -> None:
        run = await self.open("a", "t1")
        await self.open("b", "t1")
        forged = [
            replace(run, epoch=run.epoch - 1),
            replace(run, epoch=run.epoch + 1),
            replace(run, turn_id="t2"),
            replace(run, incarnation=run.incarnation + 1),
            replace(run, thread_id="c"),
        ]
        for wrong in forged:
            with refused(StaleRunError):
                await self.store.seal(wrong, [new_turn("t1")])
            assert await self.store.take_over(wrong) is None
        assert await self.store.get("c") is None
        await self.store.seal(run, [new_turn("t1")])
        assert (await self.history("a"), await self.history("b")) == (["t1"], [])

    async def test_a_writer_is_stale_after_its_thread_was_deleted(self) -> None:
        run = await self.open("a", "t1")
        await self.store.seal(run, [])
        await self.store.delete("a")
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("t1")])
        assert await self.store.get("a") is None
        again = await self.open("a", "t1")
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("t1")])
        await self.store.seal(again, [])
        assert await self.history("a") == []

    async def test_a_turn_id_is_given_once(self) -> None:
        await self.say("a", "t1")
        with refused(InvalidInputError, turn_id="t1"):
            await self.store.open_run("b", "t1", b"[]", 1)
        assert await self.store.get("b") is None
        run = await self.open("b", "t2")
        with refused(InvalidInputError, turn_id="t1"):
            await self.store.seal(run, [new_turn("fine"), new_turn("t1")])
        assert (await self.history("a"), await self.history("b")) == (["t1"], [])
        run = await self.open("c", "c1")
        with refused(InvalidInputError, turn_id="twice"):
            await self.store.seal(run, [new_turn("twice"), new_turn("twice")])
        assert await self.history("c") == []
        await self.say("d", "fine", "twice")

    async def test_a_turn_that_cannot_be_stored_is_refused_whole(self) -> None:
        wrong = [
            *(replace(new_turn("t2"), turn_id=turn_id) for turn_id in REFUSED_IDS),
            replace(new_turn("t2"), key="\ud800"),
            replace(new_turn("t2"), reference="\ud800"),
        ]
        for n, turn in enumerate(wrong):
            run = await self.open(f"thread {n}", f"run {n}")
            with refused(InvalidInputError):
                await self.store.seal(run, [new_turn("t1"), turn])
            assert await self.history(f"thread {n}") == []
        await self.say("a", "t1", "t2")

    async def test_hostile_names_are_good_for_turns_too(self) -> None:
        await self.say("a", *HOSTILE_IDS)
        assert await self.history("a") == list(HOSTILE_IDS)
        for n, name in enumerate(HOSTILE_IDS):
            await self.store.fork("a", f"fork {n}", at=name)
            assert await self.history(f"fork {n}") == list(HOSTILE_IDS[: n + 1])


class TakingOverTests(Bench):
    """A run whose writer is gone is taken over by one other, and its writer, should it return, is refused."""

    async def test_a_run_whose_writer_lives_is_not_taken_over(self) -> None:
        run = await self.open("a", "t1")
        assert await self.store.take_over(run) is None
        head = await self.store.seal(run, [new_turn("t1")])
        assert await self.store.take_over(run) is None
        assert (await self.info("a")).head == head

    async def test_a_run_whose_seal_failed_has_no_writer(self) -> None:
        await self.say("a", "t1")
        run = await self.open("b", "t0")
        with refused(InvalidInputError):
            await self.store.seal(run, [new_turn("t1")])
        assert await self.store.open_run("b", "t2", b"[]", 1) == Busy(run, alive=False)
        taken = await self.store.take_over(run)
        assert taken is not None
        await self.store.seal(taken, [new_turn("another id")])
        assert await self.history("b") == ["another id"]

    async def test_the_one_who_takes_over_has_what_was_said(self) -> None:
        head = await self.say("a", "t1")
        run = await self.open("a", "t2")
        await self.leave(run)
        assert await self.store.open_run("a", "t3", b"[]", 1) == Busy(run, alive=False)
        assert (await self.info("a")).busy == "t2"
        taken = await self.store.take_over(run)
        assert taken is not None
        assert taken == replace(run, epoch=taken.epoch)
        assert (taken.epoch > run.epoch, taken.head) == (True, head)
        assert await self.store.open_run("a", "t3", b"[]", 1) == Busy(taken, alive=True)
        await self.store.seal(taken, [new_turn("t2", status="interrupted")])
        assert await self.history("a") == ["t1", "t2"]

    async def test_a_writer_that_returns_is_refused(self) -> None:
        run = await self.open("a", "t1")
        await self.leave(run)
        taken = await self.store.take_over(run)
        assert taken is not None
        with refused(StaleRunError, thread_id="a", turn_id="t1"):
            await self.store.seal(run, [new_turn("t1")])
        assert await self.store.open_run("a", "t2", b"[]", 1) == Busy(taken, alive=True)
        await self.store.seal(taken, [new_turn("t1", status="interrupted")])
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("t1")])
        (turn,) = await self.turns_at((await self.info("a")).head)
        assert turn.status == "interrupted"

    async def test_one_of_many_takes_a_run_over(self) -> None:
        run = await self.open("a", "t1")
        await self.leave(run)
        taken = [found for found in await asyncio.gather(*(self.store.take_over(run) for _ in range(10))) if found]
        assert len(taken) == 1
        assert await self.store.take_over(taken[0]) is None

    async def test_a_run_is_taken_over_again(self) -> None:
        run: OpenRun | None = await self.open("a", "t1")
        epochs = []
        for _ in range(3):
            assert run is not None
            epochs.append(run.epoch)
            await self.leave(run)
            run = await self.store.take_over(run)
        assert epochs == sorted(set(epochs))

    async def test_a_run_that_was_closed_meanwhile_is_not_taken_over(self) -> None:
        run = await self.open("a", "t1")
        await self.leave(run)
        taken = await self.store.take_over(run)
        assert taken is not None
        await self.store.seal(taken, [])
        assert await self.store.take_over(run) is None
        assert await self.store.take_over(taken) is None
        await self.store.delete("a")
        assert await self.store.take_over(run) is None
        await self.open("a", "t1")
        assert await self.store.take_over(run) is None

    async def test_a_thread_waits_for_the_run_that_was_left(self) -> None:
        run = await self.open("a", "t1")
        await self.leave(run)
        with refused(ThreadBusyError, thread_id="a", turn_id="t1"):
            await self.store.delete("a")
        with refused(ThreadBusyError, thread_id="a", turn_id="t1"):
            await self.store.move_head("a")
