"""Trouble: errors in the words of this program, and the numbers with which commands end.

Rule of this file: what went wrong is told in a line or two, made safe; a traceback is shown only to who asks for it
with --debug, for it says nothing to the person at the prompt.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final, TextIO

from holdfast.cli.terminal import safe
from holdfast.conversation.errors import HoldfastError

FINE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count


class Trouble(Exception):
    """Something that the command itself found amiss; the message says what, and what to do."""


def told(error: BaseException) -> str:
    """What went wrong, for the person at the prompt."""
    if isinstance(error, (HoldfastError, Trouble)):
        return safe(str(error))
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return safe(f"{error.strerror}{place}")
    return safe(f"{type(error).__name__}: {error}\nThis is a fault in holdfast; --debug shows where.")


def report(error: BaseException, stream: TextIO, *, debug: bool) -> None:
    """Write what went wrong, with the traceback if it is wanted."""
    if debug:
        stream.write(safe("".join(traceback.format_exception(error))))
    stream.write(f"holdfast: {told(error)}\n")
    stream.flush()


class _SafeFormatter(logging.Formatter):
    """Log records may hold words of a service too."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


def listen_to_log(debug: bool) -> None:
    """Show what holdfast logs: warnings, for they say what no error does; everything with --debug."""
    handler = logging.StreamHandler(sys.stderr)
    form = "%(asctime)s %(name)s: %(message)s" if debug else "holdfast: %(message)s"
    handler.setFormatter(_SafeFormatter(form))
    log = logging.getLogger("holdfast")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.WARNING)
    log.propagate = False
