"""The rules of runs: opening under keys and at points, the line, the journal, sealing, parking, taking over.

Rule of this file: every answer of the store is compared with the model's, in full.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TypeAlias

import hypothesis.strategies as st
from hypothesis.stateful import rule
from msgspec.structs import replace

from holdfast.conversation.errors import InvalidInputError, StaleRunError, ThreadExistsError
from holdfast.ports.stores import Busy, Earlier, Head, Intent, NewTurn, OpenRun, Point, Progress, Terms
from holdfast.testing.contracts_bench import INTENTS
from holdfast.testing.state_machine_base import (
    BaseMachine,
    depths,
    driven,
    expected,
    incarnations,
    is_open,
    is_parked,
    is_taken,
    is_waited_for,
    is_written,
    names,
    picks,
    where,
)
from holdfast.testing.state_machine_model import Name, Run, Stand, Thread, Ticket

# Which turn, whether before it, whether only if it is the latest one.
Drawn: TypeAlias = tuple[int, bool, bool]

keys = st.sampled_from((None, None, "k", "l"))
points = st.none() | st.tuples(picks, st.booleans(), st.sampled_from((False, False, True)))
# None: the run does not stand in line.
bounds = st.sampled_from((None, None, 1, 3))
stands = st.sampled_from(("end", "end", "end", "head", "left"))


class RunRules(BaseMachine):
    # --- opening -----------------------------------------------------------------------------------------------

    @rule(name=names, intent=st.sampled_from(INTENTS), which=incarnations, key=keys, point=points, bound=bounds)
    @driven
    async def open(
        self,
        name: Name,
        intent: Intent,
        which: str,
        key: str | None,
        point: Drawn | None,
        bound: int | None,
    ) -> None:
        terms = Terms(key, self._point(name, point), 1000 if bound is None else bound)
        incarnation = self.meant(name, which)
        await self._ask(name, Ticket(self.tick(), key), terms, bound, intent=intent, incarnation=incarnation)

    @where(lambda thread: thread.turns and not is_taken(thread))
    @rule(number=picks, key=keys, point=points)
    @driven
    async def open_a_free_one(self, number: int, key: str | None, point: Drawn | None) -> None:
        name = self.pick(number, lambda thread: thread.turns and not is_taken(thread))
        if name is not None:
            await self._ask(name, Ticket(self.tick(), key), Terms(key, self._point(name, point)), None)

    @where(is_taken)
    @rule(number=picks, key=keys, bound=bounds)
    @driven
    async def ask_for_a_taken_one(self, number: int, key: str | None, bound: int | None) -> None:
        name = self.pick(number, is_taken)
        if name is not None:
            terms = Terms(key, max_waiting=1000 if bound is None else bound)
            await self._ask(name, Ticket(self.tick(), key), terms, bound)

    @where(is_waited_for)
    @rule(number=picks, which=picks)
    @driven
    async def ask_again(self, number: int, which: int) -> None:
        """One that waits: perhaps it is its turn."""
        name = self.pick(number, is_waited_for)
        if name is not None:
            line = self.threads[name].line
            ticket = line[0] if which % 2 else line[which % len(line)]
            await self._ask(name, ticket, Terms(ticket.key), 1000)

    @where(is_waited_for)
    @rule(number=picks, which=picks)
    @driven
    async def withdraw(self, number: int, which: int) -> None:
        name = self.pick(number, is_waited_for)
        if name is not None:
            thread = self.threads[name]
            ticket = thread.line[which % len(thread.line)]
            await self.views[name[0]].withdraw(name[1], ticket.turn_id)
            thread.leave(ticket.turn_id)

    def _point(self, name: Name, drawn: Drawn | None) -> Point | None:
        """A point on the thread's own history, nearly always."""
        if drawn is None:
            return None
        number, before, latest = drawn
        thread = self.threads.get(name)
        if thread is None or not thread.turns or number % 8 == 7:
            return Point(self.any_turn(name[0], number) or "none", before, latest)
        return Point(thread.turns[-1 - number % len(thread.turns)], before, latest)

    async def _ask(
        self,
        name: Name,
        ticket: Ticket,
        terms: Terms,
        bound: int | None,
        *,
        intent: Intent = "either",
        incarnation: int | None = None,
    ) -> None:
        """Ask for a thread, and compare what comes of it."""
        due = self.refusal(name, incarnation)
        if incarnation is None and intent != "existing":
            due = ThreadExistsError if intent == "new" and name in self.threads else None
        opening = self.views[name[0]].open_run(
            name[1],
            ticket.turn_id,
            ticket.said,
            ticket.now,
            intent=intent,
            incarnation=incarnation,
            in_line=bound is not None,
            terms=terms,
        )
        thread = self.threads.get(name)
        answer = due or (thread.answer(ticket, bound) if thread is not None else None)
        turns = (thread or Thread(0, [])).at_point(terms.point)
        if answer is None and isinstance(turns, type):
            answer = turns
        if isinstance(answer, type):
            with expected(answer):
                await opening
            return
        found = await opening
        if isinstance(answer, Busy):
            assert found == answer
        elif answer is not None:
            assert thread is not None
            assert isinstance(found, Earlier)
            assert (found.turn.turn_id, found.turn.key) == (answer, ticket.key)
            assert found.on_head == (answer in thread.turns)
        else:
            assert isinstance(found, OpenRun)
            assert isinstance(turns, list)
            self._opened(name, found, ticket, turns)

    def _opened(self, name: Name, run: OpenRun, ticket: Ticket, turns: list[str]) -> None:
        thread = self.threads.get(name)
        if thread is None:
            assert run.incarnation > self.lives.get(name, 0)
            thread = self.threads[name] = Thread(run.incarnation, [])
            self.lives[name] = run.incarnation
        assert (run.thread_id, run.turn_id, run.incarnation) == (name[1], ticket.turn_id, thread.incarnation)
        assert (run.input, run.started_us, run.key, run.journal) == (ticket.said, ticket.now, ticket.key, ())
        assert run.head.seq == len(turns)
        assert (None if run.left is None else run.left.seq) == (None if turns == thread.turns else len(thread.turns))
        assert run.epoch > self.epochs.get(name, 0)
        self.epochs[name] = run.epoch
        thread.opened(run, turns)
        self.past.append(Run(name, run))

    @rule(number=picks, name=names, count=st.integers(1, 4))
    @driven
    async def say(self, number: int, name: Name, count: int) -> None:
        """One whole turn after another: mostly on a thread that there is."""
        name = self.pick(number, lambda thread: not is_taken(thread)) or name
        thread = self.threads.get(name)
        if thread is None or (thread.run is None and not thread.line):
            await self.say_now(name, count)

    async def say_now(self, name: Name, count: int) -> None:
        for turn in self.new_turns(count):
            ticket = Ticket(turn.started_us)
            run = await self.views[name[0]].open_run(name[1], turn.turn_id, ticket.said, ticket.now)
            assert isinstance(run, OpenRun)
            thread = self.threads.get(name)
            self._opened(name, run, ticket, [] if thread is None else thread.turns)
            await self.views[name[0]].seal(run, [turn])
            self.threads[name].closed([turn], None)

    # --- sealing -----------------------------------------------------------------------------------------------

    @where(is_written)
    @rule(number=picks, count=st.sampled_from((0, 1, 1, 1, 2, 5)), after=stands, keeps_key=st.booleans())
    @driven
    async def seal(self, number: int, count: int, after: str, keeps_key: bool) -> None:
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        turns = self._turns_of(run, count, keeps_key)
        stand = {"end": None, "head": run.head, "left": run.left}[after]
        head = await self.views[name[0]].seal(run, turns, stand=stand)
        end = thread.closed(turns, stand)
        assert head.seq == len(end)
        if turns:
            assert head.own_tip
            self.stands.append(Stand(name, thread.incarnation, head, end))

    def _turns_of(self, run: OpenRun, count: int, keeps_key: bool = True) -> list[NewTurn]:
        """New turns, the first one under the run's key."""
        turns = self.new_turns(count)
        if turns and keeps_key:
            turns[0] = replace(turns[0], key=run.key)
        return turns

    @where(is_written)
    @rule(number=picks, count=st.integers(0, 2), after=stands)
    @driven
    async def seal_and_be_cancelled(self, number: int, count: int, after: str) -> None:
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        turns = self._turns_of(run, count)
        stand = {"end": None, "head": run.head, "left": run.left}[after]

        async def sealing() -> None:
            await self.views[name[0]].seal(run, turns, stand=stand)

        task = asyncio.create_task(sealing())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await self._until_free(name)
        thread.closed(turns, stand)

    async def _until_free(self, name: Name) -> None:
        for _ in range(200):
            info = await self.views[name[0]].get(name[1])
            if info is not None and info.busy is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("what was handed over was never done")

    @where(is_written)
    @rule(number=picks, elsewhere=st.booleans())
    @driven
    async def fail_to_seal(self, number: int, elsewhere: bool) -> None:
        """A turn id that is taken, or a place to stand that is none: nothing is stored, and the writer is gone."""
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        taken = "" if elsewhere else self.any_turn(name[0], number) or ""
        turns = [*self.new_turns(1), replace(self.new_turns(1)[0], turn_id=taken)]
        with expected(InvalidInputError):
            if elsewhere:
                await self.views[name[0]].seal(run, turns[:1], stand=Head(seq=run.head.seq + 100))
            else:
                await self.views[name[0]].seal(run, turns)
        thread.deserted = True

    # --- an open run -------------------------------------------------------------------------------------------

    @where(is_written)
    @rule(number=picks, count=st.integers(0, 3), durable=st.booleans())
    @driven
    async def write_down(self, number: int, count: int, durable: bool) -> None:
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        records = [b"record %d" % self.tick() for _ in range(count)]
        await self.views[name[0]].journal(run, records, durable=durable)
        thread.journal = thread.journal + records

    @where(is_written)
    @rule(number=picks, count=st.integers(0, 2), handed_twice=st.booleans())
    @driven
    async def park(self, number: int, count: int, handed_twice: bool) -> None:
        """Sometimes by two at once: the second one comes too late."""
        found = self.pick_open(number)
        if found is None:
            return
        name, thread, run = found
        records = [b"last record %d" % self.tick() for _ in range(count)]
        view = self.views[name[0]]
        parking = view.park(run, records)
        if handed_twice:
            with expected(StaleRunError):
                await view.park(run, records)
        await parking
        assert await view.take_over(run) is None
        progress = await view.progress(name[1], run.turn_id)
        assert progress is not None
        assert progress.run is not None
        assert progress.run.epoch > self.epochs[name]
        self.epochs[name] = progress.run.epoch
        thread.parked(replace(run, epoch=progress.run.epoch, waiting=True), records)

    @where(is_parked)
    @rule(number=picks, count=st.integers(0, 1))
    @driven
    async def write_for_one_that_waits(self, number: int, count: int) -> None:
        """Nobody may, before it is taken over."""
        found = self.pick_open(number, is_parked)
        if found is None:
            return
        name, _, run = found
        view = self.views[name[0]]
        for call in (view.seal(run, self.new_turns(count)), view.journal(run, [b"late"]), view.park(run, [])):
            with expected(StaleRunError):
                await call

    @where(is_open)
    @rule(number=picks)
    @driven
    async def take_over(self, number: int) -> None:
        found = self.pick_open(number, is_open)
        if found is None:
            return
        name, thread, run = found
        taken = await self.views[name[0]].take_over(run)
        if not thread.deserted:
            assert taken is None
            return
        assert taken is not None
        assert taken == replace(run, epoch=taken.epoch, journal=tuple(thread.journal), waiting=False)
        assert taken.epoch > self.epochs[name]
        self.epochs[name] = taken.epoch
        thread.run, thread.deserted = replace(taken, journal=()), False
        self.past.append(Run(name, thread.run))

    @rule(which=st.integers(0, 1000), count=st.integers(0, 1))
    @driven
    async def a_run_of_the_past_returns(self, which: int, count: int) -> None:
        if not self.past:
            return
        past = self.past[which % len(self.past)]
        thread = self.threads.get(past.name)
        if thread is not None and thread.run == past.run:
            return
        view = self.views[past.name[0]]
        for stand in (None, past.run.head):
            with expected(StaleRunError):
                await view.seal(past.run, self.new_turns(count), stand=stand)
        with expected(StaleRunError):
            await view.journal(past.run, [b"of the past"])
        assert await view.take_over(past.run) is None

    @rule(number=picks, which=picks, rollback=st.booleans())
    @driven
    async def stop(self, number: int, which: int, rollback: bool) -> None:
        """Nobody of this process holds the run: the wish is noted, and nothing else happens."""
        name = self.pick(number)
        if name is None:
            return
        thread = self.threads[name]
        turn_id = thread.run.turn_id if thread.run is not None and which % 4 else self.any_turn(name[0], which)
        if turn_id is not None:
            is_made = thread.run is not None and thread.run.turn_id == turn_id and not thread.deserted
            assert await self.views[name[0]].stop(name[1], turn_id, rollback=rollback) is is_made

    @rule(number=picks, which=picks, after=depths)
    @driven
    async def ask_how_far_it_has_come(self, number: int, which: int, after: int) -> None:
        name = self.pick(number)
        if name is None:
            return
        thread = self.threads[name]
        known = [ticket.turn_id for ticket in thread.line] + ([thread.run.turn_id] if thread.run is not None else [])
        turn_id = known[which % len(known)] if known and which % 2 else self.any_turn(name[0], which) or "none"
        progress = await self.views[name[0]].progress(name[1], turn_id, after=after)
        if thread.run is not None and thread.run.turn_id == turn_id:
            records = tuple(thread.journal[after:])
            assert progress == Progress(thread.told_run(), not thread.deserted, records=records)
        elif thread.up_to(turn_id) is not None:
            assert progress is not None
            assert progress.turn is not None
            assert progress == Progress(turn=progress.turn, on_head=turn_id in thread.turns)
            assert progress.turn.turn_id == turn_id
        else:
            assert progress == (Progress(queued=True) if thread.waits(turn_id) else None)
