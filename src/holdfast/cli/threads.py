"""`holdfast threads`: which conversations there are, what was said in them, and what is done with them as a whole.

Rule of this file: for people the lines fit the terminal and say when; in a pipe every value is whole and stands in
its place, between tabs. What changes threads is in `changes`, what writes them down in `export`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from holdfast.cli.branches import BranchRow, branch_lines, branch_rows
from holdfast.cli.calls import request_lines
from holdfast.cli.changes import delete, fork, handle, rename, rewind, stop, switch
from holdfast.cli.export import export
from holdfast.cli.finding import Row, found_thread, row_of, rows
from holdfast.cli.places import to_read
from holdfast.cli.terminal import Paint, cut, gap, one_line, safe, safe_json, wants_colours, width
from holdfast.cli.transcript import ago, counted, moment, request_state, stamp, turn_lines, turn_state
from holdfast.cli.trouble import FINE, listen_to_log
from holdfast.cli.underway import open_turn
from holdfast.conversation.errors import DamagedError
from holdfast.engine.threads import AgentThread
from holdfast.ports.runtime import SYSTEM
from holdfast.ports.stores import ThreadStore

_ON_A_TERMINAL = 20


def run(options: argparse.Namespace) -> int:
    """Do what `holdfast threads ACTION` asks for. Raises Trouble and HoldfastError."""
    listen_to_log(options.debug)
    store = to_read(options.store)
    try:
        asyncio.run(_ACTIONS[options.action](store, options))
    finally:
        store.close()
    return FINE


# --- list ------------------------------------------------------------------------------------------------------


async def _list(store: ThreadStore, options: argparse.Namespace) -> None:
    terminal = sys.stdout.isatty()
    limit = options.limit
    if limit is None and terminal and not options.json:
        limit = _ON_A_TERMINAL
    found, more = await rows(store, limit, waiting=options.waiting)
    if options.json:
        _print_json([_row_state(row) for row in found])
    elif not terminal:
        sys.stdout.writelines("\t".join(_fields(row)) + "\n" for row in found)
    else:
        _print_rows(found, more, store, waiting=options.waiting)


def _fields(row: Row) -> tuple[str, ...]:
    info = row.info
    return (safe(info.id), str(info.turns), stamp(info.updated_us), safe(info.busy or ""), row.label)


def _row_state(row: Row) -> dict[str, Any]:
    info = row.info
    return {
        "id": info.id,
        "title": info.title,
        "first_words": row.first_words,
        "turns": info.turns,
        "created": stamp(info.created_us),
        "updated": stamp(info.updated_us),
        "open_turn": info.busy,
        "waiting": info.waiting,
        "metadata": info.metadata,
    }


def _print_rows(found: list[Row], more: bool, store: ThreadStore, *, waiting: bool) -> None:
    paint = Paint(wants_colours(os.environ, is_terminal=True))
    columns = min(shutil.get_terminal_size().columns, 120)
    for row in found:
        print("\n".join(row_lines(row, columns, paint)))
    if not found:
        print(f"No {'thread waits' if waiting else 'threads'} in {safe(store.location)}.")
    elif more:
        print(paint.dim(f"There are more; --limit {len(found) * 5} shows them."))


def row_lines(row: Row, columns: int, paint: Paint) -> Iterator[str]:
    """A thread in two lines that fit: what it is about and when it was used, then its id, which is never cut."""
    info = row.info
    used = ago(info.updated_us, SYSTEM.now_us()) or moment(info.updated_us)
    facts = f"{counted(info.turns, 'turn')} · {used}"
    if info.waiting:
        facts = f"a call waits · {facts}"
    elif info.busy:
        facts = f"a turn is open · {facts}"
    label = cut(row.label or "(nothing said yet)", max(10, columns - width(facts) - 2))
    yield paint.bold(label) + gap(label, facts, columns) + paint.dim(facts)
    where, when = f"  {safe(info.id)}", moment(info.updated_us)
    yield paint.dim(where + gap(where, when, columns) + when)


# --- show ------------------------------------------------------------------------------------------------------


async def _show(store: ThreadStore, options: argparse.Namespace) -> None:
    info = await found_thread(store, options.thread)
    thread = handle(store, info)
    turns = await thread.turns(last=options.last)
    if options.json:
        waits = [request_state(request) for request in (await thread.approvals() if info.waiting else ())]
        state = {**_row_state(await row_of(store, info)), "turns": [turn_state(turn) for turn in turns]}
        _print_json({**state, "approvals": waits})
        return
    paint = Paint(wants_colours(os.environ, is_terminal=sys.stdout.isatty()))
    heading = [one_line(info.title)] if info.title else []
    print(paint.bold(" · ".join([*heading, safe(info.id)])))
    facts = [counted(info.turns, "turn"), *await _other_branches(thread)]
    print(paint.dim(" · ".join([*facts, f"begun {moment(info.created_us)}", f"in {safe(store.location)}"])))
    for turn in turns:
        print("\n" + "\n".join(turn_lines(turn, paint)))
    left = await open_turn(store, info)
    if left is not None:
        print("\n" + paint.warning(left.told))
    for request in await thread.approvals() if info.waiting else ():
        print("\n".join(request_lines(request)))


async def _other_branches(thread: AgentThread) -> Iterable[str]:
    """That there are several branches, if there are."""
    try:
        branches = len(await thread.branches())
    except DamagedError:  # on another branch: it hides nothing of this one
        return ["branches that cannot be read"]
    return [f"{branches} branches"] if branches > 1 else []


# --- branches --------------------------------------------------------------------------------------------------


async def _branches(store: ThreadStore, options: argparse.Namespace) -> None:
    info = await found_thread(store, options.thread)
    found = await branch_rows(handle(store, info))
    if options.json:
        _print_json([_branch_state(row) for row in found])
    elif not sys.stdout.isatty():
        sys.stdout.writelines("\t".join(_branch_fields(row)) + "\n" for row in found)
    elif not found:
        print(f"Nothing was said on thread {safe(info.id)} yet.")
    else:
        paint = Paint(wants_colours(os.environ, is_terminal=True))
        print("\n".join(branch_lines(found, min(shutil.get_terminal_size().columns, 120), paint)))


def _branch_fields(row: BranchRow) -> tuple[str, ...]:
    branch = row.branch
    places = (safe(branch.turn_id), str(branch.turns), stamp(branch.ended_us), safe(branch.parts_after or ""))
    return (*places, "*" if branch.current else "", row.asked, row.answered)


def _branch_state(row: BranchRow) -> dict[str, Any]:
    branch = row.branch
    return {
        "number": row.number,
        "turn": branch.turn_id,
        "turns": branch.turns,
        "parts_after": branch.parts_after,
        "current": branch.current,
        "stands_at": row.at,
        "ended": stamp(branch.ended_us),
        "last": turn_state(row.last) if row.last is not None else None,
    }


def _print_json(state: object) -> None:
    print(safe_json(json.dumps(state, ensure_ascii=False, indent=2)))


_ACTIONS: Mapping[str, Callable[[ThreadStore, argparse.Namespace], Coroutine[Any, Any, None]]] = {
    "list": _list,
    "show": _show,
    "branches": _branches,
    "fork": fork,
    "rewind": rewind,
    "switch": switch,
    "stop": stop,
    "rename": rename,
    "export": export,
    "delete": delete,
}
