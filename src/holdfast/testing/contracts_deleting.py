"""The contract of deletion: what is gone stays gone, and nothing goes that another thread reaches."""

from __future__ import annotations

from msgspec.structs import replace

from holdfast.conversation.errors import ThreadBusyError, ThreadDeletedError, ThreadNotFoundError, TurnNotFoundError
from holdfast.ports.stores import Head, OpenRun, Segment
from holdfast.testing.contracts_bench import INTENTS, Bench, every_method, new_turn, refused


class DeletingTests(Bench):
    """A deleted thread stays dead, and what nobody else reaches is swept."""

    async def test_a_deleted_thread_is_gone(self) -> None:
        await self.say("a", "t1")
        await self.store.update("a", title="a title", metadata={"a": 1})
        incarnation = (await self.info("a")).incarnation
        assert await self.store.delete("a") is True
        assert await self.store.get("a") is None
        assert await self.listed() == []
        tombstone = await self.store.get("a", deleted=True)
        assert tombstone is not None
        assert (tombstone.id, tombstone.deleted, tombstone.incarnation) == ("a", True, incarnation)
        assert (tombstone.title, tombstone.metadata, tombstone.head, tombstone.busy) == (None, None, Head(), None)
        for name, call in every_method(self.store, "a").items():
            with refused(ThreadNotFoundError, thread_id="a"):
                assert await call() is name

    async def test_deleting_what_is_not_there_says_so(self) -> None:
        assert await self.store.delete("a") is False
        assert await self.store.delete("a", incarnation=1) is False
        assert await self.store.get("a", deleted=True) is None
        await self.say("a", "t1")
        incarnation = (await self.info("a")).incarnation
        assert await self.store.delete("a", incarnation=incarnation) is True
        assert await self.store.delete("a", incarnation=incarnation) is False
        assert await self.store.delete("a") is False

    async def test_a_thread_is_not_deleted_under_a_run(self) -> None:
        run = await self.open("a", "t1")
        with refused(ThreadBusyError, thread_id="a", turn_id="t1"):
            await self.store.delete("a")
        await self.store.seal(run, [new_turn("t1")])
        assert await self.history("a") == ["t1"]
        assert await self.store.delete("a") is True

    async def test_a_handle_cannot_bring_its_thread_back(self) -> None:
        await self.say("a", "t1")
        old = (await self.info("a")).incarnation
        await self.store.delete("a")
        for again in (False, True):
            if again:
                assert (await self.open("a", "t2", intent="new")).incarnation > old
            for intent in INTENTS:
                with refused(ThreadDeletedError, thread_id="a"):
                    await self.store.open_run("a", "t3", b"[]", 1, intent=intent, incarnation=old)
            calls = every_method(self.store, "a", incarnation=old)
            for name in calls.keys() - {"update"}:
                with refused(ThreadDeletedError, thread_id="a"):
                    await calls[name]()
        with refused(ThreadDeletedError, thread_id="a"):
            await self.store.delete("a", incarnation=old)
        assert (await self.info("a")).busy == "t2"

    async def test_a_new_thread_of_the_same_id_is_another_one(self) -> None:
        await self.say("a", "t1")
        await self.store.update("a", title="of the first life", metadata={"life": 1})
        first = await self.info("a")
        await self.store.delete("a")
        run = await self.store.open_run("a", "t2", b"[]", 55, intent="either")
        assert isinstance(run, OpenRun)
        info = await self.info("a")
        assert (run.head, run.incarnation > first.incarnation) == (Head(), True)
        assert (info.title, info.metadata, info.created_us, info.deleted) == (None, None, 55, False)
        await self.store.seal(run, [new_turn("t2")])
        assert await self.history("a") == ["t2"]

    async def test_turns_nobody_else_reaches_are_swept(self) -> None:
        head = await self.say("a", "t1", "t2")
        assert head.branch is not None
        await self.store.delete("a")
        for segment in (Segment(head.branch, 0, 2), Segment(head.branch, 0, 1), Segment(head.branch, 1, 2)):
            with refused(TurnNotFoundError):
                await self.store.read(segment)
        with refused(TurnNotFoundError):
            await self.store.lineage(head)
        new = await self.say("b", "t1", "t2")
        assert new.branch != head.branch, "the number of a branch was used again: caches would mix them up"

    async def test_rewound_turns_go_with_their_thread(self) -> None:
        old = await self.say("a", "1", "2", "3")
        await self.store.move_head("a", back=3)
        await self.say("a", "1b")
        await self.store.delete("a")
        await self._gone(old)
        await self.say("b", "1", "2", "3", "1b")

    async def _gone(self, head: Head, after: int = 0) -> None:
        """Nothing of this head's branch after this turn can be read any more."""
        assert head.branch is not None
        for seq in range(after + 1, head.seq + 1):
            with refused(TurnNotFoundError):
                await self.store.read(Segment(head.branch, seq - 1, seq))

    async def test_turns_that_a_fork_reaches_stay(self) -> None:
        head = await self.say("a", "1", "2", "3", "4")
        await self.store.fork("a", "b", at="2")
        await self.store.delete("a")
        assert await self.history("b") == ["1", "2"]
        await self._gone(head, after=2)
        await self.say("b", "3", "4")
        assert await self.history("b") == ["1", "2", "3", "4"]
        await self.store.delete("b")
        await self._gone(head)
        await self.say("c", "1", "2", "3", "4")

    async def test_the_longest_reach_of_several_forks_counts(self) -> None:
        head = await self.say("a", "1", "2", "3", "4")
        for name, at in (("b", "1"), ("c", "3"), ("d", "2")):
            await self.store.fork("a", name, at=at)
        await self.say("d", "3d")
        await self.store.delete("a")
        assert await self.history("c") == ["1", "2", "3"]
        await self._gone(head, after=3)
        await self.store.delete("c")
        assert await self.history("d") == ["1", "2", "3d"]
        await self._gone(replace(head, seq=3), after=2)
        await self.store.delete("d")
        await self._gone(replace(head, seq=2), after=1)
        assert await self.history("b") == ["1"]
        await self.store.delete("b")
        await self._gone(head)

    async def test_what_is_needed_of_deleted_threads_in_between_stays(self) -> None:
        a = await self.say("a", "1", "2")
        await self.store.fork("a", "b", at="1")
        b = await self.say("b", "2b", "3b")
        await self.store.fork("b", "c", at="2b")
        await self.say("c", "3c")
        await self.store.delete("b")
        await self.store.delete("a")
        assert await self.history("c") == ["1", "2b", "3c"]
        await self._gone(a, after=1)
        await self._gone(b, after=2)
        await self.store.delete("c")
        await self._gone(a)
        await self._gone(b, after=1)
        await self.say("d", "1", "2", "2b", "3b", "3c")

    async def test_a_fork_that_was_rewound_sweeps_all_that_it_kept(self) -> None:
        head = await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b")
        await self.store.delete("a")
        await self.store.move_head("b", back=3)
        await self.say("b", "1b")
        await self.store.delete("b")
        await self._gone(head)
        await self.say("c", "1", "2", "3", "1b")

    async def test_a_fork_that_is_deleted_takes_nothing_from_its_source(self) -> None:
        await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b")
        await self.store.delete("b")
        assert await self.history("a") == ["1", "2", "3"]
        old = await self.say("a", "4")
        await self.store.move_head("a", back=3)
        await self.store.fork("a", "c")
        await self.store.delete("c")
        assert [turn.turn_id for turn in await self.turns_at(old)] == ["1", "2", "3", "4"]

    async def test_the_next_life_of_an_id_owns_nothing_of_the_one_before(self) -> None:
        await self.say("a", "1", "2")
        await self.store.fork("a", "b")
        await self.store.delete("a")
        await self.say("a", "1b")
        assert await self.history("b") == ["1", "2"]
        await self.store.delete("a")
        assert await self.history("b") == ["1", "2"]
        info = await self.store.fork("b", "a", at="1")
        assert not info.head.own_tip
        await self.say("a", "2c")
        assert (await self.history("a"), await self.history("b")) == (["1", "2c"], ["1", "2"])
