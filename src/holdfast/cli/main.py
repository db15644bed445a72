"""main: arguments in, exit code out.

Rule of this file: what is not asked for is not imported; `--help` costs the start of Python and argparse. Exit codes:
0 fine, 1 an error (told on stderr), 2 wrong usage, 128 + n ended by signal n (130: Ctrl-C, 141: broken pipe).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import holdfast

_USAGE = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_EPILOG = """\
A conversation is a thread. Threads are kept in your data directory, unless
--store says otherwise. OPENAI_API_KEY and OPENAI_CHAT_MODEL_ID (OPENAI_BASE_URL
for a compatible server) say who answers; without them it is the offline
partner: built-in rules, no language model. `holdfast doctor` tells what is set.
"""

_CHAT = """\
Talk with a model, or with the offline partner: a message a line, as many turns
as you like. A line that ends with a backslash goes on in the next one. /help
lists what else may be typed; a message that begins with a slash is typed with
two. Ctrl-C stops an answer and keeps what was said, Ctrl-D leaves.

Without a terminal each line of stdin is a message. Only answers go to stdout,
and the first turn that fails ends it.
"""

_EXPORT = """\
Write a conversation down.

  json      all of it; agent.deserialize_thread() makes a thread of it again
  markdown  a transcript to read
  messages  a list of role and content, as Chat Completions takes it
"""

_DOCTOR = """\
What is set up, and whether it works: which settings there are (never their
values), who would answer a chat and why, whether the service is there, where
threads are kept, which programs and libraries are at work, and what to do next.
Nothing is changed, nothing is made.

The service is sent one request with your credential and without messages. Every
service refuses that, which shows that it is there and lets you in; no model
runs, so nothing is billed. --ask has the model answer a few words.

Each line is ok, a note or a problem. A problem makes the exit code 1.
"""

_VERIFY = """\
Read everything in a store once more and compare it with what was written: every
turn's hash, every row's sum, what stands after what, and the pages of the file.
Nothing is changed, and chats may go on meanwhile.

Each piece of damage is a line: what it is, where, and what goes on from there.
The exit code is 0 if all is sound, 1 if something is damaged, 2 if the store
could not be looked at.
"""

_BACKUP = """\
Copy the store into one file, while chats go on: every turn that was recorded
before, whole turns only. The copy is read from beginning to end before it is
called good. It is a store like any other: to go back to it, use it as --store.
"""

_MCP = """\
Offer the agent to clients of the Model Context Protocol, as one tool: a message
and, to go on with a conversation, its thread_id. By default one client is served
through stdin and stdout; with --http many are, at http://HOST:PORT/mcp.

Who answers, and where threads are kept, is said as for a chat. Clients may go on
with any thread of the store whose id they know. It needs: pip install 'holdfast[mcp]'
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; the exit code. Raises SystemExit for wrong usage, help and signals."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help(sys.stderr)
        return _USAGE
    return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    """Run a command; whatever it raises becomes words on stderr and a number."""
    from importlib import import_module

    _give_streams()
    try:
        code: int = import_module(f"holdfast.cli.{options.command}").run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        return _failed(error, debug=options.debug)
    return code


def _failed(error: Exception, *, debug: bool) -> int:
    from contextlib import suppress

    from holdfast.cli.trouble import FAILED, report

    with suppress(OSError):  # stderr may be the very terminal that went away
        report(error, sys.stderr, debug=debug)
    if isinstance(error, OSError):
        _drop_stdout()
    return FAILED


