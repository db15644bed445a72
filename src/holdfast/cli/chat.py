"""`holdfast chat`: a conversation at a prompt, or through a pipe.

Rule of this file: it puts the parts together and keeps the order of things: read a line, do what it asks, again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
from collections.abc import Iterable
from typing import Any

from holdfast.cli import places
from holdfast.cli.approving import settle
from holdfast.cli.commands import WORDS, LeaveChat, run_command
from holdfast.cli.interrupts import Interrupts
from holdfast.cli.loading import loaded_tools
from holdfast.cli.partner import OFFLINE, chosen_client, who_answers
from holdfast.cli.prompt import Prompt
from holdfast.cli.screen import Screen
from holdfast.cli.session import Session
from holdfast.cli.terminal import one_line, safe
from holdfast.cli.transcript import counted
from holdfast.cli.trouble import FAILED, FINE, INTERRUPTED, Trouble, listen_to_log
from holdfast.conversation.errors import HoldfastError
from holdfast.engine.agents import ChatAgent
from holdfast.engine.threads import AgentThread
from holdfast.engine.toolkits import Toolkit
from holdfast.ports.stores import ThreadStore
from holdfast.ports.tools import ToolSource

_RECAP = 2
# So many of one's earlier messages the arrow keys find.
_REMEMBERED = 50


def run(options: argparse.Namespace) -> int:
    """Talk until there is nothing more to say; the exit code. Raises Trouble and HoldfastError before it begins."""
    listen_to_log(options.debug)
    screen = Screen(os.environ)
    prompt = Prompt(screen, WORDS)
    client = chosen_client(options)
    kit = loaded_tools(options.tools)
    store = places.to_read(options.store) if options.go_on else places.to_write(options.store)
    try:
        agent = ChatAgent(client, options.instructions, name=options.name, thread_store=store, tools=_all(kit))
        with Interrupts(prompt.typed) as interrupts, asyncio.Runner() as runner:
            loop = runner.get_loop()
            thread = loop.run_until_complete(_chosen(agent, store, options))
            session = Session(agent, store, thread, screen, interrupts, loop, tools=kit, debug=options.debug)
            try:
                session.run(_begin(session, prompt))
                if session.to_ask:
                    settle(session, prompt)
                code = _talk(session, prompt)
                session.run(_say_goodbye(session, options))
            finally:
                loop.run_until_complete(_close(kit.sources))
            return code
    finally:
        store.close()


async def _chosen(agent: ChatAgent, store: ThreadStore, options: argparse.Namespace) -> AgentThread:
    """The thread to talk on. Raises Trouble if the last one is asked for and there is none."""
    if options.thread is not None:
        return agent.get_thread(options.thread, create=True)
    if not options.go_on:
        return agent.get_new_thread()
    page = await store.list(limit=1)
    if not page.threads:
        raise Trouble(f"There is no thread yet in {store.location}. Begin one with: holdfast chat")
    return agent.get_thread(page.threads[0].id)


def _all(kit: Toolkit) -> list[Any]:
    return [*kit.by_name.values(), *kit.sources]


async def _close(sources: Iterable[ToolSource]) -> None:
    """Let go of the servers that offered tools, if any."""
    for source in sources:
        close = getattr(source, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):  # it may be gone already
                await close()


# --- what is shown before and after ----------------------------------------------------------------------------


async def _begin(session: Session, prompt: Prompt) -> None:
    """Who answers, with which tools, where it is kept, where one was."""
    screen = session.screen
    info = await session.thread.info()
    facts = [("answers", who_answers(session.agent.client))]
    if session.agent.client.service == OFFLINE:
        facts.append(("", "for a model set OPENAI_API_KEY and OPENAI_CHAT_MODEL_ID"))
    if session.agent.name:
        facts.append(("name", one_line(session.agent.name)))
    tools = [*session.tools.by_name, *(f"those of {one_line(source.name)}" for source in session.tools.sources)]
    if tools:
        facts.append(("tools", ", ".join(tools)))
    state = counted(info.turns, "turn") if info is not None else "new"
    facts.append(("thread", f"{safe(session.thread.id)} ({state})"))
    if info is not None and info.title:
        facts.append(("title", one_line(info.title)))
    facts.append(("kept in", _where(session.store)))
    if screen.is_person:
        facts.append(("keys", "Ctrl-C stops an answer, Ctrl-D or /quit leaves, /help tells more"))
    for name, value in facts:
        screen.line(screen.paint.dim(f"{name:<9}") + value)
    session.to_ask = info is not None and info.waiting
    if info is not None and screen.is_person:
        await session.recap(_RECAP)
        turns = await session.thread.turns(last=_REMEMBERED)
        prompt.remember(turn.input[-1].text for turn in turns if turn.input)


def _where(store: ThreadStore) -> str:
    return "memory: gone when you leave" if store.location == "memory" else safe(store.location)


async def _say_goodbye(session: Session, options: argparse.Namespace) -> None:
    """How to come back, if there is anything to come back to."""
    if not session.screen.is_person or session.store.location == "memory":
        return
    if await session.store.get(session.thread.id) is not None:
        store = f" --store {shlex.quote(options.store)}" if options.store else ""
        session.screen.note(f"Kept. Go on with: holdfast chat --continue{store}")


# --- line by line ----------------------------------------------------------------------------------------------


def _talk(session: Session, prompt: Prompt) -> int:
    """Read and answer until the end; the exit code. A person may go on after a failed turn, a pipe may not."""
    warned = False
    while True:
        try:
            if not _take(session, prompt, prompt.read()) and not session.screen.is_person:
                return FAILED
            warned = False
        except (EOFError, LeaveChat) as end:
            if isinstance(end, EOFError):
                session.screen.leave_prompt(ended=True)
            return FINE
        except KeyboardInterrupt:
            if not session.screen.is_person:
                raise
            session.screen.leave_prompt(ended=False)
            if warned and not session.interrupts.line:
                return INTERRUPTED
            warned = not session.interrupts.line
            if warned:
                session.screen.note("Ctrl-D or /quit leaves; so does Ctrl-C once more.")


def _take(session: Session, prompt: Prompt, text: str) -> bool:
    """Do what a line asks for, and ask about the calls that then wait; False if it failed."""
    session.to_ask = False
    fine = _done(session, text)
    return (settle(session, prompt) and fine) if session.to_ask else fine


def _done(session: Session, text: str) -> bool:
    if text.startswith("/") and not text.startswith("//"):
        try:
            wanted = session.run(run_command(session, text))
        except (HoldfastError, Trouble) as error:
            session.tell_failed(error)
            return False
        return wanted is None or session.show(wanted.stream, again=wanted.again)
    return session.say(text.removeprefix("/") if text.startswith("//") else text)
