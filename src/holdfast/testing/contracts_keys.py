"""The contract of idempotency keys: a turn under a key is made once on one life of one thread."""

from __future__ import annotations

from unittest import SkipTest

from holdfast.conversation.errors import InvalidInputError, ThreadExistsError
from holdfast.ports.stores import Busy, Earlier, OpenRun, Terms, Twin
from holdfast.testing.contracts_bench import HOSTILE_IDS, Bench, new_turn, opened, refused

KEY = Terms(key="k")


class KeyTests(Bench):
    """A run that asks under a key is told of the turn, or of the run, that has it."""

    async def say_under(self, key: str, thread_id: str, turn_id: str) -> None:
        run = await self.open(thread_id, turn_id, terms=Terms(key=key))
        await self.store.seal(run, [new_turn(turn_id, key=key)])

    async def ask(self, thread_id: str, turn_id: str, key: str = "k") -> OpenRun | Busy | Earlier:
        return await self.store.open_run(thread_id, turn_id, b"[]", 1, terms=Terms(key=key))

    async def test_a_run_knows_its_key(self) -> None:
        run = await self.open("a", "t1", terms=KEY)
        assert run.key == "k"
        busy = await self.store.open_run("a", "t2", b"[]", 1)
        assert busy == Busy(run, alive=True)
        await self.leave(run)
        assert (await self.taken(run)).key == "k"

    async def test_a_turn_that_was_recorded_under_the_key_is_the_answer(self) -> None:
        await self.say("a", "t0")
        await self.say_under("k", "a", "t1")
        await self.say("a", "t2")
        before = await self.info("a")
        for turn_id in ("t3", "t1"):
            answer = await self.ask("a", turn_id)
            assert isinstance(answer, Earlier)
            assert (answer.turn, answer.on_head) == ((await self.turns_at(before.head))[1], True)
        assert await self.info("a") == before
        opened(await self.ask("a", "t3", "another key"))

    async def test_a_turn_on_another_branch_is_the_answer_too(self) -> None:
        await self.say("a", "t0")
        await self.say_under("k", "a", "t1")
        await self.store.move_head("a", back=1)
        for n in range(2):
            answer = await self.ask("a", "again")
            assert isinstance(answer, Earlier)
            assert (answer.turn.turn_id, answer.turn.key, answer.on_head) == ("t1", "k", False)
            await self.say("a", f"on another branch {n}")
            await self.store.move_head("a", back=1)
        assert await self.history("a") == ["t0"]

    async def test_the_recorded_turn_comes_before_all_that_is_going_on(self) -> None:
        await self.say_under("k", "a", "t1")
        run = await self.open("a", "t2", terms=Terms(key="other"))
        assert isinstance(await self.stand("a", "t3", KEY), Earlier)
        assert isinstance(await self.stand("a", "t4"), Busy)
        await self.store.seal(run, [])
        assert isinstance(await self.stand("a", "t3", KEY), Earlier)
        opened(await self.stand("a", "t4"))

    async def test_who_learns_in_line_that_the_turn_is_there_stands_in_line_no_more(self) -> None:
        run = await self.open("a", "t0")
        assert await self.stand("a", "t1", KEY) == Busy(run, alive=True)
        await self.store.seal(run, [new_turn("t0", key="k")])
        assert isinstance(await self.stand("a", "t1", KEY), Earlier)
        await self.say("a", "t2")

    async def test_a_key_counts_on_one_thread_of_one_tenant(self) -> None:
        await self.say_under("k", "a", "a1")
        await self.say_under("k", "b", "b1")
        assert isinstance(await self.ask("a", "x"), Earlier)
        other = self.store.for_tenant("other")
        opened(await other.open_run("a", "a1", b"[]", 1, terms=KEY))
        opened(await self.ask("c", "c1"))

    async def test_a_key_counts_in_one_life_of_a_thread(self) -> None:
        await self.say_under("k", "a", "t1")
        await self.store.delete("a")
        await self.say_under("k", "a", "t2")
        answer = await self.ask("a", "t3")
        assert isinstance(answer, Earlier)
        assert answer.turn.turn_id == "t2"

    async def test_a_fork_starts_with_no_keys(self) -> None:
        await self.say_under("k", "a", "t1")
        await self.store.fork("a", "b")
        await self.say_under("k", "b", "t2")
        for thread_id, turn_id in (("a", "t1"), ("b", "t2")):
            answer = await self.ask(thread_id, "again")
            assert isinstance(answer, Earlier)
            assert answer.turn.turn_id == turn_id
        await self.store.delete("a")
        assert await self.history("b") == ["t1", "t2"]
        await self.store.fork("b", "a")
        opened(await self.ask("a", "t3"))

    async def test_a_turn_that_is_stored_without_its_key_leaves_it_free(self) -> None:
        run = await self.open("a", "t1", terms=KEY)
        await self.store.seal(run, [new_turn("t1", status="failed")])
        run = await self.open("a", "t2", terms=KEY)
        await self.store.seal(run, [])
        await self.say_under("k", "a", "t3")
        assert isinstance(await self.ask("a", "t4"), Earlier)

    async def test_the_open_run_that_has_the_key_is_named(self) -> None:
        run = await self.open("a", "t1", terms=KEY)
        twin = Twin("t1", b'["said"]')
        assert await self.stand("a", "t2", KEY) == Busy(run, alive=True, twin=twin)
        assert await self.ask("a", "t2") == Busy(run, alive=True, twin=twin)
        assert await self.ask("a", "t2", "another key") == Busy(run, alive=True)
        await self.store.seal(run, [])
        await self.say("a", "t3")

    async def test_who_learns_in_line_that_there_is_a_twin_stands_in_line_no_more(self) -> None:
        run = await self.open("a", "t1", terms=KEY)
        assert await self.stand("a", "t2") == Busy(run, alive=True)
        assert await self.stand("a", "t2", KEY) == Busy(run, alive=True, twin=Twin("t1", b'["said"]'))
        assert await self.store.progress("a", "t2") is None
        await self.store.seal(run, [])
        await self.say("a", "t3")

    async def test_the_open_run_of_a_dead_process_is_a_twin_too(self) -> None:
        run = await self.open("a", "t1", terms=KEY)
        await self.leave(run)
        assert await self.stand("a", "t2", KEY) == Busy(run, alive=False, twin=Twin("t1", b'["said"]'))
        await self.store.seal(await self.taken(run), [])
        opened(await self.stand("a", "t2", KEY))

    async def test_the_waiting_run_that_has_the_key_is_named(self) -> None:
        run = await self.open("a", "t0")
        assert await self.stand("a", "t1", KEY) == Busy(run, alive=True)
        twin = Twin("t1", b'["waits"]')
        assert await self.stand("a", "t2", KEY) == Busy(run, alive=True, twin=twin)
        assert await self.stand("a", "t1", KEY) == Busy(run, alive=True), "it is no twin of itself"
        assert await self.stand("a", "t3") == Busy(run, alive=True)
        await self.store.seal(run, [])
        assert await self.stand("a", "t2", KEY) == Busy(None, alive=True, twin=twin)
        await self.store.seal(opened(await self.stand("a", "t1", KEY)), [])
        await self.store.seal(opened(await self.stand("a", "t3")), [])
        await self.say("a", "t4")

    async def test_who_waits_under_a_key_and_goes_leaves_it_free(self) -> None:
        run = await self.open("a", "t0")
        await self.stand("a", "t1", KEY)
        await self.store.withdraw("a", "t1")
        assert await self.stand("a", "t2", KEY) == Busy(run, alive=True)
        await self.store.seal(run, [])
        opened(await self.stand("a", "t2", KEY))

    async def test_who_waited_under_a_key_and_died_leaves_it_free(self) -> None:
        if self.abandon is None:
            raise SkipTest("nobody can die without the store (no abandon hook)")
        run = await self.open("a", "t0")
        await self.stand("a", "t1", KEY)
        self.abandon(self.store, run)
        assert await self.stand("a", "t2", KEY) == Busy(run, alive=False)
        await self.store.seal(await self.taken(run), [])
        opened(await self.stand("a", "t2", KEY))

    async def test_a_new_thread_is_new_under_a_key_too(self) -> None:
        await self.say_under("k", "a", "t1")
        with refused(ThreadExistsError, thread_id="a"):
            await self.store.open_run("a", "t2", b"[]", 1, intent="new", terms=KEY)
        opened(await self.store.open_run("b", "t2", b"[]", 1, intent="new", terms=KEY))

    async def test_any_text_is_a_key(self) -> None:
        keys = ["", "a\nb", "\x00", *HOSTILE_IDS]
        for n, key in enumerate(keys):
            await self.say_under(key, "a", f"t{n}")
        for n, key in enumerate(keys):
            answer = await self.ask("a", "again", key)
            assert isinstance(answer, Earlier)
            assert (answer.turn.turn_id, answer.turn.key) == (f"t{n}", key)

    async def test_what_cannot_be_stored_is_no_key(self) -> None:
        for key in ("\ud800", b"k", 7):
            with refused(InvalidInputError):
                await self.store.open_run("a", "t1", b"[]", 1, terms=Terms(key=key))  # type: ignore[arg-type]
        assert await self.store.get("a", deleted=True) is None