def _give_streams() -> None:
    """Have all three streams, though the shell closed some; and none that raises for a character it cannot take."""
    import io
    import os

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _drop_stdout() -> None:
    """Nobody reads stdout any more: what is left in its buffer must not be complained of at the exit."""
    import os
    from contextlib import suppress

    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- arguments -------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="Multi-turn conversations with AI agents that cannot break.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"holdfast {holdfast.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    common = _common()
    _add_chat(commands, common)
    _add_threads(commands, common)
    _add_mcp(commands, common)
    _add_doctor(commands, common)
    _add_verify(commands, common)
    _add_backup(commands, common)
    return parser


def _common() -> argparse.ArgumentParser:
    """What every command takes."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--store",
        metavar="WHERE",
        help="where threads are kept: a file, or an URL such as sqlite:///chats.db or memory:",
    )
    common.add_argument("--debug", action="store_true", help="show the log, and where an error came from, on stderr")
    return common


def _partner() -> argparse.ArgumentParser:
    """What every command takes that asks a model."""
    partner = argparse.ArgumentParser(add_help=False)
    partner.add_argument("--model", metavar="NAME", help="which model answers (default: OPENAI_CHAT_MODEL_ID)")
    partner.add_argument(
        "--base-url", metavar="URL", help="a server that speaks Chat Completions (default: OPENAI_BASE_URL)"
    )
    return partner


def _add_chat(commands: _Commands, common: argparse.ArgumentParser) -> None:
    chat = commands.add_parser(
        "chat",
        parents=[common, _partner()],
        help="talk with a model, or with the offline partner",
        description=_CHAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = chat.add_mutually_exclusive_group()
    which.add_argument("--thread", metavar="ID", help="go on with this thread; it begins if there is none")
    which.add_argument("--continue", dest="go_on", action="store_true", help="go on with the thread that was used last")
    chat.add_argument(
        "--tools",
        metavar="WHAT",
        action="append",
        default=[],
        help="what the model may call: module:function, file.py:function, module:list, or a module alone for all that "
        "was made with @tool in it; may be given several times",
    )
    chat.add_argument("--instructions", metavar="TEXT", help="what the agent is told before the conversation")
    chat.add_argument("--name", help="the agent's name")


def _add_mcp(commands: _Commands, common: argparse.ArgumentParser) -> None:
    mcp = commands.add_parser(
        "mcp",
        parents=[common, _partner()],
        help="offer the agent to MCP clients",
        description=_MCP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    mcp.add_argument("--http", metavar="HOST:PORT", help="listen there (a port alone: on this machine only)")
    mcp.add_argument("--instructions", metavar="TEXT", help="what the agent is told before the conversation")
    mcp.add_argument("--name", help="the agent's name, and the tool's (default: agent)")
    mcp.add_argument("--description", metavar="TEXT", help="what clients are told that the agent is for")


def _add_doctor(commands: _Commands, common: argparse.ArgumentParser) -> None:
    doctor = commands.add_parser(
        "doctor",
        parents=[common, _partner()],
        help="what is set up, whether it works, what to do next",
        description=_DOCTOR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = doctor.add_mutually_exclusive_group()
    which.add_argument("--no-network", action="store_true", help="leave the service alone")
    which.add_argument("--ask", action="store_true", help="ask the model for a few words; that may be billed")
    doctor.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long the service may take (default: 10, with --ask 60)",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")


def _add_verify(commands: _Commands, common: argparse.ArgumentParser) -> None:
    verify = commands.add_parser(
        "verify",
        parents=[common],
        help="whether everything in a store is what was written",
        description=_VERIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verify.add_argument("where", nargs="?", metavar="STORE", help="the same as --store")
    verify.add_argument("--json", action="store_true", help="as JSON")


def _add_backup(commands: _Commands, common: argparse.ArgumentParser) -> None:
    backup = commands.add_parser(
        "backup",
        parents=[common],
        help="copy a store into one file, while chats go on",
        description=_BACKUP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    backup.add_argument("destination", metavar="DEST", help="the file to make, readable for you alone")
    backup.add_argument("--force", action="store_true", help="replace the file if there is one")
    backup.add_argument("--json", action="store_true", help="as JSON")


# --- the actions of `holdfast threads` -------------------------------------------------------------------------


def _add_threads(commands: _Commands, common: argparse.ArgumentParser) -> None:
    about = "List, show and change conversations."
    threads = commands.add_parser(
        "threads", help="list, show and change conversations", description=about, allow_abbrev=False
    )
    actions = threads.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    listing = actions.add_parser(
        "list",
        parents=[common],
        help="the threads, the last used first",
        description="The threads, the last used first. In a pipe a line is: id, turns, last use, the turn that is "
        "open (if any), and title or first words, with tabs between them.",
        allow_abbrev=False,
    )
    listing.add_argument(
        "--limit", type=_count, metavar="N", help="at most so many (default: 20 on a terminal, else all)"
    )
    listing.add_argument("--waiting", action="store_true", help="only those that wait for a call to be allowed")
    listing.add_argument("--json", action="store_true", help="as JSON")
    show = _add_action(actions, common, "show", "One conversation.")
    show.add_argument("--last", type=_count, metavar="N", help="only the last turns")
    show.add_argument("--json", action="store_true", help="as JSON")
    fork = _add_action(actions, common, "fork", "Begin a new thread where one stands. In a pipe: its id.")
    fork.add_argument("--at", metavar="TURN", help="after this turn (a number or an id) instead of the last")
    fork.add_argument("--id", metavar="NEW", help="the id of the new thread (default: one is made)")
    rewind = _add_action(actions, common, "rewind", "Go back to an earlier turn. Nothing is deleted.")
    far = rewind.add_mutually_exclusive_group()
    far.add_argument("turns", nargs="?", type=_count, metavar="N", help="by so many turns (default: 1)")
    far.add_argument("--to", metavar="TURN", help="to right after this turn (a number or an id)")
    _add_interrupt(rewind, "; it counts as a turn")
    _add_branches(actions, common)
    _add_action(actions, common, "stop", "End the answer that is being made on a thread. What was said is kept.")
    rename = _add_action(actions, common, "rename", "Give a thread a title.")
    rename.add_argument("title", nargs="+", metavar="TITLE", help="the title; '' takes it away")
    _add_export(actions, common)
    delete = _add_action(actions, common, "delete", "Delete a thread for good, except what forks of it still need.")
    delete.add_argument("--yes", action="store_true", help="do not ask; without a terminal it is needed")
    _add_interrupt(delete)


def _add_branches(actions: _Commands, common: argparse.ArgumentParser) -> None:
    branches = _add_action(
        actions,
        common,
        "branches",
        "The branches of a thread. A branch is left where a turn is answered again, or taken back. In a pipe a line, "
        "the oldest first, is: its last turn, turns, when that ended, the turn after which it begins (if any), * if "
        "the thread stands on it, and the first words of that turn's input and answer, with tabs between them.",
    )
    branches.add_argument("--json", action="store_true", help="as JSON")
    switch = _add_action(actions, common, "switch", "Go to another branch. Nothing is deleted.")
    switch.add_argument("turn", metavar="TURN", help="a turn's id, or a branch's number in 'threads branches'")
    _add_interrupt(switch)


def _add_interrupt(action: argparse.ArgumentParser, more: str = "") -> None:
    action.add_argument(
        "--interrupt", action="store_true", help=f"also in the middle of a turn, which is ended first{more}"
    )


def _add_action(
    actions: _Commands, common: argparse.ArgumentParser, name: str, about: str, **more: Any
) -> argparse.ArgumentParser:
    """An action on one thread. What it is about stands in the list of actions by its first sentence."""
    more = {"help": about.partition(". ")[0].rstrip(".").lower(), "description": about, **more}
    action: argparse.ArgumentParser = actions.add_parser(name, parents=[common], allow_abbrev=False, **more)
    action.add_argument("thread", metavar="ID", help="the thread's id, or its beginning if that is no other's")
    return action


def _add_export(actions: _Commands, common: argparse.ArgumentParser) -> None:
    export = _add_action(
        actions,
        common,
        "export",
        _EXPORT,
        help="write a conversation down",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.add_argument("--format", choices=("json", "markdown", "messages"), default="json", help="default: json")
    export.add_argument("--output", metavar="FILE", help="a new file, readable for you alone (default: stdout)")
    export.add_argument("--force", action="store_true", help="replace the file if there is one")


# --- values ----------------------------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds
