"""main: arguments in, exit code out.

Rule of this file: what is not asked for is not imported; `--help` costs the start of Python and argparse. Exit codes:
0 fine, 1 an error (told on stderr), 2 wrong usage, 128 + n ended by signal n (130: Ctrl-C, 141: broken pipe).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import holdfast

_USAGE = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141

_EPILOG = """\
A conversation is a thread. Threads are kept in your data directory, unless
--store says otherwise. OPENAI_API_KEY and OPENAI_CHAT_MODEL_ID (OPENAI_BASE_URL
for a compatible server) say who answers; without them it is the offline
partner: built-in rules, no language model.
"""

_CHAT = """\
Talk with a model, or with the offline partner: a message a line, as many turns
as you like. A line that ends with a backslash goes on in the next one. /help
lists what else may be typed; a message that begins with a slash is typed with
two. Ctrl-C stops an answer and keeps what was said, Ctrl-D leaves.

Without a terminal each line of stdin is a message. Only answers go to stdout,
and the first turn that fails ends it.
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


def _add_chat(commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    chat = commands.add_parser(
        "chat",
        parents=[common],
        help="talk with a model, or with the offline partner",
        description=_CHAT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = chat.add_mutually_exclusive_group()
    which.add_argument("--thread", metavar="ID", help="go on with this thread; it begins if there is none")
    which.add_argument("--continue", dest="go_on", action="store_true", help="go on with the thread that was used last")
    chat.add_argument("--model", metavar="NAME", help="which model answers (default: OPENAI_CHAT_MODEL_ID)")
    chat.add_argument(
        "--base-url", metavar="URL", help="a server that speaks Chat Completions (default: OPENAI_BASE_URL)"
    )
    chat.add_argument("--instructions", metavar="TEXT", help="what the agent is told before the conversation")
    chat.add_argument("--name", help="the agent's name")


def _add_threads(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    threads = commands.add_parser(
        "threads", help="list and show conversations", description="List and show conversations.", allow_abbrev=False
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
    listing.add_argument("--json", action="store_true", help="as JSON")
    show = actions.add_parser(
        "show", parents=[common], help="one conversation", description="One conversation.", allow_abbrev=False
    )
    show.add_argument("thread", metavar="ID", help="the thread's id")
    show.add_argument("--last", type=_count, metavar="N", help="only the last turns")
    show.add_argument("--json", action="store_true", help="as JSON")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)
