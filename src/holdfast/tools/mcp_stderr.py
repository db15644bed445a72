"""MCP stderr: where the words go that a child process writes beside the protocol.

Rule of this file: not to our own stderr, which may be somebody's terminal; a child is never held up by us.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_LOG = logging.getLogger("holdfast.mcp")

_LONGEST_LINE = 2000
_LONGEST_TOLD = 300
# Seconds in which what a child said last gets into the log.
_LAST_WORDS = 0.2


@contextmanager
def child_stderr(name: str, given: TextIO | None, heard: deque[str]) -> Iterator[TextIO]:
    """A file for a child to write to: the one that was given, else a pipe into the log and to `heard`."""
    if given is not None:
        yield given
        return
    reading, writing = os.pipe()
    thread = threading.Thread(target=_copy, args=(reading, name, heard), name=f"holdfast-mcp-{name}", daemon=True)
    thread.start()
    try:
        with os.fdopen(writing, "w", encoding="utf-8") as file:
            yield file
    finally:
        thread.join(_LAST_WORDS)  # a child of the child may keep the pipe open for as long as it likes


def _copy(reading: int, name: str, heard: deque[str]) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        while line := lines.readline(_LONGEST_LINE):
            if line.strip():
                heard.append(line.strip()[:_LONGEST_TOLD])
                _LOG.info("%s: %s", name, line.rstrip())
