"""The contract of branches: what a thread has left is listed, and can be returned to."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from holdfast.conversation.errors import InvalidInputError, ThreadBusyError, TurnNotFoundError
from holdfast.ports.stores import Head, Tip
from holdfast.testing.contracts_bench import Bench, new_turn, refused


class BranchTests(Bench):
    async def tips(self, thread_id: str) -> list[tuple[str, str | None, bool]]:
        """The tips of a thread's branches: turn id, the turn after which the branch begins, whether it stands there."""
        found: Sequence[Tip] = await self.store.branches(thread_id)
        return [(tip.turn_id, tip.parts_after, tip.current) for tip in found]

    async def test_a_thread_without_turns_has_no_branches(self) -> None:
        await self.store.seal(await self.open("a", "t1"), [])
        assert await self.tips("a") == []
        await self.store.fork("a", "b")
        assert await self.tips("b") == []

    async def test_a_thread_that_never_branched_has_one(self) -> None:
        run = await self.open("a", "1")
        await self.store.seal(run, [new_turn("1"), replace(new_turn("2"), ended_us=777)])
        assert list(await self.store.branches("a")) == [Tip("2", 2, None, True, 777)]
        run = await self.open("a", "3")
        assert await self.tips("a") == [("2", None, True)]
        await self.store.seal(run, [new_turn("3")])
        assert await self.tips("a") == [("3", None, True)]

    async def test_a_rewound_thread_stands_on_its_branch_still(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.move_head("a", back=2)
        assert await self.tips("a") == [("3", None, True)]

    async def test_the_newest_branch_comes_first(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.move_head("a", to="2")
        await self.say("a", "3b", "4b")
        await self.store.move_head("a", to="3b")
        await self.say("a", "4c")
        await self.store.move_head("a", back=4)
        assert (await self.info("a")).head == Head()
        assert await self.tips("a") == [("4c", "3b", False), ("4b", "2", False), ("3", None, False)]
        await self.say("a", "1d")
        assert await self.tips("a") == [
            ("1d", None, True),
            ("4c", "3b", False),
            ("4b", "2", False),
            ("3", None, False),
        ]

    async def test_turns_beside_which_the_thread_stands_are_a_branch(self) -> None:
        await self.say("a", "1")
        run = await self.open("a", "2")
        await self.store.seal(run, [new_turn("2")], stand=run.head)
        run = await self.open("a", "2b")
        await self.store.seal(run, [new_turn("2b")], stand=run.head)
        assert await self.tips("a") == [("2b", "1", False), ("2", None, True)]

    async def test_what_a_fork_shares_is_a_branch_until_another_goes_on_from_its_end(self) -> None:
        await self.say("a", "1", "2", "3", "4")
        await self.store.fork("a", "b", at="3")
        assert await self.tips("b") == [("3", None, True)]
        await self.store.move_head("b", to="2")
        assert await self.tips("b") == [("3", None, True)]
        await self.say("b", "3b")
        assert await self.tips("b") == [("3b", "2", True), ("3", None, False)]
        await self.store.move_head("b", to="3", anywhere=True)
        await self.say("b", "4b")
        assert await self.tips("b") == [("4b", "3", True), ("3b", "2", False)]
        await self.store.move_head("b", to="1")
        assert await self.tips("b") == [("4b", "3", False), ("3b", "2", False), ("3", None, True)]
        await self.store.delete("a")
        assert await self.tips("b") == [("4b", "3", False), ("3b", "2", False), ("3", None, True)]

    async def test_a_fork_of_forks_shares_one_branch(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b", "4b")
        await self.store.fork("b", "c", at="3b")
        await self.store.move_head("c", to="1")
        assert await self.tips("c") == [("3b", None, True)]
        await self.say("c", "2c")
        assert await self.tips("c") == [("2c", "1", True), ("3b", None, False)]

    async def test_branches_of_other_threads_are_not_listed(self) -> None:
        await self.say("a", "1", "2")
        await self.store.fork("a", "b", at="1")
        await self.say("b", "2b")
        await self.store.fork("a", "c")
        await self.say("c", "3c")
        assert await self.tips("a") == [("2", None, True)]
        await self.store.delete("a")
        await self.say("a", "new life")
        assert await self.tips("a") == [("new life", None, True)]
        assert await self.tips("b") == [("2b", "1", True)]

    # --- going there -------------------------------------------------------------------------------------------

    async def test_a_head_goes_to_any_of_its_branches(self) -> None:
        old = await self.say("a", "1", "2", "3")
        await self.store.move_head("a", to="1")
        new = await self.say("a", "2b", "3b")
        with refused(TurnNotFoundError, thread_id="a", turn_id="3"):
            await self.store.move_head("a", to="3")
        assert (await self.store.move_head("a", to="3", anywhere=True)).head == old
        assert await self.history("a") == ["1", "2", "3"]
        assert (await self.store.move_head("a", to="2b", anywhere=True)).head.own_tip is False
        assert await self.history("a") == ["1", "2b"]
        assert (await self.store.move_head("a", to="3b", anywhere=True)).head == new
        assert (await self.say("a", "4b")).branch == new.branch
        assert await self.history("a") == ["1", "2b", "3b", "4b"]

    async def test_going_anywhere_is_going_to_a_turn(self) -> None:
        await self.say("a", "1", "2", "3")
        before = await self.info("a")
        assert await self.store.move_head("a", anywhere=True) == before
        assert await self.store.move_head("a", to="3", anywhere=True) == before
        assert (await self.store.move_head("a", back=1, anywhere=True)).turns == 2
        assert (await self.store.move_head("a", to="1", anywhere=True)).turns == 1
        with refused(InvalidInputError):
            await self.store.move_head("a", back=1, to="1", anywhere=True)

    async def test_a_fork_goes_back_to_what_it_shares_and_no_further(self) -> None:
        await self.say("a", "1", "2", "3", "4")
        await self.store.fork("a", "b", at="3")
        await self.store.move_head("b", back=3)
        await self.say("b", "1b")
        await self.say("a", "5")
        for beyond in ("4", "5"):
            with refused(TurnNotFoundError, thread_id="b", turn_id=beyond):
                await self.store.move_head("b", to=beyond, anywhere=True)
        await self.store.delete("a")
        for n, turn_id in enumerate(("1", "2", "3"), 1):
            info = await self.store.move_head("b", to=turn_id, anywhere=True)
            assert (info.turns, info.head.own_tip) == (n, False)
        assert await self.history("b") == ["1", "2", "3"]

    async def test_a_head_goes_to_no_turn_of_another_thread(self) -> None:
        await self.say("a", "1")
        await self.store.fork("a", "b")
        await self.say("b", "2b")
        await self.say("c", "1c")
        before = await self.info("a")
        for turn_id in ("2b", "1c", "none", "' OR 1=1 --"):
            with refused(TurnNotFoundError, thread_id="a", turn_id=turn_id):
                await self.store.move_head("a", to=turn_id, anywhere=True)
        assert await self.info("a") == before

    async def test_a_head_does_not_move_anywhere_under_a_run(self) -> None:
        await self.say("a", "1", "2")
        await self.open("a", "3")
        with refused(ThreadBusyError, thread_id="a", turn_id="3"):
            await self.store.move_head("a", to="1", anywhere=True)
