"""Where threads are kept: whether it is there, sound, and may be written, and what is going on in it.

Rule of this file: it looks, and makes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator

from holdfast.cli.checks import Check, fine, note, problem
from holdfast.cli.places import to_write
from holdfast.cli.terminal import one_line, safe
from holdfast.cli.transcript import counted
from holdfast.cli.trouble import told
from holdfast.conversation.errors import HoldfastError
from holdfast.settings import data_directory
from holdfast.stores.sqlite import SQLiteStore
from holdfast.stores.sqlite_look import LeftOpen, Look, UnreadLog, look

_LITTLE_ROOM = 100 * 1000 * 1000
_NAMED = 3
# Systems on which the locks of several machines, or a map of shared memory, cannot be relied on.
_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse")
)


def check_store(given: str | None) -> Iterator[Check]:
    """The place that --store means, and what is in it."""
    folder = data_directory()
    if given is None and not os.path.isdir(folder):
        yield from _none_yet(os.path.join(folder, "threads.db"), "the first chat makes it")
        return
    try:
        store = to_write(given)
    except HoldfastError as error:
        yield problem("store", told(error))
        return
    path = store.location if isinstance(store, SQLiteStore) else None
    store.close()
    if path is None:
        yield note("store", "memory: threads are gone when the program ends", kind="memory")
    elif not os.path.exists(path):
        made = "the first chat makes it" if given is None else "a chat with this --store makes it"
        yield from _none_yet(path, made)
    elif not os.path.isfile(path):
        yield problem("store", f"{safe(path)} is no file", "Choose another place with --store.", path=path)
    else:
        yield from _store(path)


def _none_yet(path: str, made: str) -> Iterator[Check]:
    yield note("store", f"there is none yet: {safe(path)}; {made}", kind="sqlite", path=path, threads=0)
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    yield from _room(folder)
    if os.path.isdir(folder) and _may_write(folder):
        yield fine("writing", "it can be made")
    else:
        advice = "Mend the rights of that folder, or choose another place with --store."
        yield problem("writing", f"it cannot be made: {safe(folder)} is no folder that may be written", advice)


def _store(path: str) -> Iterator[Check]:
    try:
        seen = look(path)
    except UnreadLog as log:
        yield note("store", f"{safe(str(log))}: not looked into", "The next use takes the log in.", path=path)
    except HoldfastError as error:
        yield problem("store", told(error), kind="sqlite", path=path)
    else:
        yield from _contents(path, seen)
    yield from _rights(path)
    yield from _room(os.path.dirname(path))
    yield _writing(path)


# --- what is in it ---------------------------------------------------------------------------------------------


def _contents(path: str, seen: Look) -> Iterator[Check]:
    sizes = [os.path.getsize(path + ending) for ending in ("", "-wal") if os.path.exists(path + ending)]
    size = amount(sizes[0]) + (f" and a log of {amount(sizes[1])}" if len(sizes) > 1 and sizes[1] else "")
    facts = {"kind": "sqlite", "path": path, "bytes": sum(sizes), "version": seen.version}
    facts |= {"threads": seen.threads, "turns": seen.turns, "looked_through": seen.whole}
    if seen.damage:
        advice = "Copy it and the files beside it (-wal, -shm) to a safe place; 'holdfast verify' tells more."
        yield problem("store", f"{safe(path)} is damaged: {one_line(seen.damage)}", advice, **facts)
        return
    what = f"{counted(seen.threads, 'thread')}, {counted(seen.turns, 'turn')}, {size}, tables of version {seen.version}"
    what = what if seen.version else "empty: the first chat makes its tables"
    sound = "" if seen.whole else "; too large to be looked through for damage"
    yield fine("store", f"{safe(path)}: {what}{sound}", **facts)
    if seen.programs:
        named = ", ".join(one_line(program) for program in seen.programs[:_NAMED])
        named += ", ..." if len(seen.programs) > _NAMED else ""
        yield fine("in use", f"by {counted(len(seen.programs), 'program')}: {named}", programs=list(seen.programs))
    yield _open_turns(seen.open_turns)
    if seen.waiting:
        what = f"{counted(seen.waiting, 'turn')} {'waits' if seen.waiting == 1 else 'wait'} for a call to be allowed"
        advice = "'holdfast threads list --waiting' lists them; a chat on one of them asks."
        yield note("approvals", what, advice, waiting=seen.waiting)


def _open_turns(turns: tuple[LeftOpen, ...]) -> Check:
    left = [turn for turn in turns if turn.alive is False]
    facts = {"open": len(turns), "left": [{"thread": turn.thread, "turn": turn.turn} for turn in left]}
    if not left:
        what = f"{counted(len(turns), 'turn')} being answered now" if turns else "none is open"
        return fine("turns", what, "", **facts)
    named = ", ".join(safe(turn.thread) for turn in left[:_NAMED]) + (", ..." if len(left) > _NAMED else "")
    what = f"{counted(len(left), 'turn')} left open by a program that was ended amid an answer, on {named}"
    advice = "Nothing needs to be done: what is said next on that thread closes it as interrupted."
    return note("turns", what, advice, **facts)


# --- where it is -----------------------------------------------------------------------------------------------


def _rights(path: str) -> Iterator[Check]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        advice = "If that is not meant: chmod 600, for it and the files beside it."
        yield note("rights", f"others on this machine may use the file (mode {mode:03o})", advice, mode=f"{mode:03o}")


def _room(folder: str) -> Iterator[Check]:
    """What is worth saying about the disk; nothing if all is well."""
    kind = file_system(os.path.realpath(folder), _mounts())
    if kind in _NETWORK:
        advice = "Choose a place on a disk of this machine with --store."
        yield problem("disk", f"{kind}, a network file system, on which threads are not safe", advice, kind=kind)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if free < _LITTLE_ROOM:
        yield note("disk", f"{amount(free)} are free", "Make some room: no turn is kept on a full disk.", free=free)


def _writing(path: str) -> Check:
    closed = [place for place in _written(path) if not _may_write(place)]
    if not closed:
        return fine("writing", "it may be written", writable=True)
    advice = "Mend the rights, or choose another place with --store."
    return problem("writing", f"{safe(closed[0])} may not be written", advice, writable=False)


def _written(path: str) -> Iterator[str]:
    """All that a chat writes: the folder too, for SQLite makes files beside the database."""
    yield os.path.dirname(path)
    for ending in ("", "-wal", "-shm", "-owners"):
        if os.path.exists(path + ending):
            yield path + ending


def _may_write(path: str) -> bool:
    rights = os.W_OK | (os.X_OK if os.path.isdir(path) else 0)
    return os.access(path, rights, effective_ids=os.access in os.supports_effective_ids)


def _mounts() -> str:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:  # not Linux
        return ""


def file_system(path: str, mounts: str) -> str:
    """The kind of file system that a path is on, by the kernel's table of mounts; "" if it does not say."""
    kind, longest = "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        # Of two on the same place the later one counts: it covers the other.
        if len(point) >= longest and (path == point or path.startswith(point.rstrip("/") + "/")):
            kind, longest = after.split(" ")[0], len(point)
    return kind


def amount(count: float) -> str:
    """So many bytes, in a few digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.0f} TB"
