"""Commands: what may be typed in a chat besides messages.

Rule of this file: a command is a row of the table at its end. What a command shows is no answer, so it stands beside
the answers (an answer that it asks for is shown like any other); what it refuses it says as Trouble or as an error of
the engine, and the chat goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from holdfast.cli.branches import branch_lines, branch_rows, found_place
from holdfast.cli.finding import found_turn, rows
from holdfast.cli.session import Session
from holdfast.cli.terminal import one_line
from holdfast.cli.threads import row_lines
from holdfast.cli.transcript import counted, turn_lines
from holdfast.cli.trouble import Trouble
from holdfast.cli.underway import OpenTurn, open_turn, stop_run, stop_told
from holdfast.engine.streams import AgentRunStream
from holdfast.ports.stores import ThreadInfo

_LISTED = 10
_HISTORY = 10


class LeaveChat(Exception):
    """The person wants to go."""


class Wanted(NamedTuple):
    """An answer that a command asks for: it is shown like any other. `again`: it takes the place of another."""

    stream: AgentRunStream
    again: bool = False


class Command(NamedTuple):
    """`/name argument`: what it takes, what it does in a few words, and the function that does it."""

    name: str
    takes: str
    does: str
    act: Callable[[Session, str], Awaitable[Wanted | None]]


async def run_command(session: Session, line: str) -> Wanted | None:
    """Do what a line that begins with a slash asks for; the answer that it wants shown, if it wants one.

    Raises Trouble, LeaveChat, HoldfastError.
    """
    name, _, argument = line.strip().partition(" ")
    for command in COMMANDS:
        if name == command.name or (name == "/exit" and command.name == "/quit"):
            if argument and not command.takes:
                raise Trouble(f"{name} takes nothing after it.")
            return await command.act(session, argument.strip())
    raise Trouble(f"There is no {name}. /help lists what there is; to say something that begins with /, type //.")


# --- the commands ----------------------------------------------------------------------------------------------


async def _help(session: Session, argument: str) -> None:
    for command in COMMANDS:
        usage = f"{command.name} {command.takes}".ljust(18)
        session.screen.line(f"  {usage}{session.screen.paint.dim(command.does)}")
    session.screen.note("  Ctrl-C stops an answer, Ctrl-D leaves. A line that ends with \\ goes on in the next one.")


async def _quit(session: Session, argument: str) -> None:
    raise LeaveChat


async def _new(session: Session, argument: str) -> None:
    session.thread = session.agent.get_new_thread()
    session.screen.note(f"A new thread: {session.thread.id}")


async def _threads(session: Session, argument: str) -> None:
    found, _ = await rows(session.store, _LISTED)
    if not found:
        raise Trouble("There are no threads yet: one is kept as soon as something is said on it.")
    columns = min(shutil.get_terminal_size().columns, 120) - 4
    session.listed = [row.info.id for row in found]
    for number, row in enumerate(found, 1):
        first, second = row_lines(row, columns, session.screen.paint)
        sign = "*" if row.info.id == session.thread.id else " "
        session.screen.line(f"{sign}{number:>2} {first}")
        session.screen.line(f"    {second}")


async def _switch(session: Session, argument: str) -> None:
    if not argument:
        raise Trouble("/switch takes a thread's id, or its number in what /threads listed.")
    thread_id = argument
    if await session.store.get(argument) is None:
        number = int(argument) if argument.isascii() and argument.isdecimal() else 0
        if not 1 <= number <= len(session.listed):
            raise Trouble(f"There is no thread {argument!r} here; /threads lists what there is.")
        thread_id = session.listed[number - 1]
    thread = session.agent.get_thread(thread_id)
    await thread.turns(last=1)  # raises here if it cannot be gone on with
    session.thread = thread
    session.screen.note(f"Thread {thread_id}")
    await session.recap(1)


async def _fork(session: Session, argument: str) -> None:
    info = await _known(session)
    at = None
    if argument:
        at = await found_turn(session.store, info, str(_number(argument, "/fork", most=info.turns)))
    before = session.thread.id
    session.thread = await session.thread.fork(at=at)
    session.screen.note(f"This is thread {session.thread.id} now.")
    session.screen.note(f"The other stays as it is: /switch {before}")


async def _rewind(session: Session, argument: str) -> None:
    info = await _known(session)
    back = _number(argument, "/rewind", most=info.turns) if argument else 1
    await session.thread.rewind(turns=back)
    left = (await _known(session)).turns  # what a dead program had left open was one more turn to go back by
    session.screen.note(f"Gone back by {counted(back, 'turn')}; {counted(left, 'turn')} before this.")
    await session.recap(1)


# --- answers that were given, broken off, or are being made ------------------------------------------------------


async def _again(session: Session, argument: str) -> Wanted:
    info = await _known(session)
    left = await open_turn(session.store, info)
    if left is not None:
        raise Trouble(f"The last answer has not ended. {_what_can_be_done(left)}")
    if not info.turns:
        raise Trouble("There is no message here that could be answered again.")
    return Wanted(session.agent.regenerate_stream(session.thread), again=True)


async def _resume(session: Session, argument: str) -> Wanted:
    left = await open_turn(session.store, await _known(session))
    if left is None:
        raise Trouble("No answer was broken off by the end of its program, so there is nothing to go on with.")
    if left.waiting:
        raise Trouble(_what_can_be_done(left))
    if left.alive:
        raise Trouble(f"Another program is answering on this thread now. {_what_can_be_done(left)}")
    return Wanted(session.agent.resume_stream(session.thread))


def _what_can_be_done(left: OpenTurn) -> str:
    if left.waiting:
        return "It waits for a call to be allowed: /approvals asks about it, /stop gives it up."
    return "/stop ends it." if left.alive else "/resume goes on with it."


async def _approvals(session: Session, argument: str) -> None:
    if not await session.thread.approvals():
        raise Trouble("No call waits to be allowed on this thread; 'holdfast threads list --waiting' lists others.")
    session.to_ask = True


async def _stop(session: Session, argument: str) -> None:
    session.screen.hint("…")  # a program that hangs is given some seconds
    session.screen.note(stop_told(await stop_run(session.thread)))
    await session.recap(1)


async def _branches(session: Session, argument: str) -> None:
    found = await branch_rows(session.thread, last=_LISTED)
    if not found:
        raise Trouble("Nothing was said yet.")
    columns = min(shutil.get_terminal_size().columns, 120)
    for line in branch_lines(found, columns, session.screen.paint):
        session.screen.line(line)
    if found[0].number > 1:
        session.screen.note(f"Those before number {found[0].number} are there too: /branch {found[0].number - 1}")


async def _branch(session: Session, argument: str) -> None:
    if not argument:
        raise Trouble("/branch takes the number of a branch; /branches lists them.")
    await _known(session)
    await session.thread.switch(await found_place(session.thread, argument, listed_by="/branches"))
    session.screen.note(f"You are after turn {(await _known(session)).turns} of that branch now.")
    await session.recap(1)


# --- this thread -----------------------------------------------------------------------------------------------


async def _history(session: Session, argument: str) -> None:
    turns = await session.thread.turns(last=_number(argument, "/history") if argument else _HISTORY)
    if not turns:
        raise Trouble("Nothing was said yet.")
    for turn in turns:
        session.screen.line()
        for line in turn_lines(turn, session.screen.paint):
            session.screen.line(line)


async def _title(session: Session, argument: str) -> None:
    info = await _known(session)
    if argument:
        info = await session.store.update(session.thread.id, title=argument)
    session.screen.note(f"Title: {one_line(info.title)}" if info.title else "It has no title. Give it one: /title TEXT")


async def _known(session: Session) -> ThreadInfo:
    """What the store knows of the thread. Raises Trouble if nothing was said on it."""
    info = await session.thread.info()
    if info is None:
        raise Trouble("Nothing was said on this thread yet, so there is nothing to do that with.")
    return info


def _number(text: str, name: str, most: int | None = None) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1 or (most is not None and int(text) > most):
        bounds = "of 1 or more" if most is None else f"from 1 to {most}" if most else "but there are no turns yet"
        raise Trouble(f"{name} takes a number {bounds}; got {text!r}.")
    return int(text)


COMMANDS = (
    Command("/new", "", "begin a new thread", _new),
    Command("/threads", "", "the threads that were used last", _threads),
    Command("/switch", "ID", "go on with another thread (or its number in /threads)", _switch),
    Command("/fork", "[TURN]", "go on in a copy of this thread, from here or from after a turn", _fork),
    Command("/rewind", "[N]", "take back the last turn, or the last N", _rewind),
    Command("/again", "", "answer the last message once more", _again),
    Command("/branches", "", "the branches of this thread: what was answered again, or taken back", _branches),
    Command("/branch", "N", "go to another branch (its number in /branches)", _branch),
    Command("/resume", "", "go on with an answer whose program died", _resume),
    Command("/stop", "", "end the answer that another program is making on this thread, or that waits", _stop),
    Command("/approvals", "", "the calls that wait to be allowed: be asked about them", _approvals),
    Command("/history", "[N]", "what was said, with the turns' numbers", _history),
    Command("/title", "[TEXT]", "give the thread a title, or see it", _title),
    Command("/help", "", "this", _help),
    Command("/quit", "", "leave (also /exit, Ctrl-D)", _quit),
)
WORDS = tuple(command.name for command in COMMANDS)
