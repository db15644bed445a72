"""One SQLite file, as this process has it open: connections, pragmas, group commit, errors in our own words.

Rules of this file:

- Nothing else in the process opens the database's files. (Closing any other descriptor of them would drop SQLite's
  locks.) A second connection of the same library is allowed, for it shares the locks.
- Writes have one owner. What arrives together commits together: each piece of work in a savepoint of its own,
  acknowledged after the COMMIT; if the batch fails, each is tried alone. On an idle store with a fast disk a write
  commits at once on the caller's thread: a hop to another thread costs more than the commit.
- Work that is marked durable is on disk when it is acknowledged (synchronous=FULL: the log is synced at the commit).
  Other work survives the death of the process, but not a power cut (synchronous=NORMAL). A batch that holds both
  kinds is FULL. See SQLite's documentation of PRAGMA synchronous in WAL mode.
- Checkpoints run in the writer's thread on a connection of their own, never inside a commit.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import apsw

from holdfast.conversation.errors import (
    HoldfastError,
    NotADatabaseError,
    SchemaVersionError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from holdfast.ports.stores import Failed, Handed, Ready
from holdfast.stores.rules import store_closed

log = logging.getLogger("holdfast.stores")

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x686F6C64  # "hold": tells our files from other programs' databases

# A commit on the caller's thread waits this long for another process's write lock before it goes to the writer.
DIRECT_BUSY_MS = 2
# The caller's thread commits itself while at most so many writes came in the last window (an idle store).
CALM_WRITES, CALM_SECONDS = 4, 0.010
# ... or while at most so many runs are open, and only where a durable commit takes less than this.
CALM_RUNS, FAST_COMMIT_SECONDS = 2, 0.001
# How much one commit may take with it.
MAX_BATCH = 256
# Pages in the log at which a checkpoint is made.
CHECKPOINT_PAGES = 1000


class Database:
    """One database file. Opened at the first use, and again after `os.fork`."""

    def __init__(self, path: str, *, busy_timeout: float) -> None:
        self.path = path
        self.open_runs = 0
        self._busy_ms = max(1, int(busy_timeout * 1000))
        self._reset()
        _databases.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()  # held by whoever uses the writing connection
        self._read_lock = threading.Lock()  # held by whoever uses the reading one
        self._gate = threading.Lock()  # held for a moment, to hand something over
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._checkpointer: apsw.Connection | None = None
        self._queue: queue.SimpleQueue[_Pending[Any] | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._recent: deque[float] = deque([0.0] * (CALM_WRITES + 1), maxlen=CALM_WRITES + 1)
        self._commit_seconds = 0.0
        self._synchronous = ""
        self._busy = 0
        self._log_pages = 0
        self._checkpoint_asked = False
        self._closed = False

    # --- work --------------------------------------------------------------------------------------------------

    def write(self, work: Work[T], *, durable: bool, settled: Callable[[bool], None] | None = None) -> Handed[T]:
        """Do a piece of work in a transaction of its own, or with what arrived together.

        It is handed over when this returns. `settled` is called as soon as it is known whether it is done.
        """
        if self._may_commit_here() and self._lock.acquire(blocking=False):
            try:
                if self._waiting == 0:
                    return self._write_here(work, durable, settled)
            except _GoesToWriter:
                pass
            finally:
                self._lock.release()
        return self._enqueue(_Pending(work, durable, settled))

    def _write_here(self, work: Work[T], durable: bool, settled: Callable[[bool], None] | None) -> Handed[T]:
        try:
            value = self._transaction(work, durable, DIRECT_BUSY_MS)
        except apsw.BusyError:
            raise _GoesToWriter from None
        except BaseException as error:
            if settled is not None:
                settled(False)
            if not isinstance(error, Exception):
                raise  # Ctrl-C: rolled back, unless it came too late
            return Failed(_translated(error, self.path))
        if settled is not None:
            settled(True)
        if self._log_pages >= CHECKPOINT_PAGES and not self._checkpoint_asked:
            self._checkpoint_asked = self._call_in_writer(self._checkpoint)
        return Ready(value)

    def read(self, work: Work[T]) -> T:
        """Look something up, on the caller's thread. Sees all that was acknowledged."""
        with self._read_lock:
            try:
                return work(self._reading())
            except Exception as error:
                raise _translated(error, self.path) from error

    def flush_log(self) -> Handed[None]:
        """Overwrite the log, so that nothing deleted is left in it; as far as no other process reads in it."""
        pending: _Pending[None] = _Pending(lambda _: None, False, None)

        def empty() -> None:
            with contextlib.suppress(apsw.Error):
                self._checkpoints().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            pending.finish(None)

        if not self._call_in_writer(empty):
            return Failed(store_closed(self.path))
        return pending

    def close(self) -> None:
        """Finish what was handed over, then close. May be called twice."""
        with self._gate:
            already, self._closed = self._closed, True
            thread = self._thread
        if already:
            return
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join()
        with self._lock, self._read_lock:
            for connection in (self._checkpointer, self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._checkpointer = self._reader = self._writer = None

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's. They are neither used nor closed here."""
        for connection in (self._writer, self._reader, self._checkpointer):
            if connection is not None:
                _never_close(connection)
        closed = self._closed
        self._reset()
        self._closed = closed
        self.open_runs = 0

    # --- transactions ------------------------------------------------------------------------------------------

    def _may_commit_here(self) -> bool:
        """Whether the store is idle enough, and the disk fast enough, to commit on the caller's thread."""
        now = time.monotonic()
        self._recent.append(now)
        if self._waiting or self._commit_seconds > FAST_COMMIT_SECONDS:
            return False
        return self.open_runs <= CALM_RUNS or now - self._recent[0] > CALM_SECONDS

    def _transaction(self, work: Work[T], durable: bool, busy_ms: int) -> T:
        connection = self._prepared(durable, busy_ms)
        began = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        try:
            value = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        if durable:
            self._commit_seconds += (time.perf_counter() - began - self._commit_seconds) / 8
        return value

    def _prepared(self, durable: bool, busy_ms: int) -> apsw.Connection:
        connection = self._writing()
        wanted = "FULL" if durable else "NORMAL"
        if wanted != self._synchronous:
            connection.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted
        if busy_ms != self._busy:
            connection.set_busy_timeout(busy_ms)
            self._busy = busy_ms
        return connection

    # --- the writer's thread -----------------------------------------------------------------------------------

    def _enqueue(self, pending: _Pending[T]) -> Handed[T]:
        with self._gate:
            if not self._closed:
                self._waiting += 1
                self._start()
                self._queue.put(pending)
                return pending
        if pending.settled is not None:
            pending.settled(False)
        return Failed(store_closed(self.path))

    def _call_in_writer(self, call: Callable[[], None]) -> bool:
        with self._gate:
            if self._closed:
                return False
            self._start()
            self._queue.put(call)
            return True

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="holdfast-writer", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        for batch, calls in _batches(self._queue):
            if batch:
                with self._lock:
                    self._commit(batch)
                with self._gate:
                    self._waiting -= len(batch)
                _finish_all(batch)
            if self._log_pages >= CHECKPOINT_PAGES:
                self._checkpoint()
            for call in calls:
                call()

    def _commit(self, batch: list[_Pending[Any]]) -> None:
        """Commit a batch together; if that fails, each alone, so that one cannot spoil the others."""
        try:
            self._transaction(lambda connection: _each_in_savepoint(connection, batch), _durable(batch), self._busy_ms)
            return
        except Exception as error:
            # Behind a lock that others hold, one after the other would only wait as long again.
            if len(batch) == 1 or isinstance(error, apsw.BusyError):
                for pending in batch:
                    pending.error = _translated(error, self.path)
                return
        for pending in batch:
            try:
                pending.value = self._transaction(pending.work, pending.durable, self._busy_ms)
                pending.error = None
            except Exception as error:
                pending.error = _translated(error, self.path)

    def _checkpoint(self) -> None:
        """Copy the log into the database: most of it beside the writers, the last bit with ours held back.

        Only when nothing is left to copy can the next commit begin the log anew; without the second step a busy
        store's log would grow for ever.
        """
        try:
            connection = self._checkpoints()
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with self._lock:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._log_pages = 0
        except (apsw.Error, HoldfastError) as error:
            log.warning("a checkpoint of %s failed and will be tried again: %s", self.path, error)
        self._checkpoint_asked = False

    # --- connections -------------------------------------------------------------------------------------------

    def _writing(self) -> apsw.Connection:
        if self._writer is None:
            if self._closed:
                raise store_closed(self.path)
            self._writer = self._opened()
            self._writer.set_wal_hook(self._committed)
            self._synchronous, self._busy = "", self._busy_ms
        return self._writer

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _reading(self) -> apsw.Connection:
        if self._reader is None:
            with self._lock:
                self._writing()  # makes the tables of a new file
            self._reader = self._connect()
        return self._reader

    def _checkpoints(self) -> apsw.Connection:
        if self._checkpointer is None:
            self._checkpointer = self._connect()
            self._checkpointer.execute("PRAGMA synchronous=FULL")
        return self._checkpointer

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(
            self.path, flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOFOLLOW
        )
        connection.set_busy_timeout(self._busy_ms)
        # mmap off: it made the WAL-reset bug of older SQLites worse. trusted_schema off and cell_size_check on:
        # a database is data, wherever it came from. secure_delete: what is deleted is overwritten.
        for pragma in ("mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        return connection

    def _opened(self) -> apsw.Connection:
        """A connection to a database of our version, made or brought up to it if need be."""
        _create_private(self.path)
        connection = self._connect()
        try:
            self._check_schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_schema(self, connection: apsw.Connection) -> None:
        if connection.pragma("application_id") != APPLICATION_ID:
            if connection.execute("SELECT count(*) FROM sqlite_schema").get:
                raise NotADatabaseError(
                    f"{self.path} is a database of another program. Choose another file for the threads."
                )
            connection.execute("PRAGMA journal_mode=WAL")
            _create_tables(connection)
        version = connection.pragma("user_version")
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{self.path} was written by a newer holdfast (tables of version {version}; this one knows "
                f"{SCHEMA_VERSION}). Nothing was changed. Update holdfast."
            )


class _GoesToWriter(Exception):
    """Another process holds the write lock: the writer's thread waits for it, not the caller's."""


class _Pending(Generic[T]):
    """Work in the writer's queue. May be awaited by several tasks, in several event loops."""

    __slots__ = ("_calls", "_done", "_lock", "_waiters", "durable", "error", "settled", "value", "work")

    def __init__(self, work: Work[T], durable: bool, settled: Callable[[bool], None] | None) -> None:
        self.work = work
        self.durable = durable
        self.settled = settled
        self.value: Any = None
        self.error: BaseException | None = None
        self._done = False
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._calls: list[Callable[[T], object]] = []

    def __await__(self) -> Generator[Any, None, T]:
        with self._lock:
            mine = None
            if not self._done:
                loop = asyncio.get_running_loop()
                mine = loop.create_future()
                self._waiters.append((loop, mine))
        if mine is not None:
            yield from mine
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[no-any-return]

    def then(self, call: Callable[[T], object]) -> None:
        with self._lock:
            if not self._done:
                self._calls.append(call)
                return
        if self.error is None:
            call(self.value)

    def finish(self, value: T) -> None:
        self.value = value
        _finish_all([self])

    def settle(self) -> list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]:
        """Mark it as done; who waits for it."""
        if self.settled is not None:
            self.settled(self.error is None)
        with self._lock:
            self._done = True
            waiters, self._waiters = self._waiters, []
        for call in self._calls if self.error is None else ():
            try:
                call(self.value)
            except Exception:
                log.exception("what was to follow a write failed; the write itself is done")
        return waiters


def _finish_all(batch: list[_Pending[Any]]) -> None:
    """Tell everybody that waits for this batch, with one call into each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for pending in batch:
        for loop, future in pending.settle():
            loops.setdefault(loop, []).append(future)
    for loop, futures in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, futures)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


_Item = _Pending[Any] | Callable[[], None] | None


def _batches(
    items: queue.SimpleQueue[_Item],
) -> Iterator[tuple[list[_Pending[Any]], list[Callable[[], None]]]]:
    """What has arrived, together, until None comes."""
    while True:
        batch: list[_Pending[Any]] = []
        calls: list[Callable[[], None]] = []
        item: _Item = items.get()
        with contextlib.suppress(queue.Empty):
            while item is not None:
                if isinstance(item, _Pending):
                    batch.append(item)
                else:
                    calls.append(item)
                if len(batch) == MAX_BATCH:
                    break
                item = items.get_nowait()
        yield batch, calls
        if item is None:
            return


def _durable(batch: list[_Pending[Any]]) -> bool:
    return any(pending.durable for pending in batch)


def _each_in_savepoint(connection: apsw.Connection, batch: list[_Pending[Any]]) -> None:
    if len(batch) == 1:
        batch[0].value = batch[0].work(connection)
        return
    for pending in batch:
        connection.execute("SAVEPOINT work")
        try:
            pending.value = pending.work(connection)
            pending.error = None
        except HoldfastError as refusal:
            connection.execute("ROLLBACK TO work")
            pending.error = refusal
        connection.execute("RELEASE work")


def _roll_back(connection: apsw.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(apsw.Error):
            connection.execute("ROLLBACK")


def _create_private(path: str) -> None:
    """Make the file for its owner's eyes alone, before SQLite makes it for everybody's."""
    if not os.path.exists(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise StoreUnavailableError(
                f"Cannot create {path}: {error.strerror}. Check that its folder exists and may be written."
            ) from None


def _create_tables(connection: apsw.Connection) -> None:
    with open(os.path.join(os.path.dirname(__file__), "sqlite.sql"), encoding="utf-8") as file:
        schema = file.read()
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        if connection.pragma("application_id") != APPLICATION_ID:
            connection.execute(schema)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


_WORDS: list[tuple[type[Exception], type[StoreError], str]] = [
    (apsw.FullError, StoreFullError, "There is no room left to write {path}. Free some space; nothing stored is lost"),
    (apsw.ReadOnlyError, StoreReadOnlyError, "{path} may not be written. Check the rights of the file and its folder"),
    (apsw.BusyError, StoreBusyError, "Another process has been writing {path} for too long. Try again"),
    (apsw.LockedError, StoreBusyError, "{path} is locked. Try again"),
    (apsw.NotADBError, NotADatabaseError, "{path} is no database. Choose another file; this one was not touched"),
    (apsw.CorruptError, StoreUnavailableError, "{path} is damaged. Keep a copy, and restore a backup"),
    (
        apsw.CantOpenError,
        StoreUnavailableError,
        "{path} cannot be opened. Check that its folder exists and may be written",
    ),
    (apsw.PermissionsError, StoreUnavailableError, "{path} may not be accessed. Check the rights of the file"),
    (apsw.IOError, StoreUnavailableError, "The disk failed under {path}. What was acknowledged is kept; try again"),
]


def _translated(error: BaseException, path: str) -> BaseException:
    """An error of SQLite in our words; others as they are."""
    if isinstance(error, apsw.Error):
        for kind, ours, words in _WORDS:
            if isinstance(error, kind):
                return ours(f"{words.format(path=path)} ({error}).")
        return StoreUnavailableError(f"SQLite failed with {path}: {type(error).__name__}: {error}.")
    if isinstance(error, OSError) and not isinstance(error, HoldfastError):
        return StoreUnavailableError(f"The store at {path} failed: {error.strerror or error}.")
    return error


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _never_close(connection: apsw.Connection) -> None:
    """Keep a connection of the parent's from ever being closed here, at the child's end included.

    SQLite forbids to use a connection across a fork, and closing is using it.
    """
    import ctypes  # only ever needed in a forked child

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _after_fork() -> None:
    for database in list(_databases):
        database.abandon()


@atexit.register
def _close_all() -> None:
    """What was handed over is written before the process ends."""
    for database in list(_databases):
        database.close()


os.register_at_fork(after_in_child=_after_fork)
