"""StoreMachine: any order of operations on a store, compared with plain lists after every step.

    TestAnyOrder = store_machine(MyStore).TestCase
    TestAnyOrder.settings = settings(max_examples=200, stateful_step_count=50)

Rule of this file: the model is too simple to be wrong. A thread is a list of turn ids; a fork copies the list, a
rewind cuts it, a deletion drops it. Needs hypothesis.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import Struct
from msgspec.structs import replace

from holdfast.conversation.errors import (
    HoldfastError,
    InvalidInputError,
    StaleRunError,
    ThreadBusyError,
    ThreadDeletedError,
    ThreadExistsError,
    ThreadNotFoundError,
    TurnNotFoundError,
)
from holdfast.conversation.records import ROOT
from holdfast.ports.stores import Busy, Head, Intent, NewTurn, OpenRun, Segment, StoredTurn, ThreadInfo, ThreadStore
from holdfast.testing.contracts_bench import INTENTS, check_turn

P = ParamSpec("P")
M = TypeVar("M", bound="StoreMachine")

TENANTS = ("", "another tenant")
THREADS = ("a", "b", "../%' --", "😀")

# A thread is known by its tenant and its id.
Name: TypeAlias = tuple[str, str]

names = st.tuples(st.sampled_from(TENANTS), st.sampled_from(THREADS))
picks = st.integers(0, 60)
incarnations = st.sampled_from(("any", "any", "any", "last", "earlier"))
depths = st.integers(0, 6)


class _Thread:
    """What the model knows of a thread that lives."""

    def __init__(self, incarnation: int, turns: list[str]) -> None:
        self.incarnation = incarnation
        self.turns = turns
        self.run: OpenRun | None = None
        self.left = False
        self.title: str | None = None
        self.metadata: dict[str, Any] | None = None


class _Run(Struct):
    """A run that was opened once; it fits as long as it is the thread's open one, and never again."""

    name: Name
    run: OpenRun


class _Stand(Struct):
    """Where a thread once stood, at the tip of a branch of its own. It can be read for as long as the thread lives."""

    name: Name
    incarnation: int
    head: Head
    turns: list[str]


