"""The contract of verification: what a store holds is counted and called sound, and damage is told and not raised."""

from __future__ import annotations

from unittest import SkipTest

from holdfast.ports.stores import ThreadStore
from holdfast.testing.contracts_bench import Bench, new_turn, opened

_SAID = b'[{"role":"user"}]'
_RECORD = b'{"v":1,"input":[{"role":"user"}]}'


class VerifyingTests(Bench):
    """`verify`, on stores that are sound and on one that is not."""

    async def talk(self, store: ThreadStore, thread_id: str, *turn_ids: str) -> None:
        """Turns whose records can be read."""
        for turn_id in turn_ids:
            run = opened(await store.open_run(thread_id, turn_id, _SAID, 10))
            await store.seal(run, [new_turn(turn_id, record=_RECORD)])

    async def test_a_store_that_nobody_has_used_is_sound(self) -> None:
        found = await self.store.verify()
        assert (found.sound, found.threads, found.turns) == (True, 0, 0)

    async def test_every_thread_and_every_turn_counts_once(self) -> None:
        await self.talk(self.store, "a", "a1", "a2", "a3")
        await self.store.fork("a", "b", at="a2")
        await self.talk(self.store, "b", "b3")
        await self.store.move_head("a", back=2)
        await self.talk(self.store, "a", "a2 again")
        found = await self.store.verify()
        assert (found.damage, found.threads, found.turns) == ((), 2, 5)
        assert found.record_bytes == 5 * len(_RECORD)

    async def test_what_is_deleted_is_gone_and_what_a_fork_needs_is_not(self) -> None:
        await self.talk(self.store, "a", "a1", "a2", "a3")
        await self.store.fork("a", "b", at="a2")
        await self.store.delete("a")
        found = await self.store.verify()
        assert (found.damage, found.threads, found.turns) == ((), 1, 2)

    async def test_each_tenant_sees_its_own_and_all_of_them_if_it_is_asked(self) -> None:
        await self.talk(self.store, "a", "a1", "a2")
        other = self.store.for_tenant("other")
        await self.talk(other, "a", "a1")
        assert (await self.store.verify()).turns == 2
        assert (await other.verify()).turns == 1
        found = await other.verify(all_tenants=True)
        assert (found.threads, found.turns) == (2, 3)

    async def test_a_turn_that_is_being_made_is_no_damage(self) -> None:
        await self.talk(self.store, "a", "a1")
        run = opened(await self.store.open_run("a", "a2", _SAID, 10))
        await self.store.journal(run, [b"one", b"two"])
        await self.store.open_run("a", "a3", _SAID, 10, in_line=True)
        assert (await self.store.verify()).damage == ()
        await self.store.seal(run, [new_turn("a2", record=_RECORD)])
        assert (await self.store.verify()).turns == 2

    async def test_damage_is_told_with_all_whom_it_concerns_and_the_way_on(self) -> None:
        if self.damage is None:
            raise SkipTest("this store cannot be damaged from outside (no damage hook)")
        await self.talk(self.store, "a", "a1", "a2", "a3")
        await self.store.fork("a", "b")
        self.damage(self.store, "a2")
        (damage,) = (await self.store.verify()).damage
        assert (damage.kind, damage.turn_id, damage.seq, damage.threads) == ("turn", "a2", 2, ("a", "b"))
        assert damage.fork_at == "a1"
        info = await self.store.fork("b", "c", at=damage.fork_at)
        assert [turn.turn_id for turn in await self.turns_at(info.head)] == ["a1"]
