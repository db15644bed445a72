"""The disk: every call that the library makes of it is counted, and can be recorded, failed, or made the last one.

Four doors lead to the disk, and all of them are watched while the library stays as it is:

    SQLite's system calls   opening, writing, truncating, deleting, locking, mapping: a table of the VFS "unix" that
                            SQLite lets others fill (xSetSystemCall), so what fails here fails as a disk does, in C
    SQLite's xSync          the one call that is not in that table: the VFS's xOpen is ours, and gives each file ours
    Python's os.open        by which holdfast makes the file, the owners' file, and reads its own schema: an audit hook
    Python's fcntl.lockf    by which it says that it lives: the same

Rules of this file: one disk in a process, and it is never taken away again; without a watcher it only passes on. What
is done to a call is the watcher's business. No error leaves as an exception of Python's: one that SQLite keeps to
itself (at the closing of a file, say) would come out all the same. It needs Linux.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Protocol

import apsw
from msgspec import Struct

# The kinds of calls, in the order in which they are told.
KINDS = ("open", "write", "sync", "sync folder", "truncate", "delete", "map", "lock", "unlock", "read")

# Files by the ends of their names; the database has none of these.
_ROLES = {"-wal": "log", "-shm": "index", "-journal": "journal", "-owners": "owners", "sqlite.sql": "schema"}

# Functions of the stores in which a call is not part of what the store was asked for.
_WITHIN = {
    "_create_private": "make file",
    "_create_tables": "make file",
    "_use_log": "make file",
    "connect": "open file",
    "opened": "open file",
    "_checkpoint": "checkpoint",
    "empty": "flush",
    "beat": "beat",
    "close": "close",
}


class Call(Struct):
    """One call: what is done to which file."""

    kind: str
    path: str
    fd: int = -1
    at: int = 0  # offset of a write or read, the new length of a truncated file
    data: bytes = b""

    @property
    def file(self) -> str:
        """What the file is to the store."""
        return next((role for end, role in _ROLES.items() if self.path.endswith(end)), "database")


class Watcher(Protocol):
    """What is done about the calls."""

    def before(self, call: Call) -> int:
        """Called before it is made: 0 lets it pass, another number is the error (an errno) that it ends with."""
        ...

    def after(self, call: Call) -> None:
        """Called when it has been made; not if it failed."""
        ...


class Moment:
    """What the store was asked for last; a store that is told so says it (see `disk_turns.MomentStore`)."""

    now = "start"


def moment() -> str:
    """The moment of a turn in which the call falls that a watcher is told of: as the stack says, or as was asked."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name in _WITHIN and "/stores/" in code.co_filename:
            return _WITHIN[code.co_name]
        frame = frame.f_back
    return Moment.now


