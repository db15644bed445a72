"""SQLiteStore: threads in one SQLite file, for one machine and any number of processes.

Rule of this file: each method is one piece of work in one transaction, in SQL whose values are all bound. What a
turn passes through stands in `sqlite_log` and `sqlite_runs`, turns and branches in `sqlite_turns` and
`sqlite_branches`, how work becomes a commit in `sqlite_db`, what the tables mean in `sqlite.sql`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import apsw
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from holdfast.conversation.errors import ConfigurationError, DamagedError, InvalidInputError
from holdfast.conversation.ids import checked_tenant, checked_thread_id
from holdfast.ports.runtime import SYSTEM, Runtime
from holdfast.ports.stores import Failed, Handed, ThreadInfo, ThreadPage, Tip
from holdfast.ports.verification import Backup, OnBackup, OnVerifying, Verification
from holdfast.stores import rules
from holdfast.stores.aside import aside
from holdfast.stores.sqlite_absent import check_absent
from holdfast.stores.sqlite_backup import backup
from holdfast.stores.sqlite_branches import head_anywhere, tips
from holdfast.stores.sqlite_db import Work, check_of
from holdfast.stores.sqlite_log import COLUMNS, Shared, ThreadRow, find_thread, new_life, save_labels, save_thread
from holdfast.stores.sqlite_runs import SQLiteRuns
from holdfast.stores.sqlite_sweep import bury
from holdfast.stores.sqlite_turns import anchor, damaged, head_at_turn, head_before
from holdfast.stores.sqlite_verify import verify

T = TypeVar("T")

_INFO = f'SELECT n, {COLUMNS}, "check", created, title, metadata, label_check FROM threads WHERE tenant = ?'
_ENTRIES = "SELECT n, updated, CAST(id AS BLOB) FROM threads WHERE tenant = ?"
_ORDER = "ORDER BY updated DESC, id"


class SQLiteStore(SQLiteRuns):
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
        super().__init__(Shared(os.path.realpath(given), runtime, busy_timeout, max_cache_bytes), "")

    def __repr__(self) -> str:
        tenant = f", tenant {self.tenant!r}" if self.tenant else ""
        return f"SQLiteStore({self.location!r}{tenant})"

    @property
    def location(self) -> str:
        """The path of the file."""
        return self._shared.database.path

    def for_tenant(self, tenant: str) -> SQLiteStore:
        """The same file, seen by another tenant."""
        view = object.__new__(SQLiteStore)
        SQLiteRuns.__init__(view, self._shared, checked_tenant(tenant))
        return view

    def close(self) -> None:
        """Finish what was handed over, then close the file. May be called twice."""
        self._shared.close()

    # --- ThreadDirectory ---------------------------------------------------------------------------------------

    def get(self, thread_id: str, *, deleted: bool = False) -> Awaitable[ThreadInfo | None]:
        def work(connection: apsw.Connection) -> ThreadInfo | None:
            found = _info(connection, self.tenant, checked_thread_id(thread_id))
            return None if found is None or (found.deleted and not deleted) else found

        return self._read(work)

    def list(self, *, limit: int = 50, cursor: str | None = None, waiting: bool = False) -> Awaitable[ThreadPage]:
        def work(connection: apsw.Connection) -> ThreadPage:
            rules.checked_count(limit, "limit", least=1, most=rules.MAX_PAGE)
            after = None if cursor is None else rules.position_of(cursor)
            return _page(connection, self.tenant, limit, after, waiting)

        return self._read(work)

    def update(
        self,
        thread_id: str,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | UnsetType | None = UNSET,
    ) -> Handed[ThreadInfo]:
        tenant, now = self.tenant, self._shared.runtime.now_us()
        stored: bytes | None = None

        def work(connection: apsw.Connection) -> ThreadInfo:
            row = _living(connection, tenant, thread_id, None)
            info = _info(connection, tenant, thread_id)
            assert info is not None
            row.updated = now
            save_thread(connection, row)
            info = replace(info, updated_us=now, title=info.title if title is UNSET else title)
            encoded = rules.encoded_metadata(info.metadata) if metadata is UNSET else stored
            save_labels(connection, row.n, info.created_us, info.title, encoded)
            return replace(info, metadata=rules.decoded_metadata(encoded))

        try:
            if title is not UNSET:
                rules.checked_title(title)
            if metadata is not UNSET:
                stored = rules.encoded_metadata(metadata)
        except Exception as error:
            return Failed(error)
        return self._change(work, thread_id)

    def fork(
        self, thread_id: str, new_id: str, *, at: str | None = None, incarnation: int | None = None
    ) -> Handed[ThreadInfo]:
        tenant, now = self.tenant, self._shared.runtime.now_us()

        def work(connection: apsw.Connection) -> ThreadInfo:
            source = _living(connection, tenant, thread_id, incarnation)
            head = source.head
            if at is not None:
                head = head_at_turn(connection, tenant, thread_id, source.incarnation, head, at)
            taken = find_thread(connection, tenant, new_id)
            if taken is not None and not taken.tombstone:
                raise rules.thread_exists(new_id)
            fork = new_life(connection, taken, tenant, new_id, intent="new", incarnation=None, now=now)
            fork.stand_at(replace(head, own_tip=False))
            save_thread(connection, fork)
            return _told(fork, (now, None, None))

        return self._change(work, thread_id, new_id)

    def move_head(
        self,
        thread_id: str,
        *,
        back: int = 0,
        to: str | None = None,
        incarnation: int | None = None,
        anywhere: bool = False,
    ) -> Handed[ThreadInfo]:
        tenant = self.tenant

        def work(connection: apsw.Connection) -> ThreadInfo:
            steps = rules.checked_move(back, to)
            row = _living(connection, tenant, thread_id, incarnation)
            if row.run is not None:
                raise rules.thread_busy(row.open_run(), "moved to another turn")
            whose = (tenant, thread_id, row.incarnation)
            if to is not None:
                head = (head_anywhere if anywhere else head_at_turn)(connection, *whose, row.head, to)
            else:
                head = head_before(connection, *whose, row.head, steps)
            if (head.branch, head.seq) != (row.branch, row.seq):
                anchor(connection, *whose, row.head)
                row.stand_at(head)
                save_thread(connection, row)
            found = _info(connection, tenant, thread_id)
            assert found is not None
            return found

        return self._change(work, thread_id)

    def branches(self, thread_id: str, *, incarnation: int | None = None) -> Handed[Sequence[Tip]]:
        tenant = self.tenant

        def work(connection: apsw.Connection) -> Sequence[Tip]:
            row = _living(connection, tenant, checked_thread_id(thread_id), incarnation)
            return tips(connection, tenant, thread_id, row.incarnation, row.head)

        return self._read(work)

    def delete(self, thread_id: str, *, incarnation: int | None = None, interrupt: bool = False) -> Awaitable[bool]:
        tenant = self.tenant

        def work(connection: apsw.Connection) -> bool:
            row = find_thread(connection, tenant, thread_id)
            if row is None or (row.tombstone and incarnation in (None, row.incarnation)):
                return False
            _check_life(row, incarnation)
            if row.run is not None and not interrupt:
                raise rules.thread_busy(row.open_run(), "deleted")
            bury(connection, row)
            return True

        return self._then_flush(self._change(work, thread_id, large=True))

    async def _then_flush(self, deleted: Handed[bool]) -> bool:
        done = await deleted
        if done:
            await self._shared.database.flush_log()
        return done

    # --- all of it ---------------------------------------------------------------------------------------------

    async def verify(self, *, all_tenants: bool = False, progress: OnVerifying | None = None) -> Verification:
        path, tenant = self._shared.database.open_path(), None if all_tenants else self.tenant
        return await aside(lambda course: verify(path, tenant, course), progress)

    async def backup(
        self, path: str | os.PathLike[str], *, replace: bool = False, progress: OnBackup | None = None
    ) -> Backup:
        """Make a copy of the file, all tenants in it, while everybody goes on writing. The copy is a store.

        It holds every turn that was acknowledged before, is verified, and readable for its owner alone. A file in
        its place is only replaced if asked, and never one that is in use as a store.
        Raises InvalidInputError, DamagedError if this store is damaged, StoreUnavailableError, StoreFullError.
        """
        source, target = self._shared.database.open_path(), os.fspath(path)
        if not isinstance(target, str) or not target or "\0" in target:
            raise InvalidInputError(f"A backup is a file; got {target!r}.")
        return await aside(lambda course: backup(source, target, course, replace=replace), progress)

    def _change(self, work: Work[T], *thread_ids: str, large: bool = False) -> Handed[T]:
        try:
            for thread_id in thread_ids:
                checked_thread_id(thread_id)
        except Exception as error:
            return Failed(error)
        return self._write(work, durable=True, large=large)


def _living(connection: apsw.Connection, tenant: str, thread_id: str, incarnation: int | None) -> ThreadRow:
    """The row of a thread that must exist. Raises ThreadNotFoundError, ThreadDeletedError."""
    row = find_thread(connection, tenant, thread_id)
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


def _info(connection: apsw.Connection, tenant: str, thread_id: str) -> ThreadInfo | None:
    """What people are told of a thread, tombstones too. Raises DamagedError."""
    found = connection.execute(f"{_INFO} AND id = ?", (tenant, thread_id)).fetchone()
    if found is None:
        check_absent(connection, tenant, thread_id)
        return None
    info = _checked_info(found, tenant)
    if info.id != thread_id:  # a damaged index leads elsewhere
        raise damaged(f"The row of thread {thread_id!r}", thread_id=thread_id)
    return info


def _page(
    connection: apsw.Connection, tenant: str, limit: int, after: rules.Position | None, waiting: bool
) -> ThreadPage:
    """The threads after a position, the most recently used first; with `waiting` those whose run waits."""
    where, values = "tombstone = 0", [tenant]
    if waiting:
        where += " AND run IS NOT NULL"  # whether it waits is for a row to say whose check fits
    if after is not None:
        where += " AND (updated < ? OR (updated = ? AND id > ?))"
        values += [after[0], after[0], after[1]]  # type: ignore[list-item]
    found: list[ThreadInfo] = []
    lost: list[str] = []
    last: tuple[Any, Any] | None = None
    with contextlib.closing(connection.cursor()) as entries:
        for n, updated, name in entries.execute(f"{_ENTRIES} AND {where} {_ORDER}", values):
            info = _listed(connection, tenant, n, updated, name)
            if info is not None and waiting and not info.waiting:
                continue
            if len(found) + len(lost) == limit:
                assert last is not None
                return ThreadPage(tuple(found), _cursor_after(*last), tuple(lost))
            if info is not None:
                found.append(info)
            else:
                lost.append(_readable(name))
            last = (updated, name)
    return ThreadPage(tuple(found), None, tuple(lost))


def _listed(connection: apsw.Connection, tenant: str, n: int, updated: Any, name: bytes | None) -> ThreadInfo | None:
    """What an entry of the listing leads to; None if that is damaged, which hides no other."""
    try:
        row = connection.execute(f"{_INFO} AND n = ?", (tenant, n)).fetchone()
        info = None if row is None else _checked_info(row, tenant)
        if info is not None and not info.deleted and (info.id.encode(), info.updated_us) == (name, updated):
            return info
    except (DamagedError, UnicodeDecodeError):
        pass
    return None  # or the index leads to another one


def _cursor_after(updated: Any, name: bytes | None) -> str:
    if not isinstance(updated, int):
        raise damaged("The index by which threads are listed")
    return rules.cursor_after((updated, _readable(name)))


def _readable(name: bytes | None) -> str:
    """An id as it stands in an index, which may be damaged."""
    return (name or b"").decode(errors="replace")


def _checked_info(found: Any, tenant: str) -> ThreadInfo:
    row, check, labels, label_check = ThreadRow(*found[:16]), found[16], found[17:20], found[20]
    if check_of(found[1:16]) != check or row.tenant != tenant:
        raise damaged(f"The row of thread {row.id!r}", thread_id=row.id)
    if check_of(labels) != label_check:
        raise damaged(f"The title or metadata of thread {row.id!r}", thread_id=row.id)
    return _told(row, labels)


def _told(row: ThreadRow, labels: Sequence[Any]) -> ThreadInfo:
    """What people are told of a row; `labels` are created, title and metadata."""
    created, title, metadata = labels
    return ThreadInfo(
        row.id,
        row.head,
        row.incarnation,
        title,
        rules.decoded_metadata(metadata),
        created,
        row.updated,
        row.run,
        bool(row.tombstone),
        row.waiting,
    )
