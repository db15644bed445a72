"""The contract of the place itself: it is closed for good, and opened again with all that it held."""

from __future__ import annotations

from msgspec.structs import replace

from holdfast.conversation.errors import StoreUnavailableError
from holdfast.ports.stores import Busy, Earlier, Head, OpenRun, Point, Segment, Terms, ThreadStore
from holdfast.testing.contracts_bench import Bench, Calls, every_method, new_turn, opened, refused


class KeepingTests(Bench):
    """What a store is beyond its threads: a place that is closed, and perhaps opened again."""

    async def test_a_store_says_where_it_is(self) -> None:
        assert isinstance(self.store.location, str)
        assert self.store.location

    async def test_a_closed_store_is_closed_for_good(self) -> None:
        head = await self.say("a", "t1")
        run = await self.open("a", "t2")
        other = self.store.for_tenant("other")
        self.store.close()
        self.store.close()
        other.close()
        for store in (self.store, other, self.store.for_tenant("late")):
            for call in self._calls_on(store, run, head).values():
                with refused(StoreUnavailableError):
                    await call()

    def _calls_on(self, store: ThreadStore, run: OpenRun, head: Head) -> Calls:
        return {
            **every_method(store, "a"),
            "seal": lambda: store.seal(run, [new_turn("t2")]),
            "journal": lambda: store.journal(run, [b"record"]),
            "park": lambda: store.park(run, [b"record"]),
            "progress": lambda: store.progress("a", "t2"),
            "stop": lambda: store.stop("a", "t2"),
            "withdraw": lambda: store.withdraw("a", "t2"),
            "take_over": lambda: store.take_over(run),
            "lineage": lambda: store.lineage(head),
            "read": lambda: store.read(Segment(head.branch or 0, 0, 1)),
            "get": lambda: store.get("a"),
            "list": store.list,
            "list waiting": lambda: store.list(waiting=True),
            "delete": lambda: store.delete("a"),
        }

    async def test_a_view_that_is_closed_closes_all(self) -> None:
        self.store.for_tenant("other").close()
        with refused(StoreUnavailableError):
            await self.store.get("a")

    async def test_all_is_there_when_the_store_is_opened_again(self) -> None:
        head = await self.say("a", "1", "2", "3")
        await self.store.fork("a", "b", at="2")
        await self.say("b", "3b")
        await self.store.update("b", title="title", metadata={"k": ["v"]})
        await self.store.move_head("a", back=1)
        await self.say("gone", "t")
        await self.store.delete("gone")
        other = self.store.for_tenant("other")
        await other.seal(opened(await other.open_run("a", "1", b"[]", 1)), [new_turn("1")])
        before = await self.listed()
        store = self.reopened()
        assert await self.listed() == before
        assert (await self.history("a"), await self.history("b")) == (["1", "2"], ["1", "2", "3b"])
        assert [turn.turn_id for turn in await self.turns_at(head)] == ["1", "2", "3"]
        assert await self.history("a", store.for_tenant("other")) == ["1"]
        tombstone = await store.get("gone", deleted=True)
        assert tombstone is not None
        assert tombstone.deleted
        await self.say("a", "3c")
        assert await self.history("a") == ["1", "2", "3c"]

    async def test_what_was_handed_over_before_the_store_was_closed_is_there(self) -> None:
        run = await self.open("a", "t1")
        self.store.seal(run, [new_turn("t1")])
        self.reopened()
        assert await self.history("a") == ["t1"]

    async def test_an_open_run_outlives_its_store(self) -> None:
        await self.say("a", "t1")
        run = await self.open("a", "t2")
        store = self.reopened()
        busy = await store.open_run("a", "t3", b"[]", 1)
        assert isinstance(busy, Busy)
        assert busy.run == run

    async def test_epochs_go_on_when_the_store_is_opened_again(self) -> None:
        run = await self.open("a", "t1")
        await self.store.seal(run, [])
        await self.store.delete("a")
        self.reopened()
        again = await self.open("a", "t1", intent="new")
        assert again.epoch > run.epoch
        assert again.incarnation > run.incarnation

    async def test_keys_and_branches_outlive_their_store(self) -> None:
        await self.say("a", "1")
        await self.store.seal(await self.open("a", "2", terms=Terms(key="k")), [new_turn("2", key="k")])
        await self.store.move_head("a", back=1)
        await self.say("a", "2b")
        before = await self.store.branches("a")
        store = self.reopened()
        assert await store.branches("a") == before
        answer = await store.open_run("a", "3", b"[]", 1, terms=Terms(key="k"))
        assert isinstance(answer, Earlier)
        assert (answer.turn.turn_id, answer.on_head) == ("2", False)

    async def test_what_a_run_wrote_down_and_where_its_thread_stood_outlive_their_store(self) -> None:
        left = await self.say("a", "1", "2")
        run = await self.open("a", "2b", terms=Terms("k", Point("2", before=True)))
        await self.store.journal(run, [b"0", b"1"])
        self.store.journal(run, [b"2"], durable=True)
        store = self.reopened()
        taken = await store.take_over(run)
        assert taken == replace(run, journal=(b"0", b"1", b"2"), epoch=run.epoch + 1)
        assert taken is not None
        assert (taken.left, taken.key) == (left, "k")
        assert await store.seal(taken, []) == left
