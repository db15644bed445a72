"""Plants for the rig of stopped writers: stores and workers in which a lease or its fence is not what it should be.

Rule of this file: a plant changes a worker or its store, never the library; the judges are told nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from holdfast import StaleRunError
from holdfast.ports.runtime import SYSTEM
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun
from rigs.marks import Board
from rigs.witness import BEAT, LEASE, Witness, WitnessStore, set_lease
from rigs.workers import Errand


class _Insisting:
    """A seal that, when it is refused, goes in under whatever epoch is the right one now."""

    def __init__(self, store: WitnessStore, handed: Handed[Head], run: OpenRun, turns: Sequence[NewTurn]) -> None:
        self._store, self._handed, self._run, self._turns = store, handed, run, turns

    def __await__(self) -> Generator[Any, None, Head]:
        return self._insist().__await__()

    def then(self, call: Callable[[Head], object]) -> None:
        self._handed.then(call)

    async def _insist(self) -> Head:
        try:
            return await self._handed
        except StaleRunError:
            turn = replace(self._turns[0], turn_id=SYSTEM.new_id("turn"))
        while True:
            found: Any = await self._store.open_run(self._run.thread_id, turn.turn_id, b"[]", turn.started_us)
            now = found if isinstance(found, OpenRun) else found.run
            if now is not None:
                return await super(WitnessStore, self._store).seal(now, (turn,))
            await asyncio.sleep(0.01)


class _NoFence(WitnessStore):
    """Its seal does not compare the epoch."""

    def do_seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        handed = super().do_seal(run, turns, **options)
        return _Insisting(self, handed, run, turns) if turns else handed


class _Forgets(WitnessStore):
    """Closes what it takes over without keeping what was said."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._taken: set[tuple[str, int]] = set()

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        handed = super().take_over(holder)
        handed.then(lambda run: self._taken.add((run.turn_id, run.epoch)) if run is not None else None)
        return handed

    def do_seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        return super().do_seal(run, () if (run.turn_id, run.epoch) in self._taken else turns, **options)


class _BeatsOnLoop(WitnessStore):
    """Beats only where its event loop runs."""

    def beat(self) -> None:
        if threading.current_thread() is threading.main_thread():
            super().beat()


class _WithoutFence(Witness):
    store_class = _NoFence


class _Forgetful(Witness):
    store_class = _Forgets


class _Deaf(Witness):
    """Takes being turned away for success."""

    async def run(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        try:
            return await super().run(token, thread_id, streamed=streamed)
        except StaleRunError as error:
            return error.turn_id or "", error.response.text if error.response is not None else ""


class _Breathless(Witness):
    store_class = _BeatsOnLoop
    silent_every, mute_part = (2.0, 4.0), 0.0

    async def work(self) -> None:
        beating = asyncio.create_task(self._beat())
        await super().work()
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self.store.beat()


class _Patient(Witness):
    """Never takes a stopped process's run over."""

    def __init__(self, errand: Errand, board: Board) -> None:
        super().__init__(errand, board)
        set_lease(1000 * LEASE, BEAT)


class _Hasty(Witness):
    """Takes over what has not beaten for a moment."""

    def __init__(self, errand: Errand, board: Board) -> None:
        super().__init__(errand, board)
        set_lease(BEAT / 8, BEAT)


PLANTS: Mapping[str, type[Witness]] = {
    "none": Witness,
    "no-fence": _WithoutFence,
    "deaf": _Deaf,
    "takeover-forgets": _Forgetful,
    "beat-on-loop": _Breathless,
    "endless-lease": _Patient,
    "hasty-lease": _Hasty,
}
