"""The contract of the directory: threads are listed and labelled, apart from those of other tenants."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from holdfast.conversation.errors import InvalidInputError, StaleRunError, ThreadNotFoundError, TurnNotFoundError
from holdfast.ports.stores import Head, OpenRun, Segment
from holdfast.testing.contracts_bench import (
    HOSTILE_IDS,
    REFUSED_IDS,
    Bench,
    Calls,
    every_method,
    new_turn,
    opened,
    refused,
)


class DirectoryTests(Bench):
    """Threads are found, listed and labelled without a look at their turns."""

    async def test_a_thread_that_was_never_here_is_none(self) -> None:
        assert await self.store.get("a") is None
        assert await self.store.get("a", deleted=True) is None
        assert (await self.store.list()).threads == ()
        assert (await self.store.list()).next is None
        for name, call in every_method(self.store, "a").items():
            with refused(ThreadNotFoundError, thread_id="a"):
                assert await call() is name
        assert await self.store.get("another", deleted=True) is None

    async def test_the_most_recently_used_thread_comes_first(self) -> None:
        for name, ended in (("a", 300), ("b", 100), ("c", 200)):
            await self.store.seal(
                await self.open(name, f"of {name}"), [replace(new_turn(f"of {name}"), ended_us=ended)]
            )
        assert [info.id for info in await self.listed()] == ["a", "c", "b"]
        await self.store.seal(await self.open("b", "more"), [replace(new_turn("more"), ended_us=400)])
        assert [info.id for info in await self.listed()] == ["b", "a", "c"]
        for info in await self.listed():
            assert info == await self.info(info.id)

    async def test_threads_of_the_same_time_are_listed_by_id(self) -> None:
        names = ["a", "A", "é", "😀", "\uffee", "_", "%", "b"]
        for name in names:
            await self.store.seal(await self.open(name, f"of {name}"), [new_turn(f"of {name}")])
        for limit in (1, 3, 8, 1000):
            assert [info.id for info in await self.listed(limit)] == sorted(names)

    async def test_a_listing_ends_with_its_last_page(self) -> None:
        for n in range(6):
            await self.say(f"thread {n}", f"turn {n}")
        for limit in (1, 2, 3, 4, 6, 7):
            infos = await self.listed(limit)
            assert sorted(info.id for info in infos) == [f"thread {n}" for n in range(6)]

    async def test_paging_misses_nothing_that_stays_where_it_is(self) -> None:
        for n in range(9):
            await self.say(f"thread {n}", f"turn {n}")
        first = await self.store.list(limit=3)
        assert [info.id for info in first.threads] == ["thread 0", "thread 1", "thread 2"]
        await self.store.delete("thread 2")
        await self.store.delete("thread 4")
        await self.say("a new one", "new turn")
        second = await self.store.list(limit=3, cursor=first.next)
        assert [info.id for info in second.threads] == ["thread 3", "thread 5", "thread 6"]
        assert await self.store.list(limit=3, cursor=first.next) == second
        third = await self.store.list(limit=3, cursor=second.next)
        assert ([info.id for info in third.threads], third.next) == (["thread 7", "thread 8"], None)

    async def test_a_page_has_between_1_and_1000_threads(self) -> None:
        for limit in (0, -1, 1001, 10**9):
            with refused(InvalidInputError):
                await self.store.list(limit=limit)

    async def test_a_cursor_of_ones_own_making_is_refused(self) -> None:
        for cursor in ("", "0", "a", "e30=", "W10=", "bnVsbA==", "WzEsMl0=", "' OR 1=1", "😀", "\ud800", "A" * 5000):
            with refused(InvalidInputError):
                await self.store.list(cursor=cursor)

    async def test_a_thread_is_labelled(self) -> None:
        await self.say("a", "t1")
        before = await self.info("a")
        info = await self.store.update("a", title="A title 😀", metadata={"k": [1, 2.5, None, True, {"😀": "'"}]})
        assert info == await self.info("a")
        assert (info.title, info.metadata) == ("A title 😀", {"k": [1, 2.5, None, True, {"😀": "'"}]})
        assert (info.head, info.created_us, info.incarnation) == (before.head, before.created_us, before.incarnation)
        assert info.updated_us > before.updated_us
        info = await self.store.update("a", metadata={})
        assert (info.title, info.metadata) == ("A title 😀", {})
        info = await self.store.update("a", title=None)
        assert (info.title, info.metadata) == (None, {})
        assert (await self.store.update("a", metadata=None)).metadata is None
        assert (await self.store.update("a", title="")).title == ""
        assert await self.history("a") == ["t1"]

    async def test_a_thread_is_labelled_while_a_run_is_open(self) -> None:
        run = await self.open("a", "t1")
        assert (await self.store.update("a", title="title")).busy == "t1"
        await self.store.seal(run, [new_turn("t1")])
        assert (await self.info("a")).title == "title"

    async def test_metadata_belongs_to_the_store_alone(self) -> None:
        await self.say("a", "t1")
        mine: dict[str, Any] = {"list": [1]}
        updating = self.store.update("a", metadata=mine)
        mine["list"].append(2)
        theirs = (await updating).metadata
        assert theirs == {"list": [1]}
        theirs["list"].append(3)
        found = (await self.info("a")).metadata
        assert found == {"list": [1]}
        (listed,) = await self.listed()
        assert listed.metadata is not None
        listed.metadata["list"].append(4)
        assert (await self.info("a")).metadata == {"list": [1]}

    async def test_look_alike_keys_are_data(self) -> None:
        await self.say("a", "t1")
        metadata = {"lc": 1, "$type": "x", "__reduce__": ["os.system"], "type": "text", "": "", "a.b": 1, "'": '"'}
        assert (await self.store.update("a", metadata=metadata)).metadata == metadata
        assert (await self.info("a")).metadata == metadata

    async def test_labels_that_cannot_be_kept_are_refused(self) -> None:
        await self.say("a", "t1")
        kept = await self.store.update("a", title="x" * 1000, metadata={"k": "x" * 65_000})
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        wrong: tuple[Any, ...] = ({"k": "x" * 65_536}, {"k": float("nan")}, {"k": float("inf")}, {"k": object()})
        wrong += ({"k": b"x"}, {"k": {1, 2}}, {"k": "\ud800"}, {"\ud800": 1}, {1: "k"}, [1], "text", 1, {"k": deep})
        for metadata in wrong:
            with refused(InvalidInputError):
                await self.store.update("a", metadata=metadata)
        titles: tuple[Any, ...] = ("x" * 1001, "\ud800", 1, b"x", ["x"])
        for title in titles:
            with refused(InvalidInputError):
                await self.store.update("a", title=title)
        assert await self.info("a") == kept

    async def test_hostile_names_are_only_names(self) -> None:
        for n, name in enumerate(HOSTILE_IDS):
            await self.store.seal(await self.open(name, f"of {n}", intent="new"), [new_turn(f"of {n}")])
        for n, name in enumerate(HOSTILE_IDS):
            assert await self.history(name) == [f"of {n}"]
            assert (await self.store.update(name, title=name)).id == name
        assert sorted(info.id for info in await self.listed(7)) == sorted(HOSTILE_IDS)
        for n, name in enumerate(HOSTILE_IDS):
            await self.store.fork(name, f"fork {n}", at=f"of {n}")
            await self.store.move_head(name, back=1)
            assert await self.store.delete(name) is True
            assert await self.store.get(name) is None
            assert len(await self.listed(7)) == len(HOSTILE_IDS)

    async def test_what_could_not_be_shown_or_written_is_no_name(self) -> None:
        await self.say("a", "t")
        for name in REFUSED_IDS:
            for call in self._calls_with(name).values():
                with refused(InvalidInputError):
                    await call()
        assert [info.id for info in await self.listed()] == ["a"]
        assert (await self.info("a")).busy is None

    def _calls_with(self, name: Any) -> Calls:
        return {
            **every_method(self.store, name),
            "open_run new": lambda: self.store.open_run(name, "t1", b"[]", 1),
            "open_run turn": lambda: self.store.open_run("a", name, b"[]", 1),
            "fork to": lambda: self.store.fork("a", name),
            "get": lambda: self.store.get(name),
            "delete": lambda: self.store.delete(name),
        }


class TenantTests(Bench):
    """Nothing of one tenant can be seen, changed or guessed at through another."""

    async def test_every_method_acts_as_if_the_others_thread_were_not_there(self) -> None:
        head = await self.say("a", "t")
        run = await self.open("a", "open")
        await self.store.update("a", title="mine")
        before = await self.info("a")
        other = self.store.for_tenant("other")
        for incarnation in (None, before.incarnation):
            for name, call in every_method(other, "a", incarnation=incarnation).items():
                with refused(ThreadNotFoundError, thread_id="a"):
                    assert await call() is name
            assert await other.delete("a", incarnation=incarnation) is False
        assert await other.get("a", deleted=True) is None
        assert (await other.list()).threads == ()
        assert head.branch is not None
        with refused(TurnNotFoundError):
            await other.lineage(head)
        with refused(TurnNotFoundError):
            await other.read(Segment(head.branch, 0, 1))
        with refused(StaleRunError):
            await other.seal(run, [new_turn("theirs")])
        assert await other.take_over(run) is None
        assert await self.info("a") == before
        await self.store.seal(run, [new_turn("open")])
        assert await self.history("a") == ["t", "open"]

    async def test_the_same_names_are_other_threads_and_turns(self) -> None:
        other = self.store.for_tenant("other")
        await self.say("a", "t1", "t2")
        run = await other.open_run("a", "t1", b"[]", 1, intent="new")
        assert isinstance(run, OpenRun)
        assert run.head == Head()
        await other.seal(run, [new_turn("t1")])
        assert (await self.history("a"), await self.history("a", other)) == (["t1", "t2"], ["t1"])
        with refused(TurnNotFoundError):
            await other.fork("a", "b", at="t2")
        assert await other.delete("a") is True
        assert await self.history("a") == ["t1", "t2"]
        await self.store.delete("a")
        await self.say("a", "t1")
        assert await other.get("a") is None

    async def test_a_run_on_one_tenants_thread_does_not_hold_up_another(self) -> None:
        await self.open("a", "t1")
        assert isinstance(await self.store.for_tenant("other").open_run("a", "t1", b"[]", 1), OpenRun)

    async def test_cursors_lead_through_ones_own_threads_only(self) -> None:
        other = self.store.for_tenant("other")
        for n in range(4):
            await self.say(f"mine {n}", f"t{n}")
            run = await other.open_run(f"theirs {n}", f"t{n}", b"[]", 1)
            await other.seal(opened(run), [new_turn(f"t{n}")])
        cursor = (await self.store.list(limit=1)).next
        page = await other.list(cursor=cursor)
        assert all(info.id.startswith("theirs") for info in page.threads)
        assert [info.id for info in (await self.store.list(cursor=cursor)).threads] == ["mine 1", "mine 2", "mine 3"]

    async def test_a_view_shares_all_but_the_tenant(self) -> None:
        await self.say("a", "t1")
        other = self.store.for_tenant("other")
        assert (self.store.tenant, other.tenant, other.for_tenant("").tenant) == ("", "other", "")
        assert other.cache is self.store.cache
        assert other.location == self.store.location
        assert await self.history("a", other.for_tenant("")) == ["t1"]
        assert await self.history("a", other.for_tenant("x").for_tenant("")) == ["t1"]

    async def test_hostile_names_are_good_for_tenants_too(self) -> None:
        for n, name in enumerate(HOSTILE_IDS):
            view = self.store.for_tenant(name)
            assert view.tenant == name
            await view.seal(opened(await view.open_run("a", "t", b"[]", 1, intent="new")), [new_turn("t")])
            await view.update("a", title=str(n))
        for n, name in enumerate(HOSTILE_IDS):
            (info,) = (await self.store.for_tenant(name).list()).threads
            assert info.title == str(n)
        assert await self.listed() == []

    async def test_what_is_no_name_is_no_tenant(self) -> None:
        for name in REFUSED_IDS:
            if name != "":
                with refused(InvalidInputError):
                    self.store.for_tenant(name)