class Disk(apsw.VFS):
    """SQLite's VFS "unix" in this process, watched. (This object is only the handle by which its calls are changed.)"""

    def __init__(self) -> None:
        super().__init__("watched", "unix")
        self.watcher: Watcher | None = None
        self._database = ""
        self._kinds: frozenset[str] = frozenset()
        self._paths: dict[int, str] = {}
        self._names: dict[int, str] = {}  # by the address of SQLite's file object
        self._kept: list[Any] = []  # what C holds
        for name, prototype, make in (
            ("open", _OPEN, self._open),
            ("pwrite64", _PWRITE, self._pwrite),
            ("pread64", _PREAD, self._pread),
            ("ftruncate", _FTRUNCATE, self._ftruncate),
            ("unlink", _UNLINK, self._unlink),
            ("openDirectory", _OPEN_DIRECTORY, self._open_directory),
            ("fcntl", _FCNTL, self._fcntl),
            ("mmap", _MMAP, self._mmap),
        ):
            self._replace(name, prototype, make)
        self._watch_syncs(_vfs_of_unix())
        sys.addaudithook(self._audit)

    def watch(self, watcher: Watcher | None, database: str = "", kinds: Iterable[str] = KINDS[:-1]) -> None:
        """From now on the calls of these kinds for a database and the files beside it are this watcher's."""
        self._database, self._kinds, self.watcher = database, frozenset(kinds), watcher

    def _is_watched(self, path: str) -> bool:
        end = path[len(self._database) :] if path.startswith(self._database) else None
        return end == "" or end in _ROLES or path.endswith("/sqlite.sql")

    def _replace(self, name: str, prototype: Any, make: Callable[[Any], Any]) -> None:
        original = prototype(self.xGetSystemCall(name))
        callback = prototype(make(original))
        self._kept += (original, callback)
        if not self.xSetSystemCall(name, ctypes.cast(callback, ctypes.c_void_p).value or 0):
            raise RuntimeError(f"this SQLite has no system call {name!r} to replace")

    # --- what is told to the watcher -------------------------------------------------------------------------------

    def begin(
        self, kind: str, path: str | None, fd: int = -1, at: int = 0, data: bytes = b""
    ) -> tuple[Call | None, int]:
        """The call that is about to be made, if it counts, and the error that it is to end with."""
        watcher = self.watcher
        if watcher is None or path is None or kind not in self._kinds or not self._is_watched(path):
            return None, 0
        call = Call(kind, path, fd, at, data)
        return call, watcher.before(call)

    def end(self, call: Call | None) -> None:
        """It has been made."""
        if call is not None and self.watcher is not None:
            self.watcher.after(call)

    # --- SQLite's system calls -------------------------------------------------------------------------------------

    def _open(self, original: Any) -> Any:
        def opened(path: bytes, flags: int, mode: int) -> int:
            name = os.fsdecode(path)
            call, error = self.begin("open", name)
            if error:
                return _fails(error)
            fd = int(original(path, flags, mode))
            if fd >= 0:
                self._paths[fd] = name
                self.end(call)
            return fd

        return opened

    def _pwrite(self, original: Any) -> Any:
        def written(fd: int, buffer: int, size: int, at: int) -> int:
            data = ctypes.string_at(buffer, size) if self.watcher is not None else b""
            call, error = self.begin("write", self._paths.get(fd), fd, at, data)
            if error:
                return _fails(error)
            done = int(original(fd, buffer, size, at))
            if done == size:
                self.end(call)
            return done

        return written

    def _pread(self, original: Any) -> Any:
        def read(fd: int, buffer: int, size: int, at: int) -> int:
            call, error = self.begin("read", self._paths.get(fd), fd, at)
            if error:
                return _fails(error)
            done = int(original(fd, buffer, size, at))
            self.end(call)
            return done

        return read

    def _ftruncate(self, original: Any) -> Any:
        def truncated(fd: int, size: int) -> int:
            call, error = self.begin("truncate", self._paths.get(fd), fd, size)
            if error:
                return _fails(error)
            done = int(original(fd, size))
            self.end(call)
            return done

        return truncated

    def _unlink(self, original: Any) -> Any:
        def unlinked(path: bytes) -> int:
            call, error = self.begin("delete", os.fsdecode(path))
            if error:
                return _fails(error)
            done = int(original(path))
            if done == 0:
                self.end(call)
            return done

        return unlinked

    def _open_directory(self, original: Any) -> Any:
        def opened(path: bytes, fd: int) -> int:
            """SQLite opens a folder for one purpose: to sync it. The path is that of a file in it."""
            call, error = self.begin("sync folder", os.fsdecode(path))
            if error:
                return apsw.SQLITE_CANTOPEN
            done = int(original(path, fd))
            if done == apsw.SQLITE_OK:
                self.end(call)
            return done

        return opened

    def _fcntl(self, original: Any) -> Any:
        def controlled(fd: int, command: int, argument: int) -> int:
            if command not in _LOCKING or self.watcher is None:
                return int(original(fd, command, argument))
            kind = "unlock" if ctypes.c_short.from_address(argument).value == _F_UNLCK else "lock"
            call, error = self.begin(kind, self._paths.get(fd), fd)
            if error:
                return _fails(error)
            done = int(original(fd, command, argument))
            if done == 0:
                self.end(call)
            return done

        return controlled

    def _mmap(self, original: Any) -> Any:
        def mapped(address: int | None, size: int, protection: int, flags: int, fd: int, at: int) -> int | None:
            call, error = self.begin("map", self._paths.get(fd), fd, at)
            if error:
                _fails(error)
                return _MAP_FAILED
            done: int | None = original(address, size, protection, flags, fd, at)
            if done != _MAP_FAILED:
                self.end(call)
            return done

        return mapped

    # --- SQLite's sync ---------------------------------------------------------------------------------------------

    def _watch_syncs(self, vfs: _Vfs) -> None:
        """Have every file that is opened from now on sync through us: its table of methods is a copy with our xSync."""
        original = _X_OPEN(vfs.xOpen)
        tables: dict[int, _Methods] = {}

        def opened(this: int, name: int | None, file: int, flags: int, out: int) -> int:
            # The name goes on as the address that it is: SQLite keeps it, and what it keeps around it.
            done = int(original(this, name, file, flags, out))
            methods = ctypes.c_void_p.from_address(file)
            if done == apsw.SQLITE_OK and name is not None and methods.value:
                self._names[file] = os.fsdecode(ctypes.string_at(name))
                if methods.value not in tables:
                    tables[methods.value] = self._with_our_sync(methods.value)
                methods.value = ctypes.addressof(tables[methods.value])
            return done

        callback = _X_OPEN(opened)
        vfs.xOpen = ctypes.cast(callback, ctypes.c_void_p).value
        self._kept += (vfs, original, callback, tables)

    def _with_our_sync(self, methods: int) -> _Methods:
        table = _Methods.from_buffer_copy(_Methods.from_address(methods))
        original = _X_SYNC(table.xSync)

        def synced(file: int, flags: int) -> int:
            call, error = self.begin("sync", self._names.get(file))
            if error:
                return apsw.SQLITE_IOERR_FSYNC
            done = int(original(file, flags))
            if done == apsw.SQLITE_OK:
                self.end(call)
            return done

        callback = _X_SYNC(synced)
        table.xSync = ctypes.cast(callback, ctypes.c_void_p).value
        self._kept += (original, callback)
        return table

    # --- Python's own ----------------------------------------------------------------------------------------------

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook that is told of every event in the interpreter: only the two that concern us may cost anything."""
        if self.watcher is None or (event != "open" and event != "fcntl.lockf"):
            return
        if event == "open":
            path = arguments[0]
            call, error = self.begin("open", path if isinstance(path, str) else None)
        else:
            path = os.readlink(f"/proc/self/fd/{int(arguments[0])}")
            call, error = self.begin("unlock" if arguments[1] == fcntl.LOCK_UN else "lock", path)
        if error:
            raise OSError(error, os.strerror(error), path)
        # It is made after this hook has returned; nothing that matters lies between.
        self.end(call)


def _fails(error: int) -> int:
    ctypes.set_errno(error)
    return -1


# --- the C side ------------------------------------------------------------------------------------------------------

_F_UNLCK = 2
_LOCKING = (6, 7)  # F_SETLK, F_SETLKW
_MAP_FAILED = ctypes.c_void_p(-1).value


def _prototype(result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments, use_errno=True)


_INT, _SIZE, _OFFSET, _POINTER, _NAME = ctypes.c_int, ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
_OPEN = _prototype(_INT, _NAME, _INT, _INT)
_PWRITE = _PREAD = _prototype(ctypes.c_ssize_t, _INT, _POINTER, _SIZE, _OFFSET)
_FTRUNCATE = _prototype(_INT, _INT, _OFFSET)
_UNLINK = _prototype(_INT, _NAME)
_OPEN_DIRECTORY = _prototype(_INT, _NAME, _POINTER)
_FCNTL = _prototype(_INT, _INT, _INT, ctypes.c_ssize_t)
_MMAP = _prototype(_POINTER, _POINTER, _SIZE, _INT, _INT, _INT, _OFFSET)

_X_OPEN = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
_X_SYNC = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3: what SQLite does with an open file."""

    _fields_ = (
        ("iVersion", _INT),
        *((name, _POINTER) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync")),
        ("others", _POINTER * 13),
    )


class _Vfs(ctypes.Structure):
    """The beginning of sqlite3_vfs."""

    _fields_ = (
        ("iVersion", _INT),
        ("szOsFile", _INT),
        ("mxPathname", _INT),
        ("pNext", _POINTER),
        ("zName", _NAME),
        ("pAppData", _POINTER),
        ("xOpen", _POINTER),
    )


def _vfs_of_unix() -> _Vfs:
    """SQLite's own structure of the VFS that every file here is opened with."""
    found, connection = ctypes.c_void_p(), apsw.Connection(":memory:")
    connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(found))
    connection.close()
    vfs = _Vfs.from_address(found.value or 0)
    if vfs.zName != b"unix":
        raise RuntimeError(f"files here are opened with the VFS {vfs.zName!r}, not with 'unix'")
    return vfs


_disk: Disk | None = None


def disk() -> Disk:
    """The disk of this process; made, for good, when it is first asked for."""
    global _disk
    if _disk is None:
        _disk = Disk()
    return _disk


# What a call of each kind can fail with. A sync that fails is EIO to SQLite, whatever the disk says.
ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE, errno.EACCES, errno.EIO),
    "write": (errno.EIO, errno.ENOSPC),
    "sync": (errno.EIO,),
    "sync folder": (errno.EMFILE,),
    "truncate": (errno.EIO, errno.ENOSPC),
    "delete": (errno.EIO, errno.EACCES),
    "map": (errno.ENOMEM,),
    "lock": (errno.EAGAIN,),
    "read": (errno.EIO,),
}
