"""The contract of histories: read in stretches, forked and rewound without a copy, and never changed."""

from __future__ import annotations

from unittest import SkipTest

from msgspec.structs import replace

from holdfast.conversation.errors import (
    DamagedError,
    InvalidInputError,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadExistsError,
    TurnNotFoundError,
)
from holdfast.ports.stores import Head, Segment
from holdfast.testing.contracts_bench import Bench, new_turn, refused


class ReadingTests(Bench):
    """A history is a few stretches of branches, and what was read once never changes."""

    async def test_an_empty_thread_has_no_lineage(self) -> None:
        assert await self.store.lineage(Head()) == ()
        await self.store.seal(await self.open("a", "t1"), [])
        assert await self.store.lineage((await self.info("a")).head) == ()

    async def test_a_thread_that_never_branched_is_one_stretch(self) -> None:
        head = await self.say("a", "t1", "t2", "t3")
        assert head.branch is not None
        assert await self.store.lineage(head) == (Segment(head.branch, 0, 3),)

    async def test_a_stretch_is_read_in_parts(self) -> None:
        names = [f"t{n}" for n in range(1, 11)]
        head = await self.say("a", *names)
        (segment,) = await self.store.lineage(head)
        whole = await self.store.read(segment)
        assert [turn.turn_id for turn in whole] == names
        for after in range(11):
            for upto in range(after, 11):
                assert await self.store.read(replace(segment, after=after, upto=upto)) == whole[after:upto]
        for limit in (0, 1, 9, 10, 11, 10_000):
            assert await self.store.read(segment, limit=limit) == whole[:limit]
        assert await self.store.read(replace(segment, after=4), limit=3) == whole[4:7]

    async def test_a_negative_limit_is_refused(self) -> None:
        (segment,) = await self.store.lineage(await self.say("a", "t1"))
        with refused(InvalidInputError):
            await self.store.read(segment, limit=-1)

    async def test_an_earlier_head_is_read_as_it_was(self) -> None:
        heads = [await self.say("a", f"t{n}") for n in range(5)]
        await self.store.move_head("a", back=3)
        await self.say("a", "other")
        for n, head in enumerate(heads):
            assert [turn.turn_id for turn in await self.turns_at(head)] == [f"t{m}" for m in range(n + 1)]

    async def test_turns_that_are_not_there_are_missed_and_not_left_out(self) -> None:
        head = await self.say("a", "t1", "t2")
        assert head.branch is not None
        for segment in (Segment(head.branch, 0, 3), Segment(head.branch, 2, 3), Segment(head.branch + 1000, 0, 1)):
            with refused(TurnNotFoundError):
                await self.store.read(segment)
        for wrong in (replace(head, seq=3), replace(head, branch=head.branch + 1000)):
            with refused(TurnNotFoundError):
                await self.store.lineage(wrong)

    async def test_a_damaged_turn_is_named_and_the_ones_before_it_go_on(self) -> None:
        if self.damage is None:
            raise SkipTest("there is no damage hook")
        head = await self.say("a", "t1", "t2", "t3", "t4")
        self.damage(self.store, "t3")
        (segment,) = await self.store.lineage(head)
        for stretch in (segment, replace(segment, after=2), replace(segment, after=2, upto=3)):
            with refused(DamagedError, turn_id="t3") as caught:
                await self.store.read(stretch)
            assert "t2" in str(caught.error), "it does not say where the conversation can go on"
        assert len(await self.store.read(segment, limit=2)) == 2
        assert len(await self.store.read(replace(segment, after=3))) == 1
        await self.store.fork("a", "b", at="t2")
        await self.say("b", "t5")
        assert await self.history("b") == ["t1", "t2", "t5"]


