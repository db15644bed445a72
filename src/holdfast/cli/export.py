"""Export: a conversation written down, for programs and for people.

    json       what `AgentThread.serialize` says of a thread in memory, with its title and metadata;
               `agent.deserialize_thread(json.load(file))` makes a thread of it again
    markdown   a transcript; what was said stands in quotes, so that nothing said can pass for part of the page
    messages   the messages as Chat Completions takes them, a list of role and content

Rule of this file: a file is made for its owner alone, all of it or nothing, and takes the place of another only if
that is asked for. What a format cannot say is said to be missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from holdfast.cli.changes import handle
from holdfast.cli.finding import found_thread
from holdfast.cli.terminal import one_line, safe, safe_json
from holdfast.cli.transcript import (
    allowed,
    counted,
    how_it_ended,
    message_text,
    moment,
    names_of_calls,
    speaker,
    turn_facts,
)
from holdfast.cli.trouble import Trouble
from holdfast.cli.underway import open_turn
from holdfast.clients.openai_chat_codec import ChatCompletionsCodec
from holdfast.conversation.errors import InvalidInputError
from holdfast.conversation.messages import ChatMessage
from holdfast.conversation.records import encode_messages
from holdfast.conversation.turns import Turn
from holdfast.engine.history import chunks
from holdfast.engine.threads import AgentThread
from holdfast.ports.runtime import SYSTEM
from holdfast.ports.stores import NewTurn, OpenRun, ThreadInfo, ThreadStore

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#|~!&])")


async def export(store: ThreadStore, options: argparse.Namespace) -> None:
    """Write a thread to stdout or into a file."""
    info = await found_thread(store, options.thread)
    text = await FORMATS[options.format](handle(store, info), info)
    left = await open_turn(store, info)
    if left is not None:
        _note(f"{left.told} It is not part of what was written.")
    if options.output in (None, "-"):
        sys.stdout.write(text)
        return
    write_file(options.output, text, replace=options.force)
    told = f"Thread {info.id} ({counted(info.turns, 'turn')}) is in {options.output}"
    print(safe(told if sys.stdout.isatty() else options.output))


# --- json ------------------------------------------------------------------------------------------------------


async def _json(thread: AgentThread, info: ThreadInfo) -> str:
    state = await (await _in_memory(thread, info)).serialize()
    turns = state.pop("turns")
    for name in ("title", "metadata"):
        if getattr(info, name) is not None:
            state[name] = getattr(info, name)
    return _written({**state, "turns": turns})


async def _in_memory(thread: AgentThread, info: ThreadInfo) -> AgentThread:
    """A copy of the thread that is kept nowhere, with the turns as they are stored."""
    turns: list[NewTurn] = []
    for segment in await thread.store.lineage(info.head):
        async for some in chunks(thread.store, segment):
            turns.extend(
                NewTurn(t.turn_id, t.status, t.record, t.started_us, t.ended_us, t.key, t.reference) for t in some
            )
    copy = AgentThread(None, info.id, intent="either")
    if turns:
        run = await copy.store.open_run(
            info.id, SYSTEM.new_id("turn"), encode_messages(()), SYSTEM.now_us(), intent="new"
        )
        assert isinstance(run, OpenRun)  # nobody else has it
        await copy.store.seal(run, turns)
    return copy


def _written(state: object) -> str:
    return safe_json(json.dumps(state, ensure_ascii=False, indent=2)) + "\n"


# --- messages --------------------------------------------------------------------------------------------------


async def _messages(thread: AgentThread, info: ThreadInfo) -> str:
    codec = ChatCompletionsCodec()
    told: list[dict[str, Any]] = []
    untold: list[str] = []
    for message in await thread.messages():
        try:
            told.extend(json.loads(b"[" + codec.message(message)[:-1] + b"]"))
        except InvalidInputError as error:
            untold.append(str(error))
            told.append({"role": message.role, "content": message_text(message)})
    if untold:
        _note(f"{counted(len(untold), 'message')} could only be told as text, with the rest in brackets: {untold[0]}")
    return _written(told)


# --- markdown --------------------------------------------------------------------------------------------------


async def _markdown(thread: AgentThread, info: ThreadInfo) -> str:
    turns = await thread.turns()
    return "\n\n".join([*_heading(info), *(part for turn in turns for part in _turn(turn))]) + "\n"


def _heading(info: ThreadInfo) -> Iterator[str]:
    yield f"# {_plain(info.title or 'A conversation')}"
    yield f"{_plain(info.id)} · {counted(info.turns, 'turn')} · begun {moment(info.created_us)}"


def _turn(turn: Turn) -> Iterator[str]:
    number, *facts = turn_facts(turn)
    yield f"## {number.capitalize()}"
    yield _plain(" · ".join(facts))
    names = names_of_calls(turn)
    for message in turn.messages:
        yield from _message(message, names)
    ending = how_it_ended(turn)
    if ending:
        yield f"({_plain(ending)})"


def _message(message: ChatMessage, names: Mapping[str, str]) -> Iterator[str]:
    text = message_text(message, names)
    if text:
        yield f"**{_plain(speaker(message))}**{_plain(allowed(message))}"
        yield "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _plain(text: str) -> str:
    """Text on one line in which Markdown sees no marks."""
    return _MARKS.sub(r"\\\1", one_line(text))


FORMATS: Mapping[str, Callable[[AgentThread, ThreadInfo], Awaitable[str]]] = {
    "json": _json,
    "markdown": _markdown,
    "messages": _messages,
}


# --- files -----------------------------------------------------------------------------------------------------


def write_file(path: str, text: str, *, replace: bool) -> None:
    """Make a file that only its owner may read. Raises Trouble if there is one, unless it is to be replaced.

    One that is replaced is whole at any moment, the old one or the new one.
    """
    if replace and os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise Trouble(f"{path} is no regular file, so it is not replaced. Choose another name for --output.")
    made = f"{path}.{os.getpid()}.new" if replace else path
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        number = os.open(made, flags, 0o600)
    except FileExistsError:
        advice = f"--force replaces it: --output {shlex.quote(path)} --force" if made == path else "Remove it first."
        raise Trouble(f"{made} exists already. {advice}") from None
    try:
        with open(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        if replace:
            os.replace(made, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise


def _note(text: str) -> None:
    """Say something about the export beside it."""
    sys.stderr.write(f"holdfast: {safe(text)}\n")
