"""Plants of the disk rigs: faults that are put in on purpose. A rig that does not report them is blind.

Rule of this file: a plant changes a talker, its store, a connection's settings or the disk, never the library; the
judges are told nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from holdfast import SQLiteStore
from holdfast.conversation.errors import StoreError, StoreUnavailableError
from holdfast.conversation.updates import FinishUpdate
from holdfast.ports.runtime import Runtime
from holdfast.ports.stores import Failed, Handed, Head, NewTurn, OpenRun
from rigs.disk_turns import MomentStore, Talker, Told
from rigs.disk_vfs import Call
from rigs.power_images import Event
from rigs.power_recording import Recorder
from rigs.talk import text_of


class Plant(Struct, frozen=True):
    """A kind of talker, and what is done in a process before it uses its store."""

    talker: type[Talker] = Talker
    prepare: Callable[[], None] | None = None


class _Hasty(Talker):
    """Acknowledges when it has read the answer, before the turn is sealed."""

    async def say(self, token: str, thread_id: str, *, streamed: bool) -> tuple[str, str]:
        thread, said = self.agent.get_thread(thread_id, create=True), list[str]()
        async with self.agent.run_stream(text_of(token), thread=thread) as stream:
            async for update in stream:
                said.append(update.text)
                if isinstance(update, FinishUpdate):
                    self.note(Told(token, time.monotonic(), stream.turn_id, "".join(said)))
            response = await stream.response()
        return response.turn_id, response.text


class _StoreInTwo(MomentStore):
    """Its seal is two transactions: the head moves in one, the turn comes in another."""

    def __init__(self, path: Path, *, runtime: Runtime, busy_timeout: float) -> None:
        super().__init__(path, runtime=runtime, busy_timeout=busy_timeout)
        self._in_one = self._write
        self._write = self._in_two
        self._sealing = False

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        self._sealing = bool(turns)
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
        return self._in_one(second, durable=True)


class _InTwo(Talker):
    store_class = _StoreInTwo


def _settings(*pragmas: str, fixed: Sequence[str]) -> Callable[[], None]:
    """Every connection is made with these settings, and keeps them whatever it is told."""

    def hold(action: int, name: str | None, value: str | None, *_: object) -> int:
        kept = action == apsw.SQLITE_PRAGMA and name in fixed and value is not None
        return apsw.SQLITE_IGNORE if kept else apsw.SQLITE_OK

    def hook(connection: apsw.Connection) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        connection.authorizer = hold

    return lambda: apsw.connection_hooks.append(hook)


KILL_PLANTS: Mapping[str, Plant] = {
    "none": Plant(),
    "ack-before-seal": Plant(_Hasty),
    "seal-in-two": Plant(_InTwo),
    "journal-in-memory": Plant(prepare=_settings("journal_mode=MEMORY", fixed=("journal_mode",))),
}


# --- power cuts ------------------------------------------------------------------------------------------------------


class PowerPlant(Struct, frozen=True):
    """A kind of talker, a kind of recorder, and what is done in a process before it uses its store."""

    talker: type[Talker] = Talker
    recorder: type[Recorder] = Recorder
    prepare: Callable[[], None] | None = None


class _Lying(Recorder):
    """A disk that says of some syncs that they are done, and does nothing."""

    lies = ("", "")  # the kind of event, the file

    def synced(self, event: Event) -> None:
        if (event.kind, event.file) != self.lies:
            super().synced(event)


class _LyingOfTheLog(_Lying):
    lies = ("sync", "log")


class _LyingOfTheDatabase(_Lying):
    lies = ("sync", "database")


class _LyingOfTheFolder(_Lying):
    lies = ("folder", "")


class _Reordering(Recorder):
    """A disk that makes the last write before a sync after it."""

    def place(self, call: Call) -> int:
        place = super().place(call)
        for event in reversed(self.events):
            place -= 1
            if (event.kind, event.file) == ("write", call.file):
                return place
        return place


class _HalfDurableStore(MomentStore):
    """Its seals survive the death of the process, and no more."""

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        write = self._write

        def not_durable(work: Callable[[apsw.Connection], Any], **how: Any) -> Handed[Any]:
            return write(work, **{**how, "durable": False})

        self._write = not_durable
        try:
            return super().seal(run, turns, **options)
        finally:
            self._write = write


class _HalfDurable(Talker):
    store_class = _HalfDurableStore


POWER_PLANTS: Mapping[str, PowerPlant] = {
    "none": PowerPlant(),
    "synchronous-normal": PowerPlant(prepare=_settings("synchronous=NORMAL", fixed=("synchronous",))),
    "seal-not-durable": PowerPlant(talker=_HalfDurable),
    "log-not-synced": PowerPlant(recorder=_LyingOfTheLog),
    "database-not-synced": PowerPlant(recorder=_LyingOfTheDatabase),
    "folder-not-synced": PowerPlant(recorder=_LyingOfTheFolder),
    "sync-before-write": PowerPlant(recorder=_Reordering),
    "ack-before-seal": PowerPlant(talker=_Hasty),
}

# --- errors ----------------------------------------------------------------------------------------------------------


class _Sealed:
    """A seal whose error becomes something else."""

    def __init__(self, handed: Handed[Head], otherwise: Callable[[StoreError], Awaitable[Head]]) -> None:
        self._handed = handed
        self._otherwise = otherwise

    def __await__(self) -> Generator[Any, None, Head]:
        return self._wait().__await__()

    async def _wait(self) -> Head:
        try:
            return await self._handed
        except StoreError as error:
            return await self._otherwise(error)

    def then(self, call: Callable[[Head], object]) -> None:
        self._handed.then(call)


class _Swallowing(MomentStore):
    """Says that a turn is sealed, though it could not be written."""

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        async def otherwise(error: StoreError) -> Head:
            return run.head

        return _Sealed(super().seal(run, turns, **options), otherwise)


class _Raw(MomentStore):
    """Lets SQLite's own error out."""

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        async def otherwise(error: StoreError) -> Head:
            raise apsw.IOError("disk I/O error")

        return _Sealed(super().seal(run, turns, **options), otherwise)


class _Hanging(MomentStore):
    """Waits for ever for a disk that has failed."""

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        async def otherwise(error: StoreError) -> Head:
            await asyncio.Event().wait()
            raise error

        return _Sealed(super().seal(run, turns, **options), otherwise)


class _Sulking(MomentStore):
    """Takes no turn any more once the disk has failed."""

    failed = False

    def open_run(self, *args: Any, **options: Any) -> Handed[Any]:
        if self.failed:
            return Failed(StoreUnavailableError("The disk has failed before. Make another store of the same file."))
        return super().open_run(*args, **options)

    def seal(self, run: OpenRun, turns: Sequence[NewTurn], **options: Any) -> Handed[Head]:
        async def otherwise(error: StoreError) -> Head:
            self.failed = True
            raise error

        return _Sealed(super().seal(run, turns, **options), otherwise)


def _on(store: type[SQLiteStore], hangs_after: float = Talker.hangs_after) -> type[Talker]:
    return type(f"On{store.__name__}", (Talker,), {"store_class": store, "hangs_after": hangs_after})


ERROR_PLANTS: Mapping[str, type[Talker]] = {
    "none": Talker,
    "seal-swallowed": _on(_Swallowing),
    "raw-error": _on(_Raw),
    "hangs": _on(_Hanging, hangs_after=0.5),
    "sulks": _on(_Sulking),
}
