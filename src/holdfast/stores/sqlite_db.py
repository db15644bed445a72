"""One SQLite file, as this process has it open: connections, transactions, group commit, checkpoints.

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

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import apsw
import msgspec

from holdfast.conversation.errors import HoldfastError
from holdfast.ports.stores import Failed, Handed, Ready
from holdfast.stores.pending import Item, Pending, batches, finish_all, give_notice
from holdfast.stores.rules import store_closed, store_moved
from holdfast.stores.sqlite_files import connect, identity, opened, roll_back, translated

log = logging.getLogger("holdfast.stores")

_encode = msgspec.json.Encoder().encode

T = TypeVar("T")
Work: TypeAlias = Callable[[apsw.Connection], T]
Notice: TypeAlias = Callable[[], None]

# A commit on the caller's thread waits this long for another process's write lock before it goes to the writer.
DIRECT_BUSY_MS = 2
# The caller's thread commits itself while at most so many writes came in the last window (an idle store),
CALM_WRITES, CALM_SECONDS = 4, 0.010
# or while at most so many runs are open; and only where a durable commit takes less than this.
CALM_RUNS, FAST_COMMIT_SECONDS = 2, 0.001
# Every so many commits the length of the log is looked at, and from this many bytes on a checkpoint is made.
COMMITS_PER_LOOK, CHECKPOINT_BYTES = 64, 4 * 1024 * 1024
# So often, while it is used, it is looked whether the file is still the one in its place.
LOOK_SECONDS = 1.0


class Database:
    """One database file. Opened at the first use, and again after `os.fork`."""

    def __init__(self, path: str, *, busy_timeout: float) -> None:
        self.path = path
        self._busy_ms = max(1, int(busy_timeout * 1000))
        self._reset()
        _databases.add(self)

    def _reset(self) -> None:
        self.open_runs = 0
        # Held by whoever uses the writing connection. Not reentrant: a finalizer that writes in the middle of a
        # transaction must find it taken, and go to the writer's thread.
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()  # held by whoever uses the reading one
        self._gate = threading.RLock()  # held for a moment, to hand something over; a finalizer may do so within
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._checkpointer: apsw.Connection | None = None
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._recent: deque[float] = deque([0.0] * (CALM_WRITES + 1), maxlen=CALM_WRITES + 1)
        self._commit_seconds = 0.0
        self._synchronous = ""
        self._file: tuple[int, int] | None = None
        self._looked = 0.0
        self._commits = 0
        self._checkpoint_asked = False
        self._reads_badly = False  # the reading connection is to be opened anew
        self._closed = False

    # --- work --------------------------------------------------------------------------------------------------

    def write(
        self,
        work: Work[T],
        *,
        durable: bool,
        large: bool = False,
        settled: Notice | None = None,
        failed: Notice | None = None,
    ) -> Handed[T]:
        """Do a piece of work in a transaction of its own, or with what arrived together.

        It is handed over when this returns. Work that is `large` is never done on the caller's thread. `settled` is
        called as soon as it is known whether it was done, `failed` if it was not.
        """
        now = time.monotonic()
        self._recent.append(now)
        fast = self._commit_seconds < FAST_COMMIT_SECONDS
        calm = self.open_runs <= CALM_RUNS or now - self._recent[0] > CALM_SECONDS
        if fast and calm and not large and not self._waiting and self._lock.acquire(blocking=False):
            try:
                if not self._waiting:
                    return self._write_here(work, durable, settled, failed)
            except _GoesToWriter:
                pass
            finally:
                self._lock.release()
        return self._enqueue(Pending(work, durable, settled, failed))

    def _write_here(self, work: Work[T], durable: bool, settled: Notice | None, failed: Notice | None) -> Handed[T]:
        try:
            value = self._transaction(work, durable, DIRECT_BUSY_MS)
            failed = None
        except apsw.BusyError:
            settled = failed = None  # nothing is known yet: the writer's thread will try
            raise _GoesToWriter from None
        except Exception as error:
            return Failed(translated(error, self.path))
        finally:
            # Also after a Ctrl-C, which rolls back unless it came too late.
            for notice in (failed, settled):
                if notice is not None:
                    give_notice(notice)
        if self._commits % COMMITS_PER_LOOK == 0:
            self._ask_for_checkpoint()
        return Ready(value)

    def read(self, work: Work[T]) -> T:
        """Look something up, on the caller's thread.

        Sees all that was acknowledged, and, however often it asks, all things as they were at one moment.
        """
        with self._read_lock:
            if self._reads_badly:
                self._drop_reader()
            try:
                now = time.perf_counter()
                if now - self._looked > LOOK_SECONDS and self._file is not None:
                    self._look_whether_it_is_there(now)
                connection = self._reading()
                connection.execute("BEGIN")
                try:
                    return work(connection)
                finally:
                    roll_back(connection)
            except Exception as error:
                if isinstance(error, _OF_THE_DISK):
                    self._drop_reader()
                raise translated(error, self.path) from error

    def flush_log(self) -> Handed[None]:
        """Overwrite the log, so that nothing deleted is left in it; as far as no other process reads in it."""
        pending: Pending[None] = Pending(lambda _: None, False)

        def empty() -> None:
            with contextlib.suppress(apsw.Error):
                self._copy_log("TRUNCATE")
            finish_all([pending])

        return pending if self._call_in_writer(empty) else Failed(store_closed(self.path))

    def open_path(self) -> str:
        """The path, for whoever makes a connection of its own. Raises StoreUnavailableError if the store is closed."""
        if self._closed:
            raise store_closed(self.path)
        return self.path

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
        # Not for ever: a signal's handler may have struck in the middle of a transaction of this very thread.
        if not self._read_lock.acquire(timeout=5):
            return
        if not self._lock.acquire(timeout=5):
            self._read_lock.release()
            return
        try:
            for connection in (self._checkpointer, self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._checkpointer = self._reader = self._writer = None
        finally:
            self._lock.release()
            self._read_lock.release()

    def abandon(self) -> None:
        """In a forked child: the connections are the parent's. They are neither used nor closed here."""
        for connection in (self._writer, self._reader, self._checkpointer):
            if connection is not None:
                _never_close(connection)
        closed = self._closed
        self._reset()
        self._closed = closed

    # --- transactions ------------------------------------------------------------------------------------------

    def _transaction(self, work: Work[T], durable: bool, busy_ms: int) -> T:
        connection = self._writer if self._writer is not None else self._writing()
        synchronous = "FULL" if durable else "NORMAL"
        if synchronous != self._synchronous:
            connection.execute(f"PRAGMA synchronous={synchronous}")
            self._synchronous = synchronous
        connection.set_busy_timeout(busy_ms)
        began = time.perf_counter()
        if began - self._looked > LOOK_SECONDS:
            self._look_whether_it_is_there(began)
        try:
            connection.execute("BEGIN IMMEDIATE")
            value = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            roll_back(connection)
            if isinstance(error, _OF_THE_DISK):
                self._writer = None
                _close(connection)
                self._open_all_anew()
            raise
        self._commits += 1
        if durable:
            self._commit_seconds += (time.perf_counter() - began - self._commit_seconds) / 8
        return value

    def _open_all_anew(self) -> None:
        """The disk has failed: let all connections be opened anew.

        What SQLite cannot open for writing at some moment it opens for reading, and what connections of one process
        share (the log's index) stays so for as long as one of them is open.
        """
        self._reads_badly = True
        if self._read_lock.acquire(blocking=False):  # else it is dropped before the next look-up
            try:
                self._drop_reader()
            finally:
                self._read_lock.release()
        if self._checkpointer is not None:
            self._call_in_writer(self._drop_checkpointer)

    def _drop_reader(self) -> None:
        reader, self._reader, self._reads_badly = self._reader, None, False
        _close(reader)

    def _drop_checkpointer(self) -> None:
        checkpointer, self._checkpointer = self._checkpointer, None
        _close(checkpointer)

    # --- the writer's thread -----------------------------------------------------------------------------------

    def _enqueue(self, pending: Pending[T]) -> Handed[T]:
        with self._gate:
            if not self._closed:
                self._start()
                self._waiting += 1
                self._queue.put(pending)
                return pending
        pending.error = store_closed(self.path)
        finish_all([pending])
        return pending

    def _call_in_writer(self, call: Callable[[], None]) -> bool:
        with self._gate:
            if self._closed:
                return False
            self._start()
            self._queue.put(call)
            return True

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name="holdfast-writer", daemon=True)
            thread.start()
            self._thread = thread

    def _serve(self) -> None:
        for batch, calls in batches(self._queue):
            if batch:
                with self._lock:
                    self._commit(batch)
                with self._gate:
                    self._waiting -= len(batch)
                finish_all(batch)
                if self._commits % COMMITS_PER_LOOK == 0 or len(batch) >= COMMITS_PER_LOOK:
                    self._ask_for_checkpoint()
            for call in calls:
                give_notice(call)

    def _commit(self, batch: list[Pending[Any]]) -> None:
        """Commit a batch together; if that fails, each alone, so that one cannot spoil the others."""
        durable = any(pending.durable for pending in batch)
        try:
            self._transaction(lambda connection: _each_in_savepoint(connection, batch), durable, self._busy_ms)
            return
        except Exception as error:
            # Behind a lock that others hold, one after the other would only wait as long again.
            if len(batch) == 1 or isinstance(error, apsw.BusyError):
                for pending in batch:
                    pending.error = translated(error, self.path)
                return
        for pending in batch:
            try:
                pending.value = self._transaction(pending.work, pending.durable, self._busy_ms)
                pending.error = None
            except Exception as error:
                pending.error = translated(error, self.path)

    def _ask_for_checkpoint(self) -> None:
        try:
            long = os.stat(f"{self.path}-wal").st_size >= CHECKPOINT_BYTES
        except OSError:
            return
        if long and not self._checkpoint_asked:
            self._checkpoint_asked = self._call_in_writer(self._checkpoint)

    def _checkpoint(self) -> None:
        """Copy the log into the database: most of it beside the writers, the last bit with ours held back.

        Only when nothing is left to copy can the next commit begin the log anew; without the second step a busy
        store's log would grow for ever.
        """
        try:
            self._copy_log("PASSIVE")
            with self._lock:
                self._copy_log("RESTART")
        except (apsw.Error, HoldfastError) as error:
            log.warning("a checkpoint of %s failed and will be tried again: %s", self.path, error)
        self._checkpoint_asked = False

    def _copy_log(self, mode: str) -> None:
        try:
            self._checkpoints().execute(f"PRAGMA wal_checkpoint({mode})")
        except apsw.Error as error:
            if not isinstance(error, apsw.BusyError):
                self._drop_checkpointer()
            raise

    # --- connections -------------------------------------------------------------------------------------------

    def _writing(self) -> apsw.Connection:
        if self._writer is None:
            if self._closed:
                raise store_closed(self.path)
            self._writer, self._synchronous = opened(self.path, self._busy_ms), ""
            self._file, self._looked = identity(self.path), time.perf_counter()
        return self._writer

    def _look_whether_it_is_there(self, now: float) -> None:
        """What goes into a file that was deleted or replaced, nobody finds again. Raises StoreUnavailableError."""
        if identity(self.path) != self._file:
            raise store_moved(self.path)
        self._looked = now

    def _reading(self) -> apsw.Connection:
        if self._reader is None:
            with self._lock:
                self._writing()  # makes the tables of a new file
            self._reader = connect(self.path, self._busy_ms)
        return self._reader

    def _checkpoints(self) -> apsw.Connection:
        if self._checkpointer is None:
            self._checkpointer = connect(self.path, busy_ms=0)
            self._checkpointer.execute("PRAGMA synchronous=FULL")
        return self._checkpointer


# What SQLite raises if it could not open, read or write a file.
_OF_THE_DISK = (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)


def _close(connection: apsw.Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(apsw.Error):  # it failed already
            connection.close()


class _GoesToWriter(Exception):
    """Another process holds the write lock: the writer's thread waits for it, not the caller's."""


def check_of(columns: Sequence[object]) -> int:
    """A CRC-32 over a row's columns. It finds what a disk or a stray write did, not what an enemy does."""
    return zlib.crc32(_encode(columns))


def _each_in_savepoint(connection: apsw.Connection, batch: list[Pending[Any]]) -> None:
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
