"""`holdfast verify`: whether everything in a store is what was written.

Rule of this file: a line for each piece of damage, with what goes on from there; the last line sums it up. Exit codes
as of programs that compare: 0 sound, 1 damaged, 2 it could not be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
from collections.abc import Iterator

import msgspec

from holdfast.cli.check_store import amount
from holdfast.cli.checks import Check, fine, note, problem, show
from holdfast.cli.places import to_read
from holdfast.cli.progress import ProgressLine
from holdfast.cli.terminal import safe_json
from holdfast.cli.transcript import counted
from holdfast.cli.trouble import FAILED, FINE, Trouble, listen_to_log, report
from holdfast.conversation.errors import HoldfastError
from holdfast.ports.stores import ThreadStore
from holdfast.ports.verification import Damage, Verification

_NOT_LOOKED_AT = 2


def run(options: argparse.Namespace) -> int:
    """Look at all of the store; the exit code says what came of it."""
    listen_to_log(options.debug)
    given = options.where or options.store
    try:
        store = to_read(given)
        try:
            found = asyncio.run(_verified(store))
        finally:
            store.close()
    except (HoldfastError, Trouble) as error:
        report(error, sys.stderr, debug=options.debug)
        return _NOT_LOOKED_AT
    if options.json:
        print(safe_json(json.dumps(_state(store, found), ensure_ascii=False, indent=2)))
    else:
        for check in _checks(store, found, given):
            show(check)
    return FINE if found.sound else FAILED


async def _verified(store: ThreadStore) -> Verification:
    with ProgressLine() as line:
        return await store.verify(all_tenants=True, progress=line.show)


def _checks(store: ThreadStore, found: Verification, given: str | None) -> Iterator[Check]:
    for damage in found.damage:
        yield problem(damage.kind, " ".join(_told(damage)), _way(damage, given))
    for text in found.notes:
        yield note("log", text)
    what = (
        f"{counted(found.threads, 'thread')}, {counted(found.turns, 'turn')}, {amount(found.record_bytes)} of records"
    )
    count = len(found.damage) + found.unlisted
    if found.sound:
        yield fine("store", f"{store.location}: {what}: all of it is what was written")
    else:
        left = f", {found.unlisted:,} of them not listed" if found.unlisted else ""
        yield problem("store", f"{store.location}: {what}: {count:,} pieces of damage{left}", _CAREFUL)


_CAREFUL = "Keep a copy of the file (and of those beside it) before anything else is done with it."


def _told(damage: Damage) -> Iterator[str]:
    yield damage.what
    if damage.threads and damage.kind in ("turn", "branch"):  # the others name it themselves
        more = f" and {counted(damage.others, 'other thread')}" if damage.others else ""
        yield f"Thread{'s' if len(damage.threads) > 1 else ''}: {', '.join(damage.threads)}{more}."
    if damage.tenant:
        yield f"Tenant: {damage.tenant!r}."


def _way(damage: Damage, given: str | None) -> str:
    if damage.fork_at is None or not damage.threads or damage.tenant != "":
        return damage.way
    where = f" --store {shlex.quote(given)}" if given else ""
    thread, turn = shlex.quote(damage.threads[0]), shlex.quote(damage.fork_at)
    return f"{damage.way} Here: holdfast threads fork {thread} --at {turn}{where}"


def _state(store: ThreadStore, found: Verification) -> dict[str, object]:
    state: dict[str, object] = msgspec.to_builtins(found)
    return {"state": "ok" if found.sound else "problem", "store": store.location, **state}
