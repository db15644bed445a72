"""What every worker does, whichever library it uses: talk with the campaign, play the model, leave, die.

A worker's program starts once and imports its library; each process that a probe asks for is a fork of it, with an
event loop, a database connection and a socket of its own. Commands and events are lines of JSON on that socket: what
was written before a kill is read after it.

    say      one message to the agent, and what the model does about it; ends as done, failed or left
    seed     a history of so many turns, put in as the library's documents say
    measure  some turns without a word to the campaign: bytes written, CPU and wall time
    end      close what is open, and exit

Rule of this file: the standard library only, for it runs in every environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

THREAD = "thread-1"
TOOL = "send_letter"
_FOR_EVER = 3600.0

Emit = Callable[..., None]


@dataclass
class Saying:
    """One message of a caller's, what the model does about it, and how its reader behaves."""

    n: int
    text: str
    pieces: list[str]
    streamed: bool = False
    thinks: float = 0.0  # seconds before the first piece
    every: float = 0.0  # seconds before each further one
    fails: bool = False
    calls_tool: bool = False
    key: str | None = None  # names the message, for libraries that know it by that when it comes again
    resume: bool = False  # go on with what was begun, instead of saying the text
    leaves_after: int = 0  # pieces
    leaves_how: str = ""  # break: just stop reading; cancel: the task is cancelled; stop: as the documents say
    dies: bool = False  # when the library has returned, and before anybody is told
    quiet: bool = False
    emit: Emit = field(default=lambda event, **more: None)
    heard: list[str] = field(default_factory=list)

    @property
    def answer(self) -> str:
        return "".join(self.pieces)

    def asked(self, messages: Iterable[Any], told: Callable[[Any], Mapping[str, Any]]) -> None:
        """The model is sent these messages; `told` puts one of them into plain words."""
        if not self.quiet:
            self.emit("asked", n=self.n, messages=[told(message) for message in messages])

    async def think(self) -> None:
        """The model takes its time; it may fail."""
        if self.thinks:
            await asyncio.sleep(self.thinks)
        if self.fails:
            raise ModelFailed("The service is unavailable.")

    async def said(self) -> AsyncIterator[str]:
        """The answer as it is streamed."""
        await self.think()
        for number, piece in enumerate(self.pieces):
            if number and self.every:
                await asyncio.sleep(self.every)
            yield piece

    def hear(self, piece: str) -> str:
        """The reader has a piece. Returns "break" or "stop" if it leaves now by itself, "" if it reads on."""
        if not piece:
            return ""
        self.heard.append(piece)
        self.emit("heard", n=self.n, piece=piece)
        if len(self.heard) != self.leaves_after:
            return ""
        if self.leaves_how != "cancel":
            return self.leaves_how
        task = asyncio.current_task()
        assert task is not None
        # In the middle of its wait for the next piece, as when a client hangs up.
        asyncio.get_running_loop().call_later(self.every / 2, task.cancel)
        return ""

    async def in_tool(self) -> str:
        """The tool has had its effect, and does not come back."""
        self.emit("in tool", n=self.n)
        await asyncio.sleep(_FOR_EVER)
        return "sent"


class ModelFailed(Exception):
    """What a model's client raises when the service does not answer."""


class Worker(ABC):
    """One process's use of one library."""

    packages: ClassVar[tuple[str, ...]]
    able: ClassVar[frozenset[str]]  # of: stop, key, resume, tools, lean, ready-made
    # The query whose rows hold the messages as they will be read, and nothing that will not be.
    reads: ClassVar[str]

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        self.path = path
        self.settings = settings

    @abstractmethod
    async def open(self) -> None:
        """Open the database."""

    @abstractmethod
    async def close(self) -> None:
        """Close it."""

    @abstractmethod
    async def run(self, saying: Saying) -> str:
        """Say it on the one thread, and return the whole answer."""

    @abstractmethod
    async def stream(self, saying: Saying) -> None:
        """Say it, and hand on each piece of the answer to `saying.hear`; do what that returns."""

    @abstractmethod
    async def seed(self, turns: list[tuple[str, str]]) -> None:
        """Put a history into the thread, which is empty."""


# --- a process ---------------------------------------------------------------------------------------------------


class _Process:
    """Reads commands, runs them (several sayings at once, if they come so), and writes events."""

    def __init__(self, connection: socket.socket, worker: Worker) -> None:
        self._connection = connection
        self._worker = worker
        self._sayings: set[asyncio.Task[None]] = set()

    def emit(self, event: str, **more: Any) -> None:
        self._connection.sendall(json.dumps({"event": event, **more}).encode() + b"\n")

    async def live(self) -> None:
        reader, _ = await asyncio.open_unix_connection(sock=self._connection.dup(), limit=2**24)
        await self._worker.open()
        self.emit("born", pid=os.getpid())
        while line := await reader.readline():
            command = json.loads(line)
            what = command.pop("do")
            if what == "say":
                task = asyncio.create_task(self._say(Saying(**command, emit=self.emit)))
                self._sayings.add(task)
                task.add_done_callback(self._sayings.discard)
            elif what == "seed":
                await self._worker.seed([(said, answered) for said, answered in command["turns"]])
                self.emit("seeded")
            elif what == "measure":
                self.emit("measured", **await self._measure(**command))
            else:
                break
        await self._worker.close()
        self.emit("ended")

    async def _say(self, saying: Saying) -> None:
        answer: str | None = None
        try:
            if saying.streamed:
                await self._worker.stream(saying)
            else:
                answer = await self._worker.run(saying)
        except asyncio.CancelledError:
            self.emit("left", n=saying.n)
        except Exception as error:
            self.emit("failed", n=saying.n, error=f"{type(error).__name__}: {error}"[:300])
        else:
            if saying.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            left = bool(saying.leaves_after)
            self.emit("left" if left else "done", n=saying.n, answer=answer or "".join(saying.heard))

    async def _measure(self, turns: int, text: str, answer: str) -> dict[str, float]:
        async def turn(n: int) -> None:
            await self._worker.run(Saying(n, f"{text} {n}", [f"{answer} {n}"], quiet=True))

        await turn(0)  # what is done once is done
        began, cpu, written = time.perf_counter(), time.process_time(), _written()
        for n in range(1, turns + 1):
            await turn(n)
        return {
            "bytes": (_written() - written) / turns,
            "cpu": (time.process_time() - cpu) / turns,
            "wall": (time.perf_counter() - began) / turns,
        }


def _written() -> int:
    """Bytes that this process has handed to write calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


# --- the program -------------------------------------------------------------------------------------------------


def serve(kind: type[Worker]) -> None:
    """Fork a process for each socket that comes over standard input, itself a socket, until that is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    control = socket.socket(fileno=sys.stdin.fileno())
    versions = {name: version(name) for name in kind.packages}
    control.send(json.dumps({"versions": versions, "able": sorted(kind.able), "reads": kind.reads}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
        if not message:
            return
        connection = socket.socket(fileno=descriptors[0])
        if os.fork() == 0:
            _in_child(connection, kind, json.loads(message))
        connection.close()


def _in_child(connection: socket.socket, kind: type[Worker], errand: dict[str, Any]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(BrokenPipeError):  # the campaign is gone
            asyncio.run(_Process(connection, kind(Path(errand["path"]), errand["settings"])).live())
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)
