"""Programs and libraries that are at work: holdfast, Python, the system, what holdfast is built on, SQLite."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import holdfast
from holdfast.cli.checks import Check, fine, note, problem
from holdfast.stores.sqlite_look import sqlite_version

_NEEDED = ("msgspec", "aiohttp", "apsw")
_BESIDE = ("azure-identity",)
# Two connections that write and checkpoint at the same moment may damage a database with SQLite up to 3.51.2; two
# older branches were mended too.
_MENDED = (3, 51, 3)
_MENDED_BEFORE = ((3, 44, 6), (3, 50, 7))


def check_system() -> Iterator[Check]:
    """A line for each."""
    yield fine("holdfast", f"{holdfast.__version__}, in {os.path.dirname(holdfast.__file__)}")
    yield fine("python", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}")
    system = platform.platform()
    if sys.platform == "linux":
        yield fine("system", system)
    else:
        yield note("system", system, "holdfast is tested on Linux; other systems should work.")
    yield packages()
    yield sqlite(sqlite_version())


def packages() -> Check:
    """The libraries that holdfast is built on, and those that it can use."""
    found = {name: _version(name) for name in (*_NEEDED, *_BESIDE)}
    there = [f"{name} {number}" for name, number in found.items() if number is not None]
    told = ", ".join(there + [f"no {name}" for name, number in found.items() if number is None])
    if any(found[name] is None for name in _NEEDED):
        return problem("packages", told, "Install it anew: pip install holdfast", **found)
    return fine("packages", told, "", **found)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def sqlite(found: str) -> Check:
    """The SQLite that stores use, which is not the one of Python."""
    if has_wal_fix(found):
        return fine("sqlite", f"{found}, which has the fix of the WAL-reset bug", version=found, wal_reset_fix=True)
    told = f"{found}, which may damage a database that two programs write at once (WAL-reset bug)"
    advice = "Get 3.51.3 or newer: pip install --upgrade apsw"
    return problem("sqlite", told, advice, version=found, wal_reset_fix=False)


def has_wal_fix(found: str) -> bool:
    """Whether that version of SQLite has the fix of the WAL-reset bug."""
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    return numbers >= _MENDED or any(numbers[:2] == least[:2] and numbers >= least for least in _MENDED_BEFORE)
