"""SQLiteStore: threads in one SQLite file, for one machine and any number of processes.

Rule of this file: each method is one piece of work in one transaction, in SQL whose values are all bound. How
work becomes a commit is `sqlite_db`'s business, what the tables mean is told in `sqlite.sql`, how a thread looks in
them in `sqlite_rows`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import apsw
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from holdfast.conversation.errors import ConfigurationError
from holdfast.conversation.ids import checked_tenant, checked_thread_id, checked_turn_id
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import (
    Busy,
    Failed,
    Handed,
    Head,
    Intent,
    NewTurn,
    OpenRun,
    Ready,
    Segment,
    SlotCache,
    StoredTurn,
    ThreadInfo,
    ThreadPage,
)
from holdfast.stores import liveness, rules, sqlite_rows, sqlite_sweep
from holdfast.stores.sqlite_db import Database, Work
from holdfast.stores.sqlite_rows import ThreadRow

T = TypeVar("T")

# The class below has a method named `list`.
Turns: TypeAlias = list[StoredTurn]

# What tells one writer's run from all others: tenant, thread, epoch.
RunName: TypeAlias = tuple[str, str, int]


class _Shared:
    """What the views of one store have in common: the file, the cache, and this process's number in the file."""

    def __init__(self, path: str, runtime: Runtime, busy_timeout: float, max_cache_bytes: int) -> None:
        self.database = Database(path, busy_timeout=busy_timeout)
        self.runtime = runtime
        self.cache = SlotCache(max_cache_bytes)
        self.process = 0
        self.owner = 0
        self.listed = False
        self.making: set[Hashable] = set()

    def owner_in(self, connection: apsw.Connection) -> int:
        """This process's number, as long as it lives; listed in the file by the transaction that first needs it."""
        path = self.database.path
        if self.process != os.getpid():
            # Not of the runtime: two processes that replay one seed are still two.
            self.owner, self.listed = int.from_bytes(os.urandom(7), "big"), False
            self.making = liveness.begin(path, self.owner)
            self.process = os.getpid()
        if not self.listed:
            sqlite_rows.forget_dead_owners(connection, lambda owner: liveness.is_alive(path, owner))
            name = f"{socket.gethostname()}:{self.process}"
            sqlite_rows.list_owner(connection, self.owner, name, self.runtime.now_us())
        return self.owner

    def begins(self, run: RunName) -> None:
        """From now on this process makes that run."""
        self.making.add(run)
        self.database.open_runs = len(self.making)

    def begun(self, run: RunName | None, done: bool) -> None:
        """The transaction that began it was committed, or was not."""
        self.listed = self.listed or (done and run is not None)
        if run is not None and not done:
            self.ends(run)

    def ends(self, run: RunName) -> None:
        """This process does not make that run any more."""
        self.making.discard(run)
        self.database.open_runs = len(self.making)

    def close(self) -> None:
        self.database.close()
        if self.process == os.getpid():
            liveness.end(self.database.path, self.owner)
            self.process = 0