class ForkingTests(Bench):
    """A fork shares what was before it, and neither ever sees what the other says later."""

    async def test_a_fork_begins_where_its_source_stands(self) -> None:
        head = await self.say("a", "t1", "t2")
        await self.store.update("a", title="of a", metadata={"of": "a"})
        info = await self.store.fork("a", "b")
        assert info == await self.info("b")
        assert (info.id, info.turns, info.head) == ("b", 2, replace(head, own_tip=False))
        assert (info.title, info.metadata, info.busy, info.deleted) == (None, None, None, False)
        assert await self.history("b") == ["t1", "t2"]

    async def test_neither_sees_what_the_other_says_later(self) -> None:
        await self.say("a", "t1")
        await self.store.fork("a", "b")
        await self.say("a", "of a")
        head = await self.say("b", "of b")
        assert (await self.history("a"), await self.history("b")) == (["t1", "of a"], ["t1", "of b"])
        assert head.own_tip
        first, second = await self.store.lineage(head)
        assert (first.after, first.upto, second.after, second.upto) == (0, 1, 1, 2)
        await self.say("a", "more of a")
        await self.say("b", "more of b")
        assert await self.history("a") == ["t1", "of a", "more of a"]
        assert await self.history("b") == ["t1", "of b", "more of b"]

    async def test_the_same_turn_is_forked_many_times(self) -> None:
        await self.say("a", "t1")
        for n in range(20):
            await self.store.fork("a", f"fork {n}")
            await self.say(f"fork {n}", f"of {n}")
        assert [await self.history(f"fork {n}") for n in range(20)] == [["t1", f"of {n}"] for n in range(20)]

    async def test_a_fork_begins_at_any_turn_of_its_source(self) -> None:
        names = ["t1", "t2", "t3", "t4"]
        await self.say("a", *names)
        for n, name in enumerate(names, 1):
            info = await self.store.fork("a", f"from {name}", at=name)
            assert (info.turns, info.head.own_tip) == (n, False)
            await self.say(f"from {name}", f"after {name}")
            assert await self.history(f"from {name}") == [*names[:n], f"after {name}"]
        assert await self.history("a") == names

    async def test_forks_are_forked(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b", "4b", "5b")
        await self.store.fork("b", "c", at="4b")
        await self.say("c", "5c", "6c")
        await self.store.fork("c", "d", at="3b")
        await self.store.fork("c", "e", at="1")
        await self.store.fork("c", "f", at="2")
        await self.say("d", "4d")
        await self.say("e", "2e")
        await self.say("f", "3f")
        assert await self.history("b") == ["1", "2", "3b", "4b", "5b"]
        assert await self.history("c") == ["1", "2", "3b", "4b", "5c", "6c"]
        assert await self.history("d") == ["1", "2", "3b", "4d"]
        assert await self.history("e") == ["1", "2e"]
        assert await self.history("f") == ["1", "2", "3f"]
        stretches = [(s.after, s.upto) for s in await self.store.lineage((await self.info("c")).head)]
        assert stretches == [(0, 2), (2, 4), (4, 6)]

    async def test_a_later_stretch_is_checked_without_the_earlier_one(self) -> None:
        await self.say("a", "1", "2")
        await self.store.fork("a", "b", at="1")
        head = await self.say("b", "2b", "3b")
        _, later = await self.store.lineage(head)
        assert [turn.turn_id for turn in await self.store.read(later)] == ["2b", "3b"]
        assert [turn.turn_id for turn in await self.store.read(replace(later, after=2))] == ["3b"]

    async def test_an_empty_thread_is_forked(self) -> None:
        await self.store.seal(await self.open("a", "t"), [])
        assert (await self.store.fork("a", "b")).head == Head()
        await self.say("b", "t1")
        assert (await self.history("a"), await self.history("b")) == ([], ["t1"])

    async def test_a_fork_does_not_wait_for_a_run(self) -> None:
        await self.say("a", "t1")
        run = await self.open("a", "t2")
        info = await self.store.fork("a", "b")
        assert (info.turns, info.busy) == (1, None)
        await self.store.seal(run, [new_turn("t2")])
        await self.say("b", "t3")
        assert (await self.history("a"), await self.history("b")) == (["t1", "t2"], ["t1", "t3"])

    async def test_a_fork_begins_at_no_turn_of_another_history(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="1")
        await self.say("b", "2b")
        await self.store.move_head("a", to="2")
        await self.say("c", "1c")
        for turn_id in ("3", "2b", "1c", "no such turn", "%", ""):
            with refused(TurnNotFoundError, thread_id="a", turn_id=turn_id):
                await self.store.fork("a", "new", at=turn_id)
        with refused(TurnNotFoundError, thread_id="b", turn_id="2"):
            await self.store.fork("b", "new", at="2")
        assert await self.store.get("new", deleted=True) is None

    async def test_a_fork_takes_no_id_that_is_taken(self) -> None:
        await self.say("a", "t1")
        await self.say("b", "t2")
        for taken in ("a", "b"):
            with refused(ThreadExistsError, thread_id=taken):
                await self.store.fork("a", taken)
        assert (await self.history("a"), await self.history("b")) == (["t1"], ["t2"])

    async def test_a_fork_may_be_the_next_life_of_an_id(self) -> None:
        await self.say("a", "t1")
        first = await self.open("b", "t2")
        await self.store.seal(first, [new_turn("t2")])
        await self.store.update("b", title="of the first life")
        await self.store.delete("b")
        info = await self.store.fork("a", "b")
        assert (info.incarnation > first.incarnation, info.title, info.deleted) == (True, None, False)
        with refused(ThreadDeletedError, thread_id="b"):
            await self.store.open_run("b", "t3", b"[]", 1, incarnation=first.incarnation)
        assert await self.history("b") == ["t1"]


class RewindingTests(Bench):
    """Only the head moves; every turn stays."""

    async def test_a_head_goes_back(self) -> None:
        head = await self.say("a", "1", "2", "3", "4")
        assert (await self.store.move_head("a", back=1)).turns == 3
        info = await self.store.move_head("a", back=2)
        assert info == await self.info("a")
        assert (info.turns, info.head.own_tip, await self.history("a")) == (1, False, ["1"])
        assert [turn.turn_id for turn in await self.turns_at(head)] == ["1", "2", "3", "4"]

    async def test_a_head_goes_to_a_turn(self) -> None:
        await self.say("a", "1", "2", "3")
        assert (await self.store.move_head("a", to="3")).head.own_tip
        assert (await self.store.move_head("a", to="2")).turns == 2
        assert await self.history("a") == ["1", "2"]

    async def test_going_nowhere_changes_nothing(self) -> None:
        await self.say("a", "1", "2")
        before = await self.info("a")
        assert await self.store.move_head("a") == before
        assert await self.store.move_head("a", back=0) == before
        assert await self.store.move_head("a", to="2") == before
        await self.store.fork("a", "b")
        assert not (await self.store.move_head("b")).head.own_tip

    async def test_what_is_said_after_a_rewind_begins_a_branch(self) -> None:
        old = await self.say("a", "1", "2", "3")
        await self.store.move_head("a", back=2)
        head = await self.say("a", "2b", "3b")
        assert (head.seq, head.own_tip, head.branch != old.branch) == (3, True, True)
        assert await self.history("a") == ["1", "2b", "3b"]
        assert [turn.turn_id for turn in await self.turns_at(old)] == ["1", "2", "3"]

    async def test_a_head_goes_back_over_where_its_branch_begins(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b", "4b")
        assert (await self.store.move_head("b", back=2)).turns == 2
        assert await self.history("b") == ["1", "2"]
        await self.say("b", "3c")
        assert (await self.store.move_head("b", to="1")).turns == 1
        await self.say("b", "2d")
        assert (await self.history("a"), await self.history("b")) == (["1", "2", "3"], ["1", "2d"])

    async def test_a_fork_never_writes_on_the_branch_of_its_source(self) -> None:
        head = await self.say("a", "1", "2")
        await self.store.fork("a", "b")
        await self.say("b", "3b")
        info = await self.store.move_head("b", to="2")
        assert (info.head.branch, info.head.own_tip) == (head.branch, False)
        await self.say("b", "3c")
        await self.say("a", "3")
        assert await self.history("a") == ["1", "2", "3"]

    async def test_a_thread_begins_again_from_nothing(self) -> None:
        await self.say("a", "1", "2")
        info = await self.store.move_head("a", back=2)
        assert (info.head, info.turns, await self.history("a")) == (Head(), 0, [])
        head = await self.say("a", "1b", "2b")
        assert await self.history("a") == ["1b", "2b"]
        assert [(s.after, s.upto) for s in await self.store.lineage(head)] == [(0, 2)]

    async def test_a_head_goes_no_further_than_the_beginning(self) -> None:
        await self.say("a", "1", "2")
        before = await self.info("a")
        for back in (3, 10**9, -1):
            with refused(InvalidInputError):
                await self.store.move_head("a", back=back)
        with refused(InvalidInputError):
            await self.store.move_head("a", back=1, to="1")
        assert await self.info("a") == before

    async def test_a_head_goes_to_no_turn_of_another_history(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b")
        await self.store.move_head("a", back=1)
        for thread_id, turn_id in (("a", "3"), ("a", "3b"), ("b", "3"), ("a", "none"), ("a", "' OR 1=1 --")):
            before = await self.info(thread_id)
            with refused(TurnNotFoundError, thread_id=thread_id, turn_id=turn_id):
                await self.store.move_head(thread_id, to=turn_id)
            assert await self.info(thread_id) == before

    async def test_a_head_does_not_move_under_a_run(self) -> None:
        await self.say("a", "1", "2")
        run = await self.open("a", "3")
        with refused(ThreadBusyError, thread_id="a", turn_id="3"):
            await self.store.move_head("a", back=1)
        with refused(ThreadBusyError, thread_id="a", turn_id="3"):
            await self.store.move_head("a", to="1")
        await self.store.seal(run, [new_turn("3")])
        assert await self.history("a") == ["1", "2", "3"]
        await self.store.move_head("a", back=1)
