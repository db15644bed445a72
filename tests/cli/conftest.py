"""The real program in processes of its own: through pipes, and at a terminal (a pty)."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from holdfast import AgentThread, SQLiteStore, Turn
from holdfast.testing.openai_chat import ChatCompletionsStandIn

PATIENCE = 20.0


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which the program finds nobody's threads and no key."""
    theirs = ("OPENAI_", "AZURE_", "ANTHROPIC_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    kept.pop("NO_COLOR", None)
    return {
        **kept,
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "HOME": str(tmp_path),
        "INPUTRC": os.devnull,
        "TERM": "xterm-256color",
        "PYTHONWARNINGS": "error",
        "PYTHONDEVMODE": "",
        "LC_ALL": "C.UTF-8",
    }


# Opens a turn and is in the middle of it until it is killed.
_IN_THE_MIDDLE = """
import sys, time
from holdfast import ChatMessage, SQLiteStore
from holdfast.conversation.records import encode_messages
store = SQLiteStore(sys.argv[1])
said = encode_messages([ChatMessage("user", text="Are you there?")])
opened = store.open_run(sys.argv[2], f"turn_of_{sys.argv[2]}", said, 1)
print("open", flush=True)
time.sleep(60)
"""


# Has an agent that says two words and is then in the middle of its answer until somebody ends it.
_ANSWERING = """
import asyncio, sys
from holdfast import RunCancelledError, SQLiteStore
from holdfast.testing.scripted import ScriptedChatClient

async def for_ever():
    print("open", flush=True)
    await asyncio.sleep(600)

async def main():
    model = ScriptedChatClient(["Once ", "upon ", for_ever])
    agent = model.create_agent(thread_store=SQLiteStore(sys.argv[1]))
    try:
        await agent.run("Tell me.", thread=agent.get_thread(sys.argv[2], create=True))
    except RunCancelledError as error:
        print(error.response.status, error.response.text, flush=True)

asyncio.run(main())
"""

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def in_the_middle(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that is in the middle of a turn on a thread of `chats.db`, and hears nothing."""
    yield from _programs(_IN_THE_MIDDLE, tmp_path)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Start]:
    """Starts a process whose agent is in the middle of an answer on a thread of `chats.db`."""
    yield from _programs(_ANSWERING, tmp_path)


def _programs(program: str, folder: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(thread_id: str) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", program, str(folder / "chats.db"), thread_id]
        started.append(subprocess.Popen(arguments, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == b"open\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def holdfast(home: dict[str, str], tmp_path: Path) -> Run:
    """Runs `holdfast ARGUMENTS` with `said` as its stdin, to its end."""

    def run(*arguments: str, said: str | bytes = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *arguments],
            input=said.encode() if isinstance(said, str) else said,
            capture_output=True,
            env=home,
            cwd=tmp_path,
            timeout=PATIENCE,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


_MANY = """
import contextlib, io, json, sys
from holdfast.cli.main import main
done = []
for arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = exit.code
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


class Done(NamedTuple):
    """What came of a command."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def commands(home: dict[str, str], tmp_path: Path) -> Callable[..., list[Done]]:
    """Runs several commands one after another in one process, which saves the start of the others."""

    def run(*arguments: tuple[str, ...]) -> list[Done]:
        program = [sys.executable, "-c", _MANY, json.dumps(arguments)]
        done = subprocess.run(
            program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=home, cwd=tmp_path, timeout=PATIENCE
        )
        return [Done(*each) for each in json.loads(done.stdout)]

    return run


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], list[Turn]]:
    """The turns of the thread that was used last, as the store has them."""

    async def read(store: SQLiteStore) -> list[Turn]:
        page = await store.list(limit=1)
        return await AgentThread(store, page.threads[0].id, intent="existing").turns()

    def open_and_read() -> list[Turn]:
        store = SQLiteStore(tmp_path / "data" / "holdfast" / "threads.db")
        try:
            return asyncio.run(read(store))
        finally:
            store.close()

    return open_and_read


@pytest.fixture
def service() -> Iterator[ChatCompletionsStandIn]:
    """A service that is no OpenAI, in a thread of its own."""
    with ChatCompletionsStandIn() as service:
        yield service


@pytest.fixture
def there(service: ChatCompletionsStandIn) -> tuple[str, ...]:
    """The arguments that make the program ask that service."""
    return ("--base-url", service.base_url, "--model", "stand-in")


class Terminal:
    """A program at a terminal: type, and see what comes. The terminal is the program's own: ^C is a signal to it."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path, columns: int = 100) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # The first terminal that a session leader opens becomes its own.
        opens = ["sh", "-c", 'exec "$@" <"$HOLDFAST_TTY" >"$HOLDFAST_TTY" 2>&1', "sh", *arguments]
        env = {**env, "HOLDFAST_TTY": os.ttyname(slave)}
        self.process = subprocess.Popen(opens, env=env, cwd=cwd, start_new_session=True, stdin=subprocess.DEVNULL)
        self._slave: int | None = slave
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unread = ""
        self.seen = ""  # with its colours

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> str:
        """Read until the pattern shows in what was not waited for yet; what came up to its end."""
        ends = time.monotonic() + timeout
        while not (found := re.search(pattern, self._unread)):
            left = ends - time.monotonic()
            assert left > 0, f"{pattern!r} did not come within {timeout:g} s; what came:\n{self._unread!r}"
            if not self._read(left):
                raise AssertionError(f"The program ended before {pattern!r}; what came:\n{self._unread!r}")
        before, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return before

    def wait_for_prompt(self) -> str:
        """Until nothing stands behind the sign: the recap has such signs too."""
        return self.wait_for(r"› \Z")

    def _read(self, timeout: float) -> bool:
        """Take in what came; False at the end."""
        if not select.select([self._master], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        text = self._decoder.decode(data)
        # Colours, and readline's asking for bracketed paste: neither shows.
        self._unread = re.sub("\x1b\\[(\\?2004[hl]\r?|\\d*m)", "", self._unread + text).replace("\r\n", "\n")
        self.seen = re.sub("\x1b\\[\\?2004[hl]\r?", "", self.seen + text).replace("\r\n", "\n")
        if self._slave is not None:  # the program has it by now, so its end is the end
            os.close(self._slave)
            self._slave = None
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def line(self, text: str) -> None:
        """Type a line and Enter."""
        self.type(f"{text}\r")

    def interrupt(self) -> None:
        self.type("\x03")

    def wait_until_it_waits(self) -> None:
        """Until the program sleeps: a prompt is there a moment before somebody reads from it."""
        ends = time.monotonic() + PATIENCE
        state = ""
        while state != "S" and time.monotonic() < ends:
            time.sleep(0.02)
            stat = Path(f"/proc/{self.process.pid}/stat")
            state = stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else "S"

    def end(self) -> int:
        """Read on until the program ends; its exit code (negative: the signal that killed it)."""
        ends = time.monotonic() + PATIENCE
        while self._read(max(0.0, ends - time.monotonic())):
            assert time.monotonic() < ends, f"The program did not end; what came:\n{self._unread!r}"
            if self.process.poll() is not None and not select.select([self._master], [], [], 0.05)[0]:
                break
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        os.close(self._master)
        if self._slave is not None:
            os.close(self._slave)


@pytest.fixture
def terminal(home: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts `holdfast ARGUMENTS` at a terminal of its own."""
    opened: list[Terminal] = []

    def start(*arguments: str, columns: int = 100, into: Path | None = None, **environ: str) -> Terminal:
        program = [sys.executable, "-m", "holdfast", *arguments]
        if into is not None:
            program = ["sh", "-c", f'exec "$@" >"{into}"', "sh", *program]
        opened.append(Terminal(program, {**home, **environ}, tmp_path, columns))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
