"""The contract of runs that begin elsewhere than at the head, and of threads that stand elsewhere after a run."""

from __future__ import annotations

from msgspec.structs import replace

from holdfast.conversation.errors import InvalidInputError, StaleRunError, TurnNotFoundError
from holdfast.ports.stores import Busy, Head, OpenRun, Point, Terms
from holdfast.testing.contracts_bench import Bench, new_turn, opened, refused


def at(turn_id: str, *, before: bool = False, latest: bool = False) -> Terms:
    return Terms(point=Point(turn_id, before, latest))


class PointTests(Bench):
    """A run may begin at any turn of its thread's own history; what the thread left stays."""

    async def test_a_run_begins_after_a_turn(self) -> None:
        left = await self.say("a", "1", "2", "3")
        run = await self.open("a", "2b", terms=at("1"))
        assert (run.left, run.head.seq, run.head.own_tip) == (left, 1, False)
        assert (await self.info("a")).head == run.head
        assert await self.history("a") == ["1"]
        head = await self.store.seal(run, [new_turn("2b")])
        assert (head.own_tip, head.branch != left.branch) == (True, True)
        assert await self.history("a") == ["1", "2b"]
        assert [turn.turn_id for turn in await self.turns_at(left)] == ["1", "2", "3"]

    async def test_a_run_begins_before_a_turn(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.seal(await self.open("a", "3b", terms=at("3", before=True)), [new_turn("3b")])
        assert await self.history("a") == ["1", "2", "3b"]
        run = await self.open("a", "1b", terms=at("1", before=True))
        assert (run.head, run.left is not None) == (Head(), True)
        await self.store.seal(run, [new_turn("1b")])
        assert await self.history("a") == ["1b"]

    async def test_a_run_that_begins_where_the_thread_stands_has_left_nothing(self) -> None:
        head = await self.say("a", "1", "2")
        for latest in (False, True):
            run = await self.open("a", "3", terms=at("2", latest=latest))
            assert (run.head, run.left) == (head, None)
            await self.store.seal(run, [])
        run = await self.open("a", "3", terms=at("2"))
        assert (await self.store.seal(run, [new_turn("3")])).branch == head.branch

    async def test_a_run_begins_at_the_latest_turn_or_not_at_all(self) -> None:
        left = await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=at("2", before=True, latest=True))
        assert (run.left, run.head.seq) == (left, 1)
        await self.store.seal(run, [new_turn("2b")])
        before = await self.info("a")
        for stale in ("1", "2"):
            with refused(TurnNotFoundError, thread_id="a", turn_id=stale):
                await self.store.open_run("a", "3", b"[]", 1, terms=at(stale, latest=True))
        assert await self.info("a") == before

    async def test_a_run_begins_at_no_turn_of_another_history(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b")
        await self.store.move_head("a", back=1)
        for thread_id, turn_id in (("a", "3"), ("a", "3b"), ("b", "3"), ("a", "none"), ("a", "%")):
            before = await self.info(thread_id)
            for before_it in (False, True):
                with refused(TurnNotFoundError, thread_id=thread_id, turn_id=turn_id):
                    await self.store.open_run(thread_id, "new", b"[]", 1, terms=at(turn_id, before=before_it))
            assert await self.info(thread_id) == before
        with refused(TurnNotFoundError, thread_id="nowhere"):
            await self.store.open_run("nowhere", "new", b"[]", 1, terms=at("1"))
        assert await self.store.get("nowhere", deleted=True) is None
        with refused(InvalidInputError):
            await self.store.open_run("a", "new", b"[]", 1, terms=at("\ud800"))

    async def test_the_head_moves_when_the_run_opens_and_not_while_it_waits(self) -> None:
        head = await self.say("a", "1", "2")
        run = await self.open("a", "3")
        for terms in (at("1"), at("no such turn")):
            assert await self.store.open_run("a", "2b", b"[]", 1, terms=terms) == Busy(run, alive=True)
        assert await self.stand("a", "2b", at("2", latest=True)) == Busy(run, alive=True)
        assert (await self.info("a")).head == head
        await self.store.seal(run, [new_turn("3")])
        with refused(TurnNotFoundError):
            await self.stand("a", "2b", at("2", latest=True))
        assert opened(await self.stand("a", "2b", at("2"))).head == replace(head, own_tip=False)

    async def test_a_run_that_says_nothing_puts_the_thread_back_where_it_stood(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        for thread_id, point in (("a", at("1")), ("a", at("1", before=True)), ("b", at("1")), ("b", at("2"))):
            before = await self.info(thread_id)
            for n in range(3):
                run = await self.open(thread_id, f"nothing {n}", terms=point)
                assert await self.store.seal(run, []) == before.head
                assert await self.info(thread_id) == before
        assert (await self.say("a", "4")).branch == (await self.store.lineage((await self.info("a")).head))[0].branch

    async def test_only_the_writer_knows_where_the_thread_stood(self) -> None:
        left = await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=at("1"))
        assert await self.store.open_run("a", "x", b"[]", 1) == Busy(replace(run, left=None), alive=True)
        await self.leave(run)
        busy = await self.store.open_run("a", "x", b"[]", 1)
        assert busy == Busy(replace(run, left=None), alive=False)
        assert isinstance(busy, Busy)
        assert busy.run is not None
        taken = await self.taken(busy.run)
        assert (taken.left, taken.head) == (left, run.head)
        assert await self.store.seal(taken, []) == left
        assert await self.history("a") == ["1", "2"]

    async def test_what_was_left_stays_though_its_own_thread_is_deleted(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b")
        left = (await self.info("b")).head
        run = await self.open("b", "2b", terms=at("1"))
        await self.store.delete("a")
        assert [turn.turn_id for turn in await self.turns_at(left)] == ["1", "2", "3"]
        await self.store.seal(run, [new_turn("2b")])
        assert await self.history("b") == ["1", "2b"]
        assert (await self.store.move_head("b", to="3", anywhere=True)).head == left


class StandingTests(Bench):
    """After a run a thread may stand where the run began, or where it stood before; the turns are stored anyway."""

    async def test_a_thread_stands_where_the_run_began(self) -> None:
        was = await self.say("a", "1", "2")
        run = await self.open("a", "3")
        head = await self.store.seal(run, [replace(new_turn("3"), ended_us=777)], stand=run.head)
        info = await self.info("a")
        assert (info.head, info.busy, info.updated_us) == (replace(was, own_tip=False), None, 777)
        assert (head.branch, head.seq, head.own_tip) == (was.branch, 3, True)
        assert [turn.turn_id for turn in await self.turns_at(head)] == ["1", "2", "3"]
        assert (await self.say("a", "3b")).branch != was.branch
        assert await self.history("a") == ["1", "2", "3b"]
        assert (await self.store.move_head("a", to="3", anywhere=True)).head == head

    async def test_a_thread_stands_on_nothing_after_its_first_turn(self) -> None:
        run = await self.open("a", "1")
        head = await self.store.seal(run, [new_turn("1"), new_turn("2")], stand=run.head)
        assert ((await self.info("a")).head, head.seq) == (Head(), 2)
        await self.say("a", "1b")
        assert await self.history("a") == ["1b"]
        assert [turn.turn_id for turn in await self.turns_at(head)] == ["1", "2"]

    async def test_a_thread_stands_where_it_stood_before_the_run(self) -> None:
        left = await self.say("a", "1", "2", "3")
        run = await self.open("a", "2b", terms=at("1"))
        head = await self.store.seal(run, [new_turn("2b")], stand=run.left)
        assert (await self.info("a")).head == left
        assert [turn.turn_id for turn in await self.turns_at(head)] == ["1", "2b"]
        assert (await self.say("a", "4")).branch == left.branch
        assert await self.history("a") == ["1", "2", "3", "4"]

    async def test_a_fork_stands_where_it_was_forked(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        before = await self.info("b")
        for n, point in enumerate((at("1"), at("2", before=True), at("2"))):
            run = await self.open("b", f"b{n}", terms=point)
            await self.store.seal(run, [new_turn(f"b{n}")], stand=run.left or run.head)
            assert (await self.info("b")).head == before.head
        await self.store.delete("a")
        await self.say("b", "3b")
        assert await self.history("b") == ["1", "2", "3b"]
        await self.store.move_head("b", to="b0", anywhere=True)
        assert await self.history("b") == ["1", "b0"]

    async def test_a_thread_stands_where_the_run_began_elsewhere(self) -> None:
        await self.say("a", "1", "2", "3")
        run = await self.open("a", "2b", terms=at("1"))
        await self.store.seal(run, [new_turn("2b")], stand=run.head)
        assert await self.history("a") == ["1"]
        run = await self.open("a", "nothing", terms=at("1", before=True))
        assert await self.store.seal(run, [], stand=run.head) == Head()
        assert await self.history("a") == []
        await self.store.move_head("a", to="2b", anywhere=True)
        assert await self.history("a") == ["1", "2b"]

    async def test_a_thread_stands_nowhere_else(self) -> None:
        early = await self.say("a", "1")
        await self.say("a", "2", "3")
        run = await self.open("a", "4", terms=at("2"))
        with refused(InvalidInputError, thread_id="a", turn_id="4"):
            await self.store.seal(run, [new_turn("4")], stand=early)
        assert await self.history("a") == ["1", "2"]
        assert await self.store.open_run("a", "x", b"[]", 1) == Busy(replace(run, left=None), alive=False)
        await self.store.seal(await self.taken(run), [])
        with refused(StaleRunError):
            await self.store.seal(run, [new_turn("4")], stand=run.head)
        assert await self.history("a") == ["1", "2", "3"]

    async def test_a_run_of_another_writer_moves_no_head(self) -> None:
        left = await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=at("1"))
        await self.leave(run)
        taken = await self.taken(run)
        for turns, stand in (([], None), ([], left), ([new_turn("2b")], left), ([new_turn("2b")], run.head)):
            with refused(StaleRunError):
                await self.store.seal(run, turns, stand=stand)
            assert (await self.info("a")).head == run.head
        await self.store.seal(taken, [new_turn("2b", status="interrupted")], stand=taken.left)
        assert (await self.info("a")).head == left

    async def test_a_run_that_is_given_back_after_another_has_begun_stays_given_back(self) -> None:
        await self.say("a", "1", "2")
        first = await self.open("a", "x", terms=at("1"))
        await self.store.seal(first, [])
        second: OpenRun = await self.open("a", "y")
        with refused(StaleRunError):
            await self.store.seal(first, [])
        await self.store.seal(second, [new_turn("y")])
        assert await self.history("a") == ["1", "2", "y"]