class SQLiteStore:
    """Keeps threads in one SQLite file; they outlast the process, kill -9 and power cuts.

        agent = client.create_agent(thread_store=SQLiteStore("chats.db"))

    The file is made at the first use, readable for its owner only; beside it SQLite keeps `-wal` and `-shm`, and
    holdfast a small `-owners`. Use it from any number of threads, event loops and processes of one machine, not on a
    network file system. `busy_timeout` (seconds) bounds how long a write waits for other processes;
    `max_cache_bytes` what the engine keeps in memory beside it.
    Raises ConfigurationError for a path that is none; what is wrong with the file shows at the first use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        runtime: Runtime = SYSTEM,
        busy_timeout: float = 10.0,
        max_cache_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        given = os.fspath(path)
        if not isinstance(given, str) or not given or "\0" in given:
            raise ConfigurationError(f"SQLiteStore takes the path of a file; got {given!r}.")
        if given == ":memory:":
            raise ConfigurationError("SQLiteStore keeps threads in a file. For threads in memory use MemoryStore().")
        if given.startswith(("sqlite:", "file:")):
            raise ConfigurationError(f"{given!r} is an URL; pass a path, or the URL to open_store().")
        self._shared = _Shared(os.path.realpath(given), runtime, busy_timeout, max_cache_bytes)
        self._tenant = ""

    def __repr__(self) -> str:
        tenant = f", tenant {self._tenant!r}" if self._tenant else ""
        return f"SQLiteStore({self.location!r}{tenant})"

    @property
    def tenant(self) -> str:
        return self._tenant

    @property
    def cache(self) -> SlotCache:
        return self._shared.cache

    @property
    def location(self) -> str:
        return self._shared.database.path

    def for_tenant(self, tenant: str) -> SQLiteStore:
        view = object.__new__(SQLiteStore)
        view._shared = self._shared
        view._tenant = checked_tenant(tenant)
        return view

    def close(self) -> None:
        self._shared.close()

    # --- RunLog ------------------------------------------------------------------------------------------------

    def open_run(
        self,
        thread_id: str,
        turn_id: str,
        stored_input: bytes,
        started_us: int,
        *,
        intent: Intent = "either",
        incarnation: int | None = None,
    ) -> Handed[OpenRun | Busy]:
        shared, tenant = self._shared, self._tenant
        said = bytes(stored_input)
        name: RunName | None = None

        def work(connection: apsw.Connection) -> OpenRun | Busy:
            nonlocal name
            row = sqlite_rows.find_thread(connection, tenant, thread_id)
            if row is None or row.tombstone or incarnation is not None:
                row = _life(connection, row, tenant, thread_id, intent, incarnation, started_us)
            elif intent == "new":
                raise rules.thread_exists(thread_id)
            if row.run is not None:
                return Busy(row.open_run(), self._is_making(row))
            row.open(shared.owner_in(connection), turn_id, said, started_us)
            sqlite_rows.save_opened(connection, row)
            name = (tenant, thread_id, row.epoch)
            shared.begins(name)
            return row.open_run()

        try:
            checked_thread_id(thread_id)
            checked_turn_id(turn_id)
        except Exception as error:
            return Failed(error)
        return shared.database.write(work, durable=False, settled=lambda done: shared.begun(name, done))

    def _is_making(self, row: ThreadRow) -> bool:
        name = (row.tenant, row.id, row.epoch)
        return row.owner is not None and liveness.is_making(self.location, row.owner, name)

    def take_over(self, holder: OpenRun) -> Handed[OpenRun | None]:
        shared, tenant = self._shared, self._tenant
        name: RunName | None = None

        def work(connection: apsw.Connection) -> OpenRun | None:
            nonlocal name
            row = sqlite_rows.find_thread(connection, tenant, holder.thread_id)
            if row is None or row.run is None or row.open_run() != holder or self._is_making(row):
                return None
            row.open(shared.owner_in(connection), holder.turn_id, row.input, holder.started_us)
            sqlite_rows.save_opened(connection, row)
            name = (tenant, holder.thread_id, row.epoch)
            shared.begins(name)
            return row.open_run()

        return shared.database.write(work, durable=False, settled=lambda done: shared.begun(name, done))

    def seal(self, run: OpenRun, turns: Sequence[NewTurn]) -> Handed[Head]:
        shared, tenant = self._shared, self._tenant
        handed = [turn if type(turn.record) is bytes else replace(turn, record=bytes(turn.record)) for turn in turns]

        def work(connection: apsw.Connection) -> Head:
            return sqlite_rows.seal(connection, tenant, run, handed)

        return shared.database.write(
            work, durable=True, settled=lambda _: shared.ends((tenant, run.thread_id, run.epoch))
        )

    def lineage(self, head: Head) -> Awaitable[tuple[Segment, ...]]:
        return self._read(lambda connection: sqlite_rows.lineage(connection, self._tenant, head))

    def read(self, segment: Segment, *, limit: int | None = None) -> Awaitable[Turns]:
        def work(connection: apsw.Connection) -> Turns:
            if limit is not None:
                rules.checked_count(limit, "limit")
            return sqlite_rows.read_turns(connection, self._tenant, segment, limit)

        return self._read(work)

    # --- ThreadDirectory ---------------------------------------------------------------------------------------

    def get(self, thread_id: str, *, deleted: bool = False) -> Awaitable[ThreadInfo | None]:
        def work(connection: apsw.Connection) -> ThreadInfo | None:
            found = sqlite_rows.info(connection, self._tenant, checked_thread_id(thread_id))
            return None if found is None or (found.deleted and not deleted) else found

        return self._read(work)

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Awaitable[ThreadPage]:
        def work(connection: apsw.Connection) -> ThreadPage:
            rules.checked_count(limit, "limit", least=1, most=rules.MAX_PAGE)
            after = None if cursor is None else rules.position_of(cursor)
            return sqlite_rows.page(connection, self._tenant, limit, after)

        return self._read(work)

    def update(
        self,
        thread_id: str,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | UnsetType | None = UNSET,
    ) -> Handed[ThreadInfo]:
        now = self._shared.runtime.now_us()

        def work(connection: apsw.Connection) -> ThreadInfo:
            row = _living(connection, self._tenant, thread_id, None)
            row.updated = now
            sqlite_rows.save_thread(connection, row)
            info = sqlite_rows.info(connection, self._tenant, thread_id)
            assert info is not None
            if title is not UNSET:
                info = replace(info, title=title)
            if metadata is not UNSET:
                info = replace(info, metadata=rules.decoded_metadata(stored))
            sqlite_rows.save_labels(connection, self._tenant, info)
            return info

        try:
            checked_thread_id(thread_id)
            if title is not UNSET:
                rules.checked_title(title)
            stored = None if metadata is UNSET else rules.encoded_metadata(metadata)
        except Exception as error:
            return Failed(error)
        return self._shared.database.write(work, durable=True)

    def fork(
        self, thread_id: str, new_id: str, *, at: str | None = None, incarnation: int | None = None
    ) -> Handed[ThreadInfo]:
        tenant, now = self._tenant, self._shared.runtime.now_us()

        def work(connection: apsw.Connection) -> ThreadInfo:
            source = _living(connection, tenant, thread_id, incarnation)
            head = source.head if at is None else sqlite_rows.turn_on_path(connection, tenant, source, at)
            fork = sqlite_rows.find_thread(connection, tenant, new_id)
            if fork is not None and not fork.tombstone:
                raise rules.thread_exists(new_id)
            fork = _life(connection, fork, tenant, new_id, "new", None, now)
            fork.stand_at(replace(head, own_tip=False))
            sqlite_rows.save_thread(connection, fork)
            return fork.info()

        return self._change(work, thread_id, new_id)

    def move_head(
        self, thread_id: str, *, back: int = 0, to: str | None = None, incarnation: int | None = None
    ) -> Handed[ThreadInfo]:
        def work(connection: apsw.Connection) -> ThreadInfo:
            steps = rules.checked_move(back, to)
            row = _living(connection, self._tenant, thread_id, incarnation)
            if row.run is not None:
                raise rules.thread_busy(row.open_run(), "rewound")
            if to is not None:
                head = sqlite_rows.turn_on_path(connection, self._tenant, row, to)
            else:
                head = sqlite_rows.turn_back(connection, self._tenant, row, steps)
            if (head.branch, head.seq) != (row.branch, row.seq):
                sqlite_rows.anchor(connection, row)
            row.stand_at(head)
            sqlite_rows.save_thread(connection, row)
            found = sqlite_rows.info(connection, self._tenant, thread_id)
            return found if found is not None else row.info()

        return self._change(work, thread_id)

    def delete(self, thread_id: str, *, incarnation: int | None = None) -> Awaitable[bool]:
        def work(connection: apsw.Connection) -> bool:
            row = sqlite_rows.find_thread(connection, self._tenant, thread_id)
            if row is None or (row.tombstone and incarnation in (None, row.incarnation)):
                return False
            _check_life(row, incarnation)
            if row.run is not None:
                raise rules.thread_busy(row.open_run(), "deleted")
            sqlite_sweep.bury(connection, row)
            return True

        return self._then_flush(self._change(work, thread_id))

    async def _then_flush(self, deleted: Handed[bool]) -> bool:
        done = await deleted
        if done:
            await self._shared.database.flush_log()
        return done

    # --- how work is done --------------------------------------------------------------------------------------

    def _change(self, work: Work[T], *thread_ids: str) -> Handed[T]:
        try:
            for thread_id in thread_ids:
                checked_thread_id(thread_id)
        except Exception as error:
            return Failed(error)
        return self._shared.database.write(work, durable=True)

    def _read(self, work: Work[T]) -> Handed[T]:
        try:
            return Ready(self._shared.database.read(work))
        except Exception as error:
            return Failed(error)


def _living(connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int | None) -> ThreadRow:
    row = sqlite_rows.find_thread(connection, tenant, thread_id)
    if row is None:
        raise rules.no_thread(thread_id)
    _check_life(row, incarnation)
    if row.tombstone:
        raise rules.no_thread(thread_id)
    return row


def _check_life(row: ThreadRow, incarnation: int | None) -> None:
    """Refuse a handle that saw another life of the thread."""
    if incarnation is not None and (row.tombstone or row.incarnation != incarnation):
        raise rules.thread_deleted(row.id)


def _life(
    connection: apsw.Connection,
    row: ThreadRow | None,
    tenant: str,
    thread_id: str,
    intent: Intent,
    incarnation: int | None,
    now: int,
) -> ThreadRow:
    """The thread's row for a writer who means it so: as it is, or a new life of the id."""
    if row is not None and incarnation is not None:
        _check_life(row, incarnation)
        return row
    if incarnation is not None:
        raise rules.no_thread(thread_id)
    if intent == "existing":
        raise rules.no_thread(thread_id)
    if row is None:
        return ThreadRow.new(None, tenant, thread_id, incarnation=1, epoch=0, now=now)
    again = ThreadRow.new(row.n, tenant, thread_id, incarnation=row.incarnation + 1, epoch=row.epoch, now=now)
    sqlite_rows.save_thread(connection, again)
    sqlite_rows.save_labels(connection, tenant, again.info())
    return again
