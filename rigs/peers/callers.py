"""Callers: the campaign's side of the protocol. A subject is a program; a caller is one process of it.

Rule of this file: what a caller has written is read to its last byte, also when it was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0

Event = dict[str, Any]


class Stuck(Exception):
    """A caller did not do what it was asked to within a minute, or died by itself."""


class Caller:
    """One process that uses one library on one database."""

    def __init__(self, mine: socket.socket) -> None:
        self._socket = mine
        self._changed = asyncio.Event()
        self._over = False
        self._process: int | None = None
        self.events: list[Event] = []

    async def begin(self) -> Caller:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=2**24)
        self._reading = asyncio.create_task(self._read(reader))
        # Not its number: when it is dead, that may be somebody else's.
        self._process = os.pidfd_open(int((await self.until("born"))["pid"]))
        return self

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line.endswith(b"\n"):  # a kill may cut the last one
                    self.events.append(json.loads(line))
                    self._changed.set()
        self._over = True
        self._changed.set()

    def send(self, do: str, **more: Any) -> None:
        self._writer.write(json.dumps({"do": do, **more}).encode() + b"\n")

    def seen(self, *names: str, n: int | None = None) -> list[Event]:
        """The events of these names so far, of one saying if asked."""
        return [event for event in self.events if event["event"] in names and n in (None, event.get("n"))]

    async def until(self, *names: str, n: int | None = None, count: int = 1) -> Event:
        """Wait until there are so many such events; the last of them."""
        await self._when(lambda: len(self.seen(*names, n=n)) >= count or self._over, names)
        found = self.seen(*names, n=n)
        if len(found) < count:
            raise Stuck(f"the process died before {names}: {self.events[-3:]}")
        return found[count - 1]

    async def end_of(self, n: int) -> Event:
        """How a saying ended."""
        return await self.until("done", "failed", "left", n=n)

    async def kill(self) -> None:
        """SIGKILL; returns when the process is dead and all that it wrote is read."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it was faster
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            await self.dead()

    async def dead(self) -> None:
        """Wait until it is."""
        await self._when(lambda: self._over, ("its end",))
        self._writer.close()
        if self._process is not None:
            os.close(self._process)
            self._process = None

    async def end(self) -> None:
        """Ask it to close what it has open, and to exit."""
        self.send("end")
        await self.until("ended")
        await self.dead()

    async def _when(self, true: Callable[[], bool], what: tuple[str, ...]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Stuck(f"no {' or '.join(what)} within {PATIENCE:.0f} s: {self.events[-3:]}") from None


class Subject:
    """A worker's program in its own environment. It is started once; each caller is a fork of it."""

    def __init__(self, module: str, python: Path, log: Path) -> None:
        self._module = module
        self._python = python
        self._log = log

    def __enter__(self) -> Subject:
        mine, its = socket.socketpair()
        with self._log.open("ab") as log:
            self._program = subprocess.Popen(
                [str(self._python), "-m", self._module],
                stdin=its.fileno(),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false"},
            )
        its.close()
        self._control = mine
        told = mine.recv(2**16)
        if not told:
            raise Stuck(f"{self._module} did not start; see {self._log}")
        about = json.loads(told)
        self.versions: Mapping[str, str] = about["versions"]
        self.able = frozenset(about["able"])
        self.reads = str(about["reads"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()  # then it ends by itself
        try:
            self._program.wait(10)
        except subprocess.TimeoutExpired:
            self._program.kill()
            raise

    async def caller(self, path: Path, settings: Mapping[str, str]) -> Caller:
        """A new process."""
        mine, its = socket.socketpair()
        errand = json.dumps({"path": str(path), "settings": dict(settings)}).encode()
        socket.send_fds(self._control, [errand], [its.fileno()])
        its.close()
        return await Caller(mine).begin()