def driven(step: Callable[Concatenate[M, P], Coroutine[Any, Any, None]]) -> Callable[Concatenate[M, P], None]:
    """A step written as a coroutine, driven to its end on the machine's own event loop."""

    @functools.wraps(step)
    def drive(self: M, /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.sound, sound = False, self.sound
        self.loop.run_until_complete(step(self, *args, **kwargs))
        self.sound = sound

    return drive


class StoreMachine(RuleBasedStateMachine):
    """The machine; `store_machine` gives it a store."""

    def __init__(self, store: ThreadStore) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = store
        self.views = {tenant: store.for_tenant(tenant) for tenant in TENANTS}
        self.threads: dict[Name, _Thread] = {}
        self.lives: dict[Name, int] = {}
        self.epochs: dict[Name, int] = {}
        self.past: list[_Run] = []
        self.stands: list[_Stand] = []
        self.clock = 0
        # False during a step, and for ever if one failed.
        self.sound = True
        # Turns that were checked, by their hash: a hash stands for all that is before it, too.
        self.checked: dict[bytes, StoredTurn] = {}

    def teardown(self) -> None:
        try:
            if self.sound:
                self.in_the_end_nothing_is_left()
        finally:
            self.store.close()
            self.loop.close()

    # --- helpers -----------------------------------------------------------------------------------------------

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def new_turns(self, count: int) -> list[NewTurn]:
        return [
            NewTurn(f"turn {now}", "completed", b'{"v":1,"n":%d}' % now, now, now)
            for now in (self.tick() for _ in range(count))
        ]

    def refusal(self, name: Name, incarnation: int | None) -> type[HoldfastError] | None:
        """What a method must raise for a thread that is meant by this incarnation."""
        thread = self.threads.get(name)
        if thread is None:
            gone = incarnation is not None and name in self.lives
            return ThreadDeletedError if gone else ThreadNotFoundError
        return ThreadDeletedError if incarnation not in (None, thread.incarnation) else None

    def meant(self, name: Name, which: str) -> int | None:
        """An incarnation: none, the one that lives (or lived last), or an earlier one."""
        last = self.lives.get(name)
        if which == "any" or last is None:
            return None
        return last if which == "last" else last - 1

    def pick(self, number: int, wanted: Callable[[_Thread], object] = lambda _: True) -> Name | None:
        """One of the threads that live and are wanted, so that most steps do something; None if there is none."""
        found = [name for name, thread in self.threads.items() if wanted(thread)]
        return found[number % len(found)] if found else None

    def mostly_live(self, number: int, name: Name) -> Name:
        """A thread that lives, nearly always."""
        return name if number % 8 == 7 else self.pick(number) or name

    def mostly_free(self, number: int, tenant: str, new_id: str) -> str:
        """An id that no thread has, nearly always."""
        free = [thread_id for thread_id in THREADS if (tenant, thread_id) not in self.threads]
        return free[number % len(free)] if free and number % 8 != 7 else new_id

    def pick_open(self, number: int) -> tuple[Name, _Thread, OpenRun] | None:
        """One of the threads on which a run is open, and the run."""
        name = self.pick(number, lambda thread: thread.run)
        if name is None:
            return None
        thread = self.threads[name]
        assert thread.run is not None
        return name, thread, thread.run

    @initialize(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=3), tenant=st.sampled_from(TENANTS))
    @driven
    async def begin(self, lengths: list[int], tenant: str) -> None:
        """Some threads to begin with, so that every example has something to fork, rewind and delete."""
        for thread_id, length in zip(THREADS, lengths, strict=False):
            await self._say((tenant, thread_id), length)

    # --- runs --------------------------------------------------------------------------------------------------

    @rule(name=names, intent=st.sampled_from(INTENTS), which=incarnations)
    @driven
    async def open(self, name: Name, intent: Intent, which: str) -> None:
        incarnation = self.meant(name, which)
        due = self.refusal(name, incarnation)
        if incarnation is None and intent != "existing":
            due = ThreadExistsError if intent == "new" and name in self.threads else None
        now = self.tick()
        opening = self.views[name[0]].open_run(
            name[1], f"turn {now}", b"[%d]" % now, now, intent=intent, incarnation=incarnation
        )
        if due is not None:
            with expected(due):
                await opening
            return
        answer = await opening
        thread = self.threads.get(name)
        if thread is not None and thread.run is not None:
            assert answer == Busy(thread.run, alive=not thread.left)
            return
        assert isinstance(answer, OpenRun)
        self._opened(name, answer, now)

    def _opened(self, name: Name, run: OpenRun, now: int) -> None:
        thread = self.threads.get(name)
        if thread is None:
            assert run.incarnation > self.lives.get(name, 0)
            thread = self.threads[name] = _Thread(run.incarnation, [])
            self.lives[name] = run.incarnation
        assert (run.thread_id, run.turn_id, run.incarnation) == (name[1], f"turn {now}", thread.incarnation)
        assert (run.input, run.started_us, run.head.seq) == (b"[%d]" % now, now, len(thread.turns))
        assert run.epoch > self.epochs.get(name, 0)
        self.epochs[name] = run.epoch
        thread.run, thread.left = run, False
        self.past.append(_Run(name, run))

    @rule(number=picks, name=names, count=st.integers(1, 4))
    @driven
    async def say(self, number: int, name: Name, count: int) -> None:
        """One whole turn after another: mostly on a thread that there is."""
        name = self.pick(number, lambda thread: thread.run is None) or name
        thread = self.threads.get(name)
        if thread is None or thread.run is None:
            await self._say(name, count)

    async def _say(self, name: Name, count: int) -> None:
        for turn in self.new_turns(count):
            run = await self.views[name[0]].open_run(name[1], turn.turn_id, b"[%d]" % turn.started_us, turn.started_us)
            assert isinstance(run, OpenRun)
            self._opened(name, run, turn.started_us)
            await self.views[name[0]].seal(run, [turn])
            thread = self.threads[name]
            thread.turns, thread.run = [*thread.turns, turn.turn_id], None

    @rule(number=picks, count=st.sampled_from((0, 1, 1, 1, 2, 5)))
    @driven
    async def seal(self, number: int, count: int) -> None:
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        turns = self.new_turns(count)
        head = await self.views[name[0]].seal(run, turns)
        thread.turns = thread.turns + [turn.turn_id for turn in turns]
        thread.run = None
        assert head.seq == len(thread.turns)
        if turns:
            assert head.own_tip
            self.stands.append(_Stand(name, thread.incarnation, head, thread.turns))

    @rule(number=picks, count=st.integers(0, 2))
    @driven
    async def seal_and_be_cancelled(self, number: int, count: int) -> None:
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        turns = self.new_turns(count)

        async def sealing() -> None:
            await self.views[name[0]].seal(run, turns)

        task = asyncio.create_task(sealing())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._until_free(name)
        thread.turns = thread.turns + [turn.turn_id for turn in turns]
        thread.run = None

    async def _until_free(self, name: Name) -> None:
        for _ in range(200):
            info = await self.views[name[0]].get(name[1])
            if info is not None and info.busy is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("what was handed over was never done")

    @rule(number=picks)
    @driven
    async def fail_to_seal(self, number: int) -> None:
        """A turn id that is taken: nothing is stored, and the run has no writer any more."""
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        taken = next((other.turns[0] for key, other in self.threads.items() if key[0] == name[0] and other.turns), "")
        with expected(InvalidInputError):
            turns = [*self.new_turns(1), replace(self.new_turns(1)[0], turn_id=taken)]
            await self.views[name[0]].seal(run, turns)
        thread.left = True

    @rule(number=picks)
    @driven
    async def take_over(self, number: int) -> None:
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        taken = await self.views[name[0]].take_over(run)
        if not thread.left:
            assert taken is None
            return
        assert taken is not None
        assert taken == replace(run, epoch=taken.epoch)
        assert taken.epoch > self.epochs[name]
        self.epochs[name] = taken.epoch
        thread.run, thread.left = taken, False
        self.past.append(_Run(name, taken))

    @rule(which=st.integers(0, 1000), count=st.integers(0, 1))
    @driven
    async def seal_a_run_of_the_past(self, which: int, count: int) -> None:
        if not self.past:
            return
        past = self.past[which % len(self.past)]
        thread = self.threads.get(past.name)
        if thread is not None and thread.run == past.run:
            return
        view = self.views[past.name[0]]
        with expected(StaleRunError):
            await view.seal(past.run, self.new_turns(count))
        assert await view.take_over(past.run) is None

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
        self.threads[new] = _Thread(info.incarnation, [*kept])
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

    # --- threads -----------------------------------------------------------------------------------------------

    @rule(name=names, which=incarnations)
    @driven
    async def delete(self, name: Name, which: str) -> None:
        incarnation = self.meant(name, which)
        thread = self.threads.get(name)
        deleting = self.views[name[0]].delete(name[1], incarnation=incarnation)
        if which == "earlier" and incarnation is not None:
            with expected(ThreadDeletedError):
                await deleting
        elif thread is not None and thread.run is not None:
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

    @rule(which=st.integers(0, 1000))
    @driven
    async def read_where_a_thread_once_stood(self, which: int) -> None:
        if not self.stands:
            return
        stand = self.stands[which % len(self.stands)]
        thread = self.threads.get(stand.name)
        if thread is not None and thread.incarnation == stand.incarnation:
            assert await self._turns(self.views[stand.name[0]], stand.head) == stand.turns

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
            assert await self._turns(view, info.head) == thread.turns

    @driven
    async def in_the_end_nothing_is_left(self) -> None:
        """When all threads are deleted, in whichever order, all turns are gone."""
        for name, thread in self.threads.items():
            if thread.run is not None:
                run = await self.views[name[0]].take_over(thread.run) if thread.left else thread.run
                assert run is not None
                await self.views[name[0]].seal(run, [])
            assert await self.views[name[0]].delete(name[1])
        for stand in self.stands:
            assert stand.head.branch is not None
            for seq in range(1, stand.head.seq + 1):
                with expected(TurnNotFoundError):
                    await self.views[stand.name[0]].read(Segment(stand.head.branch, seq - 1, seq))

    async def _turns(self, view: ThreadStore, head: Head) -> list[str]:
        """The ids of the turns up to a head, read and checked."""
        found: list[str] = []
        parent = ROOT
        for segment in await view.lineage(head):
            assert segment.after == len(found)
            for turn in await view.read(segment):
                if self.checked.get(turn.hash) != turn:
                    check_turn(turn, len(found) + 1, parent)
                    self.checked[turn.hash] = turn
                found.append(turn.turn_id)
                parent = turn.hash
            assert segment.upto == len(found)
        assert (head.seq, head.hash) == (len(found), parent)
        return found


@contextlib.contextmanager
def expected(kind: type[HoldfastError]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"nothing was raised; {kind.__name__} was due")


def store_machine(make_store: Callable[[], ThreadStore]) -> type[StoreMachine]:
    """A state machine over the stores that `make_store` makes: fresh and empty, one for each example."""

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(make_store())

    return Machine
