"""What the rules of the state machine stand on: the store, the model, and how a rule finds something to do.

Rule of this file: no rule stands here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition

from holdfast.conversation.errors import HoldfastError, ThreadDeletedError, ThreadNotFoundError
from holdfast.conversation.records import ROOT
from holdfast.ports.stores import Head, NewTurn, OpenRun, StoredTurn, ThreadStore
from holdfast.testing.contracts_bench import check_turn
from holdfast.testing.state_machine_model import Name, Run, Stand, Thread

P = ParamSpec("P")
M = TypeVar("M", bound="BaseMachine")

TENANTS = ("", "another tenant")
THREADS = ("a", "b", "../%' --", "😀")

names = st.tuples(st.sampled_from(TENANTS), st.sampled_from(THREADS))
picks = st.integers(0, 60)
incarnations = st.sampled_from(("any", "any", "any", "last", "earlier"))
depths = st.integers(0, 6)


def driven(step: Callable[Concatenate[M, P], Coroutine[Any, Any, None]]) -> Callable[Concatenate[M, P], None]:
    """A step written as a coroutine, driven to its end on the machine's own event loop."""

    @functools.wraps(step)
    def drive(self: M, /, *args: P.args, **kwargs: P.kwargs) -> None:
        self.sound, sound = False, self.sound
        self.loop.run_until_complete(step(self, *args, **kwargs))
        self.sound = sound

    return drive


def where(wanted: Callable[[Thread], object]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """The rule is only tried while there is a thread that is wanted: a step that does nothing shows nothing."""

    def there_is_one(machine: BaseMachine) -> bool:
        return any(wanted(thread) for thread in machine.threads.values())

    return precondition(there_is_one)


def is_open(thread: Thread) -> bool:
    return thread.run is not None


def is_written(thread: Thread) -> bool:
    """Whether a run is open for which somebody may write."""
    return thread.run is not None and not thread.run.waiting


def is_parked(thread: Thread) -> bool:
    return thread.run is not None and thread.run.waiting


def is_waited_for(thread: Thread) -> bool:
    return bool(thread.line)


def is_taken(thread: Thread) -> bool:
    return is_open(thread) or is_waited_for(thread)


@contextlib.contextmanager
def expected(kind: type[HoldfastError]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"nothing was raised; {kind.__name__} was due")


class BaseMachine(RuleBasedStateMachine):
    """The store, and the model beside it."""

    def __init__(self, store: ThreadStore) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = store
        self.views = {tenant: store.for_tenant(tenant) for tenant in TENANTS}
        self.threads: dict[Name, Thread] = {}
        self.lives: dict[Name, int] = {}
        self.epochs: dict[Name, int] = {}
        self.past: list[Run] = []
        self.stands: list[Stand] = []
        self.clock = 0
        # False during a step, and for ever if one failed.
        self.sound = True
        # Turns that were checked, by their hash: a hash stands for all that is before it, too.
        self.checked: dict[bytes, StoredTurn] = {}

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

    def pick(self, number: int, wanted: Callable[[Thread], object] = lambda _: True) -> Name | None:
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

    def pick_open(
        self, number: int, wanted: Callable[[Thread], object] = is_written
    ) -> tuple[Name, Thread, OpenRun] | None:
        """One of the threads on which a run is open, and the run: one that may be written for, if not told else."""
        name = self.pick(number, wanted)
        if name is None:
            return None
        thread = self.threads[name]
        assert thread.run is not None
        return name, thread, thread.run

    def any_turn(self, tenant: str, number: int) -> str | None:
        """One of all the turns of a tenant's threads, on whichever branch; None if there is none."""
        threads = [thread for name, thread in self.threads.items() if name[0] == tenant]
        found = sorted({turn for thread in threads for branch in thread.branches for turn in branch.turns})
        return found[number % len(found)] if found else None

    async def read_up_to(self, view: ThreadStore, head: Head) -> list[str]:
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
