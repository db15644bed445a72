"""Changes: what `holdfast threads` does with a whole conversation: fork, rewind, switch, stop, rename, delete.

Rule of this file: a person is told what happened and how to go on, a pipe gets the id of the thread and nothing else.
Nothing that cannot be undone happens unasked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys
from collections.abc import Coroutine, Iterator
from typing import Any

from holdfast.cli.branches import found_place
from holdfast.cli.finding import found_thread, found_turn, row_of
from holdfast.cli.terminal import cut, one_line, safe
from holdfast.cli.transcript import counted, recap_lines
from holdfast.cli.trouble import Trouble
from holdfast.cli.underway import stop_run, stop_told
from holdfast.conversation.errors import ThreadBusyError
from holdfast.engine.threads import AgentThread
from holdfast.ports.stores import ThreadInfo, ThreadStore

_LABEL_COLUMNS = 60
# Seconds after which a person wants to know what is going on.
_SILENCE = 1.0


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
    with _busy_told():
        back = None if to is not None else options.turns or 1
        await handle(store, info).rewind(back, to=to, interrupt=options.interrupt)
    now = await store.get(info.id)
    left = now.turns if now is not None else 0
    before = f"{info.turns} and one that had not ended" if info.busy else str(info.turns)
    _tell(
        info.id,
        f"Thread {info.id} has {counted(left, 'turn')} now, instead of {before}.",
        "What was taken back stays in the store; what is said next begins a new branch.",
    )


async def switch(store: ThreadStore, options: argparse.Namespace) -> None:
    """Stand at the end of another branch, or right after any turn of one."""
    info = await found_thread(store, options.thread)
    thread = handle(store, info)
    place = await found_place(thread, options.turn, listed_by="'holdfast threads branches'")
    with _busy_told():
        await thread.switch(place, interrupt=options.interrupt)
    now = await store.get(info.id)
    turns = counted(now.turns if now is not None else 0, "turn")
    _tell(
        info.id,
        f"Thread {info.id} stands at turn {place} now, with {turns}.",
        "Nothing is lost: what it stood at before is among its branches.",
    )


async def stop(store: ThreadStore, options: argparse.Namespace) -> None:
    """End the answer that is being made on a thread, in whichever program."""
    info = await found_thread(store, options.thread)
    waiting = asyncio.get_running_loop().call_later(_SILENCE, _tell_that_it_takes_a_while)
    try:
        turn = await stop_run(handle(store, info))
    finally:
        waiting.cancel()
    lines = [stop_told(turn), *(recap_lines(turn) if turn is not None else ())]
    now = await store.get(info.id)
    if now is not None:
        next_one = " The next run, which had waited for it, has it now." if now.busy else ""
        lines.append(f"Thread {info.id} has {counted(now.turns, 'turn')} now.{next_one}")
    _tell(info.id, *lines)


def _tell_that_it_takes_a_while() -> None:
    if sys.stderr.isatty():
        print("Waiting for the program that is answering; should it hang, that takes some seconds …", file=sys.stderr)


@contextlib.contextmanager
def _busy_told() -> Iterator[None]:
    """What can be done about a thread that is in the middle of a turn."""
    try:
        yield
    except ThreadBusyError as error:
        raise Trouble(f"{error} --interrupt does that.") from None


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
    with _busy_told():
        await handle(store, info).delete(interrupt=interrupt)
    _tell(info.id, f"Thread {info.id} is deleted.")


def handle(store: ThreadStore, info: ThreadInfo) -> AgentThread:
    """A handle on this life of the thread: it does nothing to another thread that took the id meanwhile."""
    return AgentThread(store, info.id, intent="existing", incarnation=info.incarnation)


def _tell(thread_id: str, *lines: str) -> None:
    for line in lines if sys.stdout.isatty() else (thread_id,):
        print(safe(line))
