"""StoreMachine: any order of operations on a store, compared with plain lists after every step.

    TestAnyOrder = store_machine(MyStore).TestCase
    TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=50)

Rule of this file: what is done to threads stands here, what is done to runs in `state_machine_runs`; what is right is
said by the model (`state_machine_model`). Needs hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import initialize, invariant, rule

from holdfast.conversation.errors import (
    HoldfastError,
    InvalidInputError,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadExistsError,
    ThreadNotFoundError,
    TurnNotFoundError,
)
from holdfast.ports.stores import Head, Segment, ThreadInfo, ThreadStore
from holdfast.testing.state_machine_base import (
    TENANTS,
    THREADS,
    depths,
    driven,
    expected,
    incarnations,
    is_parked,
    names,
    picks,
)
from holdfast.testing.state_machine_model import Name, Thread, told
from holdfast.testing.state_machine_runs import RunRules


class StoreMachine(RunRules):
    """The machine; `store_machine` gives it a store. `left_over` says what is in a store without threads."""

    left_over: Callable[[ThreadStore], object] | None = None

    def teardown(self) -> None:
        try:
            if self.sound:
                self.in_the_end_nothing_is_left()
        finally:
            self.store.close()
            self.loop.close()

    @initialize(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=3), tenant=st.sampled_from(TENANTS))
    @driven
    async def begin(self, lengths: list[int], tenant: str) -> None:
        """Some threads to begin with, so that every example has something to fork, rewind and delete."""
        for thread_id, length in zip(THREADS, lengths, strict=False):
            await self.say_now((tenant, thread_id), length)

    # --- heads -------------------------------------------------------------------------------------------------

    @rule(number=picks, name=names, new_id=st.sampled_from(THREADS), which=incarnations)
    @driven
    async def fork(self, number: int, name: Name, new_id: str, which: str) -> None:
        name = self.mostly_live(number, name)
        await self._fork(name, self.mostly_free(number, name[0], new_id), None, self.meant(name, which))

    @rule(number=picks, other=picks, new_id=st.sampled_from(THREADS), depth=depths)
    @driven
    async def fork_at(self, number: int, other: int, new_id: str, depth: int) -> None:
        """At one of the thread's own turns, or at one of another thread's: which may be its own as well."""
        name, owner = self.pick(number, lambda thread: thread.turns), self.pick(other, lambda thread: thread.turns)
        if name is None or owner is None:
            return
        turns = self.threads[name if other % 3 else owner].turns
        new_id = self.mostly_free(number, name[0], new_id)
        await self._fork(name, new_id, turns[-1 - depth % len(turns)], None)

    async def _fork(self, name: Name, new_id: str, at: str | None, incarnation: int | None) -> None:
        new = (name[0], new_id)
        source = self.threads.get(name)
        due = self.refusal(name, incarnation)
        if due is None and source is not None:
            if at is not None and at not in source.turns:
                due = TurnNotFoundError
            elif new in self.threads:
                due = ThreadExistsError
        forking = self.views[name[0]].fork(name[1], new_id, at=at, incarnation=incarnation)
        if due is not None or source is None:
            with expected(due or HoldfastError):
                await forking
            return
        info = await forking
        assert info.incarnation > self.lives.get(new, 0)
        assert not info.head.own_tip
        kept = source.turns if at is None else source.turns[: source.turns.index(at) + 1]
        self.threads[new] = Thread(info.incarnation, [*kept])
        self.lives[new] = info.incarnation

    @rule(number=picks, name=names, back=depths, which=incarnations)
    @driven
    async def rewind(self, number: int, name: Name, back: int, which: str) -> None:
        name = self.mostly_live(number, name)
        incarnation = self.meant(name, which)
        thread = self.threads.get(name)
        due = self.refusal(name, incarnation)
        if due is None and thread is not None:
            if thread.run is not None:
                due = ThreadBusyError
            elif back > len(thread.turns):
                due = InvalidInputError
        moving = self.views[name[0]].move_head(name[1], back=back, incarnation=incarnation)
        if due is not None or thread is None:
            with expected(due or HoldfastError):
                await moving
            return
        await moving
        thread.turns = thread.turns[: len(thread.turns) - back]

    @rule(number=picks, other=picks, depth=depths)
    @driven
    async def rewind_to(self, number: int, other: int, depth: int) -> None:
        """To one of the thread's own turns, or to one of another thread's: which may be its own as well."""
        name = self.pick(number, lambda thread: thread.turns and thread.run is None)
        owner = self.pick(other, lambda thread: thread.turns)
        if name is None or owner is None:
            return
        thread = self.threads[name]
        turns = self.threads[name if other % 3 else owner].turns
        to = turns[-1 - depth % len(turns)]
        moving = self.views[name[0]].move_head(name[1], to=to)
        if to not in thread.turns:
            with expected(TurnNotFoundError):
                await moving
            return
        await moving
        thread.turns = thread.turns[: thread.turns.index(to) + 1]

    @rule(number=picks, which=picks)
    @driven
    async def go_anywhere(self, number: int, which: int) -> None:
        """To a turn of any of its branches, or of another thread's."""
        name = self.pick(number, lambda thread: thread.run is None)
        to = None if name is None else self.any_turn(name[0], which)
        if name is None or to is None:
            return
        thread = self.threads[name]
        moving = self.views[name[0]].move_head(name[1], to=to, anywhere=True)
        turns = thread.up_to(to)
        if turns is None:
            with expected(TurnNotFoundError):
                await moving
            return
        await moving
        thread.turns = turns

    # --- threads -----------------------------------------------------------------------------------------------

    @rule(name=names, which=incarnations, interrupt=st.booleans())
    @driven
    async def delete(self, name: Name, which: str, interrupt: bool) -> None:
        incarnation = self.meant(name, which)
        thread = self.threads.get(name)
        deleting = self.views[name[0]].delete(name[1], incarnation=incarnation, interrupt=interrupt)
        if which == "earlier" and incarnation is not None:
            with expected(ThreadDeletedError):
                await deleting
        elif thread is not None and thread.run is not None and not interrupt:
            with expected(ThreadBusyError):
                await deleting
        else:
            assert await deleting is (thread is not None)
            self.threads.pop(name, None)

    @rule(
        number=picks,
        name=names,
        title=st.sampled_from((None, "", "a title", "😀")),
        metadata=st.sampled_from((None, {}, {"k": [1]})),
    )
    @driven
    async def label(self, number: int, name: Name, title: str | None, metadata: dict[str, Any] | None) -> None:
        name = self.mostly_live(number, name)
        thread = self.threads.get(name)
        updating = self.views[name[0]].update(name[1], title=title, metadata=metadata)
        if thread is None:
            with expected(ThreadNotFoundError):
                await updating
            return
        await updating
        thread.title, thread.metadata = title, metadata

    @rule(tenant=st.sampled_from(TENANTS), limit=st.integers(1, 4))
    @driven
    async def list_all(self, tenant: str, limit: int) -> None:
        """Page by page gives the same as all at once, and all there are, in order."""
        view = self.views[tenant]
        whole = (await view.list(limit=1000)).threads
        found: tuple[ThreadInfo, ...] = ()
        cursor: str | None = None
        while True:
            page = await view.list(limit=limit, cursor=cursor)
            found += page.threads
            cursor = page.next
            if cursor is None:
                break
        assert found == whole
        assert sorted(info.id for info in whole) == sorted(key[1] for key in self.threads if key[0] == tenant)
        assert [(-info.updated_us, info.id) for info in whole] == sorted((-i.updated_us, i.id) for i in whole)
        for info in whole:
            assert info == await view.get(info.id)

    @rule(tenant=st.sampled_from(TENANTS), limit=st.integers(1, 3))
    @driven
    async def list_those_that_wait(self, tenant: str, limit: int) -> None:
        """Page by page: those of all threads whose run waits, in the same order."""
        view = self.views[tenant]
        found: list[ThreadInfo] = []
        cursor: str | None = None
        while True:
            page = await view.list(limit=limit, cursor=cursor, waiting=True)
            found += page.threads
            cursor = page.next
            if cursor is None:
                break
        assert found == [info for info in (await view.list(limit=1000)).threads if info.waiting]

    @rule(which=st.integers(0, 1000))
    @driven
    async def read_where_a_thread_once_stood(self, which: int) -> None:
        if not self.stands:
            return
        stand = self.stands[which % len(self.stands)]
        thread = self.threads.get(stand.name)
        if thread is not None and thread.incarnation == stand.incarnation:
            assert await self.read_up_to(self.views[stand.name[0]], stand.head) == stand.turns

    @rule(number=picks, after=depths, limit=depths)
    @driven
    async def read_a_part(self, number: int, after: int, limit: int) -> None:
        name = self.pick(number)
        if name is None:
            return
        thread = self.threads[name]
        info = await self.views[name[0]].get(name[1])
        assert info is not None
        for segment in await self.views[name[0]].lineage(info.head):
            start = min(segment.after + after, segment.upto)
            part = await self.views[name[0]].read(Segment(segment.branch, start, segment.upto), limit=limit)
            wanted = thread.turns[start : min(segment.upto, start + limit)]
            assert [turn.turn_id for turn in part] == wanted

    # --- what always holds -------------------------------------------------------------------------------------

    @invariant()
    @driven
    async def every_thread_is_what_the_model_says(self) -> None:
        for name in self.lives:
            view = self.views[name[0]]
            info = await view.get(name[1], deleted=True)
            assert info is not None
            thread = self.threads.get(name)
            if thread is None:
                assert (info.deleted, info.incarnation, info.head) == (True, self.lives[name], Head())
                assert await view.get(name[1]) is None
                continue
            assert (info.deleted, info.incarnation, info.id) == (False, thread.incarnation, name[1])
            assert (info.title, info.metadata) == (thread.title, thread.metadata)
            assert info.busy == (thread.run.turn_id if thread.run is not None else None)
            assert info.waiting == is_parked(thread)
            assert info.head.own_tip == thread.at_own_tip()
            assert told(await view.branches(name[1])) == thread.tips()
            assert await self.read_up_to(view, info.head) == thread.turns

    @driven
    async def in_the_end_nothing_is_left(self) -> None:
        """When all threads are deleted, in whichever order, all turns are gone."""
        for name, thread in self.threads.items():
            if thread.run is not None:
                run = await self.views[name[0]].take_over(thread.run) if thread.deserted else thread.run
                assert run is not None
                await self.views[name[0]].seal(run, [])
            assert await self.views[name[0]].delete(name[1])
        for stand in self.stands:
            assert stand.head.branch is not None
            for seq in range(1, stand.head.seq + 1):
                with expected(TurnNotFoundError):
                    await self.views[stand.name[0]].read(Segment(stand.head.branch, seq - 1, seq))
        if self.left_over is not None:
            assert not self.left_over(self.store)


def store_machine(
    make_store: Callable[[], ThreadStore], left_over: Callable[[ThreadStore], object] | None = None
) -> type[StoreMachine]:
    """A state machine over the stores that `make_store` makes: fresh and empty, one for each example.

    `left_over` may look into a store that has no threads any more, and tell what is still there: it must be nothing.
    """

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(make_store())
            self.left_over = left_over

    return Machine
