"""Plants: faults that are put in on purpose. A campaign that does not report them is blind.

Rule of this file: a plant changes a worker, its store or the file, never the library; the oracle is told nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from holdfast.conversation.updates import FinishUpdate
from holdfast.ports.stores import Handed, Head, NewTurn, OpenRun
from rigs.evidence import Acked
from rigs.talk import text_of
from rigs.workers import MarkedStore, Worker


class Plant(Struct, frozen=True):
    """A kind of worker, and what is done to the file behind everybody's back when a round's workers are gone."""

    worker: type[Worker] = Worker
    afterwards: Callable[[Path], None] | None = None


class _Hasty(Worker):
    """Acknowledges when it has read the answer, before the turn is sealed."""

    async def run(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        thread = self.agent.get_thread(thread_id, create=True)
        said: list[str] = []
        async with self.agent.run_stream(text_of(token), thread=thread) as stream:
            async for update in stream:
                said.append(update.text)
                if isinstance(update, FinishUpdate):
                    answer, now = "".join(said), time.monotonic()
                    self.pen.write(Acked(self.errand.worker, now, thread_id, token, stream.turn_id, answer))
                    await asyncio.sleep(0.003)
            response = await stream.response()
        return response.turn_id, response.text


class _Doubling(Worker):
    """Says everything twice, as a retry without an idempotency key does."""

    async def run(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        await super().run(token, thread_id, streamed=streamed)
        return await super().run(token, thread_id, streamed=streamed)


class _StoreInTwo(MarkedStore):
    """Its seal is two transactions: the head moves in one, the turn comes in another."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._in_one = self._write
        self._write = self._in_two
        self._sealing = False

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        self._sealing = True
        try:
            return super().seal(run, turns, **options)
        finally:
            self._sealing = False

    def _in_two(self, work: Callable[[apsw.Connection], Any], **options: Any) -> Handed[Any]:
        if not self._sealing:
            return self._in_one(work, **options)
        kept: list[Any] = []

        def first(connection: apsw.Connection) -> None:
            done = work(connection)
            n = connection.execute("SELECT max(n) FROM turns").get
            row = connection.execute("SELECT * FROM turns WHERE n = ?", (n,)).fetchone()
            connection.execute("DELETE FROM turns WHERE n = ?", (n,))
            kept.extend((done, row))

        def second(connection: apsw.Connection) -> Any:
            done, row = kept
            connection.execute(f"INSERT INTO turns VALUES ({', '.join('?' * len(row))})", row)
            return done

        self._in_one(first, **options)
        time.sleep(0.002)
        return self._in_one(second, durable=True)


class _SlowStore(MarkedStore):
    """Takes its time before it closes what a dead process has left."""

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        time.sleep(1.2)
        return super().take_over(holder)


class _InTwo(Worker):
    store_class = _StoreInTwo


class _Slow(Worker):
    store_class = _SlowStore


def _delete_a_turn(path: Path) -> None:
    """One turn that was acknowledged, in the middle of a conversation."""
    connection = apsw.Connection(str(path))
    connection.execute(
        "DELETE FROM turns WHERE n = (SELECT n FROM turns WHERE status = 'completed' ORDER BY n LIMIT 1 OFFSET 2)"
    )
    connection.close()


PLANTS: Mapping[str, Plant] = {
    "none": Plant(),
    "ack-before-seal": Plant(_Hasty),
    "seal-in-two": Plant(_InTwo),
    "slow-takeover": Plant(_Slow),
    "said-twice": Plant(_Doubling),
    "deleted-row": Plant(afterwards=_delete_a_turn),
}
