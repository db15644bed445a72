"""Changes: what `holdfast threads` does with a whole conversation: fork, rewind, rename, delete.

Rule of this file: a person is told what happened and how to go on, a pipe gets the id of the thread and nothing else.
Nothing that cannot be undone happens unasked.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Coroutine
from typing import Any

from holdfast.cli.finding import found_thread, found_turn, row_of
from holdfast.cli.terminal import cut, one_line, safe
from holdfast.cli.transcript import counted
from holdfast.cli.trouble import Trouble
from holdfast.conversation.errors import ThreadBusyError
from holdfast.engine.threads import AgentThread
from holdfast.ports.stores import ThreadInfo, ThreadStore

_LABEL_COLUMNS = 60


async def fork(store: ThreadStore, options: argparse.Namespace) -> None:
    """A new thread that begins where another stands, or after one of its turns."""
    info = await found_thread(store, options.thread)
    at = await found_turn(store, info, options.at) if options.at is not None else None
    made = await handle(store, info).fork(at=at, thread_id=options.id)
    now = await store.get(made.id)
    turns = counted(now.turns if now is not None else 0, "turn")
    where = f" --store {shlex.quote(safe(options.store))}" if options.store else ""
    _tell(
        made.id,
        f"Thread {made.id} begins with {turns} of {info.id}, which stays as it is.",
        f"Go on with: holdfast chat --thread {shlex.quote(made.id)}{where}",
    )


async def rewind(store: ThreadStore, options: argparse.Namespace) -> None:
    """Go back by some turns, or to right after one."""
    info = await found_thread(store, options.thread)
    to = await found_turn(store, info, options.to) if options.to is not None else None
    await handle(store, info).rewind(None if to is not None else options.turns or 1, to=to)
    now = await store.get(info.id)
    left = now.turns if now is not None else 0
    _tell(
        info.id,
        f"Thread {info.id} has {counted(left, 'turn')} now, instead of {info.turns}.",
        "What was taken back stays in the store; what is said next begins a new branch.",
    )


async def rename(store: ThreadStore, options: argparse.Namespace) -> None:
    """Give the thread a title; an empty one takes it away."""
    info = await found_thread(store, options.thread)
    title = " ".join(options.title).strip() or None
    await store.update(info.id, title=title)
    _tell(info.id, f"Thread {info.id}: {one_line(title) if title else 'no title'}")


def delete(store: ThreadStore, options: argparse.Namespace) -> Coroutine[Any, Any, None]:
    """Ask whether it is meant; then what deletes the thread. It asks while no loop runs, so that Ctrl-C ends it."""
    info, label = asyncio.run(_described(store, options.thread))
    if not options.yes:
        _ask_whether(info, label)
    return _delete(store, info, interrupt=options.interrupt)


async def _described(store: ThreadStore, given: str) -> tuple[ThreadInfo, str]:
    info = await found_thread(store, given)
    return info, (await row_of(store, info)).label


def _ask_whether(info: ThreadInfo, label: str) -> None:
    """Raises Trouble unless somebody is there and says yes."""
    if not sys.stdin.isatty():
        raise Trouble(f"Thread {info.id!r} was not deleted: nobody is there to be asked. Say --yes if it is meant.")
    beside = sys.stdout if sys.stdout.isatty() else sys.stderr
    what = f'"{cut(label, _LABEL_COLUMNS)}", ' if label else ""
    question = f"Delete thread {safe(info.id)} ({what}{counted(info.turns, 'turn')})? It cannot be undone. [y/N] "
    beside.write(question)
    beside.flush()
    answer = ""
    try:
        answer = sys.stdin.readline()
    finally:
        if not answer.endswith("\n"):  # Ctrl-D, Ctrl-C: the line is still open
            beside.write("\n")
    if answer.strip().lower() not in ("y", "yes"):
        raise Trouble("Nothing was deleted.")


async def _delete(store: ThreadStore, info: ThreadInfo, *, interrupt: bool) -> None:
    try:
        await handle(store, info).delete(interrupt=interrupt)
    except ThreadBusyError as error:
        raise Trouble(f"{error} --interrupt deletes it all the same.") from None
    _tell(info.id, f"Thread {info.id} is deleted.")


def handle(store: ThreadStore, info: ThreadInfo) -> AgentThread:
    """A handle on this life of the thread: it does nothing to another thread that took the id meanwhile."""
    return AgentThread(store, info.id, intent="existing", incarnation=info.incarnation)


def _tell(thread_id: str, *lines: str) -> None:
    for line in lines if sys.stdout.isatty() else (thread_id,):
        print(safe(line))
